"""Goes on with an answer whose stream broke, from what the store has of it.

Any coordinator can: one whose lease has run out is gone, and the session is
taken over under a higher epoch. While the lease runs its owner may only be slow
to notice that it has lost its client, so the lease is waited for. A session
that has ended is shown from the log.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from treedraft.coordinator.catalog import KnownModel
from treedraft.coordinator.registry import WorkerRegistry
from treedraft.coordinator.relay import SessionRelay
from treedraft.coordinator.request import GenerationRequest
from treedraft.coordinator.running_session import RunningSession, SessionServices
from treedraft.coordinator.session_log import LogEntry
from treedraft.coordinator.session_store.protocol import (
    LEASE_HELD,
    SESSION_FINISHED,
    unknown_session,
)
from treedraft.coordinator.session_store.records import SessionPlacement, SessionRecord
from treedraft.coordinator.specs import resumed_spec
from treedraft.coordinator.text_output import TextOutput
from treedraft.core.errors import SessionConflictError, TokensMismatchError, UnavailableError
from treedraft.core.generation import GenerateEvent, ResumeQuery, Started
from treedraft.core.session import (
    FinishReason,
    SessionFinish,
    SessionOutput,
    SessionStatistics,
)

_RETRY_SECONDS = 0.2


class Resumption:
    """Resumes sessions for one coordinator."""

    def __init__(
        self,
        registry: WorkerRegistry,
        services: SessionServices,
        coordinator_id: str,
        *,
        wait_seconds: float,
    ) -> None:
        """Wait that long for another coordinator's lease to run out."""
        self._registry = registry
        self._services = services
        self._coordinator_id = coordinator_id
        self._wait_seconds = wait_seconds

    async def serve(
        self, request: GenerationRequest, query: ResumeQuery
    ) -> AsyncGenerator[GenerateEvent, None]:
        """Yield the answer from where the client holds it.

        Raises:
            SessionNotFoundError: it is not known, was forgotten, or is another tenant's.
            TokensMismatchError: it has other tokens than the client.
            SessionConflictError: another coordinator holds it (LEASE_HELD).
            UnavailableError: no target serves its model (NO_TARGET).
        """
        request.admitted()
        record = await self._services.store.load(query.session_id)
        if record.request.tenant != request.tenant.name:
            raise unknown_session(query.session_id)
        known = self._model_of(record)
        _check_logged(record, query)
        record = await self._claim(query.session_id)
        _check_logged(record, query)
        if record.finish_reason is not None:
            events = self._replay(request, record, known, record.finish_reason, query)
        else:
            events = request.answer(
                self._take_over(request, record, known, query), record.request.model
            )
        async for event in events:
            yield event

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
        """Own the session, once nobody else does; one that has ended needs no owner."""
        store, loop = self._services.store, asyncio.get_running_loop()
        gives_up_at = loop.time() + self._wait_seconds
        while True:
            try:
                return await store.claim(session_id, owner=self._coordinator_id)
            except SessionConflictError as error:
                if error.reason == SESSION_FINISHED:
                    return await store.load(session_id)
                if error.reason != LEASE_HELD or loop.time() >= gives_up_at:
                    raise
            await asyncio.sleep(_RETRY_SECONDS)

    def _take_over(
        self,
        request: GenerationRequest,
        record: SessionRecord,
        known: KnownModel,
        query: ResumeQuery,
    ) -> RunningSession:
        earlier = self._services.running.get(record.request.session_id)
        if earlier is not None:
            earlier.abandon()
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
        reason: FinishReason,
        query: ResumeQuery,
    ) -> AsyncIterator[GenerateEvent]:
        spec, output = resumed_spec(request, record), record.output_token_ids
        request.show(spec, record.request.model)
        relay = SessionRelay(
            spec,
            TextOutput(known.tokenizer, spec.stopping.stop_strings),
            acknowledge=lambda _: None,
            on_tokens=lambda _: None,
            max_unread_tokens=self._services.limits.max_unread_tokens,
        )
        relay.restore(output, query)
        statistics = SessionStatistics(emitted_tokens=len(output))
        finish = SessionFinish(reason, statistics)
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
    """Raise if the log alone shows that the client holds another text."""
    output = record.output_token_ids
    if len(output) >= query.num_tokens and not query.begins(output):
        raise TokensMismatchError("the session has other tokens than those held")
