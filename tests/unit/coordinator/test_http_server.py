import asyncio
import socket

from treedraft.coordinator.http.server import HttpServer
from treedraft.coordinator.settings import HttpSettings
from treedraft.settings import TlsSettings


async def ok(_scope, _receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"here"})


async def test_a_piece_never_waits_for_the_one_before_to_be_acknowledged():
    server = HttpServer(HttpSettings(port=0), ok, TlsSettings(), grace_seconds=1)
    address = await server.start()
    host, _, port = address.removeprefix("http://").rpartition(":")
    try:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET / HTTP/1.1\r\nhost: here\r\n\r\n")
        assert b"200" in await reader.readline()
        assert server._server is not None
        (connection,) = server._server.server_state.connections
        accepted = connection.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        writer.write(b"GET / HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n")
        await reader.read()
        writer.close()
        await writer.wait_closed()
    finally:
        await server.stop()
