"""What the engine's book knows of one drafter: its sessions, its credit, what to say next."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from treedraft.core.exchange import (
    Commit,
    DraftFrame,
    Economics,
    SessionOpen,
    SharedTokenizer,
    TargetFrame,
)
from treedraft.target.session import TargetSession

# Credit is given back with the next commits, or when this part of it is used.
_CREDIT_PARTS = 4


@dataclass(slots=True)
class Attachment:
    """A session at a drafter."""

    endpoint: str
    number: int
    num_reopens: int = 0
    # Committed length that the drafter knows of, or is about to.
    told_length: int = 0
    is_paused: bool = False

    def commit_to(self, token_ids: Sequence[int]) -> Commit:
        """Return what brings the drafter up to this text; a pause is over with it."""
        told, self.told_length, self.is_paused = self.told_length, len(token_ids), False
        return Commit(self.number, told, tuple(token_ids[told:]))


@dataclass(slots=True)
class Outbox:
    """What is to be sent to one drafter with the next frame."""

    opens: list[SessionOpen] = field(default_factory=list)
    commits: list[Commit] = field(default_factory=list)
    closes: list[int] = field(default_factory=list)
    pauses: list[int] = field(default_factory=list)
    credit_nodes: int = 0
    tokenizer: SharedTokenizer | None = None


@dataclass(slots=True)
class DrafterState:
    """A drafter that is up."""

    sessions: dict[int, TargetSession] = field(default_factory=dict)
    outbox: Outbox = field(default_factory=Outbox)
    next_number: int = 1
    credit_nodes: int = 0  # granted and not used
    has_tokenizer: bool = False

    def has_news(self, granted_nodes: int) -> bool:
        """Return whether there is anything to say; credit alone can wait until it is some.

        Args:
            granted_nodes: what a drafter may have on the way in all.
        """
        outbox = self.outbox
        is_news = outbox.opens or outbox.commits or outbox.closes or outbox.pauses
        return bool(is_news) or outbox.credit_nodes >= granted_nodes // _CREDIT_PARTS

    def take_frame(self, economics: Economics) -> TargetFrame:
        """Return what is to be sent, and forget it."""
        outbox, self.outbox = self.outbox, Outbox()
        self.credit_nodes += outbox.credit_nodes
        return TargetFrame(
            opens=outbox.opens,
            commits=outbox.commits,
            closes=outbox.closes,
            credit_nodes=outbox.credit_nodes,
            economics=economics,
            pauses=outbox.pauses,
            tokenizer=outbox.tokenizer,
        )

    def asked_ns(self, frame: DraftFrame) -> int | None:
        """Return when the latest text that a frame is about was told; None if it is forgotten."""
        told = [(growth.session_number, growth.base_length) for growth in frame.growths]
        told += [(rest.session_number, rest.base_length) for rest in frame.rests]
        times = [
            sent_ns
            for number, base_length in told
            if (session := self.sessions.get(number))
            and (sent_ns := session.sent_ns(base_length)) is not None
        ]
        return max(times, default=None)
