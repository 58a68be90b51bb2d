import json
from dataclasses import replace

import pytest
from evaluation_toys import ONE_TEMPERATURE, PROMPTS, SETTINGS

from treedraft.core.errors import TreedraftError
from treedraft.inference.models import load_model
from treedraft.inference.toy import make_toy_model
from treedraft.training.evaluation import picture, report
from treedraft.training.evaluation.cost import Cost, DraftStepCost, predict_speed
from treedraft.training.evaluation.evaluate import evaluate
from treedraft.training.evaluation.own_loop import rehearse
from treedraft.training.evaluation.summary import markdown
from treedraft.training.evaluation.tree_length import (
    TreeLength,
    TreeShape,
)


def test_speed_follows_from_length_and_costs():
    cost = Cost(
        2, 200, ((1, 40.0), (9, 44.0)), (DraftStepCost(1, 0.0, 4.0), DraftStepCost(4, 0.0, 5.0))
    )
    tree = predict_speed(TreeLength(TreeShape(4, 3, 4), 0.0, "", 100, 250), cost)
    assert tree.on_own_cores == pytest.approx(2.5 * 40 / 42)
    assert tree.on_shared_cores == pytest.approx(2.5 * 40 / (42 + 4 + 2 * 5))
    chain = predict_speed(TreeLength(TreeShape.chain(3), 0.7, "", 100, 250), cost)
    assert chain.on_shared_cores == pytest.approx(2.5 * 40 / (41.5 + 3 * 4))
    assert cost.ratio(4) == pytest.approx(0.125)


@pytest.fixture(scope="module")
def found(target, drafter):
    return evaluate(target, drafter, PROMPTS, SETTINGS)


def test_a_report_is_whole_and_survives_json(found):
    assert report.from_json(report.to_json(found)) == found
    assert found.tree(8, 0.0).tau > 1.0
    assert {entry.category for entry in found.agreement} == {"", "prose", "code"}
    assert {step.num_rows for step in found.cost.draft_steps} == {1, 4}
    assert found.best_speed(0.0).on_shared_cores > 0
    assert found.rehearsed[0].num_texts == 2
    known = [(entry.temperature, entry.has_lookup) for entry in found.rehearsed]
    assert known == [(0.0, False), (0.0, True), (0.8, False), (0.8, True)]
    assert "| τ at T |" in markdown(found)


def test_the_summary_tells_the_drafters_own_loop_with_lookup_and_without(found):
    lines = markdown(found).splitlines()
    first = lines.index("| T | τ, model alone | τ, lookup too |") + 2
    alone, both = found.rehearsed[:2]
    assert lines[first] == f"| 0 | {alone.tau:.2f} | {both.tau:.2f} |"
    assert "over 2 texts at each temperature, with 16 nodes in a pass" in markdown(found)
    assert "own loop" not in markdown(replace(found, rehearsed=()))


def test_the_own_loop_recites_what_the_text_repeats(target, drafter, texts):
    # The drafter cannot guess this text, and nothing but the text itself tells of it.
    strange = tuple(range(100, 120)) * 4
    own = replace(texts[0], token_ids=(*texts[0].token_ids[: texts[0].prompt_length], *strange))
    alone, both = rehearse(drafter, [own], ONE_TEMPERATURE, target.vocab_size, lambda _: None)
    assert (alone.has_lookup, both.has_lookup) == (False, True)
    assert both.tau > 1.5 * alone.tau


def test_reports_of_before_lookup_was_rehearsed_are_read(found):
    document = json.loads(report.to_json(found))
    for entry in document["rehearsed"]:
        del entry["has_lookup"]
    assert not any(entry.has_lookup for entry in report.from_json(json.dumps(document)).rehearsed)


@pytest.mark.parametrize("damage", [{"format_version": 9}, {"cost": {}}, {"settings": None}])
def test_reports_that_are_none_are_refused(found, damage):
    document = {**json.loads(report.to_json(found)), **damage}
    with pytest.raises(TreedraftError) as caught:
        report.from_json(json.dumps(document))
    assert caught.value.reason == "REPORT_UNREADABLE"


def test_a_picture_is_drawn(found, tmp_path):
    pytest.importorskip("matplotlib")
    file = picture.draw(found, tmp_path / "report.svg")
    text = file.read_text()
    assert "nodes (solid: best tree, dashed: chain)" in text
    assert len(text) < 200_000
    assert picture.draw(found, tmp_path / "again.svg").read_text() == text


def test_another_tokenizer_is_refused(target, tmp_path):
    other = load_model(make_toy_model(tmp_path, seed=1, vocab=400))
    with pytest.raises(TreedraftError) as caught:
        evaluate(target, other, PROMPTS, SETTINGS)
    assert caught.value.reason == "TOKENIZER_MISMATCH"
