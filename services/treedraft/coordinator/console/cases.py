"""What the page may ask, whoever asks: each case finds out first for which tenant.

Cluster and history are what `DescribeCluster` tells everybody with a key.
Requests and traces are a tenant's own; where there are no keys there is one
tenant, the anonymous one, and all is its own.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from treedraft.coordinator.api_keys import TenantRoll
from treedraft.coordinator.console.history import ClusterHistory
from treedraft.coordinator.generation import Coordinator
from treedraft.coordinator.model_index import find_targets
from treedraft.coordinator.registry import WorkerRegistry
from treedraft.coordinator.request_book import RequestBook, RequestView
from treedraft.coordinator.use_cases import Caller, UseCases
from treedraft.core.errors import SessionNotFoundError
from treedraft.core.generation import GenerateEvent, GenerateQuery, ServedModel
from treedraft.core.worker import ClusterDescription
from treedraft.telemetry.local_store import (
    SpanRecord,
    TraceSummary,
    load_trace,
    recent_traces,
    spans_below,
)
from treedraft.text.tokenizer import Tokenizer

_MAX_TRACES = 60


@dataclass(frozen=True, slots=True)
class Overview:
    """What one look at the cluster shows."""

    models: list[ServedModel]
    cluster: ClusterDescription
    running: list[RequestView]
    recent: list[RequestView]
    history: dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class TraceList:
    """The traces that a caller may look at; `requests` are those made here."""

    requests: list[RequestView]
    stored: list[TraceSummary]


class ConsoleCases:
    """All that the page asks of a coordinator."""

    def __init__(
        self,
        use_cases: UseCases,
        coordinator: Coordinator,
        registry: WorkerRegistry,
        tenants: TenantRoll,
        book: RequestBook,
        history: ClusterHistory,
        trace_store: Path,
    ) -> None:
        """Answer from these."""
        self._use_cases = use_cases
        self._coordinator = coordinator
        self._registry = registry
        self._tenants = tenants
        self._book = book
        self._history = history
        self._trace_store = trace_store

    def generate(self, query: GenerateQuery, caller: Caller) -> AsyncGenerator[GenerateEvent, None]:
        """Return a watched answer, as any client gets it; closing it cancels the session."""
        self._tenants.tenant_of(caller.api_key)
        return _only(self._use_cases.generate_choices([query], caller))

    def tokenizer_of(self, model: str) -> Tokenizer:
        """Return the tokenizer of a model that serves."""
        return find_targets(model, self._registry.targets())[0][1].tokenizer

    async def overview(self, caller: Caller, since: float = 0.0) -> Overview:
        """Return how the cluster is, with its history since then and the caller's own requests."""
        name = self._tenants.tenant_of(caller.api_key).name
        return Overview(
            models=await self._coordinator.list_models(),
            cluster=await self._coordinator.describe_cluster(),
            running=self._book.running(name),
            recent=self._book.recent(name),
            history=self._history.columns(since),
        )

    async def traces(self, caller: Caller) -> TraceList:
        """Return the traces that the caller may look at."""
        name = self._tenants.tenant_of(caller.api_key).name
        requests = [view for view in self._book.recent(name) if view.trace_id]
        if not self._tenants.is_open:
            return TraceList(requests, [])
        stored = await asyncio.to_thread(recent_traces, self._trace_store, _MAX_TRACES)
        return TraceList(requests, stored)

    async def trace(self, trace_id: str, caller: Caller) -> list[SpanRecord]:
        """Return the spans of a trace; where there are keys, those of the caller's requests.

        Raises:
                SessionNotFoundError: TRACE_NOT_FOUND, there is none or it is not the caller's.
        """
        name = self._tenants.tenant_of(caller.api_key).name
        own_ids = self._book.spans_in(name, trace_id)
        if not self._tenants.is_open and not own_ids:
            raise _not_found(trace_id)
        spans = await asyncio.to_thread(load_trace, self._trace_store, trace_id)
        if not self._tenants.is_open:
            spans = spans_below(spans, own_ids)
        if not spans:
            raise _not_found(trace_id)
        return spans


async def _only(
    answer: AsyncGenerator[tuple[int, GenerateEvent], None],
) -> AsyncGenerator[GenerateEvent, None]:
    async with aclosing(answer):
        async for _, event in answer:
            yield event


def _not_found(trace_id: str) -> SessionNotFoundError:
    return SessionNotFoundError(
        f"no session of yours has the trace {trace_id} here", reason="TRACE_NOT_FOUND"
    )
