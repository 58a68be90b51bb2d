"""What operators ask: `/health` and `/metrics`.

Neither needs a key, as with the health service and the metrics port of the
gRPC door; what they tell are counts, never texts.
"""

import asyncio
from collections.abc import Callable

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.responses import JSONResponse, PlainTextResponse, Response


def operator_routes(registry: CollectorRegistry, is_serving: Callable[[], bool]) -> APIRouter:
    """Return the routes.

    Args:
        registry: what `/metrics` shows.
        is_serving: whether requests are let in.
    """
    router = APIRouter(tags=["operation"])

    @router.get("/health", summary="Whether requests are let in", response_model=None)
    async def health() -> Response:
        if is_serving():
            return JSONResponse({"status": "ok"})
        return JSONResponse({"status": "draining"}, 503, {"retry-after": "1"})

    @router.get("/metrics", summary="Metrics for Prometheus", response_class=PlainTextResponse)
    async def metrics() -> Response:
        text = await asyncio.to_thread(generate_latest, registry)
        return Response(text, media_type=CONTENT_TYPE_LATEST)

    return router
