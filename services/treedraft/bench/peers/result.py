"""What a comparison found, and the numbers derived from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from treedraft.bench.peers.plan import FLOAT32, PLAIN, TREEDRAFT, PeersPlan, Row
from treedraft.inference.stamp import Stamp


@dataclass(frozen=True, slots=True)
class Reply:
    """One text: how long it took, its tokens, and the target's passes where they are counted."""

    seconds: float
    token_ids: tuple[int, ...]
    num_passes: int | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one row: its replies by repeat, or why there are none."""

    row: Row
    replies: tuple[tuple[Reply, ...], ...] = ()
    failure: str = ""

    @property
    def speeds(self) -> list[float]:
        """Tokens per second of each repeat, prompts included in the time."""
        return [
            sum(len(reply.token_ids) for reply in replies) / sum(reply.seconds for reply in replies)
            for replies in self.replies
        ]

    @property
    def speed(self) -> float:
        """The median of the repeats."""
        return median(self.speeds)

    @property
    def tokens_per_pass(self) -> float | None:
        """τ, None where passes are not counted."""
        replies = [reply for repeat in self.replies for reply in repeat]
        passes = [reply.num_passes for reply in replies if reply.num_passes]
        if not replies or len(passes) < len(replies):
            return None
        return sum(len(reply.token_ids) for reply in replies) / sum(passes)

    @property
    def texts(self) -> list[tuple[int, ...]]:
        """The tokens of all replies."""
        return [reply.token_ids for repeat in self.replies for reply in repeat]


@dataclass(frozen=True, slots=True)
class PeersResult:
    """A whole comparison."""

    stamp: Stamp
    plan: PeersPlan
    num_threads: int
    outcomes: tuple[Outcome, ...]
    packages: Mapping[str, str] = field(default_factory=dict)

    def find(self, system: str, precision: str, mode: str) -> Outcome | None:
        """Return a row that was measured, None if it failed or was not asked for."""
        for outcome in self.outcomes:
            row = outcome.row
            if (row.system, row.precision, row.mode) == (system, precision, mode):
                return outcome if outcome.replies else None
        return None

    def ratio(self, outcome: Outcome) -> float | None:
        """Return the speed over that of plain treedraft in the same precision."""
        own = self.find(TREEDRAFT, outcome.row.precision, PLAIN)
        return outcome.speed / own.speed if own and outcome.replies else None

    def speed_up(self, outcome: Outcome) -> float | None:
        """Return S: the speed over the same system's, plain, in the same precision."""
        row = outcome.row
        plain = self.find(row.system, row.precision, PLAIN)
        if plain is None or row.is_plain or not outcome.replies:
            return None
        return outcome.speed / plain.speed

    def num_same(self, outcome: Outcome) -> int | None:
        """Return the tokens up to the first that differs from the reference, over all texts."""
        reference = self.reference()
        if reference is None or not outcome.replies:
            return None
        pairs = zip(outcome.texts, reference.texts, strict=True)
        return sum(common_length(first, second) for first, second in pairs)

    def reference(self) -> Outcome | None:
        """Return whose text counts: treedraft's plain float32, or else transformers'."""
        own = self.find(TREEDRAFT, FLOAT32, PLAIN)
        return own or self.find("transformers", FLOAT32, PLAIN)

    def best(self) -> list[Outcome]:
        """Return the fastest row of each system, the fastest first."""
        fastest: dict[str, Outcome] = {}
        for outcome in self.outcomes:
            held = fastest.get(outcome.row.system)
            if outcome.replies and (held is None or outcome.speed > held.speed):
                fastest[outcome.row.system] = outcome
        return sorted(fastest.values(), key=lambda outcome: -outcome.speed)


def common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """Return how many tokens two texts share from their beginning."""
    for index, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return index
    return min(len(first), len(second))
