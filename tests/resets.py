"""A peer that takes calls and resets each stream at once, as a proxy that gives up does.

Just enough of HTTP/2 to be spoken to by gRPC: settings, and a reset for every stream.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

CANCEL = 8
_PREFACE_LENGTH = 24
_HEADER_LENGTH = 9
_HEADERS, _RESET, _SETTINGS = 1, 3, 4
_ACKNOWLEDGED = 1


@dataclass(slots=True)
class Resets:
    """Where the peer listens, and how many streams it has reset."""

    endpoint: str = ""
    num_streams: int = 0
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        self.tasks.append(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            await reader.readexactly(_PREFACE_LENGTH)
            writer.write(_frame(_SETTINGS))
            while True:
                header = await reader.readexactly(_HEADER_LENGTH)
                await reader.readexactly(int.from_bytes(header[:3], "big"))
                kind, flags, stream = header[3], header[4], header[5:]
                if kind == _SETTINGS and not flags & _ACKNOWLEDGED:
                    writer.write(_frame(_SETTINGS, flags=_ACKNOWLEDGED))
                elif kind == _HEADERS:
                    self.num_streams += 1
                    writer.write(_frame(_RESET, CANCEL.to_bytes(4, "big"), stream=stream))
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


def _frame(kind: int, payload: bytes = b"", *, flags: int = 0, stream: bytes = bytes(4)) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream + payload


@asynccontextmanager
async def resetting() -> AsyncIterator[Resets]:
    """Listen for the time of the context, and hang up at its end."""
    resets = Resets()
    server = await asyncio.start_server(resets.take, "127.0.0.1", 0)
    resets.endpoint = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield resets
    finally:
        server.close()
        for writer in resets.writers:
            writer.close()
        await asyncio.gather(*resets.tasks)
