"""The comparison of the doors: its numbers by hand, its turns, and a whole run on a toy."""

import json
import os
from datetime import UTC, datetime

import pytest

from treedraft.bench.door.report import markdown, to_json
from treedraft.bench.door.result import Crowd, DoorPlan, DoorResult, Timeline
from treedraft.bench.door.run import (
    cpu_seconds,
    measure_crowds,
    measure_door,
    measure_pairs,
    plan_cluster,
)
from treedraft.bench.door.skins import GRPC, HTTP, Request, http_body
from treedraft.core.errors import OverloadedError
from treedraft.core.generation import ChatMessage
from treedraft.inference.stamp import take_stamp


def line(*arrivals, pieces=None, error=""):
    return Timeline(arrivals, tuple(pieces or "x" * len(arrivals)), error)


def result(pairs=(), crowds=()):
    stamp = take_stamp(datetime(2026, 1, 1, tzinfo=UTC))
    return DoorResult(stamp, DoorPlan(), tuple(pairs), tuple(crowds))


def pair(grpc, http):
    return {GRPC: grpc, HTTP: http}


def silent(_text):
    return None


def test_the_overhead_is_by_how_much_text_comes_later():
    measured = result([pair(line(0.010, 0.012, 0.014), line(0.011, 0.0132, 0.0154))])
    assert measured.first_overhead_ms()[0] == pytest.approx(1.0)
    assert measured.overhead_ms()[0] == pytest.approx(1.2)
    assert measured.growth_us()[0] == pytest.approx(200.0)
    assert measured.first_ms(HTTP) == pytest.approx(11.0)
    assert measured.gap_ms(GRPC) == pytest.approx(2.0)
    assert measured.is_identical


def test_text_is_compared_at_equal_places_whatever_its_pieces():
    grpc = line(0.010, 0.020, pieces=["ab", "c"])
    http = line(0.011, 0.012, 0.023, pieces=["a", "b", "c"])
    measured = result([pair(grpc, http)])
    assert measured.overhead_ms()[0] == pytest.approx(2.0)
    assert measured.is_identical
    assert not result([pair(grpc, line(0.1, pieces=["abd"]))]).is_identical


def test_a_crowd_counts_what_failed_and_what_the_rest_did():
    lines = (line(0.5, 0.6, 0.8), line(0.3, 0.4), line(error="KV_POOL_FULL"))
    measured = result(
        [pair(line(1.0, 2.0), line(1.0, 2.0))],
        [Crowd(HTTP, 2.0, lines, 0.001), Crowd(GRPC, 1.0, lines, None)],
    )
    summary = measured.crowd(HTTP)
    assert (summary.num_streams, summary.errors) == (3, ("KV_POOL_FULL",))
    assert summary.pieces_per_second == 2.5
    assert summary.first_ms == pytest.approx(400.0)
    assert summary.gap_ms == pytest.approx(100.0)
    assert summary.cpu_us == pytest.approx(200.0)
    assert measured.crowd(GRPC).cpu_us is None
    assert "1 of 3 (KV_POOL_FULL)" in markdown(measured)
    assert json.loads(to_json(measured))["table"] == markdown(measured)


def test_a_crowd_of_which_all_failed_has_no_times():
    summary = result(crowds=[Crowd(HTTP, 1.0, (line(error="X"),), None)]).crowd(HTTP)
    assert summary.first_ms is summary.gap_ms is summary.gap_99_ms is None


class FakeSkin:
    def __init__(self, name, asked, fails=False):
        self.name, self.asked, self.fails = name, asked, fails

    async def stream(self, request):
        self.asked.append((self.name, request.num_tokens))
        for number in range(request.num_tokens):
            if self.fails and number:
                raise OverloadedError("full", reason="KV_POOL_FULL")
            yield "x"


def ticking():
    ticks = iter(range(100_000))
    return lambda: float(next(ticks))


async def test_doors_take_turns_prompt_by_prompt():
    asked = []
    skins = {name: FakeSkin(name, asked) for name in (GRPC, HTTP)}
    pairs = await measure_pairs(skins, DoorPlan(num_prompts=2, num_tokens=3), silent, ticking())
    assert [name for name, number in asked if number == 3] == [HTTP, GRPC, GRPC, HTTP]
    assert pairs[0][HTTP].arrivals == (1.0, 2.0, 3.0)
    assert pairs[1][GRPC].text == "xxx"


async def test_a_stream_that_fails_does_not_end_the_crowd():
    asked = []
    skins = {GRPC: FakeSkin(GRPC, asked), HTTP: FakeSkin(HTTP, asked, fails=True)}
    plan = DoorPlan(num_streams=3, num_tokens=2, num_repeats=2)
    seconds = ticking()
    crowds = await measure_crowds(skins, plan, silent, ticking(), seconds)
    assert [crowd.skin for crowd in crowds] == [HTTP, GRPC, GRPC, HTTP]
    assert [one.error for one in crowds[0].timelines] == ["KV_POOL_FULL"] * 3
    assert crowds[1].num_pieces == 6
    assert all(crowd.cpu_seconds == 1.0 for crowd in crowds)


def test_both_doors_are_asked_the_same():
    request = Request((ChatMessage("user", "Hi"),), 5)
    body = http_body(request)
    assert body["messages"] == [{"role": "user", "content": "Hi"}]
    assert (body["max_tokens"], body["ignore_eos"], body["temperature"]) == (5, True, 0)
    assert body["speculation"] == {"enabled": False}


def test_services_draw_traces_with_the_rate_of_the_plan():
    settings = plan_cluster(DoorPlan(sample_ratio=0.25), "toy").settings
    assert {value for name, value in settings.items() if "SAMPLE_RATIO" in name} == {"0.25"}


def test_the_time_of_a_process_is_read_whatever_it_is_called(tmp_path):
    (tmp_path / "7").mkdir()
    words = " ".join(str(number) for number in range(2, 40))
    (tmp_path / "7" / "stat").write_text(f"7 (a ) b) {words}")
    assert cpu_seconds(7, tmp_path) == pytest.approx((13 + 14) / os.sysconf("SC_CLK_TCK"))
    assert cpu_seconds(8, tmp_path) is None


async def test_a_whole_run_on_a_toy():
    plan = DoorPlan(num_prompts=2, num_tokens=8, num_streams=4, num_repeats=1)
    measured = await measure_door(plan, silent)
    assert measured.is_identical
    assert [crowd.skin for crowd in measured.crowds] == [HTTP, GRPC]
    assert all(not one.error and one.text for crowd in measured.crowds for one in crowd.timelines)
    assert "0 of 4" in markdown(measured)
