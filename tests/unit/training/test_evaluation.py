"""Evaluation against its definitions, on toy models.

The shortcuts must not show: a text written in a batch is the one that single
passes draw, and τ by search is τ of the drafter's own loop, which knows nothing
of the text.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from treedraft.core.errors import InvalidRequestError, TreedraftError
from treedraft.core.growth import TokenSource
from treedraft.core.sampling import SamplingParameters
from treedraft.core.token_tree import TokenTree
from treedraft.draft.assembly import assemble
from treedraft.draft.calibration import OpinionMixer
from treedraft.draft.settings import DraftSettings, GrowthSettings, LookupSettings
from treedraft.inference.drafter_folder import save_drafter
from treedraft.inference.law import LawRow, target_probs
from treedraft.inference.models import load_model
from treedraft.inference.sampler import coupled_draw
from treedraft.inference.toy import make_toy_model
from treedraft.training.evaluation import picture, report
from treedraft.training.evaluation.agreement import measure_agreement
from treedraft.training.evaluation.cost import Cost, DraftStepCost, predict_speed
from treedraft.training.evaluation.evaluate import evaluate
from treedraft.training.evaluation.held_out import (
    CATEGORIES,
    HeldOutPrompt,
    held_out_prompts,
    read_prompts,
)
from treedraft.training.evaluation.passes import make_runner, prompt_segment
from treedraft.training.evaluation.probe import DraftProbe
from treedraft.training.evaluation.rehearsal import Rehearsal, best_nodes, follow
from treedraft.training.evaluation.settings import EvaluationSettings
from treedraft.training.evaluation.summary import markdown
from treedraft.training.evaluation.texts import target_texts
from treedraft.training.evaluation.tree_length import (
    TreeLength,
    TreeShape,
    summarise,
    tree_lengths,
)
from treedraft.training.student import make_student
from treedraft.training.target import load_target

PROMPTS = (
    HeldOutPrompt("prose", "The quick brown fox"),
    HeldOutPrompt("code", "def fibonacci(number):"),
    HeldOutPrompt("prose", "Hello! How are you today?"),
)
SETTINGS = EvaluationSettings(
    temperatures=(0.0, 0.8),
    max_tokens=24,
    budgets=(1, 2, 4, 8),
    depths=(1, 2, 4),
    cost_rows=(1, 4, 9),
    cost_repeats=3,
    cost_context=20,
    batch_texts=4,
    rehearsed_prompts=1,
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    return load_model(make_toy_model(tmp_path_factory.mktemp("target"), seed=1))


@pytest.fixture(scope="module")
def drafter(target, tmp_path_factory):
    folder = tmp_path_factory.mktemp("drafter")
    source = make_toy_model(tmp_path_factory.mktemp("source"), seed=1)
    return load_model(make_toy_model(folder, seed=2, noise_of=source, noise=0.08))


@pytest.fixture(scope="module")
def texts(target):
    return target_texts(target, PROMPTS, SETTINGS, lambda _: None)


def at(texts, temperature):
    return [text for text in texts if text.temperature == temperature]


# Prompts


def test_there_are_ten_held_out_prompts_of_each_category():
    prompts = held_out_prompts()
    assert [prompt.category for prompt in prompts] == [c for c in CATEGORIES for _ in range(10)]
    assert len({prompt.text for prompt in prompts}) == 60


def test_prompts_are_read_line_by_line(tmp_path):
    plain, lines = tmp_path / "a.txt", tmp_path / "b.jsonl"
    plain.write_text("one\n\n two \n")
    lines.write_text('{"prompt": "a\\nb", "category": "code"}\n{"prompt": "c"}\n')
    assert [prompt.text for prompt in read_prompts(plain)] == ["one", "two"]
    assert read_prompts(lines) == (HeldOutPrompt("code", "a\nb"), HeldOutPrompt("other", "c"))


@pytest.mark.parametrize("content", ["", "{", '["x"]\n', '{"prompt": " "}', '{"text": "x"}'])
def test_prompts_that_are_none_are_refused(tmp_path, content):
    file = tmp_path / "prompts.jsonl"
    file.write_text(content)
    with pytest.raises(InvalidRequestError) as caught:
        read_prompts(file)
    assert caught.value.reason == "PROMPTS_UNREADABLE"


# Texts


def full_logits(model, token_ids):
    runner, slots = make_runner(model, len(token_ids))
    own = slots.allocate(len(token_ids))
    return runner.forward([prompt_segment(token_ids, own, first_output=0)]).clone()


def test_texts_are_what_single_passes_draw(target, texts):
    for text in texts:
        logits = full_logits(target, text.token_ids)
        sampling = SamplingParameters(temperature=text.temperature, seed=text.seed)
        rows = [LawRow(sampling, p) for p in range(text.prompt_length, len(text.token_ids))]
        logits = logits[text.prompt_length - 1 : -1]
        assert coupled_draw(logits, rows) == list(text.token_ids[text.prompt_length :])
        laws = target_probs(logits, rows)
        drawn = laws[np.arange(len(rows)), text.token_ids[text.prompt_length :]]
        np.testing.assert_allclose(np.exp(text.log_probs), drawn, rtol=1e-3)


def test_texts_of_a_prompt_share_its_noise_and_differ_in_temperature(texts):
    greedy, sampled = texts[0], texts[1]
    assert (greedy.temperature, sampled.temperature) == SETTINGS.temperatures
    assert greedy.seed == sampled.seed
    assert greedy.token_ids != sampled.token_ids
    assert greedy.token_ids[: greedy.prompt_length] == sampled.token_ids[: sampled.prompt_length]


def test_texts_are_kept_and_found_again(target, texts, tmp_path, monkeypatch):
    first = target_texts(target, PROMPTS, SETTINGS, lambda _: None, cache=tmp_path)
    monkeypatch.setattr(
        "treedraft.training.evaluation.texts.make_runner",
        lambda *_: pytest.fail("written again"),
    )
    again = target_texts(target, PROMPTS, SETTINGS, lambda _: None, cache=tmp_path)
    for one, other, fresh in zip(first, again, texts, strict=True):
        assert (
            replace(one, log_probs=0) == replace(other, log_probs=0) == replace(fresh, log_probs=0)
        )
        np.testing.assert_array_equal(one.log_probs, other.log_probs)


def test_other_settings_are_other_texts(target, tmp_path):
    target_texts(target, PROMPTS[:1], SETTINGS, lambda _: None, cache=tmp_path)
    changed = SETTINGS.model_copy(update={"seed": 5})
    target_texts(target, PROMPTS[:1], changed, lambda _: None, cache=tmp_path)
    assert len(list(tmp_path.glob("texts-*.npz"))) == 2


# Agreement


def test_the_target_agrees_with_itself(target, texts):
    for temperature in SETTINGS.temperatures:
        own = at(texts, temperature)
        probe = DraftProbe(target, own, num_children=4, vocab_size=target.vocab_size)
        agreement = measure_agreement(probe.read(own), num_children=4)
        assert agreement.acceptance == (1.0, 1.0, 1.0, 1.0)
        assert agreement.one_minus_tv == pytest.approx(1.0, abs=1e-3)
        assert agreement.coverage == 1.0


def test_greedy_agreement_is_the_rank_of_the_logits(drafter, texts):
    own = at(texts, 0.0)
    probe = DraftProbe(drafter, own, num_children=4, vocab_size=drafter.vocab_size)
    agreement = measure_agreement(probe.read(own), num_children=4)
    ranks = []
    for text in own:
        logits = full_logits(drafter, text.token_ids)[text.prompt_length - 1 : -1]
        chosen = logits[range(len(logits)), list(text.token_ids[text.prompt_length :])]
        ranks += (logits > chosen[:, None]).sum(dim=1).tolist()
    shares = tuple(np.mean(np.array(ranks) < k) for k in (1, 2, 3, 4))
    assert agreement.acceptance == pytest.approx(shares)
    assert 0.2 < shares[0] < shares[3] < 1.0, "a test on nothing"


def test_overlap_is_estimated_without_bias(target, drafter):
    many = SETTINGS.model_copy(update={"temperatures": (1.0,), "max_tokens": 200})
    texts = target_texts(target, PROMPTS, many, lambda _: None)
    probe = DraftProbe(drafter, texts, num_children=1, vocab_size=drafter.vocab_size)
    estimate = measure_agreement(probe.read(texts), num_children=1).one_minus_tv
    overlaps = []
    for text in texts:
        p, q = (
            torch.softmax(full_logits(model, text.token_ids)[text.prompt_length - 1 : -1], dim=-1)
            for model in (target, drafter)
        )
        overlaps += torch.minimum(p, q).sum(dim=-1).tolist()
    error = 4 * 0.5 / np.sqrt(len(overlaps))
    assert estimate == pytest.approx(np.mean(overlaps), abs=error)


def test_a_reduced_head_is_right_where_it_has_the_token(target, texts, tmp_path):
    # All layers of the target, so that only the head can be at fault; most of its
    # tokens are gone, and some of those that the texts have.
    said = {token for text in texts for token in text.token_ids[text.prompt_length :]}
    kept = sorted({token for token in said if token % 4} | {0, 1, 2, 500})
    folder = tmp_path / "drafter"
    source = make_toy_model(tmp_path / "source", seed=1)
    whole = load_target(str(source), dtype="float32", device="cpu").module
    student = make_student(whole, range(target.num_layers), kept)
    save_drafter(
        student,
        kept,
        folder,
        target_name=target.name,
        target_source=str(tmp_path / "source"),
        tokenizer_hash=target.tokenizer_hash,
        eos_token_ids=target.eos_token_ids,
        embedding="plain",
    )
    model = load_model(folder)
    for temperature in SETTINGS.temperatures:
        own = at(texts, temperature)
        probe = DraftProbe(model, own, num_children=4, vocab_size=target.vocab_size)
        drafted = probe.read(own)
        found = measure_agreement(drafted, num_children=4)
        tokens = [t for text in own for t in text.token_ids[text.prompt_length :]]
        assert found.coverage == pytest.approx(np.mean([token in kept for token in tokens]))
        assert 0.5 < found.coverage < 0.95, "a test on nothing"
        # The weights are stored as bfloat16.
        assert found.acceptance[0] == pytest.approx(found.coverage, abs=0.1)
        assert found.one_minus_tv <= found.coverage
        assert found.one_minus_tv == pytest.approx(found.coverage, abs=0.1)
        shape = TreeShape(8, 8, 4)
        rounds = tree_lengths(probe, drafted, [shape], min_score=-50.0, max_rows=64)[shape]
        assert summarise(drafted, shape, rounds).tau > 1.5


# Lengths


@pytest.mark.parametrize("temperature", SETTINGS.temperatures)
@pytest.mark.parametrize("shape", [TreeShape(6, 16, 3), TreeShape(12, 3, 4), TreeShape.chain(4)])
def test_search_and_the_drafters_own_loop_agree(
    target, drafter, texts, temperature, shape, monkeypatch
):
    # The search takes the drafter at its word, so what it learns is left out here.
    monkeypatch.setattr(OpinionMixer, "learn", lambda *_: None)
    own = at(texts, temperature)
    probe = DraftProbe(drafter, own, num_children=shape.num_children, vocab_size=target.vocab_size)
    drafted = probe.read(own)
    rounds = tree_lengths(probe, drafted, [shape], min_score=-50.0, max_rows=5)[shape]
    settings = DraftSettings(
        kv_tokens=4096,
        lookup=LookupSettings(enabled=False),
        growth=GrowthSettings(
            num_children=shape.num_children,
            max_depth=shape.depth,
            min_score=-50.0,
            max_live_nodes=512,
            max_rows_per_step=64,
        ),
    )
    grower = assemble(drafter, settings).grower
    with Rehearsal(settings, grower, vocab_size=target.vocab_size) as rehearsal:
        rehearsed = rehearsal.run(own, budget=shape.budget, max_depth=shape.depth, max_steps=40)
    assert [one.num_rounds for one in rehearsed] == rounds
    length = summarise(drafted, shape, rounds)
    assert length.num_tokens == sum(one.num_tokens for one in rehearsed)
    assert length.tau > 1.2, "a test on nothing"


def test_larger_trees_are_never_shorter_and_a_chain_is_never_longer(target, drafter, texts):
    own = at(texts, 0.8)
    probe = DraftProbe(drafter, own, num_children=4, vocab_size=target.vocab_size)
    drafted = probe.read(own)
    shapes = [TreeShape(budget, 16, 4) for budget in (1, 4, 16)] + [TreeShape.chain(4)]
    rounds = tree_lengths(probe, drafted, shapes, min_score=-50.0, max_rows=64)
    taus = [summarise(drafted, shape, rounds[shape]).tau for shape in shapes]
    assert taus[0] < taus[1] < taus[2]
    assert taus[3] <= taus[2]


def test_a_perfect_drafter_emits_depth_plus_one(target, texts):
    own = at(texts, 0.0)
    probe = DraftProbe(target, own, num_children=1, vocab_size=target.vocab_size)
    drafted = probe.read(own)
    shape = TreeShape.chain(3)
    rounds = tree_lengths(probe, drafted, [shape], min_score=-50.0, max_rows=64)[shape]
    wanted = [-(-(text.num_response_tokens - 1) // 4) for text in own]
    assert rounds == wanted


def test_kv_of_forgotten_texts_is_free_again(target, drafter, texts):
    own = at(texts, 0.8)
    probe = DraftProbe(drafter, own, num_children=4, vocab_size=target.vocab_size)
    free = probe.num_free_slots
    drafted = probe.read(own)
    tree_lengths(probe, drafted, [TreeShape(16, 8, 4)], min_score=-50.0, max_rows=64)
    probe.forget(drafted)
    assert probe.num_free_slots == free


def test_lookup_alone_is_rehearsed_without_a_model(target, texts):
    with Rehearsal(DraftSettings(), None, vocab_size=target.vocab_size) as rehearsal:
        results = rehearsal.run(texts, budget=8, max_depth=8, max_steps=5)
    for text, result in zip(texts, results, strict=True):
        assert result.num_tokens == text.num_response_tokens - 1
        assert 1 <= result.num_rounds <= result.num_tokens


def test_best_nodes_are_closed_and_followed_only_where_admitted():
    tree = TokenTree(3)
    first = tree.add(-1, 7, -0.1, TokenSource.DRAFT_MODEL)
    second = tree.add(first, 8, -0.2, TokenSource.DRAFT_MODEL)
    other = tree.add(-1, 9, -0.15, TokenSource.DRAFT_MODEL)
    assert best_nodes(tree, 2, 8) == {first, other}
    assert best_nodes(tree, 3, 1) == {first, other}
    assert follow(tree, [7, 8, 1], {first, other}) == 1
    assert follow(tree, [7, 8, 1], {first, second}) == 2
    assert follow(tree, [7, 8], {first, second}) == 2


# Cost and report


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
    assert "| τ at T |" in markdown(found)


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
