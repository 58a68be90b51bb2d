"""Sends what is being made, and stops making it when the client is gone.

A client that hangs up closes the generator behind its answer, which cancels
the session and frees its memory at the target. ASGI tells of the end of a
connection only to those who listen, so both kinds of answer do.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
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


_COMMENT = b": still here\n\n"


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
        await end(working, gone)


class EventStreamResponse(Response):
    """Frames of server-sent events, sent as they come."""

    def __init__(
        self,
        frames: AsyncGenerator[bytes, None],
        close: Callable[[], Awaitable[None]],
        *,
        heartbeat_seconds: float = 0.0,
    ) -> None:
        """Send these frames; in the end, `close` what they are made of.

        Where there is none for so many seconds a comment is sent; 0 sends none.
        """
        super().__init__()
        self._heartbeat_seconds = heartbeat_seconds
        self._sent_at = 0.0
        self._frames = frames
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the frames end or the client is gone."""
        sending = asyncio.ensure_future(self._send(send))
        gone = asyncio.ensure_future(_until_gone(receive))
        try:
            await asyncio.wait((sending, gone), return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            await end(sending, gone)
            await self._close()  # the frames may never have begun

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _EVENT_STREAM})
        beating = asyncio.ensure_future(self._beat(send))
        try:
            async with aclosing(self._frames) as frames:
                async for frame in frames:
                    await self._send_part(send, frame)
        finally:
            await end(beating)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _beat(self, send: Send) -> None:
        """Send a comment whenever nothing else was sent for a while.

        Beside the frames, not around them: a token costs no task of its own.
        """
        clock = asyncio.get_running_loop().time
        self._sent_at = clock()
        while self._heartbeat_seconds:
            left = self._sent_at + self._heartbeat_seconds - clock()
            if left <= 0:
                await self._send_part(send, _COMMENT)
            else:
                await asyncio.sleep(left)

    async def _send_part(self, send: Send, part: bytes) -> None:
        self._sent_at = asyncio.get_running_loop().time()
        await send({"type": "http.response.body", "body": part, "more_body": True})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def end(*tasks: "asyncio.Future[Any]") -> None:
    """Cancel tasks and wait for their end."""
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError, Exception):
            await task
