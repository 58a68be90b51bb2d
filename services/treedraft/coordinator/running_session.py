"""A session under way: its relay, its log and its place on a target's stream.

Everything about it ends with `close`, whichever way it ended: the target stops
and frees its memory, and the store learns that the session is over.
"""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from treedraft.coordinator.catalog import KnownModel
from treedraft.coordinator.relay import SessionRelay
from treedraft.coordinator.session_log import LogEntry, LogPace, SessionLog
from treedraft.coordinator.session_store.protocol import SessionStore
from treedraft.coordinator.target_links import TargetLink
from treedraft.coordinator.text_output import TextOutput
from treedraft.core.generation import Delta
from treedraft.core.sampling import Verification
from treedraft.core.session import FinishReason, SessionFinish, SessionSpec


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """How a session is logged and how far it may run ahead of its reader."""

    pace: LogPace
    max_unread_tokens: int


class RunningSession:
    """A session that this coordinator owns and a target runs."""

    def __init__(
        self,
        spec: SessionSpec,
        entry: LogEntry,
        known: KnownModel,
        *,
        link: TargetLink,
        store: SessionStore,
        limits: RelayLimits,
        on_tokens: Callable[[int], None],
    ) -> None:
        """Prepare a session that the store has; `start` runs it."""
        self.spec = spec
        self._link = link
        self._relay = SessionRelay(
            spec,
            TextOutput(known.tokenizer, spec.stopping.stop_strings),
            acknowledge=lambda length: link.acknowledge(spec.session_id, length),
            on_tokens=on_tokens,
            max_unread_tokens=limits.max_unread_tokens,
        )
        self._log = SessionLog(
            store,
            entry,
            limits.pace,
            on_logged=self._relay.on_logged,
            on_lost=self._relay.fail,
            is_ahead=spec.sampling.verification is Verification.REJECTION,
        )
        self._relay.write_to(self._log)

    def start(self) -> None:
        """Run the session on its target.

        Raises:
            UnavailableError: the target is gone (TARGET_LOST).
        """
        self._link.start(self.spec, self._relay)
        self._log.start()

    async def events(
        self, time_left: Callable[[], float | None]
    ) -> AsyncIterator[Delta | SessionFinish]:
        """Yield what the client gets; the finish comes last, when the log has it all.

        Raises:
            TreedraftError: the session failed.
            CancelledError: its time is up (DEADLINE_EXCEEDED).
        """
        while True:
            event = await self._relay.read(time_left())
            if isinstance(event, SessionFinish):
                await self._log.finish(event.reason)
                yield event
                return
            yield event

    async def close(self) -> None:
        """Stop what still runs and close the log; safe to repeat."""
        self._link.cancel(self.spec.session_id)
        await self._log.finish(FinishReason.CANCELLED)
