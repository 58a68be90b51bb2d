"""What a bench run measures."""

from dataclasses import dataclass

PLAIN = "plain"
SPECULATIVE = "speculative"
TRANSFORMERS = "transformers"
SYSTEMS = (PLAIN, SPECULATIVE, TRANSFORMERS)


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """Models, load, and how often.

    `concurrencies` are the numbers of requests at once; one request at a time
    is repeated over prompts of all kinds. `num_tokens` is the length of every
    answer: ends of texts are ignored, so that all systems do the same work.
    """

    target: str = "default"
    draft: str = ""
    dtype: str = "float32"
    device: str = ""
    num_threads: int = 0
    concurrencies: tuple[int, ...] = (1, 8, 32)
    num_tokens: int = 64
    num_repeats: int = 3
