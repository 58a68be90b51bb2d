"""Tuning from beginning to end, on a toy model; only the processes are made up."""

from types import SimpleNamespace

import pytest
import torch

from treedraft.bench.tuning import confirm as confirm_module
from treedraft.bench.tuning import run as run_module
from treedraft.bench.tuning.confirm import confirm, warm_up_prompt
from treedraft.bench.tuning.plan import TunePlan
from treedraft.bench.tuning.run import tune
from treedraft.core.errors import InvalidRequestError, UnavailableError
from treedraft.core.generation import Delta, Finished, Started
from treedraft.core.growth import TokenSource
from treedraft.core.session import FinishReason, SessionStatistics
from treedraft.draft.settings import DraftSettings
from treedraft.environment import check_environment
from treedraft.inference.toy import make_toy_model
from treedraft.target.settings import TargetSettings
from treedraft.training.evaluation.held_out import HeldOutPrompt
from treedraft.training.evaluation.tree_length import TreeShape

PROMPTS = tuple(HeldOutPrompt("prose", text) for text in ("one", "two", "three"))
RECENT_TRAFFIC = "TREEDRAFT_DRAFT__LOOKUP__RECENT__ENABLED"


class FakeClient:
    """Is twice as fast with speculation; keeps what it was asked."""

    def __init__(self, asked):
        self._asked = asked

    async def generate(self, query, *, timeout_seconds=None, traceparent=""):
        self._asked.append((query.conversation[-1].content, query.speculation.enabled))
        yield Started("s", 1, (1, 2), "", "toy")
        yield Delta(0, (5,) * 9, (TokenSource.TARGET,) * 9, "text")
        statistics = SessionStatistics(
            rounds=4 if query.speculation.enabled else 8,
            emitted_tokens=9,
            first_tokens=1,
            decode_ms=200.0 if query.speculation.enabled else 400.0,
        )
        yield Finished(FinishReason.LENGTH, statistics, 10.0)

    async def close(self):
        pass


@pytest.fixture
def world(monkeypatch):
    """What is started and asked, in place of processes."""
    world = SimpleNamespace(plans=[], asked=[], error=None)

    class FakeCluster:
        def __init__(self, plan, *, progress):
            world.plans.append(plan)

        def connect(self):
            return FakeClient(world.asked)

        async def __aenter__(self):
            if world.error:
                raise world.error
            return self

        async def __aexit__(self, *_):
            pass

    monkeypatch.setattr(run_module, "num_usable_cores", lambda: 1)
    monkeypatch.setattr(confirm_module, "LocalCluster", FakeCluster)
    return world


@pytest.fixture
def plan(tmp_path):
    before = torch.get_num_threads()
    folder = make_toy_model(tmp_path / "target", seed=1)
    yield TunePlan(
        str(folder), ("", str(folder)), PROMPTS, num_tokens=8, budgets=(1, 2), depths=(1, 2),
        children=(1,), num_confirmed=1, confirmed_prompts=2, device="cpu",
    )  # fmt: skip
    torch.set_num_threads(before)


# One setting


async def test_no_prompt_that_is_measured_was_asked_before(plan, world):
    found = await confirm(plan, "d", TreeShape(2, 2, 1), {"A": "b"}, lambda _: None)
    assert [text for text, _ in world.asked] == ["three"] * 2 + ["one"] * 2 + ["two"] * 2
    assert [enabled for _, enabled in world.asked] == [True, False, False, True, True, False]
    assert (found.num_texts, found.num_equal) == (2, 2)
    assert found.speed == pytest.approx(2.0)


async def test_drafters_do_not_remember_but_that_is_no_part_of_the_setting(plan, world):
    found = await confirm(plan, "d", None, {"A": "b"}, lambda _: None)
    (started,) = world.plans
    assert started.settings == {"A": "b", RECENT_TRAFFIC: "false"}
    assert (started.target, started.draft, started.device) == (plan.target, "d", "cpu")
    assert found.environment == {"A": "b"}


def test_what_warms_up_is_never_measured():
    few = TunePlan("t", (), PROMPTS, confirmed_prompts=9)
    assert warm_up_prompt(few) not in {prompt.text for prompt in PROMPTS}
    again = TunePlan("t", (), (*PROMPTS[:1] * 2, *PROMPTS), confirmed_prompts=1)
    assert warm_up_prompt(again) == "two"


# All of it


async def test_each_drafter_runs_with_its_defaults_and_its_best_shapes(plan, world):
    said = []
    found = await tune(plan, said.append)
    assert [entry.draft for entry in found.confirmations] == ["", "", plan.target, plan.target]
    assert [entry.shape is None for entry in found.confirmations] == [True, False] * 2
    assert (found.source, found.dtype, found.device) == (plan.target, "float32", "cpu")
    assert found.best.speed == pytest.approx(2.0)
    assert "lookup, run 1 of 2: warming up" in said
    for started in world.plans:
        assert started.settings[RECENT_TRAFFIC] == "false"
        check_environment(started.settings, TargetSettings, DraftSettings)


async def test_a_drafter_that_cannot_be_used_is_not_run(plan, world):
    odd = "/there is none"
    found = await tune(
        TunePlan(plan.target, ("", odd), PROMPTS, num_tokens=8, budgets=(1,), depths=(1,),
                 children=(1,), num_confirmed=0), lambda _: None)  # fmt: skip
    assert found.drafter(odd).error
    assert not found.confirmations
    assert not world.plans
    with pytest.raises(InvalidRequestError) as caught:
        await tune(TunePlan(plan.target, (odd,), PROMPTS, num_tokens=8, budgets=(1,), depths=(1,),
                            children=(1,)), lambda _: None)  # fmt: skip
    assert caught.value.reason == "NO_DRAFTER"


async def test_an_error_says_which_run_it_was(plan, world):
    world.error = UnavailableError("target-0 died", reason="SERVICE_DIED")
    with pytest.raises(UnavailableError, match="lookup, run 1 of 2: target-0 died") as caught:
        await tune(plan, lambda _: None)
    assert caught.value.reason == "SERVICE_DIED"
