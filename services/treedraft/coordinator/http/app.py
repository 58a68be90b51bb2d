"""Puts the HTTP door together: routes, guard, errors, OpenAPI document."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from treedraft import __version__
from treedraft.coordinator.http.bodies import UNSUPPORTED
from treedraft.coordinator.http.errors import from_validation, to_http
from treedraft.coordinator.http.guard import Guard
from treedraft.coordinator.http.hosts import AllowedHosts
from treedraft.coordinator.http.operations import operator_routes
from treedraft.coordinator.http.reference import add_event_schemas
from treedraft.coordinator.http.routes import openai_routes
from treedraft.coordinator.settings import HttpSettings
from treedraft.coordinator.use_cases import UseCases
from treedraft.core.errors import InvalidRequestError, TreedraftError

_KIBIBYTE = 1024
_MEBIBYTE = _KIBIBYTE * _KIBIBYTE


class _Door(FastAPI):
    """The application, with a document that tells of events too."""

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI document."""
        document = super().openapi()
        add_event_schemas(document)
        return document


def make_app(
    settings: HttpSettings,
    use_cases: UseCases,
    registry: CollectorRegistry,
    is_serving: Callable[[], bool],
    *,
    hosts: AllowedHosts,
) -> FastAPI:
    """Return the application.

    Args:
        settings: of the door.
        use_cases: what it is a skin of.
        registry: metrics that it shows.
        is_serving: whether requests are let in.
        hosts: names that it answers to.
    """
    app = _Door(
        title="treedraft",
        summary="OpenAI's API, answered by tree-structured speculative decoding",
        version=__version__,
        docs_url=None,  # these pages would fetch scripts from elsewhere
        redoc_url=None,
    )
    app.include_router(openai_routes(use_cases, settings.heartbeat_seconds))
    app.include_router(operator_routes(registry, is_serving))
    app.add_exception_handler(TreedraftError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_middleware(
        Guard,
        hosts=hosts,
        max_body_bytes=settings.max_body_mb * _MEBIBYTE,
        max_head_bytes=settings.max_header_kb * _KIBIBYTE,
    )
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after"],
        )
    return app


async def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, TreedraftError)
    input_name = "messages" if request.url.path.endswith("/chat/completions") else "prompt"
    told = to_http(error, input_name)
    return JSONResponse(told.body, told.status, told.headers)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return await _on_error(request, from_validation(error.errors(), UNSUPPORTED))


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, TreedraftError):
        return await _on_error(request, error.__cause__)  # raised while a body was read
    reason = {404: "NO_SUCH_PATH", 405: "METHOD_NOT_ALLOWED"}.get(error.status_code, "BAD_REQUEST")
    told = to_http(
        InvalidRequestError(f"{request.method} {request.url.path}: {error.detail}", reason=reason)
    )
    return JSONResponse(told.body, error.status_code, error.headers)
