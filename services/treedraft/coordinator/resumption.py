"""Goes on with an answer whose stream broke, from what the store has of it.

Any coordinator can, at once: whoever asks with the right tokens is the reader
now, so the session is taken from the coordinator that has it, be it dead, cut
off or only slow to notice that it has lost its client. The higher epoch fences
that one out. One that runs here is stopped before it is claimed, and readers of
one session come one after the other. A session that has ended is shown from the
log; one that the store has lost is put back by the coordinator that has it.
"""

from collections.abc import AsyncGenerator

from treedraft.coordinator.caretaker import Caretaker
from treedraft.coordinator.catalog import KnownModel
from treedraft.coordinator.log_writer import LogEntry
from treedraft.coordinator.registry import WorkerRegistry
from treedraft.coordinator.relay import SessionRelay
from treedraft.coordinator.request import GenerationRequest
from treedraft.coordinator.running_session import RunningSession, SessionServices
from treedraft.coordinator.session_store.protocol import SESSION_FINISHED, unknown_session
from treedraft.coordinator.session_store.records import SessionPlacement, SessionRecord
from treedraft.coordinator.specs import resumed_spec
from treedraft.coordinator.text_output import session_text
from treedraft.coordinator.tool_reading import with_calls_read
from treedraft.coordinator.turns import Turns
from treedraft.core.errors import (
    SessionConflictError,
    SessionNotFoundError,
    TokensMismatchError,
    UnavailableError,
)
from treedraft.core.generation import GenerateEvent, ResumeQuery, Started
from treedraft.core.sampling import Verification
from treedraft.core.session import (
    FinishReason,
    SessionFinish,
    SessionOutput,
    SessionStatistics,
)
from treedraft.text.tool_formats.formats import ToolFormats


class Resumption:
    """Resumes sessions for one coordinator."""

    def __init__(
        self,
        registry: WorkerRegistry,
        services: SessionServices,
        caretaker: Caretaker,
        coordinator_id: str,
        tool_formats: ToolFormats | None = None,
    ) -> None:
        """Resume under the name `coordinator_id`."""
        self._registry = registry
        self._services = services
        self._caretaker = caretaker
        self._coordinator_id = coordinator_id
        self._tool_formats = tool_formats or ToolFormats()
        self.turns = Turns()

    async def serve(
        self, request: GenerationRequest, query: ResumeQuery
    ) -> AsyncGenerator[GenerateEvent, None]:
        """Yield the answer from where the client holds it.

        Raises:
            SessionNotFoundError: it is not known, was forgotten, or is another tenant's.
            TokensMismatchError: it has other tokens than the client.
            UnavailableError: no target serves its model (NO_TARGET).
        """
        request.admitted()
        async with self.turns.of(query.session_id):
            record = await self.load(query.session_id, request.tenant.name)
            known = self._model_of(record)
            _check_logged(record, query)
            record = await self._claim(query.session_id)
            _check_logged(record, query)
            session = None
            if record.finish_reason is None:
                session = self._take_over(request, record, known, query)
        if session is None:
            events, metrics = self._replay(request, record, known, query), None
        else:
            events = request.answer(session, record.request.model)
            metrics = self._services.metrics
        asked = record.request
        events = with_calls_read(
            events, asked.tool_names, known, asked.stopping, self._tool_formats, metrics
        )
        async for event in events:
            yield event

    async def cancel(self, session_id: str, tenant: str) -> None:
        """End a session; one that has ended or that the tenant does not have is no error."""
        async with self.turns.of(session_id):
            running = self._services.running.get(session_id)
            if running is not None and running.tenant == tenant:
                await running.cancel()
                return
            try:
                record = await self.load(session_id, tenant)
                if record.finish_reason is None:
                    record = await self._claim(session_id)
                    await self._services.store.finish(
                        session_id,
                        record.epoch,
                        len(record.token_ids),
                        FinishReason.CANCELLED,
                        owner=self._coordinator_id,
                    )
            except SessionNotFoundError:
                return

    async def load(self, session_id: str, tenant: str) -> SessionRecord:
        """Return what the store has of a tenant's session; if it lost one of ours, it gets it back.

        Raises:
            SessionNotFoundError: it is not known, or is another tenant's.
        """
        try:
            record = await self._services.store.load(session_id)
        except SessionNotFoundError:
            held = self._caretaker.held(session_id)
            if held is None or held.tenant != tenant:
                raise
            await held.put_back()
            record = await self._services.store.load(session_id)
        if record.request.tenant != tenant:
            raise unknown_session(session_id)
        return record

    def _model_of(self, record: SessionRecord) -> KnownModel:
        served = [
            known
            for worker, known in self._registry.targets()
            if worker.registration.model == record.request.model
        ]
        if not served:
            raise UnavailableError(
                f"no target serves {record.request.model} now", reason="NO_TARGET"
            )
        same = record.request.fingerprint
        return next((known for known in served if known.description.fingerprint == same), served[0])

    async def _claim(self, session_id: str) -> SessionRecord:
        """Own the session, and nobody else does; one that has ended needs no owner."""
        store, running = self._services.store, self._services.running.get(session_id)
        if running is not None:
            await running.abandon()
        try:
            return await store.claim(session_id, owner=self._coordinator_id, steals=True)
        except SessionConflictError as error:
            if error.reason != SESSION_FINISHED:
                raise
        except BaseException:
            # Nobody has it now. Should the store forget it as well, it is still known here.
            if running is not None:
                self._caretaker.keep(running)
            raise
        return await store.load(session_id)

    def _take_over(
        self,
        request: GenerationRequest,
        record: SessionRecord,
        known: KnownModel,
        query: ResumeQuery,
    ) -> RunningSession:
        request.repeat()
        placement = record.placement or SessionPlacement("", "", "")
        session = RunningSession(
            resumed_spec(request, record),
            LogEntry(record.request, record.epoch, self._coordinator_id, placement),
            known,
            self._services,
            span=request.span,
            on_tokens=request.on_tokens,
        )
        request.run(session, record.request.model)
        session.resume(record.output_token_ids, query)
        return session

    async def _replay(
        self,
        request: GenerationRequest,
        record: SessionRecord,
        known: KnownModel,
        query: ResumeQuery,
    ) -> AsyncGenerator[GenerateEvent, None]:
        request.repeat()
        spec, output = resumed_spec(request, record), record.output_token_ids
        request.show(spec, record.request.model)
        relay = SessionRelay(
            spec,
            session_text(known.tokenizer, spec.stopping),
            acknowledge=lambda _: None,
            on_tokens=lambda _: None,
            max_unread_tokens=self._services.limits.max_unread_tokens,
        )
        relay.restore(output, query)
        statistics = SessionStatistics(emitted_tokens=len(output))
        finish = SessionFinish(record.finish_reason or FinishReason.CANCELLED, statistics)
        relay.deliver(
            SessionOutput(spec.session_id, spec.epoch, len(record.token_ids), finish=finish)
        )
        yield Started(
            session_id=spec.session_id,
            seed=spec.sampling.seed or 0,
            prompt_token_ids=spec.token_ids,
            trace_id=request.span.trace_id,
            model=record.request.model,
        )
        while True:
            event = await relay.read(request.time_left())
            if isinstance(event, SessionFinish):
                yield request.finish(event)
                return
            yield event


def _check_logged(record: SessionRecord, query: ResumeQuery) -> None:
    """Raise if the log alone shows that the client holds another text.

    In rejection mode tokens are logged before they are shown. A log that lacks some of them
    was put back by an owner of before; whoever has them now puts it right, unless another
    text is begun meanwhile.
    """
    output = record.output_token_ids
    is_behind = len(output) < query.num_tokens
    if is_behind and record.request.sampling.verification is not Verification.REJECTION:
        return  # what is missing will be the same when it is computed again
    if not query.begins(output):
        raise TokensMismatchError("the session has other tokens than those held")
