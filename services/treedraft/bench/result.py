"""Results of a bench run, and the numbers derived from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from treedraft.bench.plan import PLAIN, SPECULATIVE, BenchPlan
from treedraft.inference.stamp import Stamp


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement of one system under one load.

    `tokens_per_second` counts all requests together, prompts included in the
    time. The other numbers are means over requests; transformers has none.
    """

    system: str
    concurrency: int
    tokens_per_second: float
    seconds: float
    num_tokens: int
    first_token_ms: float | None = None
    tokens_per_round: float | None = None
    hit_rate: float | None = None
    admitted_nodes: int | None = None
    accepted_nodes: int | None = None
    round_ms: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """How many answers to the same prompts were the same, token for token; None: not asked."""

    num_prompts: int
    num_tokens: int
    speculative_equals_plain: int
    plain_equals_transformers: int | None
    same_prompt_ids: int | None


@dataclass(frozen=True, slots=True)
class BenchResult:
    """A whole run."""

    stamp: Stamp
    plan: BenchPlan
    num_threads: int
    check: Check
    samples: tuple[Sample, ...]

    def of(self, system: str, concurrency: int) -> list[Sample]:
        """Return the repeats of one system under one load."""
        return [s for s in self.samples if (s.system, s.concurrency) == (system, concurrency)]

    def speed(self, system: str, concurrency: int) -> float:
        """Return the median of tokens per second over the repeats."""
        return median(sample.tokens_per_second for sample in self.of(system, concurrency))

    def spread(self, system: str, concurrency: int) -> tuple[float, float]:
        """Return the slowest and the fastest repeat, in tokens per second."""
        speeds = [sample.tokens_per_second for sample in self.of(system, concurrency)]
        return min(speeds), max(speeds)

    def speed_up(self, concurrency: int) -> float:
        """Return S: the speed with speculation over that of the same engine without."""
        return self.speed(SPECULATIVE, concurrency) / self.speed(PLAIN, concurrency)

    def mean(self, system: str, concurrency: int, name: str) -> float | None:
        """Return the mean of a number over the repeats; None where it was not measured."""
        values: Sequence[float | None] = [
            getattr(sample, name) for sample in self.of(system, concurrency)
        ]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else None
