"""What the engine's book knows of one drafter: its sessions, its credit, what to say next."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from treedraft.core.exchange import (
    Commit,
    DraftFrame,
    Economics,
    SessionOpen,
    SharedTokenizer,
    TargetFrame,
)
from treedraft.core.growth import Growth, TokenSource
from treedraft.target.session import TargetSession
from treedraft.telemetry.metrics import Metrics

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

    def graft(
        self, growths: Iterable[Growth], vocab_size: int, metrics: Metrics, *, arrived_ns: int
    ) -> None:
        """Put nodes into the trees of their sessions; counted all at once, as there are many.

        Raises:
            InvalidGrowthError: a growth is no piece of a tree, or of none that is here.
        """
        sources, late, num_dropped = list[TokenSource](), list[int](), 0
        try:
            for growth in growths:
                session = self.sessions.get(growth.session_number)
                if session is None:
                    metrics.nodes_dropped("SESSION_CLOSED", growth.num_nodes)
                    continue
                growth.check(vocab_size)
                sources += growth.sources
                num_dropped += session.graft(growth, arrived_ns=arrived_ns)
                late.append(session.num_tokens - growth.base_length)
        finally:
            metrics.nodes_drafted(sources)
            metrics.drafts_arrived(*late)
            if num_dropped:
                metrics.nodes_dropped("STALE_OR_FULL", num_dropped)
