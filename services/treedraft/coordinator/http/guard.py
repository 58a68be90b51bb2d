"""What stands before every route: size limits, hosts, request ids, and a net below.

Plain ASGI, since anything that wraps bodies would cost each frame of a stream.
An error that no route foresaw is logged and told without details; once a
stream has begun there is no status left to tell it with, and the connection is
cut off.
"""

import re
import secrets

import structlog
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from treedraft.coordinator.http.errors import BODY_TOO_LARGE, HEAD_TOO_LARGE, to_http
from treedraft.coordinator.http.hosts import AllowedHosts
from treedraft.coordinator.http.responses import ClientGoneError
from treedraft.core.errors import InvalidRequestError, TreedraftError

REQUEST_ID = b"x-request-id"
_OWN_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
# Cut off while a client still sends, it would read a broken pipe and not the answer.
_DRAIN_FACTOR = 4

_log = structlog.get_logger(__name__)


class Guard:
    """Wraps an application."""

    def __init__(
        self, app: ASGIApp, *, hosts: AllowedHosts, max_body_bytes: int, max_head_bytes: int
    ) -> None:
        """Let bodies and heads in up to these sizes, for these hosts."""
        self._app = app
        self._hosts = hosts
        self._max_body_bytes = max_body_bytes
        self._max_head_bytes = max_head_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        request_id = _request_id(headers.get(REQUEST_ID, b""))
        is_begun = False

        async def send_marked(message: Message) -> None:
            nonlocal is_begun
            if message["type"] == "http.response.start":
                is_begun = True
                message["headers"] = [*message.get("headers", ()), (REQUEST_ID, request_id)]
            await send(message)

        try:
            self._check_head(scope)
            self._hosts.check(headers.get(b"host"))
            limited = self._limited(receive, headers.get(b"content-length", b""))
            await self._app(scope, limited, send_marked)
        except ClientGoneError:
            return
        except Exception as error:
            if not isinstance(error, TreedraftError):
                _log.exception("request failed", path=scope["path"])
            if is_begun:
                raise
            await respond(_told(error), scope, receive, send_marked)

    def _check_head(self, scope: Scope) -> None:
        # The server bounds what it gathers of a head; one that comes in one piece it lets pass.
        num_bytes = sum(len(name) + len(value) for name, value in scope["headers"])
        if num_bytes + len(scope["raw_path"]) + len(scope["query_string"]) > self._max_head_bytes:
            raise InvalidRequestError(
                f"the head of a request has at most {self._max_head_bytes} bytes",
                reason=HEAD_TOO_LARGE,
            )

    def _limited(self, receive: Receive, content_length: bytes) -> Receive:
        num_bytes = 0
        announced = int(content_length) if content_length.isdigit() else 0

        async def receive_limited() -> Message:
            nonlocal num_bytes
            message = await receive()
            if message["type"] == "http.request":
                num_bytes += len(message.get("body", b""))
                if max(num_bytes, announced) > self._max_body_bytes:
                    await self._drain(receive, message)
                    raise self._too_large()
            return message

        return receive_limited

    async def _drain(self, receive: Receive, message: Message) -> None:
        num_bytes = 0
        while message.get("more_body") and num_bytes < _DRAIN_FACTOR * self._max_body_bytes:
            message = await receive()
            num_bytes += len(message.get("body", b""))

    def _too_large(self) -> InvalidRequestError:
        return InvalidRequestError(
            f"a body has at most {self._max_body_bytes} bytes", reason=BODY_TOO_LARGE
        )


async def respond(error: TreedraftError, scope: Scope, receive: Receive, send: Send) -> None:
    """Send an error as the whole answer."""
    told = to_http(error)
    response = JSONResponse(told.body, told.status, told.headers)
    await response(scope, receive, send)


def _told(error: Exception) -> TreedraftError:
    if isinstance(error, TreedraftError):
        return error
    return TreedraftError("internal error; the server's log says more")


def _request_id(given: bytes) -> bytes:
    if _OWN_ID.fullmatch(given):
        return given
    return f"req-{secrets.token_hex(12)}".encode()
