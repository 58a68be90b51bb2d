"""Tuning: what is tried, what is predicted, what is recommended."""

import json
from dataclasses import replace

import pytest
import torch

from treedraft.bench.answer import Answer
from treedraft.bench.tuning import report
from treedraft.bench.tuning.confirm import summarise
from treedraft.bench.tuning.plan import TunePlan, spread
from treedraft.bench.tuning.predict import Predictor
from treedraft.bench.tuning.result import (
    Confirmation,
    DrafterFigures,
    Prediction,
    TuneResult,
    settings_of,
    to_json,
)
from treedraft.bench.tuning.run import choose_shapes
from treedraft.core.generation import Finished, Started
from treedraft.core.session import FinishReason, SessionStatistics
from treedraft.draft.settings import DraftSettings
from treedraft.inference.stamp import Stamp
from treedraft.inference.toy import make_toy_model
from treedraft.target.settings import TargetSettings
from treedraft.training.evaluation.held_out import HeldOutPrompt
from treedraft.training.evaluation.tree_length import TreeShape

PROMPTS = (
    HeldOutPrompt("prose", "The quick brown fox"),
    HeldOutPrompt("prose", "In the beginning"),
    HeldOutPrompt("code", "def fibonacci(number):"),
)
SHAPE = TreeShape(8, 4, 4)
STAMP = Stamp("2026-11-24T00:00:00", "abc", "0.1", "3.11", "Linux", "a chip", 2, 24.0, 0.1)


def confirmation(draft, speed, *, shape=SHAPE, num_equal=6):
    environment = settings_of(shape, is_sharing=True, has_model=True) if shape else {}
    return Confirmation(draft, shape, environment, 20.0, 20.0 * speed, 2.5, 6, num_equal)


def result(confirmations, drafters=()):
    return TuneResult(
        stamp=STAMP,
        target="toy",
        temperature=0.0,
        num_prompts=6,
        num_threads=2,
        is_sharing=True,
        target_ms=((1, 40.0), (9, 44.0)),
        drafters=drafters
        or (
            DrafterFigures(
                "small", "small", 12_000_000, (0.7, 0.8), 0.11, (Prediction(SHAPE, 2.8, 1.7),)
            ),
            DrafterFigures(
                "large", "large", 40_000_000, (0.8, 0.9), 0.31, (Prediction(SHAPE, 3.2, 1.3),)
            ),
            DrafterFigures("", "lookup", predictions=(Prediction(SHAPE, 1.2, 1.1),)),
            DrafterFigures("odd", "odd", error="it has another tokenizer"),
        ),
        confirmations=tuple(confirmations),
    )


# What is tried


def test_no_shape_is_of_no_use():
    shapes = TunePlan("t", (), PROMPTS).shapes
    assert len(set(shapes)) == len(shapes)
    for shape in shapes:
        assert shape.budget >= shape.depth
        most = sum(shape.num_children**level for level in range(1, shape.depth + 1))
        assert shape.budget <= most, "nodes that can never be"
    assert TreeShape(4, 4, 1) in shapes
    assert TreeShape(16, 4, 4) in shapes
    assert TreeShape(8, 1, 4) not in shapes


def test_prompts_are_taken_from_all_kinds_in_turns():
    assert [prompt.category for prompt in spread(PROMPTS, 2)] == ["prose", "code"]
    assert spread(PROMPTS, 9) == (PROMPTS[0], PROMPTS[2], PROMPTS[1])


@pytest.mark.parametrize("is_sharing", [True, False])
def test_settings_are_such_as_the_services_have(is_sharing, monkeypatch):
    for name, value in settings_of(SHAPE, is_sharing=is_sharing, has_model=True).items():
        monkeypatch.setenv(name, value)
    target, draft = TargetSettings(), DraftSettings()
    assert (target.budget.max_nodes, target.budget.max_depth) == (8, 4)
    assert draft.growth.num_children == 4
    assert draft.growth.max_depth == (4 if is_sharing else 9)


def test_the_best_of_each_of_the_best_depths_is_run():
    shapes = [(8, 4), (12, 4), (6, 3), (8, 5)]
    predictions = [Prediction(TreeShape(n, d, 4), 2.0, 2.0 - i) for i, (n, d) in enumerate(shapes)]
    chosen = choose_shapes(predictions, 2)
    assert [(entry.shape.budget, entry.shape.depth) for entry in chosen] == [(8, 4), (6, 3)]


# What is predicted


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    before = torch.get_num_threads()
    folder = make_toy_model(tmp_path_factory.mktemp("target"), seed=1)
    plan = TunePlan(
        str(folder), (), PROMPTS, num_tokens=12, budgets=(1, 2, 4), depths=(1, 2), children=(1, 2)
    )
    yield Predictor(plan, num_threads=1, is_sharing=True, progress=lambda _: None), folder
    torch.set_num_threads(before)


def test_a_model_is_predicted_by_what_it_foresees(predictor, tmp_path):
    own, folder = predictor
    drafter = make_toy_model(tmp_path, noise_of=folder, noise=0.02)
    figures = own.predict(str(drafter))
    assert not figures.error
    assert figures.acceptance[0] > 0.5
    assert figures.ratio > 0.0
    taus = {entry.shape: entry.tau for entry in figures.predictions}
    assert taus[TreeShape(4, 2, 2)] >= taus[TreeShape(1, 1, 2)] > 1.5
    speeds = [entry.speed for entry in figures.predictions]
    assert speeds == sorted(speeds, reverse=True)


def test_lookup_is_predicted_without_a_model(predictor):
    figures = predictor[0].predict("")
    assert figures.name == "lookup"
    assert all(entry.tau >= 1.0 for entry in figures.predictions)


def test_a_drafter_that_cannot_be_used_says_why(predictor, tmp_path):
    own, _ = predictor
    assert "no folder" in own.predict("/there is none").error
    other = make_toy_model(tmp_path, vocab=400)
    assert "another tokenizer" in own.predict(str(other)).error


# What came out


def answer(tokens, *, decode_ms, rounds):
    statistics = SessionStatistics(
        rounds=rounds, emitted_tokens=len(tokens), first_tokens=1, decode_ms=decode_ms
    )
    finished = Finished(FinishReason.LENGTH, statistics, 100.0)
    return Answer(Started("s", 1, (1, 2), "", "toy"), finished, tuple(tokens), (), "")


def test_a_run_is_summed_up_over_decoding():
    pairs = [
        {
            False: answer(range(11), decode_ms=500.0, rounds=11),
            True: answer(range(11), decode_ms=250.0, rounds=4),
        },
        {
            False: answer(range(11), decode_ms=500.0, rounds=11),
            True: answer([0] * 11, decode_ms=250.0, rounds=6),
        },
    ]
    found = summarise("d", SHAPE, {}, pairs)
    assert found.plain_tokens_per_second == pytest.approx(20.0)
    assert found.speed == pytest.approx(2.0)
    assert found.tau == pytest.approx(2.2)
    assert (found.num_equal, found.num_texts, found.is_exact) == (1, 2, False)


# What is recommended


def test_the_fastest_run_is_recommended_and_the_others_are_explained():
    found = result([confirmation("small", 1.6), confirmation("large", 1.4), confirmation("", 1.1)])
    text = report.markdown(found)
    assert "Use small with at most 8 nodes in a pass, depth 4, 4 children" in text
    assert "S = 1.60" in text
    assert "large reaches S = 1.40" in text
    assert "10 points more often (80%), and a step costs 0.31 of a pass instead of 0.11" in text
    assert "odd cannot be used: it has another tokenizer" in text
    assert "export TREEDRAFT_TARGET__BUDGET__MAX_NODES=8" in text
    assert "treedraft draft … --model small --set growth.max_depth=4 --set growth.num" in text


def test_commands_load_the_target_as_it_was_tuned():
    found = replace(
        result([confirmation("small", 1.6), confirmation("", 1.1), confirmation("large", 1.0)]),
        source="/my models/toy",
        dtype="bfloat16",
        device="cuda:1",
    )
    text = report.advice(found)
    loaded = "'/my models/toy' --dtype bfloat16 --device cuda:1"
    assert f"    treedraft up --target {loaded} --draft small\n" in text
    assert f"    treedraft target … --model {loaded} --set budget.max_nodes=8" in text
    assert "    treedraft draft … --model small --device cuda:1 --set growth" in text
    lookup = report.advice(replace(found, confirmations=(confirmation("", 1.2),)))
    assert "--draft lookup\n" in lookup
    assert "treedraft draft … --model lookup --device cuda:1 --set" in lookup


def test_settings_that_need_no_words_get_none():
    text = report.advice(
        result(
            [
                confirmation("small", 1.6, shape=None),
                confirmation("", 1.1),
                confirmation("large", 1.2),
            ]
        )
    )
    assert "with the settings it comes with" in text
    assert "export" not in text


def test_a_run_that_changed_a_text_is_never_recommended():
    found = result(
        [confirmation("small", 1.9, num_equal=5), confirmation("large", 1.4), confirmation("", 1.0)]
    )
    assert found.best.draft == "large"


def test_no_drafter_is_recommended_where_none_helps():
    text = report.advice(result([confirmation("small", 1.01), confirmation("", 0.99)]))
    assert text.startswith("Use no drafter here")
    assert "`--set budget.max_nodes=0` asks no drafter" in text
    assert "    treedraft up --target default --dtype float32 --num-drafters 0" in text


def test_without_runs_the_best_prediction_is_named_as_one():
    text = report.advice(result([]))
    assert text.startswith("Nothing was run. The best prediction is small")


def test_json_has_everything():
    document = json.loads(to_json(result([confirmation("small", 1.6)])))
    assert document["recommended"]["draft"] == "small"
    assert document["recommended"]["environment"]["TREEDRAFT_TARGET__BUDGET__MAX_NODES"] == "8"
    assert document["confirmations"][0]["speed"] == pytest.approx(1.6)
    assert document["drafters"][0]["predictions"][0]["shape"]["depth"] == 4
    assert json.loads(to_json(result([])))["recommended"] is None
