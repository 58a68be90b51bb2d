"""A line that takes time, and the numbers of a run over it."""

import asyncio
import contextlib
import json
import time
from contextlib import asynccontextmanager

import pytest

from treedraft.bench.links.delay import DelayProxy
from treedraft.bench.links.plan import ONE_PASS, Exchange, LinksPlan, exchanges
from treedraft.bench.links.result import LinkSample, LinksResult, markdown, to_json
from treedraft.bench.links.run import LinkBench
from treedraft.draft.settings import DraftSettings
from treedraft.inference.stamp import take_stamp
from treedraft.local_cluster.plan import synchronous_settings
from treedraft.target.settings import TargetSettings


async def echo(reader, writer):
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()
    writer.close()


@pytest.fixture
async def upstream():
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[:2]


@asynccontextmanager
async def connect(proxy):
    host, port = proxy.endpoint.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@pytest.mark.parametrize("round_trip_ms", [0.0, 60.0])
async def test_every_byte_comes_back_in_order_and_not_before_its_time(upstream, round_trip_ms):
    async with (
        DelayProxy(upstream, round_trip_ms=round_trip_ms) as proxy,
        connect(proxy) as (reader, writer),
    ):
        started = time.monotonic()
        sent = b"".join(bytes([i % 256]) * 1000 for i in range(300))
        writer.write(sent)
        first = await reader.readexactly(1)
        assert (time.monotonic() - started) * 1e3 >= round_trip_ms
        assert first + await reader.readexactly(len(sent) - 1) == sent
        assert proxy.num_bytes == len(sent)
        writer.write_eof()
        assert await reader.read() == b""


async def test_a_delay_is_pipelined_and_does_not_add_up(upstream):
    async with (
        DelayProxy(upstream, round_trip_ms=100.0) as proxy,
        connect(proxy) as (reader, writer),
    ):
        started = time.monotonic()
        for _ in range(50):  # one after the other these would take 5 s
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0)
        await reader.readexactly(50)
        assert time.monotonic() - started < 2.5


async def test_a_proxy_without_anybody_behind_it_hangs_up():
    async with DelayProxy(("127.0.0.1", 9)) as proxy, connect(proxy) as (reader, _):
        assert await reader.read() == b""


async def test_leaving_ends_connections(upstream):
    async with contextlib.AsyncExitStack() as stack:
        async with DelayProxy(upstream) as proxy:
            reader, writer = await stack.enter_async_context(connect(proxy))
            writer.write(b"x")
            await reader.readexactly(1)
        assert await reader.read() == b""


def test_the_synchronous_exchange_is_one_that_the_services_know(monkeypatch):
    for name, value in synchronous_settings(8).items():
        monkeypatch.setenv(name, value)
    assert TargetSettings().patience.is_synchronous
    assert not TargetSettings().gate.enabled
    assert TargetSettings().budget.max_nodes == DraftSettings().growth.max_live_nodes == 8


def test_what_is_measured():
    assert exchanges(LinksPlan(sync_nodes=(4, 8))) == [Exchange(), Exchange(4), Exchange(8)]
    assert exchanges(LinksPlan(is_sync_only=True)) == [Exchange(8)]


def sample(exchange, ms_per_token, **fields):
    known = {
        "round_trip_ms": 20.0,
        "plain_ms_per_token": 20.0,
        "tokens_per_round": 2.5,
        "hit_rate": 0.5,
        "num_nodes": 100,
        "num_bytes": 900,
        "is_same_text": True,
    }
    return LinkSample(exchange=exchange, ms_per_token=ms_per_token, **{**known, **fields})


def test_a_result_compares_with_the_best_synchronous_budget():
    samples = (
        sample("treedraft", 10.0),
        sample("treedraft", 10.0, is_same_text=False),
        sample("sync, 4 nodes", 25.0),
        sample("sync, 8 nodes", 16.0),
        sample("sync, 8 nodes", 1.0, round_trip_ms=0.0),
    )
    result = LinksResult(take_stamp(), LinksPlan(), 20.0, samples)
    own = result.points()[0]
    assert own.speed_up == pytest.approx(2.0)
    assert own.bytes_per_node == pytest.approx(9.0)
    assert not own.is_same_text
    assert result.best_sync(20.0).exchange == "sync, 8 nodes"
    assert result.best_sync(5.0) is None
    table = markdown(result)
    assert "| 20 ms | treedraft | 2.00 | 2.50 | 0.80 | 50% | 9.0 | 1.60 | NO |" in table
    assert json.loads(to_json(result))["points"][0]["speed_up"] == pytest.approx(2.0)


async def test_a_text_with_drafts_stands_beside_one_without():
    from test_run import FakeClient

    client = FakeClient()
    async with DelayProxy(("127.0.0.1", 9)) as proxy:
        bench = LinkBench(LinksPlan(num_prompts=2, num_tokens=8), client, proxy)
        samples = await bench.measure(Exchange(), 5.0)
    assert proxy.round_trip_ms == 5.0
    assert [s.is_same_text for s in samples] == [True, True]
    kinds = [query.speculation.enabled for query in client.queries]
    assert kinds == [True, False, True, False, True]
    assert client.queries[1].conversation == client.queries[2].conversation
    assert ONE_PASS < 0
