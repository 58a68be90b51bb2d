"""A target's stream as the engine thread sees it: sessions, credit, outbox."""

from collections.abc import Callable
from dataclasses import dataclass, field

from treedraft.core.exchange import (
    UNKNOWN_ECONOMICS,
    DraftFrame,
    Economics,
    ReopenRequest,
    Rest,
    SessionRefusal,
    SharedTokenizer,
    TargetFrame,
)
from treedraft.core.growth import Growth
from treedraft.draft.session import DraftSession
from treedraft.text.grammar import GrammarState


@dataclass(frozen=True, slots=True)
class LinkOpened:
    """A target shook hands; `send` passes frames on to it and never blocks."""

    link_id: int
    vocab_size: int
    send: Callable[[DraftFrame], None]


@dataclass(frozen=True, slots=True)
class FrameArrived:
    """A target sent a frame; `arrived_ns` is on the drafter's clock."""

    link_id: int
    frame: TargetFrame
    arrived_ns: int


@dataclass(frozen=True, slots=True)
class LinkClosed:
    """The stream is gone, and with it all its sessions."""

    link_id: int


@dataclass(frozen=True, slots=True)
class GrammarReady:
    """The grammar of a session was made, as of its first `num_tokens` tokens."""

    session: DraftSession
    state: GrammarState
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Stop:
    """End the engine thread."""


DrafterEvent = LinkOpened | FrameArrived | LinkClosed | GrammarReady | Stop


# Targets end a link over a frame of more nodes.
MAX_FRAME_NODES = 4096


@dataclass(slots=True)
class DraftLink:
    """One open stream."""

    vocab_size: int
    send: Callable[[DraftFrame], None]
    sessions: dict[int, DraftSession] = field(default_factory=dict)
    credit_nodes: int = 0
    growths: list[Growth] = field(default_factory=list)
    reopens: list[ReopenRequest] = field(default_factory=list)
    refusals: list[SessionRefusal] = field(default_factory=list)
    rests: list[Rest] = field(default_factory=list)
    economics: Economics = UNKNOWN_ECONOMICS
    tokenizer: SharedTokenizer | None = None

    @property
    def room_nodes(self) -> int:
        """Nodes that the next frame may still take: those granted, and no larger than allowed."""
        num_queued = sum(growth.num_nodes for growth in self.growths)
        return min(self.credit_nodes, MAX_FRAME_NODES - num_queued)

    def queue_growth(self, growth: Growth) -> None:
        """Put new nodes into the next frame and pay for them."""
        assert growth.num_nodes <= self.credit_nodes, "more nodes than granted"
        self.credit_nodes -= growth.num_nodes
        self.growths.append(growth)

    def flush(self) -> None:
        """Send what has gathered, as one frame."""
        if self.growths or self.reopens or self.refusals or self.rests:
            self.send(
                DraftFrame(
                    growths=self.growths,
                    reopens=self.reopens,
                    refusals=self.refusals,
                    rests=self.rests,
                )
            )
            self.growths, self.reopens, self.refusals, self.rests = [], [], [], []
