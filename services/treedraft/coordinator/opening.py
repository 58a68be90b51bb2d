"""How a session begins: what is asked is checked, placed, kept and run.

A query with an idempotency key begins one session however often it is made and
at however many coordinators: creating the session in the store is what decides.
"""

from collections.abc import Callable

from treedraft.coordinator.admission import check_law, check_prompt, roomiest
from treedraft.coordinator.catalog import KnownModel
from treedraft.coordinator.log_entries import first_entry
from treedraft.coordinator.log_writer import LogEntry
from treedraft.coordinator.model_index import ServedTarget
from treedraft.coordinator.placement import Placement
from treedraft.coordinator.placer import Placer, placement_attributes
from treedraft.coordinator.prompts import encode_prompt
from treedraft.coordinator.registry import WorkerRegistry
from treedraft.coordinator.repetition import check_same, digest_of, session_id_of
from treedraft.coordinator.request import GenerationRequest
from treedraft.coordinator.resumption import Resumption
from treedraft.coordinator.running_session import RunningSession, SessionServices
from treedraft.coordinator.session_store.protocol import SESSION_EXISTS
from treedraft.coordinator.settings import LimitSettings
from treedraft.coordinator.specs import first_spec
from treedraft.coordinator.unserved import UnservedModels
from treedraft.core.errors import SessionConflictError, SessionNotFoundError
from treedraft.core.generation import GenerateQuery
from treedraft.core.session import SessionSpec
from treedraft.telemetry import names
from treedraft.telemetry.tracing import Tracing


class Opening:
    """Begins sessions for one coordinator."""

    def __init__(
        self,
        registry: WorkerRegistry,
        placer: Placer,
        services: SessionServices,
        resumption: Resumption,
        limits: LimitSettings,
        *,
        unserved: UnservedModels,
        coordinator_id: str,
        draw_seed: Callable[[], int],
        new_session_id: Callable[[], str],
    ) -> None:
        """Begin sessions that `coordinator_id` owns."""
        self._registry = registry
        self._placer = placer
        self._services = services
        self._resumption = resumption
        self._limits = limits
        self._unserved = unserved
        self._coordinator_id = coordinator_id
        self._draw_seed = draw_seed
        self._new_session_id = new_session_id

    @property
    def _tracing(self) -> Tracing:
        return self._services.tracing

    async def open_once(
        self, request: GenerationRequest, query: GenerateQuery
    ) -> RunningSession | None:
        """Begin the session of a query; None if its key has begun one, which can be resumed.

        Raises:
            InvalidRequestError: it cannot be served, or its key was used for another query.
        """
        if not query.idempotency_key:
            return await self._open(request, query)
        session_id = session_id_of(query.idempotency_key, request.tenant)
        async with self._resumption.turns.of(session_id):
            if await self._is_repeated(request, query, session_id):
                return None
            try:
                return await self._open(request, query)
            except SessionConflictError as error:
                if error.reason != SESSION_EXISTS:
                    raise
            await self._is_repeated(request, query, session_id)  # another coordinator was quicker
            return None

    async def _is_repeated(
        self, request: GenerationRequest, query: GenerateQuery, session_id: str
    ) -> bool:
        """Return whether the query was made before; raise if its key was, for another one."""
        try:
            record = await self._resumption.load(session_id, request.tenant.name)
        except SessionNotFoundError:
            return False
        check_same(record, query)
        return True

    async def _open(self, request: GenerationRequest, query: GenerateQuery) -> RunningSession:
        targets, prompt = await self._admit(request, query)
        placement = request.placement = await self._place(request, query, targets, prompt)
        known = next(known for worker, known in targets if worker.registration == placement.target)
        spec = self._spec(request, query, placement, known, prompt)
        return await self._start(request, spec, placement, known, query)

    async def _admit(
        self, request: GenerationRequest, query: GenerateQuery
    ) -> tuple[list[ServedTarget], tuple[int, ...]]:
        """Return the targets that may serve the request, and its prompt."""
        waited = request.admitted()
        with self._tracing.start(names.SPAN_ADMIT, request.span.traceparent) as span:
            targets = self._unserved.find_targets(query.model, self._registry.targets())
            reference = targets[0][1]
            prompt = await encode_prompt(query, reference.description, reference.tokenizer)
            model, limit = roomiest(targets), self._limits.max_prompt_tokens
            check_prompt(prompt, model, max_prompt_tokens=limit)
            await check_law(query.sampling, query.stopping, model)
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
        query: GenerateQuery,
    ) -> RunningSession:
        """Keep the session in the store and run it on its target."""
        entry = first_entry(
            spec,
            placement,
            known,
            self._coordinator_id,
            tenant=request.tenant.name,
            query_digest=digest_of(query),
            tool_names=query.tools.names if query.tools else (),
        )
        target = placement.target
        session = RunningSession(
            spec, entry, known, self._services, span=request.span, on_tokens=request.on_tokens
        )
        # Until the store takes it, it may be another coordinator's by its key: not ours to end.
        await self._keep(entry)
        request.run(session, target.model)
        try:
            await self._show_place(entry)
        except SessionNotFoundError:  # the store was emptied just now
            await self._keep(entry)
            await self._show_place(entry)
        session.start(target)
        return session

    async def _keep(self, entry: LogEntry) -> None:
        await self._services.store.create(entry.request, owner=entry.owner, epoch=entry.epoch)

    async def _show_place(self, entry: LogEntry) -> None:
        await self._services.store.place(
            entry.request.session_id, entry.epoch, entry.placement, owner=entry.owner
        )

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
            default_max_tokens=self._limits.default_max_tokens,
        )
