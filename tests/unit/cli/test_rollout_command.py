import asyncio
import threading
from concurrent.futures import Future

import pytest
from tests.unit.coordinator.cluster import a_cluster
from tests.unit.coordinator.support import FakeTarget, says
from typer.testing import CliRunner

from treedraft.cli.app import make_app


@pytest.fixture(scope="module")
def endpoint():
    """A coordinator with two pools, on a thread of its own: commands bring their own loop."""
    ready: Future[tuple[str, asyncio.AbstractEventLoop]] = Future()
    stop = asyncio.Event()

    async def serve():
        async with a_cluster() as cluster:
            await cluster.add_target(FakeTarget(script=says("x")), "t1", pool="v1")
            await cluster.add_target(FakeTarget(script=says("x")), "t2", pool="v2", weight=0.0)
            ready.set_result((cluster.endpoint, asyncio.get_running_loop()))
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    found, loop = ready.result(60)
    yield found
    loop.call_soon_threadsafe(stop.set)
    thread.join(60)


@pytest.fixture
def run(endpoint):
    def invoke(command, *arguments):
        arguments = [command, *arguments, "--endpoint", endpoint]
        return CliRunner().invoke(make_app(), ["rollout", *arguments])

    yield invoke
    invoke("reset", "target/v1", "target/v2")


def shares(result):
    """Return pool, weight and share of each line of the table."""
    assert result.exit_code == 0, result.output
    rows = [line.split() for line in result.stdout.splitlines() if line.startswith("target/")]
    return {row[0]: (row[1], row[3]) for row in rows}


def test_pools_are_shown_with_what_they_announce(run):
    result = run("show")
    assert shares(result) == {"target/v1": ("1", "100%"), "target/v2": ("0", "0%")}
    assert "no session has ended yet" in result.stdout


def test_a_share_is_set_and_backed_out_of(run):
    assert shares(run("set", "target/v2=1", "target/v1=3"))["target/v2"] == ("1", "25%")
    assert shares(run("back", "target/v2"))["target/v2"] == ("0", "0%")
    assert shares(run("reset", "target/v1"))["target/v1"] == ("1", "100%")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("set", "target/v3=1"), "UNKNOWN_POOL"),
        (("set", "v2=1"), "INVALID_POOL"),
        (("set", "target/v2"), "INVALID_WEIGHT"),
        (("set", "target/v2=much"), "INVALID_WEIGHT"),
        (("set", "target/v2=-1"), "INVALID_WEIGHT"),
        (("back", "v2"), "INVALID_POOL"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(run, arguments, reason):
    result = run(*arguments)
    assert result.exit_code == 1
    assert reason in result.stderr
    assert len(result.stderr.splitlines()) == 1
