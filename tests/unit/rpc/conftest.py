from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import grpc
import pytest

from treedraft.rpc.server import RpcServer
from treedraft.settings import GrpcSettings


@pytest.fixture
def serving():
    """A context manager: a real server on a free port with the given servicers."""

    @asynccontextmanager
    async def serve(
        *added: tuple[Callable[[object, grpc.aio.Server], None], object], **settings: object
    ) -> AsyncIterator[tuple[RpcServer, str]]:
        server = RpcServer(GrpcSettings(**settings), [])
        for add, servicer in added:
            add(servicer, server.grpc)
        endpoint = await server.start()
        try:
            yield server, endpoint
        finally:
            await server.stop(0)

    return serve
