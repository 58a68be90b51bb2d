"""A TCP link that can be cut, or swallow everything, and be whole again."""

import asyncio
from contextlib import suppress
from enum import Enum

_CHUNK = 65536


class LinkState(Enum):
    """What a link does with what is sent over it."""

    WHOLE = "whole"
    CUT = "cut"
    BLACK_HOLE = "black hole"


class Proxy:
    """Forwards connections to one port of this machine.

    Cut, it closes its connections and refuses new ones. As a black hole it keeps
    them open and takes new ones, and nothing gets through until it is healed:
    what was sent meanwhile then arrives, late.
    """

    def __init__(self, upstream_port: int) -> None:
        self._upstream_port = upstream_port
        self._state = LinkState.WHOLE
        self._is_whole = asyncio.Event()
        self._is_whole.set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self) -> "Proxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def cut(self) -> None:
        """Reset all connections, and each new one at once."""
        self._state = LinkState.CUT
        self.reset()

    def swallow(self) -> None:
        """Let nothing through."""
        self._state = LinkState.BLACK_HOLE
        self._is_whole.clear()

    def heal(self) -> None:
        """Be whole."""
        self._state = LinkState.WHOLE
        self._is_whole.set()

    def reset(self) -> None:
        """Reset all connections."""
        for writer in list(self._writers):
            writer.transport.abort()

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self.heal()
        self.reset()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._state is LinkState.CUT:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            await self._is_whole.wait()
            to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
            self._writers.add(to_writer)
            try:
                await self._pump_both(reader, writer, to_reader, to_writer)
            finally:
                to_writer.transport.abort()
                self._writers.discard(to_writer)
        except OSError:
            pass  # nobody listens there now: the caller sees its connection reset
        finally:
            writer.transport.abort()
            self._writers.discard(writer)
            self._tasks.discard(task)

    async def _pump_both(self, reader, writer, to_reader, to_writer) -> None:
        pumps = [
            asyncio.create_task(self._pump(reader, to_writer)),
            asyncio.create_task(self._pump(to_reader, writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(_CHUNK):
                await self._is_whole.wait()
                writer.write(data)
                await writer.drain()
