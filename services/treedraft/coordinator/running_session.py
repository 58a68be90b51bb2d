"""A session under way: its relay, its log and its place on a target's stream.

When its target is lost the session moves: the store claims it under a higher
epoch, another target gets prompt and tokens so far, and the reader never
learns of it. A move that has begun goes on when its reader leaves; the next one
waits for it. Everything about a session ends with `close`: the target frees its
memory, and the store learns that it is over; or with `leave_open`, when somebody
is to go on with it elsewhere.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace

from treedraft.coordinator.catalog import KnownModel
from treedraft.coordinator.failover import Departure, Failover, ProcessId, Turn
from treedraft.coordinator.log_entries import stored_placement
from treedraft.coordinator.log_writer import LogEntry, resumed_elsewhere
from treedraft.coordinator.move_budget import MoveBudget
from treedraft.coordinator.pieces import TextPieces
from treedraft.coordinator.placement import Placement
from treedraft.coordinator.relay import SessionRelay
from treedraft.coordinator.session_log import LogPace, SessionLog
from treedraft.coordinator.session_store.protocol import (
    STORE_UNAVAILABLE,
    SessionStore,
)
from treedraft.coordinator.target_links import TARGET_LOST, TARGET_SILENT, TargetLink, TargetLinks
from treedraft.coordinator.text_output import session_text
from treedraft.core.errors import (
    CancelledError,
    OverloadedError,
    TreedraftError,
    UnavailableError,
)
from treedraft.core.generation import Delta, ResumeQuery
from treedraft.core.sampling import Verification
from treedraft.core.session import FinishReason, SessionFinish, SessionSpec, SessionStatistics
from treedraft.core.worker import WorkerRegistration
from treedraft.telemetry import names
from treedraft.telemetry.metrics import Metrics
from treedraft.telemetry.spans import RequestSpan
from treedraft.telemetry.tracing import Tracing


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """How a session is logged and how far it may run ahead of its reader."""

    pace: LogPace
    max_unread_tokens: int


@dataclass(frozen=True, slots=True)
class SessionServices:
    """What all sessions of a coordinator share."""

    links: TargetLinks
    store: SessionStore
    failover: Failover
    limits: RelayLimits
    tracing: Tracing
    metrics: Metrics
    running: dict[str, "RunningSession"] = field(default_factory=dict)


class RunningSession:
    """A session that this coordinator owns and a target runs."""

    def __init__(
        self,
        spec: SessionSpec,
        entry: LogEntry,
        known: KnownModel,
        services: SessionServices,
        *,
        span: RequestSpan,
        on_tokens: Callable[[int], None],
    ) -> None:
        """Prepare a session that the store has; `start` runs it."""
        self.spec = spec
        self.tenant = entry.request.tenant
        self.known = known
        self._services = services
        self._span = span
        self._on_tokens = on_tokens
        self._link: TargetLink | None = None
        self._turn: Turn | None = None
        self._left: set[ProcessId] = set()
        self._moves = MoveBudget(services.failover.settings.max_moves)
        self._moving: asyncio.Task[None] | None = None
        self._relay = SessionRelay(
            spec,
            session_text(known.tokenizer, spec.stopping),
            acknowledge=self._acknowledge,
            on_tokens=self._take_note,
            max_unread_tokens=services.limits.max_unread_tokens,
            pieces=TextPieces(known.tokenizer) if spec.watch_rounds else None,
        )
        self._log = SessionLog(
            services.store,
            entry,
            services.limits.pace,
            on_logged=self._relay.on_logged,
            on_lost=self._relay.fail,
            is_ahead=spec.sampling.verification is Verification.REJECTION,
        )
        self._relay.write_to(self._log)

    def start(self, target: WorkerRegistration) -> None:
        """Run the session on this target."""
        self._begin()
        self._run_at(target, self.spec)

    def resume(self, output_token_ids: Sequence[int], held: ResumeQuery) -> None:
        """Go on after output that the log has, at a target that `events` finds."""
        self._relay.restore(output_token_ids, held)
        self._log.restore(output_token_ids)
        self._begin()
        lost = UnavailableError("its coordinator was lost", reason="COORDINATOR_LOST")
        self._relay.fail(lost)

    async def abandon(self) -> None:
        """Leave the session to a later reader, who is to claim it; this one's stream fails."""
        await self._stop()
        self._link = None
        self._relay.leave()
        self._relay.fail(resumed_elsewhere())
        await self._log.abandon()

    async def cancel(self) -> None:
        """End the session, and with it the stream of whoever reads it."""
        self._relay.leave()
        self._relay.fail(CancelledError("the session was cancelled"))
        await self.close()

    async def put_back(self) -> None:
        """Write the session to a store that has lost it."""
        await self._log.put_back()

    async def events(
        self, time_left: Callable[[], float | None]
    ) -> AsyncGenerator[Delta | SessionFinish, None]:
        """Yield what the client gets; the finish comes last, when the log has it all.

        Raises:
            TreedraftError: the session failed.
            CancelledError: its time is up (DEADLINE_EXCEEDED).
        """
        while True:
            await self._moved()
            try:
                event = await self._relay.read(time_left())
            except TreedraftError as error:
                self._moving = asyncio.create_task(self._move(error, time_left))
                # Nobody may be left to hear why it failed.
                self._moving.add_done_callback(lambda task: task.cancelled() or task.exception())
                continue
            if isinstance(event, SessionFinish):
                await self._log.finish(event.reason)
                yield event
                return
            yield event

    async def close(self) -> None:
        """Stop what still runs and close the log; safe to repeat."""
        await self._stop()
        await self._log.finish(FinishReason.CANCELLED)

    async def leave_open(self) -> None:
        """Stop what still runs, and let the log be one that can be resumed."""
        await self._stop()
        await self._log.leave_open()

    async def _stop(self) -> None:
        self._leave()
        if self._services.running.get(self.spec.session_id) is self:
            del self._services.running[self.spec.session_id]
        if self._moving is not None:
            self._moving.cancel()
            await asyncio.wait({self._moving})
            self._leave()

    async def _moved(self) -> None:
        """Wait for the move under way, if there is one, and raise why it failed."""
        if self._moving is not None:
            await asyncio.wait({self._moving})
            if self._moving.cancelled():
                raise self._relay.error or resumed_elsewhere()
            self._moving.result()
            self._moving = None

    @property
    def counts(self) -> SessionStatistics:
        """What came out so far."""
        return self._relay.counts

    @property
    def whereabouts(self) -> tuple[str, int]:
        """The target that runs the session now, and how often it moved."""
        return self._link.target.worker_id if self._link else "", self._moves.num_moves

    @property
    def _process(self) -> ProcessId:
        target = self._link.target if self._link is not None else None
        return (target.worker_id, target.incarnation) if target else ("", "")

    def _begin(self) -> None:
        self._services.running[self.spec.session_id] = self
        self._log.start()

    def _run_at(self, target: WorkerRegistration, spec: SessionSpec) -> None:
        self._link = self._services.links.get(target)
        self._link.start(spec, self._relay)

    async def _move(self, cause: TreedraftError, time_left: Callable[[], float | None]) -> None:
        """Go on at another target.

        Raises:
            TreedraftError: the cause, if it is no reason to move, or why it cannot be done.
        """
        self._moves.spend(cause)
        origin = self._process
        self._leave()
        self._relay.leave()
        attributes = {names.ATTR_FAILOVER_CAUSE: cause.reason, names.ATTR_FAILOVER_FROM: origin[0]}
        tracing = self._services.tracing
        with tracing.start(names.SPAN_FAILOVER, self._span.traceparent, attributes) as span:
            try:
                async with asyncio.timeout(time_left()):
                    if isinstance(cause, OverloadedError):
                        await asyncio.sleep(cause.retry_after_ms / 1000.0)
                    else:
                        self._note_loss(origin, cause)
                    await self._settle(span, time_left)
            except TimeoutError:
                raise CancelledError(
                    "the time for this session is up", reason="DEADLINE_EXCEEDED"
                ) from cause
        self._services.metrics.session_moved(cause.reason)

    def _note_loss(self, origin: ProcessId, cause: TreedraftError) -> None:
        self._left.add(origin)
        if cause.reason in (TARGET_LOST, TARGET_SILENT):
            self._services.failover.doubt(origin)

    async def _settle(self, span: RequestSpan, time_left: Callable[[], float | None]) -> None:
        """Find a target, claim the session for it and run it there."""
        token_ids = self._relay.token_ids
        spec = replace(self.spec, token_ids=token_ids)
        departure = Departure(spec, self.known, frozenset(self._left))
        placement, self._turn = await self._services.failover.place(departure)
        epoch = await self._claim(placement)
        span.set(
            {
                names.ATTR_FAILOVER_EPOCH: epoch,
                names.ATTR_FAILOVER_TOKENS: len(token_ids),
                names.ATTR_PLACE_TARGET: placement.target.worker_id,
                names.ATTR_PLACE_REASON: placement.reason,
            }
        )
        self._relay.follow(epoch)
        self._run_at(
            placement.target,
            replace(
                spec,
                epoch=epoch,
                drafters=placement.drafters,
                time_limit_seconds=time_left(),
            ),
        )

    async def _claim(self, placement: Placement) -> int:
        wait_seconds = self._services.failover.settings.wait_seconds
        try:
            async with asyncio.timeout(wait_seconds):
                return await self._log.take_over(stored_placement(placement))
        except TimeoutError:
            raise UnavailableError(
                f"the session store was away for {wait_seconds:g} s", reason=STORE_UNAVAILABLE
            ) from None

    def _leave(self) -> None:
        """Stop the session where it is, if it still runs there."""
        if self._link is not None:
            self._link.cancel(self.spec.session_id)
        self._end_turn()

    def _acknowledge(self, length: int) -> None:
        if self._link is not None:
            self._link.acknowledge(self.spec.session_id, length)

    def _take_note(self, num_tokens: int) -> None:
        self._end_turn()
        self._on_tokens(num_tokens)

    def _end_turn(self) -> None:
        if self._turn is not None:
            self._turn.end()
            self._turn = None
