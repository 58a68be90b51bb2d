import asyncio
from contextlib import AsyncExitStack

import pytest

from treedraft.coordinator.admission import (
    AdmissionGate,
    check_parameters,
    check_prompt,
    limit_output,
)
from treedraft.core.errors import (
    CancelledError,
    InvalidRequestError,
    OverloadedError,
    PromptTooLongError,
    UnavailableError,
)
from treedraft.core.model_description import ModelDescription
from treedraft.core.sampling import SamplingParameters, StoppingCriteria

MODEL = ModelDescription(
    model="smol",
    fingerprint="f",
    tokenizer_hash="h",
    vocab_size=100,
    context_length=16,
    max_prompt_tokens=12,
    eos_token_ids=frozenset({2}),
    tokenizer_json="{}",
)


class Visitor:
    """Goes through the gate and stays until told to leave."""

    def __init__(self, gate, name="", arrivals=None):
        self.leave = asyncio.Event()
        self.entered = asyncio.Event()
        self.task = asyncio.create_task(self._visit(gate, name, arrivals))

    async def _visit(self, gate, name, arrivals):
        async with gate.enter():
            self.entered.set()
            if arrivals is not None:
                arrivals.append(name)
            await self.leave.wait()


async def turns(count=5):
    for _ in range(count):
        await asyncio.sleep(0)


async def test_so_many_run_so_many_wait_and_the_next_is_refused():
    gate = AdmissionGate(max_running=2, max_waiting=1)
    visitors = [Visitor(gate) for _ in range(3)]
    await turns()
    assert (gate.num_running, gate.num_waiting) == (2, 1)
    with pytest.raises(OverloadedError) as caught:
        async with gate.enter():
            pass
    assert caught.value.reason == "QUEUE_FULL"
    for visitor in visitors:
        visitor.leave.set()
        await visitor.task
    assert (gate.num_running, gate.num_waiting) == (0, 0)


async def test_first_come_first_served():
    gate = AdmissionGate(max_running=1, max_waiting=9)
    arrivals = []
    visitors = []
    for name in "abcd":
        visitors.append(Visitor(gate, name, arrivals))
        await turns()
    for visitor in visitors:
        visitor.leave.set()
        await visitor.task
    assert arrivals == list("abcd")


async def test_waiting_ends_with_the_deadline():
    gate = AdmissionGate(max_running=1, max_waiting=1)
    async with gate.enter():
        with pytest.raises(CancelledError) as caught:
            async with gate.enter(0.0):
                pass
        assert caught.value.reason == "DEADLINE_EXCEEDED"
        assert gate.num_waiting == 0
    assert gate.num_running == 0


async def test_who_gives_up_waiting_leaves_no_hole():
    gate = AdmissionGate(max_running=1, max_waiting=2)
    first, second, third = Visitor(gate), Visitor(gate), Visitor(gate)
    await turns()
    second.task.cancel()
    await turns()
    first.leave.set()
    await third.entered.wait()
    assert gate.num_running == 1
    third.leave.set()
    await third.task
    assert gate.num_running == 0


async def test_a_place_given_to_one_who_is_just_leaving_is_handed_on():
    gate = AdmissionGate(max_running=1, max_waiting=2)
    first, second, third = Visitor(gate), Visitor(gate), Visitor(gate)
    await turns()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(third.leave.wait)
        first.leave.set()
        await asyncio.sleep(0)  # first leaves in this turn and lets second in
        second.task.cancel()  # who is cancelled before it could notice
        await third.entered.wait()
        assert gate.num_running == 1
        third.leave.set()
    await third.task
    assert (gate.num_running, gate.num_waiting) == (0, 0)


async def test_a_closed_gate_sends_everyone_away_and_waits_for_those_inside():
    gate = AdmissionGate(max_running=1, max_waiting=1)
    inside, before = Visitor(gate), Visitor(gate)
    await turns()
    closing = asyncio.create_task(gate.close())
    with pytest.raises(UnavailableError) as caught:
        await before.task
    assert caught.value.reason == "DRAINING"
    with pytest.raises(UnavailableError):
        async with gate.enter():
            pass
    assert not closing.done()
    inside.leave.set()
    await closing
    await inside.task


def reason_of(token_ids, **limits):
    with pytest.raises(InvalidRequestError) as caught:
        check_prompt(token_ids, MODEL, **limits)
    return caught.value.reason


def test_prompts_are_held_against_the_model():
    check_prompt([0, 99] * 6, MODEL)
    assert reason_of([]) == "EMPTY_PROMPT"
    assert reason_of([1, 100]) == "TOKEN_OUT_OF_RANGE"
    assert reason_of([-1]) == "TOKEN_OUT_OF_RANGE"
    assert reason_of([1] * 13) == "PROMPT_TOO_LONG"
    assert reason_of([1] * 5, max_prompt_tokens=4) == "PROMPT_TOO_LONG"


def test_a_prompt_must_leave_room_for_one_token():
    roomy = ModelDescription("m", "f", "h", 100, 16, 1000, frozenset(), "{}")
    check_prompt([1] * 15, roomy)
    with pytest.raises(PromptTooLongError):
        check_prompt([1] * 16, roomy)


@pytest.mark.parametrize(
    ("sampling", "stopping", "field"),
    [
        (SamplingParameters(logit_bias=((100, 1.0),)), StoppingCriteria(), "logit_bias"),
        (SamplingParameters(), StoppingCriteria(stop_token_ids=frozenset({3, 100})), "stop_token"),
    ],
)
def test_parameters_name_tokens_of_the_vocabulary(sampling, stopping, field):
    check_parameters(SamplingParameters(logit_bias=((99, 1.0),)), StoppingCriteria(), MODEL)
    with pytest.raises(InvalidRequestError) as caught:
        check_parameters(sampling, stopping, MODEL)
    assert caught.value.reason == "TOKEN_OUT_OF_RANGE"
    assert caught.value.field.startswith(field)


def test_the_output_is_clipped_to_the_context():
    asked = StoppingCriteria(max_tokens=4, stop_strings=("x",))
    assert limit_output(asked, 6, MODEL) == asked
    assert limit_output(asked, 14, MODEL).max_tokens == 2
    assert limit_output(StoppingCriteria(), 6, MODEL).max_tokens == 10
    assert limit_output(StoppingCriteria(), 6, MODEL, default_max_tokens=3).max_tokens == 3
    assert limit_output(asked, 6, MODEL, default_max_tokens=3).max_tokens == 4
