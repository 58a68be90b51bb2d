"""The way to a service and back, apart from what the machine does meanwhile."""

import pytest

from treedraft.bench.links.delay import DelayProxy
from treedraft.rpc.channel import open_channel
from treedraft.rpc.round_trip import common_part, measure_round_trip

AWAY_MS = 100.0


async def test_a_way_is_measured(serving):
    async with serving() as (_, endpoint):
        host, port = endpoint.split(":")
        async with (
            DelayProxy((host, int(port)), round_trip_ms=AWAY_MS) as proxy,
            open_channel(proxy.endpoint) as channel,
        ):
            # On a busy machine checks differ, and what they differ by is taken off.
            found = [await measure_round_trip(channel) for _ in range(5)]
            assert max(found) > 0.5 * AWAY_MS


async def test_a_service_that_cannot_be_asked_is_taken_for_near():
    async with open_channel("127.0.0.1:9") as channel:
        assert await measure_round_trip(channel) == 0.0


@pytest.mark.parametrize(
    ("times_ms", "expected"),
    [
        ([20.1, 20.0, 20.2, 20.3, 24.0], 19.8),  # a way
        ([1.0, 4.0, 9.0, 3.0, 12.0], 0.0),  # a busy machine
        ([20.0, 24.0, 29.0, 23.0, 32.0], 16.0),  # both
    ],
)
def test_what_checks_differ_by_is_not_the_way(times_ms, expected):
    assert common_part(times_ms) == pytest.approx(expected)
