import pytest
from tests.unit.coordinator.support import a_drafter, a_target

from treedraft.coordinator.console.history import ClusterHistory, point_of
from treedraft.core.worker import ClusterDescription, LoadSignals, WorkerReport


def report(tokens_per_second, tokens_per_round, free=50):
    signals = LoadSignals(
        tokens_per_second=tokens_per_second,
        tokens_per_round=tokens_per_round,
        late_draft_share=0.1,
    )
    return WorkerReport(num_waiting=2, free_kv_blocks=free, total_kv_blocks=100, signals=signals)


def test_targets_are_added_up_and_weighed_by_their_tokens():
    workers = (
        (a_target("t1"), report(30.0, 2.0)),
        (a_target("t2"), report(10.0, 4.0, free=100)),
        (a_drafter("d1"), report(500.0, 9.0)),
    )
    point = point_of(ClusterDescription(workers, num_sessions=3), 12.0)
    assert (point.time, point.sessions, point.waiting) == (12.0, 3, 4)
    assert point.kv_share == pytest.approx(0.25)
    assert point.tokens_per_second == pytest.approx(40.0)
    assert point.tokens_per_round == pytest.approx(2.5)
    assert point.late_draft_share == pytest.approx(0.1)


def test_an_empty_cluster_is_all_zeros():
    point = point_of(ClusterDescription(), 1.0)
    assert (point.kv_share, point.tokens_per_second, point.tokens_per_round) == (0.0, 0.0, 0.0)


async def test_points_are_columns_and_the_oldest_go():
    times = iter(range(10))

    async def describe():
        return ClusterDescription(num_sessions=1)

    history = ClusterHistory(describe, now=lambda: float(next(times)), max_points=3)
    for _ in range(5):
        await history.sample()
    columns = history.columns()
    assert columns["time"] == [2.0, 3.0, 4.0]
    assert columns["sessions"] == [1, 1, 1]
    assert {len(column) for column in columns.values()} == {3}
    assert history.columns(since=3.0)["time"] == [4.0]
