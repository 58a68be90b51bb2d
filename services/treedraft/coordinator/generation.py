"""What the coordinator does, free of any transport.

`Coordinator.generate` is the life of a request: admit, place, keep, run, relay,
close. The gRPC service is a thin skin over this module, and so will be the
HTTP door.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace

import structlog

from treedraft.coordinator.accounts import Accounts
from treedraft.coordinator.admission import (
    AdmissionGate,
    check_parameters,
    check_prompt,
    limit_output,
    roomiest,
)
from treedraft.coordinator.catalog import KnownModel
from treedraft.coordinator.failover import Failover
from treedraft.coordinator.model_index import ServedTarget, find_targets, served_models
from treedraft.coordinator.placement import Placement
from treedraft.coordinator.placer import Placer, placement_attributes
from treedraft.coordinator.prompts import encode_prompt
from treedraft.coordinator.registry import WorkerRegistry
from treedraft.coordinator.request import GenerationRequest, request_attributes
from treedraft.coordinator.running_session import (
    RelayLimits,
    RunningSession,
    SessionServices,
    first_entry,
)
from treedraft.coordinator.session_log import LogPace
from treedraft.coordinator.session_store.protocol import SessionStore
from treedraft.coordinator.settings import CoordinatorSettings
from treedraft.coordinator.target_links import TargetLinks
from treedraft.coordinator.tenant import ANONYMOUS, Tenant
from treedraft.core.generation import GenerateEvent, GenerateQuery, ServedModel, Started
from treedraft.core.session import SessionFinish, SessionSpec
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
        self._services = SessionServices(
            links,
            store,
            Failover(registry, self._placer, settings.failover),
            RelayLimits(pace, limits.max_unread_tokens),
            tracing,
            metrics,
        )
        self._closing: set[asyncio.Task[None]] = set()
        self._log = structlog.get_logger("treedraft.coordinator")

    async def generate(
        self,
        query: GenerateQuery,
        *,
        tenant: Tenant = ANONYMOUS,
        traceparent: str = "",
        time_limit_seconds: float | None = None,
    ) -> AsyncGenerator[GenerateEvent, None]:
        """Yield Started, then Deltas, then Finished; closing it cancels the session.

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
            query, span, self._metrics, self._clock, time_limit_seconds, tenant
        )
        try:
            await self._accounts.enter(request)
            async with (
                self._gate.enter(time_limit_seconds),
                aclosing(self._serve(request)) as events,
            ):
                async for event in events:
                    yield event
        except Exception as error:
            request.fail(error)
            raise
        finally:
            self._close(request)

    async def _serve(self, request: GenerationRequest) -> AsyncGenerator[GenerateEvent, None]:
        targets, prompt = await self._admit(request)
        placement = await self._place(request, targets, prompt)
        known = next(known for worker, known in targets if worker.registration == placement.target)
        session = await self._start(request, placement, known, prompt)
        spec = session.spec
        yield Started(
            session_id=spec.session_id,
            seed=spec.sampling.seed or 0,
            prompt_token_ids=prompt,
            trace_id=request.span.trace_id,
            model=placement.target.model,
        )
        async for event in session.events(request.time_left):
            if isinstance(event, SessionFinish):
                yield request.finish(event)
            else:
                yield event

    async def _admit(
        self, request: GenerationRequest
    ) -> tuple[list[ServedTarget], tuple[int, ...]]:
        """Return the targets that may serve the request, and its prompt."""
        waited, query = request.admitted(), request.query
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
        self, request: GenerationRequest, targets: list[ServedTarget], prompt: tuple[int, ...]
    ) -> Placement:
        with self._tracing.start(names.SPAN_PLACE, request.span.traceparent) as span:
            placement = await self._placer.place(
                targets,
                prompt,
                tenant_salt=request.tenant.salt,
                is_speculative=request.query.speculation.enabled,
            )
            span.set(placement_attributes(placement))
        return placement

    async def _start(
        self,
        request: GenerationRequest,
        placement: Placement,
        known: KnownModel,
        prompt: tuple[int, ...],
    ) -> RunningSession:
        """Keep the session in the store and run it on its target."""
        spec = self._spec(request, placement, known, prompt)
        entry = first_entry(
            spec, placement, known, self._coordinator_id, tenant=request.tenant.name
        )
        target = placement.target
        session = RunningSession(
            spec, entry, known, self._services, span=request.span, on_tokens=request.on_tokens
        )
        request.session, request.model = session, target.model
        await self._store.create(entry.request, owner=entry.owner, epoch=entry.epoch)
        await self._store.place(spec.session_id, entry.epoch, entry.placement)
        session.start(placement.target)
        return session

    def _spec(
        self,
        request: GenerationRequest,
        placement: Placement,
        known: KnownModel,
        prompt: tuple[int, ...],
    ) -> SessionSpec:
        query, span = request.query, request.span
        seed = self._draw_seed() if query.sampling.seed is None else query.sampling.seed
        session_id = self._new_session_id()
        span.set({names.ATTR_SESSION_ID: session_id, names.ATTR_SEED: str(seed)})
        return SessionSpec(
            session_id=session_id,
            epoch=1,
            token_ids=prompt,
            prompt_length=len(prompt),
            sampling=replace(query.sampling, seed=seed),
            stopping=limit_output(
                query.stopping,
                len(prompt),
                known.description,
                default_max_tokens=self._settings.limits.default_max_tokens,
            ),
            speculation=query.speculation,
            tenant_salt=request.tenant.salt,
            drafters=placement.drafters,
            traceparent=span.traceparent if span.is_sampled else "",
            time_limit_seconds=request.time_left(),
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
                self._log.exception("upkeep failed; it goes on")
            await asyncio.sleep(self._settings.store.refresh_seconds)

    async def _refresh(self) -> None:
        await self._registry.refresh()
        await self._accounts.renew()
        await self._links.retain(worker.registration for worker in self._registry.workers())
        self._metrics.load_reported(
            WorkerReport(num_sessions=self._gate.num_running, num_waiting=self._gate.num_waiting)
        )

    async def drain(self) -> bool:
        """Let nobody in any more and wait, bounded, until the running requests have ended.

        Returns whether they have.
        """
        try:
            async with asyncio.timeout(self._settings.drain_seconds):
                await self._gate.close()
        except TimeoutError:
            self._log.warning("requests are cut off", num_requests=self._gate.num_running)
            return False
        return True

    async def close(self) -> None:
        """End all streams to targets, and with them what still runs; release the store."""
        await self._links.close()
        while self._closing:
            await asyncio.gather(*self._closing, return_exceptions=True)
        await self._accounts.close()
        await self._store.close()

    def _close(self, request: GenerationRequest) -> None:
        # On a task of its own: the request's may be cancelled already, and what
        # it held at the target must be freed all the same.
        request.end()
        self._accounts.leave(request)
        if request.session is not None:
            task = asyncio.create_task(request.session.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
