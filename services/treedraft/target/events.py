"""What the engine thread is told by the event loop, and what it tells back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from treedraft.core.exchange import DraftFrame, LogAcknowledgement, TargetFrame
from treedraft.core.session import SessionOutput, SessionSpec


@dataclass(frozen=True, slots=True)
class StartSession:
    """A coordinator wants a session run; outputs go to its stream."""

    stream_id: int
    spec: SessionSpec


@dataclass(frozen=True, slots=True)
class CancelSession:
    """A coordinator gave a session up."""

    stream_id: int
    session_id: str


@dataclass(frozen=True, slots=True)
class AcknowledgeLog:
    """The log took tokens of some sessions over."""

    acknowledgements: Sequence[LogAcknowledgement]


@dataclass(frozen=True, slots=True)
class StreamEnded:
    """A coordinator's stream is gone, and with it all its sessions."""

    stream_id: int


@dataclass(frozen=True, slots=True)
class LinkUp:
    """A drafter shook hands."""

    endpoint: str


@dataclass(frozen=True, slots=True)
class LinkMeasured:
    """The way to a drafter and back takes so long, whatever it computes."""

    endpoint: str
    round_trip_ms: float


@dataclass(frozen=True, slots=True)
class LinkDown:
    """The stream to a drafter ended."""

    endpoint: str


@dataclass(frozen=True, slots=True)
class FrameArrived:
    """A drafter sent a frame; `arrived_ns` is on the engine's clock.

    `on_taken` is called on the engine's thread once the frame was taken in.
    """

    endpoint: str
    frame: DraftFrame
    arrived_ns: int
    on_taken: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class Stop:
    """End the engine: at once, or when the running sessions are done."""

    drain: bool


ControlEvent = StartSession | CancelSession | AcknowledgeLog | StreamEnded | Stop
DraftEvent = LinkUp | LinkMeasured | LinkDown | FrameArrived
EngineEvent = ControlEvent | DraftEvent


@dataclass(frozen=True, slots=True)
class EngineNews:
    """What came out of a step, for the event loop to pass on."""

    outputs: Mapping[int, Sequence[SessionOutput]] = field(default_factory=dict)
    frames: Mapping[str, TargetFrame] = field(default_factory=dict)
    refused_links: Mapping[str, str] = field(default_factory=dict)
