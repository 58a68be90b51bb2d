"""Results of a comparison of the doors, and the numbers derived from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from statistics import median, quantiles

from treedraft.bench.door.skins import GRPC, HTTP, SKINS
from treedraft.bench.estimate import Estimate, estimate
from treedraft.inference.stamp import Stamp
from treedraft.settings import TelemetrySettings

TOY = "toy"


@dataclass(frozen=True, slots=True)
class DoorPlan:
    """What is asked, and how often.

    A toy as target has random weights and takes next to no time. `num_prompts` are
    asked one at a time; then `num_streams` at once over each door, `num_repeats` times.
    """

    target: str = TOY
    device: str = ""
    num_tokens: int = 64
    num_prompts: int = 100
    num_streams: int = 200
    num_repeats: int = 2
    sample_ratio: float = field(default_factory=lambda: TelemetrySettings().sample_ratio)


@dataclass(frozen=True, slots=True)
class Timeline:
    """When each piece of an answer came, in seconds from its request; `error` ended it."""

    arrivals: tuple[float, ...]
    pieces: tuple[str, ...]
    error: str = ""

    @property
    def text(self) -> str:
        """The whole answer."""
        return "".join(self.pieces)

    @property
    def gaps(self) -> list[float]:
        """Seconds between pieces."""
        return [after - before for before, after in pairwise(self.arrivals)]

    def character_arrivals(self) -> list[float]:
        """Return when each character came."""
        pairs = zip(self.arrivals, self.pieces, strict=True)
        return [arrival for arrival, piece in pairs for _character in piece]


@dataclass(frozen=True, slots=True)
class Crowd:
    """Many streams at once over one door.

    `cpu_seconds` is what the coordinator computed meanwhile, None where that is not told.
    """

    skin: str
    seconds: float
    timelines: tuple[Timeline, ...]
    cpu_seconds: float | None

    @property
    def num_pieces(self) -> int:
        """Pieces over all streams."""
        return sum(len(line.arrivals) for line in self.timelines)


@dataclass(frozen=True, slots=True)
class DoorResult:
    """A whole run. `pairs` are the answers to one prompt over each door."""

    stamp: Stamp
    plan: DoorPlan
    pairs: tuple[Mapping[str, Timeline], ...]
    crowds: tuple[Crowd, ...]

    @property
    def is_identical(self) -> bool:
        """Whether both doors told the same text, each time."""
        return all(pair[GRPC].text == pair[HTTP].text for pair in self.pairs)

    def first_ms(self, skin: str) -> float:
        """Return the median time to the first piece."""
        return median(pair[skin].arrivals[0] for pair in self.pairs) * 1e3

    def gap_ms(self, skin: str) -> float:
        """Return the median time between pieces."""
        return median(chain.from_iterable(pair[skin].gaps for pair in self.pairs)) * 1e3

    def first_overhead_ms(self) -> Estimate:
        """Return how much later the first piece comes over HTTP."""
        return estimate([lags[0] for lags in self._lags()])

    def overhead_ms(self) -> Estimate:
        """Return how much later text comes over HTTP, counted from its request.

        So all that the door does is in it: taking the request, opening the answer, and
        what each piece cost so far.
        """
        return estimate([median(lags) for lags in self._lags()])

    def growth_us(self) -> Estimate:
        """Return how much that grows from one piece to the next."""
        pairs = zip(self._lags(), self.pairs, strict=True)
        return estimate(
            [
                (lags[-1] - lags[0]) / max(1, len(pair[HTTP].pieces) - 1) * 1e3
                for lags, pair in pairs
            ]
        )

    def _lags(self) -> list[list[float]]:
        """Return by how many ms each character of each answer comes later over HTTP.

        By characters, since tokens that wait for each other go out in one piece.
        """
        return [
            [
                (http - grpc) * 1e3
                for http, grpc in zip(
                    pair[HTTP].character_arrivals(), pair[GRPC].character_arrivals(), strict=False
                )
            ]
            for pair in self.pairs
        ]

    def crowd(self, skin: str) -> "CrowdSummary":
        """Return what the repeats of many streams over one door come to."""
        return summarise([crowd for crowd in self.crowds if crowd.skin == skin])

    def crowds_by_skin(self) -> dict[str, "CrowdSummary"]:
        """Return those of both doors; none if no crowd was asked for."""
        return {skin: self.crowd(skin) for skin in SKINS} if self.crowds else {}


@dataclass(frozen=True, slots=True)
class CrowdSummary:
    """Many streams at once, all repeats together; times are None if no piece came."""

    num_streams: int
    errors: tuple[str, ...]
    pieces_per_second: float
    first_ms: float | None
    gap_ms: float | None
    gap_99_ms: float | None
    cpu_us: float | None


def summarise(crowds: Sequence[Crowd]) -> CrowdSummary:
    """Return the numbers of some crowds together; median speed, all pieces."""
    lines = [line for crowd in crowds for line in crowd.timelines]
    firsts = [line.arrivals[0] * 1e3 for line in lines if line.arrivals]
    gaps = [gap * 1e3 for line in lines for gap in line.gaps]
    cpu = [crowd.cpu_seconds for crowd in crowds if crowd.cpu_seconds is not None]
    num_pieces = sum(crowd.num_pieces for crowd in crowds)
    is_told = num_pieces > 0 and len(cpu) == len(crowds)
    return CrowdSummary(
        num_streams=len(lines),
        errors=tuple(line.error for line in lines if line.error),
        pieces_per_second=median(crowd.num_pieces / crowd.seconds for crowd in crowds),
        first_ms=median(firsts) if firsts else None,
        gap_ms=median(gaps) if gaps else None,
        gap_99_ms=quantiles(gaps, n=100)[-1] if len(gaps) > 1 else None,
        cpu_us=sum(cpu) / num_pieces * 1e6 if is_told else None,
    )
