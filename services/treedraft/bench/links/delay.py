"""A line that takes time: a TCP proxy that delivers every byte after a delay.

It stands between a target and its drafter, both on this machine, and makes of
loopback a network of a known round trip. Needs no privileges, as `tc netem`
would. Bandwidth is not limited and nothing is lost or reordered.

Invariant: what was read at a moment is written half a round trip later, in
order, whatever was read meanwhile.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

_CHUNK_BYTES = 65_536


class DelayProxy:
    """Listens on a port of its own and passes on to `upstream`; an async context manager.

    `round_trip_ms` may be changed at any time; bytes on their way keep theirs.
    `num_bytes` counts what came from upstream.
    """

    def __init__(
        self,
        upstream: tuple[str, int],
        *,
        round_trip_ms: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Remember where to pass bytes on to; entering begins to listen."""
        self.round_trip_ms = round_trip_ms
        self.num_bytes = 0
        self._upstream = upstream
        self._clock = clock
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def endpoint(self) -> str:
        """Where to dial instead of the upstream."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"{host}:{port}"

    async def __aenter__(self) -> Self:
        """Begin to listen."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End all connections."""
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._join(reader, writer)
        except asyncio.CancelledError:
            pass  # by us, on leaving; nobody waits for this task but we
        finally:
            self._tasks.discard(task)
            await _close(writer)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._upstream)
        except OSError:
            return  # as a port that nobody listens on
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._carry(reader, far_writer))
                group.create_task(self._carry(far_reader, writer, counts=True))
        except* OSError:
            pass
        finally:
            await _close(far_writer)

    async def _carry(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        counts: bool = False,
    ) -> None:
        """Carry one direction until its end."""
        on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._deliver(on_the_way, writer))
            while data := await reader.read(_CHUNK_BYTES):
                self.num_bytes += len(data) * counts
                on_the_way.put_nowait((self._clock() + self.round_trip_ms / 2e3, data))
            on_the_way.put_nowait((self._clock() + self.round_trip_ms / 2e3, b""))

    async def _deliver(
        self, on_the_way: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter
    ) -> None:
        while True:
            due, data = await on_the_way.get()
            await asyncio.sleep(max(0.0, due - self._clock()))
            if not data:
                break
            writer.write(data)
            await writer.drain()
        with contextlib.suppress(OSError):
            writer.write_eof()


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
