"""What is said when trees grow by several levels in one call, whoever runs the passes.

The first pass is that of any step. Then, level by level, the children of the rows just
run join their session's candidates, the best candidates are the rows of the next pass,
and its logits give them children. `fused.levels` does so in one graph on CUDA,
`native.growth` in one call of the library on a CPU.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from treedraft.inference.law import LawRow
from treedraft.inference.segment import Segment

Child = tuple[int, float]
"""A token, and the log-probability that it is drawn."""


@dataclass(frozen=True, slots=True)
class WaitingNode:
    """A node that could be run as well as those of the first pass, all above it has been run.

    It sees the segment's context, its ancestors and itself.
    """

    token_id: int
    position: int
    score: float
    ancestor_slots: Sequence[int]


@dataclass(frozen=True, slots=True)
class Seed:
    """What one session begins with.

    `scores` are those of the nodes of `segment`'s output rows. `law` is that of the
    first row; `slots` hold the nodes to come. Nodes are run up to `last_position` and
    down to `min_score`, and until the tree has gained `room` nodes, of which those below
    `least_score` are none. `belief` is the bias and
    the weight of the model's log-odds, by which its word is taken for a score. `waiting` are
    candidates beside the children of what is run.
    """

    segment: Segment
    scores: Sequence[float]
    law: LawRow
    slots: Sequence[int]
    last_position: int
    min_score: float
    room: int = 1 << 30
    least_score: float = -1e30
    belief: tuple[float, float] = (0.0, 1.0)
    waiting: tuple[WaitingNode, ...] = ()


@dataclass(frozen=True, slots=True)
class GrownRow:
    """A row that was run: whose child it is, in which slot, and its own children, best first.

    `parent` numbers the rows of the session, None for those it began with; `token_id` and
    `slot` are None for these too. `level` is the pass that ran it, from 0 on; `waited`
    numbers, of those that waited, the one that it is.
    """

    parent: int | None
    token_id: int | None
    slot: int | None
    children: tuple[Child, ...]
    level: int = 0
    waited: int | None = None


@dataclass(frozen=True, slots=True)
class Worth:
    """When another pass is worth it.

    A pass over `n` rows costs `step_costs[n - 1]` tokens of the target, the last for
    more. The children of a node survive with `profile`, given it, best first; each that
    the target verifies costs it `row_price` tokens.
    """

    step_costs: tuple[float, ...]
    profile: tuple[float, ...]
    row_price: float


class LevelGrower(Protocol):
    """Grows trees on one KV pool."""

    @property
    def max_sessions(self) -> int:
        """Sessions that one call can grow trees for."""

    @property
    def minds_room(self) -> bool:
        """Whether it heeds room, belief, what waits and what a pass is worth."""

    @property
    def level_ms(self) -> Sequence[float]:
        """What each pass of the last call took, if it was measured."""

    def grow(
        self,
        seeds: Sequence[Seed],
        *,
        levels: int,
        width: int,
        num_children: int,
        num_columns: int,
        max_rows: int,
        worth: Worth | None,
    ) -> list[list[GrownRow]]:
        """Run the first pass and up to `levels` more; return each session's rows, parents first.

        Args:
            seeds: of the sessions.
            levels: passes after the first.
            width: rows of a session in each of them.
            num_children: children of a row.
            num_columns: columns of the head that may be chosen, from the first on.
            max_rows: rows of one pass, over all sessions.
            worth: when a pass is run at all; None for always.
        """
