"""What a bench run measures."""

from collections.abc import Mapping
from dataclasses import dataclass, field

PLAIN = "plain"
SPECULATIVE = "speculative"
TRANSFORMERS = "transformers"
SYSTEMS = (PLAIN, SPECULATIVE, TRANSFORMERS)

WITHOUT_RECENT_TRAFFIC: Mapping[str, str] = {"TREEDRAFT_DRAFT__LOOKUP__RECENT__ENABLED": "false"}
"""What runs on the same prompts again and again tell the services.

A drafter that remembers the answer of before would recite it, which says nothing
about new prompts.
"""


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """Models, load, and how often.

    `concurrencies` are the numbers of requests at once; one request at a time
    is repeated over prompts of all kinds. `num_tokens` is the length of every
    answer: ends of texts are ignored, so that all systems do the same work.
    `settings` are environment variables of the services. Without transformers the engine is
    compared with itself alone, which takes a fraction of the time.
    """

    target: str = "default"
    draft: str = ""
    dtype: str = "float32"
    weights: str = ""
    device: str = ""
    draft_device: str = ""
    num_threads: int = 0
    concurrencies: tuple[int, ...] = (1, 8, 32)
    num_tokens: int = 64
    num_repeats: int = 3
    with_transformers: bool = True
    settings: Mapping[str, str] = field(default_factory=lambda: dict(WITHOUT_RECENT_TRAFFIC))

    @property
    def systems(self) -> tuple[str, ...]:
        """What is measured."""
        return SYSTEMS if self.with_transformers else (PLAIN, SPECULATIVE)
