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
)
from treedraft.coordinator.caretaker import Caretaker
from treedraft.coordinator.catalog import KnownModel
from treedraft.coordinator.failover import Failover
from treedraft.coordinator.model_index import served_models
from treedraft.coordinator.opening import Opening
from treedraft.coordinator.placer import Placer
from treedraft.coordinator.registry import WorkerRegistry
from treedraft.coordinator.repetition import session_id_of
from treedraft.coordinator.request import GenerationRequest, request_attributes
from treedraft.coordinator.resumption import Resumption
from treedraft.coordinator.rollout import Rollout
from treedraft.coordinator.running_session import (
    RelayLimits,
    SessionServices,
)
from treedraft.coordinator.session_log import LogPace
from treedraft.coordinator.session_store.protocol import SessionStore
from treedraft.coordinator.settings import CoordinatorSettings
from treedraft.coordinator.target_links import TargetLinks
from treedraft.coordinator.tenant import ANONYMOUS, Tenant
from treedraft.coordinator.tool_reading import with_calls_read
from treedraft.coordinator.unserved import UnservedModels
from treedraft.core.errors import UnavailableError
from treedraft.core.generation import GenerateEvent, GenerateQuery, ResumeQuery, ServedModel
from treedraft.core.worker import ClusterDescription, WorkerReport
from treedraft.telemetry import names
from treedraft.telemetry.metrics import Metrics
from treedraft.telemetry.tracing import Tracing
from treedraft.text.tool_formats.formats import ToolFormats


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
        rollout: Rollout,
        clock: Callable[[], float] = time.monotonic,
        draw_seed: Callable[[], int] = lambda: secrets.randbits(64),
        new_session_id: Callable[[], str] = lambda: secrets.token_urlsafe(18),
    ) -> None:
        """Own sessions under the name `coordinator_id`; nothing runs before `run`."""
        self._settings = settings
        self._store = store
        self._registry = registry
        self._links = links
        self._tracing = tracing
        self._metrics = metrics
        self._accounts = accounts
        self.rollout = rollout
        self._clock = clock
        limits, kept = settings.limits, settings.store
        self._gate = AdmissionGate(max_running=limits.max_sessions, max_waiting=limits.max_waiting)
        placer = Placer(registry, settings.drafters_per_session, rollout.weights)
        pace = LogPace(kept.log_interval_seconds, kept.lease_seconds / 3, kept.log_patience_seconds)
        failover = Failover(registry, placer, settings.failover)
        relay_limits = RelayLimits(pace, limits.max_unread_tokens)
        self._services = SessionServices(links, store, failover, relay_limits, tracing, metrics)
        self._caretaker = Caretaker(
            self._services.running,
            grace_seconds=settings.disconnect_grace_seconds,
            max_kept=limits.max_sessions,
        )
        self.tool_formats = ToolFormats(settings.tool_formats)
        self._resumption = Resumption(
            registry, self._services, self._caretaker, coordinator_id, self.tool_formats
        )
        self._unserved = UnservedModels(settings.sleeping_models)
        self._opening = Opening(
            registry,
            placer,
            self._services,
            self._resumption,
            limits,
            unserved=self._unserved,
            coordinator_id=coordinator_id,
            draw_seed=draw_seed,
            new_session_id=new_session_id,
        )
        self._log = structlog.get_logger("treedraft.coordinator")

    async def generate(
        self,
        query: GenerateQuery,
        *,
        tenant: Tenant = ANONYMOUS,
        traceparent: str = "",
        time_limit_seconds: float | None = None,
        is_kept: bool = True,
    ) -> AsyncGenerator[GenerateEvent, None]:
        """Yield Started, then Deltas, then Finished.

        Args:
            query: what is asked.
            tenant: who asks.
            traceparent: W3C trace context of the caller, if it has one.
            time_limit_seconds: for everything, waiting included.
            is_kept: closing it leaves the session, which can be resumed for a grace
                time; otherwise it cancels it.

        Raises:
            TreedraftError: the request was refused, or its session failed.
        """
        span = self._tracing.start(names.SPAN_GENERATE, traceparent, request_attributes(query))
        request = GenerationRequest(
            span,
            self._metrics,
            self._clock,
            time_limit_seconds,
            tenant,
            model=query.model,
            is_kept=is_kept,
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
        session = await self._opening.open_once(request, query)
        if session is not None:
            self._accounts.begin(request)
            answer = request.answer(session, request.model)
            if query.tools:
                self._metrics.tools_offered()
            events = with_calls_read(
                self.rollout.counted(request.placement, answer),
                query.tools.names if query.tools else (),
                session.known,
                query.stopping,
                self.tool_formats,
                self._metrics,
            )
            async for event in events:
                yield event
            return
        repeated = ResumeQuery(session_id_of(query.idempotency_key, request.tenant), 0, b"")
        async with aclosing(self._resumption.serve(request, repeated)) as again:
            async for event in again:
                yield event

    def find_model(self, name: str) -> KnownModel:
        """Return what serves a model, or the only one; raises as `generate` if nothing does."""
        return self._unserved.find_targets(name, self._registry.targets())[0][1]

    async def list_models(self) -> list[ServedModel]:
        """Return the models that can be asked for, ordered by name."""
        return served_models(self._registry.targets(), self._registry.drafters())

    async def describe_cluster(self) -> ClusterDescription:
        """Return all workers known and the number of requests that run here."""
        return ClusterDescription(
            workers=tuple((one.registration, one.report) for one in self._registry.workers()),
            num_sessions=self._gate.num_running,
            num_waiting=self._gate.num_waiting,
            num_unserved=tuple(sorted(self._unserved.counts.items())),
        )

    async def run(self) -> None:
        """Keep register, links and gauges fresh until cancelled."""
        while True:
            await self._refresh()
            await asyncio.sleep(self._settings.store.refresh_seconds)

    async def _refresh(self) -> None:
        """Do all of the upkeep; what fails keeps nothing else from being done."""
        has_failed = False
        for task in (
            self._registry.refresh,
            self.rollout.refresh,
            lambda: self._caretaker.look_after(self._store),
            self._accounts.renew,
            lambda: self._links.retain(one.registration for one in self._registry.workers()),
            self._show,
        ):
            try:
                await task()
            except UnavailableError as error:  # the registry has said so, once
                has_failed = True
                self._log.debug("upkeep waits for the store", why=error.message)
            except Exception:
                has_failed = True
                self._log.exception("upkeep failed; it goes on")
        if has_failed:
            self._metrics.upkeep_failed()

    async def _show(self) -> None:
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
        num_charged = request.num_tokens
        self._caretaker.take(request, lambda: self._accounts.settle(request, num_charged))
