"""What `treedraft bench passes` found, and what follows from it."""

from dataclasses import dataclass
from statistics import median

from treedraft.inference.stamp import Stamp

PASS = "pass"
STEP = "step"
READING = "reading the weights"
PREPACKED = "prepacked linears"


@dataclass(frozen=True, slots=True)
class PassesPlan:
    """What is timed.

    Attributes:
        target: the model.
        rows: sizes of the passes: the root and drafted nodes.
        num_context: tokens before them.
        num_repeats: times that each is timed; the median counts.
        num_threads: 0 takes all cores.
    """

    target: str = "default"
    rows: tuple[int, ...] = (1, 2, 4, 6, 8, 12, 16)
    num_context: int = 200
    num_repeats: int = 15
    num_threads: int = 0


@dataclass(frozen=True, slots=True)
class Timing:
    """How long one thing took.

    `what` is PASS, a pass of the target; STEP, that and a greedy draw of each row;
    READING, its weights read and nothing else; or PREPACKED, its linear layers alone
    through oneDNN. `weights` says how they are held, in PREPACKED also what is
    computed in.
    """

    what: str
    weights: str
    num_rows: int
    milliseconds: tuple[float, ...]

    @property
    def median_ms(self) -> float:
        """The median of the repeats."""
        return median(self.milliseconds)


@dataclass(frozen=True, slots=True)
class PassesResult:
    """A whole run. `gigabytes` are those of the weights, by how they are held."""

    stamp: Stamp
    plan: PassesPlan
    num_threads: int
    gigabytes: dict[str, float]
    timings: tuple[Timing, ...]

    def find(self, what: str, weights: str, num_rows: int) -> Timing | None:
        """Return what was measured of one thing, None if it was not."""
        for timing in self.timings:
            if (timing.what, timing.weights, timing.num_rows) == (what, weights, num_rows):
                return timing
        return None

    def ratio(self, weights: str, what: str) -> float | None:
        """Return a plain step over another thing of the same weights."""
        step, other = self.find(STEP, weights, 1), self.find(what, weights, 1)
        return step.median_ms / other.median_ms if step and other else None
