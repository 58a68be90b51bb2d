"""What a run over links of different length measures."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from treedraft.bench.plan import WITHOUT_RECENT_TRAFFIC

ONE_PASS = -1.0
"""A round trip as long as a pass of the target takes."""


@dataclass(frozen=True, slots=True)
class LinksPlan:
    """Models, round trips, and how often.

    `round_trips_ms` are put between target and drafter; `ONE_PASS` among them is
    measured first. `sync_nodes` are the sizes of tree that the synchronous exchange is
    tried with; `is_sync_only` leaves the other exchange out. `is_apart` gives target and
    drafter half of the cores each, as if each had a machine of its own: what the exchange
    can hide is only seen where the one does not compute at the other's expense.
    """

    target: str = "default"
    draft: str = ""
    round_trips_ms: tuple[float, ...] = (0.0, ONE_PASS, 5.0, 20.0, 50.0)
    sync_nodes: tuple[int, ...] = (8,)
    is_sync_only: bool = False
    is_apart: bool = False
    num_prompts: int = 3
    num_tokens: int = 48
    num_repeats: int = 1
    settings: Mapping[str, str] = field(default_factory=lambda: dict(WITHOUT_RECENT_TRAFFIC))


@dataclass(frozen=True, slots=True)
class Exchange:
    """One way to exchange trees: the product's own, or the synchronous one with so many nodes."""

    sync_nodes: int = 0

    @property
    def name(self) -> str:
        """How results call it."""
        return f"sync, {self.sync_nodes} nodes" if self.sync_nodes else "treedraft"


def exchanges(plan: LinksPlan) -> list[Exchange]:
    """Return what is to be measured, in order."""
    own = [] if plan.is_sync_only else [Exchange()]
    return own + [Exchange(number) for number in plan.sync_nodes]
