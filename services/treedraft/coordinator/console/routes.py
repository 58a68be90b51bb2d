"""The page at `/console`, and what it asks under `/console/api`.

Questions carry the API key as all of the HTTP door do. A request for text has
the body of OpenAI's API; the answer is always a stream, and watched.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from treedraft import __version__
from treedraft.coordinator.console.cases import ConsoleCases, Overview
from treedraft.coordinator.console.stream import WatchedStream
from treedraft.coordinator.http.bodies import ChatBody, CompletionBody
from treedraft.coordinator.http.queries import chat_queries, completion_queries
from treedraft.coordinator.http.responses import EventStreamResponse
from treedraft.coordinator.http.routes import caller_of
from treedraft.core.errors import InvalidRequestError
from treedraft.core.generation import GenerateQuery
from treedraft.core.worker import WorkerRegistration, WorkerReport
from treedraft.telemetry.local_store import SpanRecord


def console_routes(cases: ConsoleCases) -> APIRouter:
    """Return the routes; the files of the page are mounted beside them."""
    router = APIRouter(prefix="/console", include_in_schema=False)

    @router.get("")
    async def page() -> Response:
        return RedirectResponse("/console/")

    @router.post("/api/chat", response_model=None)
    async def chat(body: ChatBody, request: Request) -> Response:
        return _watched(cases, chat_queries(body), request)

    @router.post("/api/complete", response_model=None)
    async def complete(body: CompletionBody, request: Request) -> Response:
        return _watched(cases, completion_queries(body), request)

    @router.get("/api/overview")
    async def overview(request: Request, since: float = 0.0) -> dict[str, Any]:
        return _overview(await cases.overview(caller_of(request), since))

    @router.get("/api/traces")
    async def traces(request: Request) -> dict[str, Any]:
        listed = await cases.traces(caller_of(request))
        return {
            "requests": [asdict(view) for view in listed.requests],
            "stored": [
                {**asdict(summary), "duration_ms": summary.duration_ms} for summary in listed.stored
            ],
        }

    @router.get("/api/traces/{trace_id}")
    async def trace(trace_id: str, request: Request) -> dict[str, Any]:
        return _trace(await cases.trace(trace_id, caller_of(request)))

    return router


def _watched(cases: ConsoleCases, queries: Sequence[GenerateQuery], request: Request) -> Response:
    if len(queries) != 1:
        raise InvalidRequestError("the console asks for one answer at a time", field="n")
    query = replace(queries[0], watch_rounds=True)
    events = cases.generate(query, caller_of(request))
    return EventStreamResponse(WatchedStream(cases.tokenizer_of).frames(events), events.aclose)


def _overview(seen: Overview) -> dict[str, Any]:
    return {
        "version": __version__,
        "models": [asdict(model) for model in seen.models],
        "workers": [_worker(*worker) for worker in seen.cluster.workers],
        "num_sessions": seen.cluster.num_sessions,
        "running": [asdict(view) for view in seen.running],
        "recent": [asdict(view) for view in seen.recent],
        "history": seen.history,
    }


def _worker(worker: WorkerRegistration, report: WorkerReport) -> dict[str, Any]:
    return {
        "worker_id": worker.worker_id,
        "role": worker.role.value,
        "model": worker.model,
        "max_sessions": worker.max_sessions,
        "num_sessions": report.num_sessions,
        "num_waiting": report.num_waiting,
        "free_kv_blocks": report.free_kv_blocks,
        "total_kv_blocks": report.total_kv_blocks,
        "is_draining": report.is_draining,
        "signals": asdict(report.signals),
    }


def _trace(spans: Sequence[SpanRecord]) -> dict[str, Any]:
    """Return the spans by start; times in milliseconds from the first moment."""
    begin = min(span.start_ns for span in spans)
    return {
        "trace_id": spans[0].trace_id,
        "began_at": begin / 1e9,
        "spans": [
            {
                "id": span.span_id,
                "parent": span.parent_id,
                "name": span.name,
                "service": span.service,
                "instance": span.instance[:8],
                "start": (span.start_ns - begin) / 1e6,
                "end": (span.end_ns - begin) / 1e6,
                "error": span.error,
                "attributes": dict(span.attributes),
                "events": [
                    {"name": event.name, "at": (event.time_ns - begin) / 1e6}
                    for event in span.events
                ],
            }
            for span in spans
        ],
    }
