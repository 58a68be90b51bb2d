"""Before a drafter is ready its passes have run at every size that sessions will ask for."""

import pytest
import torch

from treedraft.draft.assembly import _warm_up


class FakeRunner:
    def __init__(self, sizes):
        self.sizes = sizes
        self.rows = []

    def forward(self, segments):
        self.rows.append((segments[0].num_rows, len(segments[0].output_rows)))
        return torch.zeros(1)


@pytest.mark.parametrize("sizes", [(1, 2, 3, 4, 6, 64), ()], ids=["compiled", "as they are"])
def test_sizes_that_are_compiled_for_are_run_before_sessions_are(sizes):
    runner = FakeRunner(sizes)
    step_ms = _warm_up(runner, max_rows=4, prompt_rows=50)
    assert set(step_ms) == {1, 2, 4}
    counts = [count for count, _ in runner.rows]
    if sizes:
        assert runner.rows[0] == (50, 1)
        assert {1, 2, 3, 4} <= set(counts)
        assert 6 not in counts  # a step has no more than four
    else:
        assert set(counts) == {1, 2, 4}
