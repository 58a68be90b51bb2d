"""What is compared: one row for each system, precision and mode."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from treedraft.bench.plan import WITHOUT_RECENT_TRAFFIC

TREEDRAFT = "treedraft"
PLAIN = "plain"
SPECULATIVE = "speculative"
ASSISTED = "assisted"
LOOKUP = "prompt lookup"
STATIC = "static cache"
FLOAT32 = "float32"
BFLOAT16 = "bfloat16"
INT8 = "int8"
SOURCE_TYPE = "as it is"

_F16_WEIGHTS = "weights rounded to float16: its reader takes no F32 and no BF16"
# Weights alone: what is computed with them is float32, or int8 by groups of 32 as in Q8_0.
_WEIGHTS = "--weights {}"
_QWEN2 = "knows Qwen2 only: given the model as one whose biases are zero"


@dataclass(frozen=True, slots=True)
class Row:
    """A system in one precision and one mode.

    `gguf` is the type of the file for systems that read GGUF. `note` is what a
    reader of the table has to know of it.
    """

    system: str
    precision: str
    mode: str
    gguf: str = ""
    note: str = ""

    @property
    def is_plain(self) -> bool:
        """Whether every token costs a pass of the target."""
        return self.mode in (PLAIN, STATIC)


def _both(system: str, *modes: str) -> tuple[Row, ...]:
    return tuple(
        Row(system, precision, mode) for precision in (FLOAT32, BFLOAT16) for mode in modes
    )


def _gguf(system: str, precision: str, gguf: str, *modes: str, note: str = "") -> tuple[Row, ...]:
    return tuple(Row(system, precision, mode, gguf, note) for mode in modes)


ROWS = (
    *(Row(TREEDRAFT, FLOAT32, mode) for mode in (PLAIN, SPECULATIVE)),
    *(
        Row(TREEDRAFT, weights, mode, note=_WEIGHTS.format(weights))
        for weights in (BFLOAT16, INT8)
        for mode in (PLAIN, SPECULATIVE)
    ),
    *_both("transformers", PLAIN, STATIC, ASSISTED, LOOKUP),
    *_gguf("llama.cpp", FLOAT32, "F32", PLAIN, LOOKUP),
    *_gguf("llama.cpp", BFLOAT16, "BF16", PLAIN, LOOKUP),
    *_gguf("llama.cpp", "Q8_0", "Q8_0", PLAIN, LOOKUP),
    *_gguf("llama.cpp", "file's own", SOURCE_TYPE, PLAIN),
    *_gguf("openvino", FLOAT32, "F16", PLAIN, ASSISTED, LOOKUP, note=_F16_WEIGHTS),
    *_gguf("openvino", BFLOAT16, "F16", PLAIN, LOOKUP, note=_F16_WEIGHTS),
    *_gguf("openvino", "file's own", SOURCE_TYPE, PLAIN),
    *(Row("flashspec", FLOAT32, mode) for mode in (ASSISTED, LOOKUP)),
    Row("mini-infer", FLOAT32, PLAIN, note=_QWEN2),
)
SYSTEMS = tuple(dict.fromkeys(row.system for row in ROWS))


@dataclass(frozen=True, slots=True)
class PeersPlan:
    """Models, length, and how often; greedy, one stream.

    `num_prompts` prompts of all kinds in turns are asked of every row in every
    repeat. No repeat but the first is begun after `max_seconds` of measuring; 0
    sets no limit.
    """

    target: str = "default"
    draft: str = ""
    num_threads: int = 0
    num_prompts: int = 3
    num_tokens: int = 64
    num_repeats: int = 3
    max_seconds: float = 0.0
    rows: tuple[Row, ...] = ROWS
    settings: Mapping[str, str] = field(default_factory=lambda: dict(WITHOUT_RECENT_TRAFFIC))


def rows_of(systems: list[str]) -> tuple[Row, ...]:
    """Return the rows of some systems, treedraft's always among them; of all if none is named."""
    return tuple(row for row in ROWS if not systems or row.system in (TREEDRAFT, *systems))
