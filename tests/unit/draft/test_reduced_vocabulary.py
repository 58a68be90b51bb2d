"""A drafter whose head has columns for some of the target's tokens only."""

import numpy as np
import pytest
import torch
from draft_support import GREEDY, REJECTION, SAMPLED, FakeTarget, make_drafter, make_spec
from test_model_grower import NO_LOOKUP, PENALISED, PROMPT, fresh_logits

from treedraft.core.growth import ROOT
from treedraft.draft import assembly
from treedraft.draft.model_children import DraftLimits
from treedraft.draft.settings import DraftSettings
from treedraft.inference import drafting_model
from treedraft.inference.drafter_folder import build_drafter_module, drafter_config, save_drafter
from treedraft.inference.models import load_model
from treedraft.inference.native.compiler import native_library
from treedraft.inference.sampler import LawRow, SessionCounts, TokenHistory, coupled_draw

TOKEN_IDS = list(range(7, 512, 3))
SETTINGS = DraftSettings(model="toy", kv_tokens=512, lookup=NO_LOOKUP)


@pytest.fixture(scope="module")
def reduced_folder(toy_folder, tmp_path_factory):
    target = load_model(toy_folder, attention="sdpa", is_packed=False)
    module = build_drafter_module(drafter_config(target.config, 2), len(TOKEN_IDS))
    weights = dict(target.module.state_dict())
    weights["lm_head.weight"] = weights["lm_head.weight"][TOKEN_IDS]
    module.load_state_dict(weights)
    return save_drafter(
        module,
        TOKEN_IDS,
        tmp_path_factory.mktemp("reduced"),
        target_name=target.name,
        target_source=str(toy_folder),
        tokenizer_hash=target.tokenizer_hash,
        eos_token_ids=target.eos_token_ids,
    )


@pytest.fixture(scope="module")
def reduced_model(reduced_folder):
    return load_model(reduced_folder)


def drafting_for(model, tmp_path, **options):
    grower = assembly.assemble(model, SETTINGS).grower
    return FakeTarget(make_drafter(tmp_path, settings=SETTINGS, grower=grower), **options)


def whole_logits(model, token_ids):
    """Return the drafter's logits over all tokens of the target, -inf where it has none."""
    logits = torch.full((1, 512), -torch.inf)
    logits[:, TOKEN_IDS] = fresh_logits(model, token_ids)
    return logits


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED, PENALISED], ids=["greedy", "T1", "all"])
def test_the_best_path_is_what_the_model_would_say_in_the_targets_tokens(
    reduced_model, tmp_path, sampling
):
    target = drafting_for(reduced_model, tmp_path)
    spec = make_spec(PROMPT, sampling=sampling, prompt_length=6)
    target.open(1, spec)
    num_compared = 0
    for _ in range(3):
        target.grow()
        text = list(target.texts[1])
        path = target.best_path(1)
        for token_id in path:
            counts = SessionCounts(512)
            counts.add_prompt(text[:6])
            counts.add_output(text[6:])
            row = LawRow(sampling, len(text), history=TokenHistory(counts))
            assert token_id == coupled_draw(whole_logits(reduced_model, text), [row])[0]
            text.append(token_id)
            num_compared += 1
        # Committed tokens need no column of the head.
        target.commit(1, [*path[:2], 8])
    assert num_compared > 6
    assert not target.refusals


def test_laws_of_siblings_name_the_targets_tokens(reduced_model, tmp_path):
    target = drafting_for(reduced_model, tmp_path)
    target.open(1, make_spec(PROMPT, sampling=REJECTION))
    target.grow()
    assert target.laws
    for law in target.laws.values():
        assert set(law.token_ids) <= set(TOKEN_IDS)
    assert {node.token_id for node in target.trees[1]} <= set(TOKEN_IDS)


def test_columns_beyond_the_targets_vocabulary_are_not_drafted(reduced_model, tmp_path):
    target = drafting_for(reduced_model, tmp_path, vocab_size=41)  # it checks each growth
    target.open(1, make_spec([1, 2, 3]))
    target.grow()
    drafted = {node.token_id for node in target.trees[1]}
    assert drafted <= set(range(7, 41, 3))
    assert len(drafted) > 5


def test_a_target_with_none_of_the_tokens_is_refused(reduced_model, tmp_path):
    target = drafting_for(reduced_model, tmp_path, vocab_size=7)
    target.open(1, make_spec([1, 2, 3]))
    target.grow()
    assert target.refusals == {1: "TOKEN_OUT_OF_RANGE"}
    assert not target.trees[1].children(ROOT)


def test_the_model_says_how_many_ids_it_reads_and_not_how_many_it_drafts(reduced_model):
    assert reduced_model.vocab_size == len(TOKEN_IDS)
    assert assembly.assemble(reduced_model, SETTINGS).vocab_size == 512


def test_columns_are_counted_by_their_ids():
    limits = DraftLimits(512, 512, 64, frozenset(), column_ids=np.array([3, 5, 100]))
    assert [limits.num_columns(size) for size in (3, 4, 5, 6, 512)] == [0, 1, 1, 2, 3]
    assert DraftLimits(512, 512, 64, frozenset()).num_columns(300) == 300


def dtypes_by_default(folder, monkeypatch, capabilities):
    """Load a drafter for CPUs of these capabilities, one after the other."""
    loaded = []
    monkeypatch.setattr(assembly, "assemble", lambda model, *_, **how: loaded.append(model))
    for found in capabilities:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=found: found)
        assembly.load_draft_model(DraftSettings(model=str(folder), device="cpu"))
    return [model.dtype for model in loaded]


def test_torch_drafts_in_bfloat16_by_default_where_that_is_quick(reduced_folder, monkeypatch):
    monkeypatch.setattr(drafting_model, "native_library", lambda: None)
    dtypes = dtypes_by_default(reduced_folder, monkeypatch, [{"avx512_bf16": True}, {}])
    assert dtypes == [torch.bfloat16, torch.float32]


@pytest.mark.skipif(native_library() is None, reason="no compiler on this machine")
def test_the_native_decoder_drafts_wherever_it_can(reduced_folder, monkeypatch):
    dtypes = dtypes_by_default(reduced_folder, monkeypatch, [{"avx512_bf16": True}, {}])
    assert dtypes == [torch.float32, torch.float32]  # its weights are held in int8
