import asyncio
import threading
from contextlib import contextmanager

from typer.testing import CliRunner

from treedraft.cli.app import make_app
from treedraft.rpc.server import LIVENESS, RpcServer
from treedraft.settings import GrpcSettings


@contextmanager
def a_server(is_serving):
    """Run a server on a thread with a loop of its own; give its endpoint."""
    started, stop = threading.Event(), asyncio.Event()
    found = {}

    async def serve():
        server = RpcServer(GrpcSettings(), ["treedraft.v1.Any"])
        found["endpoint"], found["loop"] = await server.start(), asyncio.get_running_loop()
        await server.set_serving(is_serving)
        started.set()
        await stop.wait()
        await server.stop(0)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert started.wait(60)
    try:
        yield found["endpoint"]
    finally:
        found["loop"].call_soon_threadsafe(stop.set)
        thread.join(60)


def run(*arguments):
    return CliRunner().invoke(make_app(), ["health", *arguments])


def test_a_healthy_service_is_exit_status_0():
    with a_server(True) as endpoint:
        result = run(endpoint)
    assert (result.exit_code, result.stdout) == (0, "SERVING\n")


def test_one_that_loads_is_alive_but_not_healthy():
    with a_server(False) as endpoint:
        assert run(endpoint).exit_code == 1
        assert run(endpoint, "--service", LIVENESS).exit_code == 0


def test_nobody_there_is_said_in_one_line_and_a_hint():
    result = run("127.0.0.1:1", "--timeout", "2")
    assert result.exit_code == 1
    error, hint = result.stderr.splitlines()
    assert error == "error: nobody listens at 127.0.0.1:1 (UNAVAILABLE)"
    assert hint.startswith("hint: ")
