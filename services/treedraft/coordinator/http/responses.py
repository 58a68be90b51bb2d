"""Sends what is being made, and stops making it when the client is gone.

A client that hangs up closes the generator behind its answer, which cancels
the session and frees its memory at the target. ASGI tells of the end of a
connection only to those who listen, so both kinds of answer do.
"""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

Result = TypeVar("Result")

_EVENT_STREAM = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # Proxies that buffer would turn a stream into one late lump.
    (b"x-accel-buffering", b"no"),
]


class ClientGoneError(Exception):
    """Nobody is there to answer any more."""


async def while_connected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Return what the work does; cancel it if the client hangs up meanwhile.

    Raises:
        ClientGoneError: it has hung up.
    """
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_until_gone(request.receive))
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGoneError
        return working.result()
    finally:
        await _end(working, gone)


class EventStreamResponse(Response):
    """Frames of server-sent events, sent as they come."""

    def __init__(
        self, frames: AsyncGenerator[bytes, None], source: AsyncGenerator[Any, None]
    ) -> None:
        """Send these frames; in the end, close what they are made of."""
        super().__init__()
        self._frames = frames
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the frames end or the client is gone."""
        sending = asyncio.ensure_future(self._send(send))
        gone = asyncio.ensure_future(_until_gone(receive))
        try:
            await asyncio.wait((sending, gone), return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            await _end(sending, gone)
            await self._source.aclose()  # the frames may never have begun

    async def _send(self, send: Send) -> None:
        async with aclosing(self._frames) as frames:
            await send({"type": "http.response.start", "status": 200, "headers": _EVENT_STREAM})
            async for frame in frames:
                await send({"type": "http.response.body", "body": frame, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(*tasks: "asyncio.Future[Any]") -> None:
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError, Exception):
            await task
