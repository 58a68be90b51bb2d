"""A client of the HTTP door that does no more than it must: what it measures is the door.

Connections are kept and used again, as every client of OpenAI's API does.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from typing import Any
from urllib.parse import urlsplit

import h11

from treedraft.core.errors import UnavailableError

_READ_BYTES = 1 << 16
_PATH = "/v1/chat/completions"
_DONE = b"[DONE]"


class _Connection:
    """One connection; it has at most one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._protocol = h11.Connection(h11.CLIENT)

    async def post(self, host: str, body: bytes) -> AsyncGenerator[bytes, None]:
        """Send a request and yield the body of its answer, as it comes."""
        headers = [
            ("host", host),
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
        ]
        request = h11.Request(method="POST", target=_PATH, headers=headers)
        for part in (request, h11.Data(data=body), h11.EndOfMessage()):
            self._writer.write(self._protocol.send(part) or b"")
        while True:
            event = self._next_event()
            if event is h11.NEED_DATA:
                self._protocol.receive_data(await self._reader.read(_READ_BYTES))
            elif isinstance(event, h11.Response):
                _check(event)
            elif isinstance(event, h11.Data):
                yield bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                self._protocol.start_next_cycle()
                return
            else:
                raise _ended()

    def _next_event(self) -> object:
        try:
            return self._protocol.next_event()
        except h11.RemoteProtocolError as error:  # it hung up before its answer was whole
            raise _ended() from error

    def close(self) -> None:
        """Hang up."""
        self._writer.close()


def _ended() -> UnavailableError:
    return UnavailableError("the stream ended before the text did", reason="STREAM_ENDED")


def _check(response: h11.Response) -> None:
    if response.status_code != 200:
        raise UnavailableError(
            f"the door answered with status {response.status_code}", reason="REQUEST_REFUSED"
        )


class HttpStreams:
    """Streams chat completions; its connections end with `close`."""

    def __init__(self, address: str) -> None:
        """Prepare to dial `http://host:port`."""
        self._host = urlsplit(address).netloc
        self._idle: list[_Connection] = []

    async def chat(self, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Ask with a body that says `stream`, and yield the objects of its events.

        Raises:
            UnavailableError: reason REQUEST_REFUSED, STREAM_ENDED, or that of the error event.
        """
        connection = self._idle.pop() if self._idle else await self._dial()
        is_complete = is_reusable = False
        rest = b""
        try:
            async for data in connection.post(self._host, json.dumps(body).encode()):
                *events, rest = (rest + data).split(b"\n\n")
                for event in events:
                    content = event.removeprefix(b"data: ")
                    if content == _DONE:
                        is_complete = True
                    else:
                        yield _checked(json.loads(content))
            if not is_complete:
                raise _ended()
            is_reusable = True
        finally:
            if is_reusable:
                self._idle.append(connection)
            else:
                connection.close()

    def close(self) -> None:
        """Hang up all connections that wait for another request."""
        while self._idle:
            self._idle.pop().close()

    async def _dial(self) -> _Connection:
        host, _, port = self._host.rpartition(":")
        return _Connection(*await asyncio.open_connection(host.strip("[]"), int(port)))


def _checked(content: dict[str, Any]) -> dict[str, Any]:
    if error := content.get("error"):
        raise UnavailableError(error["message"], reason=error["reason"])
    return content
