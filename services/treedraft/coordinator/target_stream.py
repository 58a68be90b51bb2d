"""What a link to a target is made of: the stream, the sessions' ends, the next frame."""

from dataclasses import dataclass, field
from typing import Protocol

from treedraft.core.errors import TreedraftError
from treedraft.core.exchange import CoordinatorFrame, LogAcknowledgement
from treedraft.core.session import SessionOutput, SessionSpec


class SessionSink(Protocol):
    """Where the outputs of one session go; must not block."""

    def deliver(self, output: SessionOutput) -> None:
        """Take an output."""
        ...

    def fail(self, error: TreedraftError) -> None:
        """Learn that no more will come."""
        ...


class SessionStream(Protocol):
    """An open stream to a target."""

    async def send(self, frame: CoordinatorFrame) -> None:
        """Send a frame."""
        ...

    async def receive(self) -> tuple[SessionOutput, ...] | None:
        """Return the next frame's outputs, None at the end."""
        ...

    async def close(self) -> None:
        """End the stream."""
        ...


class TargetConnection(Protocol):
    """A channel to a target."""

    async def run_sessions(self, coordinator_id: str) -> SessionStream:
        """Open the stream."""
        ...

    async def close(self) -> None:
        """Close the channel."""
        ...


@dataclass(slots=True)
class Outbox:
    """What is to be said in the next frame."""

    starts: dict[str, SessionSpec] = field(default_factory=dict)
    cancels: dict[str, None] = field(default_factory=dict)
    acknowledged: dict[str, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Return whether there is anything to say."""
        return bool(self.starts or self.cancels or self.acknowledged)

    def take_frame(self) -> CoordinatorFrame:
        """Empty the box into one frame."""
        frame = CoordinatorFrame(
            starts=tuple(self.starts.values()),
            cancels=tuple(self.cancels),
            acknowledgements=tuple(
                LogAcknowledgement(session_id, length)
                for session_id, length in self.acknowledged.items()
            ),
        )
        self.starts.clear()
        self.cancels.clear()
        self.acknowledged.clear()
        return frame
