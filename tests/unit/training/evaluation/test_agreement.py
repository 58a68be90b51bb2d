"""Texts and agreement against their definitions: a text written in a batch is the one that single
passes draw.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from evaluation_toys import PROMPTS, SETTINGS, at, full_logits

from treedraft.core.sampling import SamplingParameters
from treedraft.inference.drafter_folder import save_drafter
from treedraft.inference.law import LawRow, target_probs
from treedraft.inference.models import load_model
from treedraft.inference.sampler import coupled_draw
from treedraft.inference.toy import make_toy_model
from treedraft.training.evaluation.agreement import measure_agreement
from treedraft.training.evaluation.probe import DraftProbe
from treedraft.training.evaluation.texts import target_texts
from treedraft.training.evaluation.tree_length import (
    TreeShape,
    summarise,
    tree_lengths,
)
from treedraft.training.student import make_student
from treedraft.training.target import load_target


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
