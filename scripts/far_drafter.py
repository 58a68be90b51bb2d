"""A drafter at the end of a link, on a clock that is computed: for `scripts.drafting_ahead`.

The drafter is the real one. What a step of it takes is given by its rows, a frame is half a
round trip on its way.
"""

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from treedraft.core.exchange import DraftFrame, TargetFrame
from treedraft.draft.drafter import Drafter
from treedraft.draft.links import FrameArrived
from treedraft.draft.model_grower import ModelGrower, StepReport
from treedraft.draft.session import DraftSession

# `treedraft bench passes` on two cores of an EPYC, float32, of a drafter's steps.
STEP_MS = {1: 1.6, 4: 2.2, 8: 2.8, 16: 4.0, 32: 6.0}
NODE_MS = 0.003
LINK = 1


def time_of(times_ms: Mapping[int, float], num_rows: int) -> float:
    """Return what so many rows take: on lines between what is known, in proportion beyond."""
    sizes = sorted(times_ms)
    index = bisect.bisect_left(sizes, num_rows)
    if index == len(sizes):
        return times_ms[sizes[-1]] * num_rows / sizes[-1]
    if index == 0 or sizes[index] == num_rows:
        return times_ms[sizes[index]]
    low, high = sizes[index - 1], sizes[index]
    share = (num_rows - low) / (high - low)
    return times_ms[low] * (1 - share) + times_ms[high] * share


@dataclass(frozen=True, slots=True)
class Link:
    """The way, what a pass verifies, whether it waits for whole trees, how long steps take."""

    round_trip_ms: float
    num_verified: int = 8
    is_synchronous: bool = False
    step_share: float = 1.0


class CountingGrower:
    """A draft model that counts the rows it runs, of a single pass a step (`--levels 1`)."""

    def __init__(self, grower: ModelGrower) -> None:
        """Begin at none."""
        self._grower = grower
        self.num_rows = 0
        self.max_new_nodes = grower.max_new_nodes
        self.passes_per_step = grower.passes_per_step
        self.num_free_slots = self.num_slots = grower.num_slots
        self.wants_work = grower.wants_work
        self.target_says = grower.target_says
        self.add = grower.add
        self.check_tokens = grower.check_tokens
        self.remove = grower.remove

    def step(self, sessions: Sequence[DraftSession]) -> StepReport:
        """Run one pass and count its rows."""
        report = self._grower.step(sessions)
        self.num_rows += sum(report.num_rows.values())
        return report


@dataclass(slots=True)
class FarDrafter:
    """A drafter at the end of a link, on a clock of its own."""

    drafter: Drafter
    grower: CountingGrower
    link: Link
    sent: list[DraftFrame]
    now_ms: float = 0.0
    is_idle: bool = False
    on_the_way_there: list[tuple[float, TargetFrame]] = field(default_factory=list)
    on_the_way_back: list[tuple[float, DraftFrame]] = field(default_factory=list)

    def tell(self, frame: TargetFrame, now_ms: float) -> None:
        """Send a frame there."""
        self.on_the_way_there.append((now_ms + self.link.round_trip_ms / 2, frame))

    def run_until(self, limit_ms: float) -> None:
        """Let it compute until then."""
        while self.now_ms < limit_ms:
            while self.on_the_way_there and self.on_the_way_there[0][0] <= self.now_ms:
                self.drafter.take(FrameArrived(LINK, self.on_the_way_there.pop(0)[1], 0))
                self.is_idle = False
            if not self.is_idle:
                self._step()
            elif self.on_the_way_there and self.on_the_way_there[0][0] < limit_ms:
                self.now_ms = self.on_the_way_there[0][0]
            else:
                self.now_ms = limit_ms

    def _step(self) -> None:
        before = self.grower.num_rows
        self.is_idle = not self.drafter.step()
        num_rows = self.grower.num_rows - before
        num_nodes = sum(growth.num_nodes for frame in self.sent for growth in frame.growths)
        step_ms = time_of(STEP_MS, num_rows) if num_rows else 0.0
        self.now_ms += self.link.step_share * step_ms + NODE_MS * num_nodes
        arrives_ms = self.now_ms + self.link.round_trip_ms / 2
        self.on_the_way_back += [(arrives_ms, frame) for frame in self.sent]
        self.sent.clear()

    def arrived(self, now_ms: float) -> list[DraftFrame]:
        """Return what has come by now."""
        here = [frame for due_ms, frame in self.on_the_way_back if due_ms <= now_ms]
        self.on_the_way_back = [one for one in self.on_the_way_back if one[0] > now_ms]
        return here
