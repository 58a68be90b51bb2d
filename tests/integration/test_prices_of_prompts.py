"""What passes teach about prices where they are only queued, as on an accelerator."""

import pytest
from tests.engine_harness import spec
from tests.integration.toy_targets import plain, prompt

from treedraft.target.step import PassRunner
from treedraft.target.step_costs import StepCosts


@pytest.mark.parametrize("is_queued", [False, True])
def test_passes_that_draw_nothing_have_a_price_only_where_they_are_waited_for(
    llama, monkeypatch, is_queued
):
    priced = []
    monkeypatch.setattr(PassRunner, "waits_for_device", is_queued)

    def observe(self, num_rows, elapsed_ms, **how):
        if how:  # not the warm-up's
            priced.append(num_rows)

    monkeypatch.setattr(StepCosts, "observe", observe)
    plain(llama, spec(prompt(1, llama, length=100), max_tokens=8), prefill_chunk=32)
    # Passes with the chunks of the prompt, its end with the first token, and 7 of a token each:
    # where a pass was queued without being waited for, the next one's time is not its own.
    assert priced[-7:] == [1] * 7
    of_prompt = priced[:-7]
    assert len(of_prompt) == (0 if is_queued else 4)
    assert sum(of_prompt) == (0 if is_queued else 100)
