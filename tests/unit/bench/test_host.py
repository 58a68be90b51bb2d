import json

import pytest

from treedraft.bench.host import HostPoint, markdown, run_host, to_json
from treedraft.core.session import RoundTimes
from treedraft.inference.toy import make_toy_model


def test_the_share_of_the_host_is_what_a_step_takes_beside_its_pass():
    point = HostPoint(64, step_ms=6.0, toy_ms=1.0, parts=RoundTimes(), pass_ms=45.0)
    assert point.host_ms == 5.0
    assert point.share == pytest.approx(0.1)


def test_an_engine_around_a_toy_is_measured(tmp_path):
    folder = make_toy_model(tmp_path / "real", seed=1)
    result = run_host("a toy", folder, [1, 4], num_tokens=16)
    assert [point.num_sessions for point in result.points] == [1, 4]
    assert all(point.step_ms > 0 and point.pass_ms > 0 for point in result.points)
    assert all(point.engine_ms > 0 and min(point.wire_ms) > 0 for point in result.points)
    assert "| 4 | " in markdown(result)
    assert len(json.loads(to_json(result))["points"]) == 2
