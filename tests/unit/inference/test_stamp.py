from datetime import UTC, datetime

from treedraft.inference.stamp import take_stamp


def test_a_stamp_names_machine_versions_and_time():
    stamp = take_stamp(datetime(2026, 1, 2, tzinfo=UTC))
    assert stamp.time == "2026-01-02T00:00:00+00:00"
    assert stamp.processor
    assert stamp.num_cores >= 1
    assert stamp.memory_gib > 0
    assert set(stamp.packages) >= {"torch", "transformers"}
    assert all(stamp.packages.values())
