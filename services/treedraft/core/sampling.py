"""What a client may ask of the law of the next token, of its end, of speculation.

The values are frozen and checked once, at construction, so that everything
downstream may rely on them. The order in which the parts are applied is that
of transformers' logits processors and is written out where it happens, in
`inference.sampler`.
"""

import math
from dataclasses import dataclass, field
from enum import Enum

from treedraft.core.errors import InvalidRequestError
from treedraft.core.grammar import Grammar

MAX_STOP_STRINGS = 16
MAX_STOP_STRING_CHARS = 256
MAX_STOP_TOKEN_IDS = 64
MAX_LOGIT_BIAS = 1024
# Beyond these, float32 logits would overflow.
MIN_REPETITION_PENALTY = 0.01
MAX_REPETITION_PENALTY = 100.0
MAX_SPECULATED_NODES = 256
MAX_SPECULATED_DEPTH = 64


class Verification(Enum):
    """The rule by which drafted tokens are accepted."""

    COUPLED = "coupled"
    REJECTION = "rejection"


def _require(condition: bool, field_name: str, rule: str) -> None:
    if not condition:
        raise InvalidRequestError(f"{field_name} must be {rule}", field=field_name)


@dataclass(frozen=True, slots=True)
class SamplingParameters:
    """The law of the next token. Under a grammar, tokens that leave it have no chance.

    Raises InvalidRequestError, with the field's name, for values out of range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    seed: int | None = None
    grammar: Grammar | None = None
    verification: Verification = Verification.COUPLED

    def __post_init__(self) -> None:
        """Check every field."""
        finite = math.isfinite
        _require(
            finite(self.temperature) and self.temperature >= 0.0,
            "temperature",
            "a number of at least 0",
        )
        _require(self.top_k >= 0, "top_k", "at least 0")
        _require(0.0 < self.top_p <= 1.0, "top_p", "in (0, 1]")
        _require(0.0 <= self.min_p <= 1.0, "min_p", "in [0, 1]")
        _require(
            MIN_REPETITION_PENALTY <= self.repetition_penalty <= MAX_REPETITION_PENALTY,
            "repetition_penalty",
            f"in [{MIN_REPETITION_PENALTY}, {MAX_REPETITION_PENALTY}]",
        )
        _require(-2.0 <= self.presence_penalty <= 2.0, "presence_penalty", "in [-2, 2]")
        _require(-2.0 <= self.frequency_penalty <= 2.0, "frequency_penalty", "in [-2, 2]")
        _require(
            len(self.logit_bias) <= MAX_LOGIT_BIAS,
            "logit_bias",
            f"at most {MAX_LOGIT_BIAS} entries",
        )
        for token_id, bias in self.logit_bias:
            _require(token_id >= 0, "logit_bias", "keyed by token ids")
            _require(-100.0 <= bias <= 100.0, "logit_bias", "made of numbers in [-100, 100]")
        _require(self.seed is None or 0 <= self.seed < 2**64, "seed", "an unsigned 64-bit number")

    @property
    def is_greedy(self) -> bool:
        """Whether the most likely token is taken, without noise."""
        return self.temperature == 0.0

    @property
    def has_penalties(self) -> bool:
        """Whether the law depends on the tokens that came before it."""
        return (
            self.repetition_penalty != 1.0
            or self.presence_penalty != 0.0
            or self.frequency_penalty != 0.0
        )


@dataclass(frozen=True, slots=True)
class StoppingCriteria:
    """When a text ends.

    Before `min_tokens` of output, tokens that end the text cannot be drawn and
    stop strings are not looked for.

    Raises InvalidRequestError, with the field's name, for values out of range.
    """

    max_tokens: int | None = None
    stop_strings: tuple[str, ...] = ()
    stop_token_ids: frozenset[int] = field(default_factory=frozenset)
    ignore_eos: bool = False
    min_tokens: int = 0

    def __post_init__(self) -> None:
        """Check every field."""
        _require(self.max_tokens is None or self.max_tokens >= 1, "max_tokens", "at least 1")
        _require(self.min_tokens >= 0, "min_tokens", "at least 0")
        _require(
            self.max_tokens is None or self.min_tokens <= self.max_tokens,
            "min_tokens",
            "at most max_tokens",
        )
        _require(
            len(self.stop_strings) <= MAX_STOP_STRINGS,
            "stop_strings",
            f"at most {MAX_STOP_STRINGS} strings",
        )
        for text in self.stop_strings:
            _require(
                1 <= len(text) <= MAX_STOP_STRING_CHARS,
                "stop_strings",
                f"strings of 1 to {MAX_STOP_STRING_CHARS} characters",
            )
        _require(
            len(self.stop_token_ids) <= MAX_STOP_TOKEN_IDS,
            "stop_token_ids",
            f"at most {MAX_STOP_TOKEN_IDS} ids",
        )


@dataclass(frozen=True, slots=True)
class SpeculationOptions:
    """How much may be speculated for one session; None leaves it to the server.

    Without `lookup` nothing is drafted from texts seen before, and this one is not
    remembered for others.
    """

    enabled: bool = True
    max_nodes: int | None = None
    max_depth: int | None = None
    lookup: bool = True

    def __post_init__(self) -> None:
        """Check every field."""
        _require(
            self.max_nodes is None or 0 <= self.max_nodes <= MAX_SPECULATED_NODES,
            "max_nodes",
            f"in [0, {MAX_SPECULATED_NODES}]",
        )
        _require(
            self.max_depth is None or 0 <= self.max_depth <= MAX_SPECULATED_DEPTH,
            "max_depth",
            f"in [0, {MAX_SPECULATED_DEPTH}]",
        )


def check_grammar_ends(sampling: SamplingParameters, stopping: StoppingCriteria) -> None:
    """Raise InvalidRequestError where a grammar could not end the text: GRAMMAR_CONFLICT."""
    if sampling.grammar is None:
        return
    for name in ("ignore_eos", "min_tokens"):
        if getattr(stopping, name):
            raise InvalidRequestError(
                f"a grammar ends the text by itself: {name} does not go with it",
                field=name,
                reason="GRAMMAR_CONFLICT",
            )
