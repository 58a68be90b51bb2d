"""The bench's own client of the HTTP door, before servers that say what a test wants."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest

from treedraft.bench.door.http_stream import HttpStreams
from treedraft.core.errors import UnavailableError

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def event(content: object) -> bytes:
    return b"data: " + json.dumps(content).encode() + b"\n\n"


class Server:
    """Answers each request with the next script, a list of writes; None hangs up."""

    def __init__(self, *scripts):
        self.scripts = list(scripts)
        self.bodies = []
        self.num_connections = 0
        self.tasks = []

    async def serve(self, reader, writer):
        self.num_connections += 1
        self.tasks.append(asyncio.current_task())
        try:
            await self.answer(reader, writer)
        finally:
            writer.close()

    async def answer(self, reader, writer):
        while head := await self.read_head(reader):
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            self.bodies.append(json.loads(await reader.readexactly(length)))
            for data in self.scripts.pop(0):
                if data is None:
                    return
                writer.write(data)
                await writer.drain()

    async def read_head(self, reader):
        try:
            return await reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            return b""


@asynccontextmanager
async def streams_of(server):
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    streams = HttpStreams(f"http://127.0.0.1:{port}")
    try:
        yield streams
    finally:
        streams.close()
        await asyncio.gather(*server.tasks)
        listening.close()
        await listening.wait_closed()


async def told(streams, body=None):
    return [content async for content in streams.chat(body or {})]


async def test_events_are_told_however_they_are_cut_and_connections_used_again():
    whole = event({"n": 1}) + event({"n": 2}) + b"data: [DONE]\n\n"
    cut = [HEAD, *(chunk(whole[i : i + 7]) for i in range(0, len(whole), 7)), b"0\r\n\r\n"]
    server = Server(cut, [HEAD + chunk(whole) + b"0\r\n\r\n"])
    async with streams_of(server) as streams:
        assert await told(streams, {"prompt": "é"}) == [{"n": 1}, {"n": 2}]
        assert await told(streams) == [{"n": 1}, {"n": 2}]
    assert server.bodies == [{"prompt": "é"}, {}]
    assert server.num_connections == 1


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ([b"HTTP/1.1 429 Too Many\r\ncontent-length: 0\r\n\r\n"], "REQUEST_REFUSED"),
        ([HEAD, chunk(event({"n": 1})), None], "STREAM_ENDED"),
        ([HEAD, chunk(event({"n": 1})), b"0\r\n\r\n"], "STREAM_ENDED"),
        (
            [HEAD, chunk(event({"error": {"message": "full", "reason": "KV_POOL_FULL"}}))],
            "KV_POOL_FULL",
        ),
    ],
)
async def test_what_is_no_whole_answer_fails_and_its_connection_is_left(script, reason):
    good = [HEAD + chunk(event({"n": 3}) + b"data: [DONE]\n\n") + b"0\r\n\r\n"]
    server = Server(script, good)
    async with streams_of(server) as streams:
        with pytest.raises(UnavailableError) as caught:
            await told(streams)
        assert caught.value.reason == reason
        assert await told(streams) == [{"n": 3}]
    assert server.num_connections == 2
