"""What the coordinator does, free of any transport.

`Coordinator.generate` is the life of a request: admit, place, keep, run, relay,
close. `use_cases` lets callers in to it.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import structlog

from treedraft.coordinator.accounts import Accounts
from treedraft.coordinator.admission import (
    AdmissionGate,
    check_parameters,
    check_prompt,
    roomiest,
)
from treedraft.coordinator.caretaker import Caretaker
from treedraft.coordinator.catalog import KnownModel
from treedraft.coordinator.failover import Failover
from treedraft.coordinator.log_entries import first_entry
from treedraft.coordinator.model_index import ServedTarget, find_targets, served_models
from treedraft.coordinator.placement import Placement
from treedraft.coordinator.placer import Placer, placement_attributes
from treedraft.coordinator.prompts import encode_prompt
from treedraft.coordinator.registry import WorkerRegistry
from treedraft.coordinator.repetition import check_same, digest_of, session_id_of
from treedraft.coordinator.request import GenerationRequest, request_attributes
from treedraft.coordinator.resumption import Resumption
from treedraft.coordinator.running_session import (
    RelayLimits,
    RunningSession,
    SessionServices,
)
from treedraft.coordinator.session_log import LogPace
from treedraft.coordinator.session_store.protocol import SessionStore
from treedraft.coordinator.settings import CoordinatorSettings
from treedraft.coordinator.specs import first_spec
from treedraft.coordinator.target_links import TargetLinks
from treedraft.coordinator.tenant import ANONYMOUS, Tenant
from treedraft.core.errors import SessionNotFoundError
from treedraft.core.generation import GenerateEvent, GenerateQuery, ResumeQuery, ServedModel
from treedraft.core.session import SessionSpec
from treedraft.core.worker import ClusterDescription, WorkerReport
from treedraft.telemetry import names
from treedraft.telemetry.metrics import Metrics
from treedraft.telemetry.tracing import Tracing


class Coordinator:
    """Serves requests from the workers of a registry."""

    def __init__(
        self,
        settings: CoordinatorSettings,
        *,
        coordinator_id: str,
        store: SessionStore,
        registry: WorkerRegistry,
        links: TargetLinks,
        tracing: Tracing,
        metrics: Metrics,
        accounts: Accounts,
        clock: Callable[[], float] = time.monotonic,
        draw_seed: Callable[[], int] = lambda: secrets.randbits(64),
        new_session_id: Callable[[], str] = lambda: secrets.token_urlsafe(18),
    ) -> None:
        """Own sessions under the name `coordinator_id`; nothing runs before `run`."""
        self._settings = settings
        self._coordinator_id = coordinator_id
        self._store = store
        self._registry = registry
        self._links = links
        self._tracing = tracing
        self._metrics = metrics
        self._accounts = accounts
        self._clock = clock
        self._draw_seed = draw_seed
        self._new_session_id = new_session_id
        limits, kept = settings.limits, settings.store
        self._gate = AdmissionGate(max_running=limits.max_sessions, max_waiting=limits.max_waiting)
        self._placer = Placer(registry, num_drafters=settings.drafters_per_session)
        pace = LogPace(kept.log_interval_seconds, kept.lease_seconds / 3, kept.log_patience_seconds)
        failover = Failover(registry, self._placer, settings.failover)
        relay_limits = RelayLimits(pace, limits.max_unread_tokens)
        self._services = SessionServices(links, store, failover, relay_limits, tracing, metrics)
        self._caretaker = Caretaker(
            self._services.running,
            grace_seconds=settings.disconnect_grace_seconds,
            max_kept=limits.max_sessions,
        )
        self._resumption = Resumption(registry, self._services, self._caretaker, coordinator_id)
        self._log = structlog.get_logger("treedraft.coordinator")

    async def generate(
        self,
        query: GenerateQuery,
        *,
        tenant: Tenant = ANONYMOUS,
        traceparent: str = "",
        time_limit_seconds: float | None = None,
    ) -> AsyncGenerator[GenerateEvent, None]:
        """Yield Started, then Deltas, then Finished.

        Closing it leaves the session, which can be resumed for a grace time.

        Args:
            query: what is asked.
            tenant: who asks.
            traceparent: W3C trace context of the caller, if it has one.
            time_limit_seconds: for everything, waiting included.

        Raises:
            TreedraftError: the request was refused, or its session failed.
        """
        span = self._tracing.start(names.SPAN_GENERATE, traceparent, request_attributes(query))
        request = GenerationRequest(
            span, self._metrics, self._clock, time_limit_seconds, tenant, model=query.model
        )
        async with aclosing(self._answer(request, self._serve(request, query))) as events:
            async for event in events:
                yield event

    async def resume(
        self,
        query: ResumeQuery,
        *,
        tenant: Tenant = ANONYMOUS,
        traceparent: str = "",
        time_limit_seconds: float | None = None,
    ) -> AsyncGenerator[GenerateEvent, None]:
        """Yield the rest of an answer whose stream broke; otherwise as `generate`."""
        attributes = {names.ATTR_OPERATION: "resume", names.ATTR_SESSION_ID: query.session_id}
        span = self._tracing.start(names.SPAN_GENERATE, traceparent, attributes)
        request = GenerationRequest(
            span, self._metrics, self._clock, time_limit_seconds, tenant, is_prompt_charged=False
        )
        rest = self._resumption.serve(request, query)
        async with aclosing(self._answer(request, rest)) as events:
            async for event in events:
                yield event

    async def cancel(self, session_id: str, *, tenant: Tenant = ANONYMOUS) -> None:
        """End a session of a tenant; one that is not known to it is no error."""
        await self._resumption.cancel(session_id, tenant.name)

    async def _answer(
        self, request: GenerationRequest, served: AsyncGenerator[GenerateEvent, None]
    ) -> AsyncGenerator[GenerateEvent, None]:
        """Let a request in and pass its events on; end what it holds, however it ends."""
        try:
            await self._accounts.enter(request)
            async with self._gate.enter(request.time_left()), aclosing(served) as events:
                async for event in events:
                    yield event
        except Exception as error:
            request.fail(error)
            raise
        finally:
            self._close(request)

    async def _serve(
        self, request: GenerationRequest, query: GenerateQuery
    ) -> AsyncGenerator[GenerateEvent, None]:
        if await self._is_repeated(request, query):
            session_id = session_id_of(query.idempotency_key, request.tenant)
            answer = self._resumption.serve(request, ResumeQuery(session_id, 0, b""))
        else:
            answer = self._begin(request, query)
        async with aclosing(answer) as events:
            async for event in events:
                yield event

    async def _is_repeated(self, request: GenerationRequest, query: GenerateQuery) -> bool:
        """Return whether the query was made before; raise if its key was, for another one."""
        if not query.idempotency_key:
            return False
        session_id = session_id_of(query.idempotency_key, request.tenant)
        try:
            record = await self._resumption.load(session_id, request.tenant.name)
        except SessionNotFoundError:
            return False
        check_same(record, query)
        return True

    async def _begin(
        self, request: GenerationRequest, query: GenerateQuery
    ) -> AsyncGenerator[GenerateEvent, None]:
        targets, prompt = await self._admit(request, query)
        placement = await self._place(request, query, targets, prompt)
        known = next(known for worker, known in targets if worker.registration == placement.target)
        spec = self._spec(request, query, placement, known, prompt)
        session = await self._start(request, spec, placement, known, digest_of(query))
        async for event in request.answer(session, placement.target.model):
            yield event

    async def _admit(
        self, request: GenerationRequest, query: GenerateQuery
    ) -> tuple[list[ServedTarget], tuple[int, ...]]:
        """Return the targets that may serve the request, and its prompt."""
        waited = request.admitted()
        with self._tracing.start(names.SPAN_ADMIT, request.span.traceparent) as span:
            targets = find_targets(query.model, self._registry.targets())
            reference = targets[0][1]
            prompt = await encode_prompt(query, reference.description, reference.tokenizer)
            model, limit = roomiest(targets), self._settings.limits.max_prompt_tokens
            check_prompt(prompt, model, max_prompt_tokens=limit)
            check_parameters(query.sampling, query.stopping, model)
            span.set({names.ATTR_WAIT_MS: waited * 1000, names.ATTR_INPUT_TOKENS: len(prompt)})
        return targets, prompt

    async def _place(
        self,
        request: GenerationRequest,
        query: GenerateQuery,
        targets: list[ServedTarget],
        prompt: tuple[int, ...],
    ) -> Placement:
        with self._tracing.start(names.SPAN_PLACE, request.span.traceparent) as span:
            placement = await self._placer.place(
                targets,
                prompt,
                tenant_salt=request.tenant.salt,
                is_speculative=query.speculation.enabled,
            )
            span.set(placement_attributes(placement))
        return placement

    async def _start(
        self,
        request: GenerationRequest,
        spec: SessionSpec,
        placement: Placement,
        known: KnownModel,
        query_digest: str,
    ) -> RunningSession:
        """Keep the session in the store and run it on its target."""
        entry = first_entry(
            spec,
            placement,
            known,
            self._coordinator_id,
            tenant=request.tenant.name,
            query_digest=query_digest,
        )
        target = placement.target
        session = RunningSession(
            spec, entry, known, self._services, span=request.span, on_tokens=request.on_tokens
        )
        request.run(session, target.model)
        await self._store.create(entry.request, owner=entry.owner, epoch=entry.epoch)
        await self._store.place(spec.session_id, entry.epoch, entry.placement)
        session.start(target)
        return session

    def _spec(
        self,
        request: GenerationRequest,
        query: GenerateQuery,
        placement: Placement,
        known: KnownModel,
        prompt: tuple[int, ...],
    ) -> SessionSpec:
        span = request.span
        seed = self._draw_seed() if query.sampling.seed is None else query.sampling.seed
        key = query.idempotency_key
        session_id = session_id_of(key, request.tenant) if key else self._new_session_id()
        span.set({names.ATTR_SESSION_ID: session_id, names.ATTR_SEED: str(seed)})
        return first_spec(
            request,
            query,
            placement,
            known,
            prompt,
            session_id=session_id,
            seed=seed,
            default_max_tokens=self._settings.limits.default_max_tokens,
        )

    async def list_models(self) -> list[ServedModel]:
        """Return the models that can be asked for, ordered by name."""
        return served_models(self._registry.targets(), self._registry.drafters())

    async def describe_cluster(self) -> ClusterDescription:
        """Return all workers known and the number of requests that run here."""
        return ClusterDescription(
            workers=tuple((one.registration, one.report) for one in self._registry.workers()),
            num_sessions=self._gate.num_running,
        )

    async def run(self) -> None:
        """Keep register, links and gauges fresh until cancelled."""
        while True:
            try:
                await self._refresh()
            except Exception:
                self._metrics.upkeep_failed()
                self._log.exception("upkeep failed; it goes on")
            await asyncio.sleep(self._settings.store.refresh_seconds)

    async def _refresh(self) -> None:
        await self._registry.refresh()
        await self._accounts.renew()
        await self._links.retain(worker.registration for worker in self._registry.workers())
        self._metrics.workers_known(
            (worker.registration.role, worker.report.is_draining)
            for worker in self._registry.workers()
        )
        self._metrics.load_reported(
            WorkerReport(num_sessions=self._gate.num_running, num_waiting=self._gate.num_waiting)
        )

    async def drain(self) -> bool:
        """Let nobody in any more and wait, bounded, until the running requests have ended.

        Returns whether they have.
        """
        self._caretaker.leave()
        try:
            async with asyncio.timeout(self._settings.drain_seconds):
                await self._gate.close()
        except TimeoutError:
            self._log.warning("requests are cut off", num_requests=self._gate.num_running)
            return False
        return True

    async def close(self) -> None:
        """End all streams to targets and what still runs; release the store."""
        await self._caretaker.close()
        await self._links.close()
        await self._accounts.close()
        await self._store.close()

    def _close(self, request: GenerationRequest) -> None:
        request.end()
        self._accounts.leave(request)
        self._caretaker.take(request)
