"""The chaos suite in its short form; `make chaos SECONDS=600 SEED=1` is the long one."""

import pytest
from tests.chaos.run import run
from tests.unit.coordinator.redis_server import find_redis_server


@pytest.mark.timeout(420)
@pytest.mark.skipif(find_redis_server() is None, reason="no redis-server on this machine")
async def test_no_answer_is_anything_but_right_while_everything_breaks(tmp_path):
    report = await run(seconds=25.0, seed=1, folder=tmp_path, at_once=16, drilled=())
    print(report.table())
    assert report.is_good, report.table()
    assert report.num_faults >= 15
    assert report.sessions >= 50
    assert {"coordinator", "target", "draft", "redis"} <= set(report.faults)
