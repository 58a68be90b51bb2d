"""The forward that is written out here says what transformers' own says."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.unit.inference.tiny_models import SIZES, build, tiny_model
from tests.unit.inference.tiny_segments import (
    assert_same,
    chunk,
    logits_by_definition,
    tokens,
    tree_of,
    tree_pass,
)
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from treedraft.core.growth import ROOT
from treedraft.inference import forward_path
from treedraft.inference.lean import can_streamline, streamline
from treedraft.inference.models import load_model
from treedraft.inference.prepacked import prepack_linears
from treedraft.inference.runner import Runner
from treedraft.inference.toy import make_toy_model

NUM_SLOTS = 128
SCATTERED = np.random.default_rng(3).permutation(NUM_SLOTS)
TREE = tree_of([ROOT, 0, 1, 0, ROOT, 4, 2])


def lean(model, *, is_packed=False):
    module = copy.deepcopy(model.module)
    streamline(module)
    if is_packed:
        prepack_linears(module)
    return replace(model, module=module)


def biased():
    config = LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True)
    return build(config, LlamaForCausalLM, torch.float32)


def scaled_positions():
    rope = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}
    config = LlamaConfig(**SIZES, rope_parameters=rope)
    return build(config, LlamaForCausalLM, torch.float32)


MODELS = {
    "llama": tiny_model,
    "qwen2": lambda: tiny_model("qwen2"),
    "biased": biased,
    "yarn": scaled_positions,
}


@pytest.mark.parametrize("is_packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("name", MODELS)
def test_prompts_and_trees_have_the_logits_of_the_modules_own_forward(name, is_packed):
    model = lean(MODELS[name](), is_packed=is_packed)
    runner = Runner(model, model.pool(NUM_SLOTS))
    text = tokens(30)
    parts = [
        runner.forward([chunk(text, SCATTERED, a, b, [b - a - 1])]) for a, b in [(0, 17), (17, 29)]
    ]
    assert_same(torch.cat(parts), model.causal_logits(text)[[16, 28]])
    logits = runner.forward([tree_pass(text, SCATTERED, TREE)])
    assert_same(logits, logits_by_definition(model, text, TREE))


def test_bfloat16_stays_near():
    model = lean(tiny_model(dtype=torch.bfloat16))
    runner = Runner(model, model.pool(NUM_SLOTS))
    text = tokens(20)
    logits = runner.forward([chunk(text, SCATTERED, 0, 20)])
    expected = model.causal_logits(text)
    assert (logits - expected).abs().mean() < 0.05 * expected.abs().mean()


def test_modules_of_other_kinds_keep_their_own_forward():
    assert not can_streamline(tiny_model("granite").module)
    gelu = build(LlamaConfig(**SIZES, hidden_act="gelu"), LlamaForCausalLM, torch.float32)
    assert not can_streamline(gelu.module)
    window = Qwen2Config(**SIZES, use_sliding_window=True, max_window_layers=0, sliding_window=8)
    assert not can_streamline(build(window, Qwen2ForCausalLM, torch.float32).module)


def test_loading_streamlines_unless_the_module_is_to_be_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(forward_path, "native_library", lambda: None)
    toy = make_toy_model(tmp_path / "toy")
    # Of seven linear layers four are left, and the head.
    kept = [m for m in load_model(toy, is_packed=False).module.modules() if type(m) is nn.Linear]
    assert len(kept) == 2 * 7 + 1
    quick = load_model(toy)
    names = [name for name, _ in quick.module.named_modules()]
    assert sum(name.endswith("qkv_proj") for name in names) == 2
    assert not any(name.endswith("q_proj") for name in names)
    assert quick.fingerprint == load_model(toy, is_packed=False).fingerprint


def test_another_attention_is_run_by_the_modules_own_forward(tmp_path):
    toy = make_toy_model(tmp_path / "toy")
    module = load_model(toy, attention="eager").module
    assert module.config._attn_implementation == "eager"
    assert any(name.endswith("q_proj") for name, _ in module.named_modules())
    output = module(torch.tensor([[3, 4, 5]]), use_cache=False, output_attentions=True)
    assert output.attentions[0].shape == (1, 4, 3, 3)  # only eager attention tells these
