import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from treedraft.core.errors import UnsupportedModelError
from treedraft.inference.support import check_supported, probe_module
from treedraft.inference.tree_attention import ATTENTION_NAME

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}


def config_of(name, **settings):
    return getattr(transformers, f"{name}Config")(**SMALL | settings)


def module_of(config):
    module = AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION_NAME).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(std=parameter.shape[-1] ** -0.5, generator=generator)
    return module


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("Llama", {}),
        ("Qwen2", {}),
        ("Qwen2", {"sliding_window": 16, "use_sliding_window": False}),
        ("Qwen3", {}),
        ("Qwen3Moe", EXPERTS),
        ("Mistral", {"sliding_window": None}),
        ("Mistral", {"sliding_window": 128}),
        ("GPT2", {"n_positions": 128}),
        ("GPTNeoX", {}),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_plain_decoders_pass_both_checks(name, settings, dtype):
    config = config_of(name, **settings)
    check_supported(config)
    module = module_of(config).to(dtype)
    probe_module(module, 2)
    assert module.config._attn_implementation == ATTENTION_NAME


@pytest.mark.parametrize(
    ("name", "settings", "culprit"),
    [
        ("Mistral", {"sliding_window": 64}, "sliding window of 64"),
        (
            "Qwen2",
            {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1},
            "layer 1 is 'sliding_attention'",
        ),
        ("Gemma2", {}, "layer 0 is 'sliding_attention'"),
        ("Gemma2", {"layer_types": ["full_attention"] * 2}, "soft-capped"),
        ("Lfm2", {"layer_types": ["full_attention", "conv"]}, "layer 1 is 'conv'"),
        ("Jamba", {}, "layer 0 is"),
        ("RecurrentGemma", {}, "layer 0 is"),
        ("Rwkv", {}, "recurrent state"),
        ("DeepseekV3", {}, "latent attention"),
        ("Llama4Text", {}, "layer 0 is 'chunked_attention'"),
        ("T5", {}, "encoder-decoder"),
        ("Bloom", {}, "no attention function"),
        ("CLIPText", {}, "no causal language model"),
        (
            "Llama",
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
            r"rotary embedding \(dynamic\)",
        ),
    ],
)
def test_what_a_tree_cannot_verify_is_refused_by_name(name, settings, culprit):
    with pytest.raises(UnsupportedModelError, match=culprit) as caught:
        check_supported(config_of(name, **settings))
    assert caught.value.reason == "UNSUPPORTED_ATTENTION"


@pytest.mark.parametrize(
    ("name", "settings", "culprit"),
    [
        ("Bert", {}, "not plainly causal"),
        ("Nemotron", {}, "no keyword arguments"),
        (
            "GptOss",
            {"layer_types": ["full_attention"] * 2, "num_local_experts": 2, "head_dim": 8},
            "s_aux",
        ),
    ],
)
def test_the_probe_finds_what_the_configuration_does_not_tell(name, settings, culprit):
    config = config_of(name, **settings)
    module = module_of(config)
    with pytest.raises(UnsupportedModelError, match=culprit) as caught:
        probe_module(module, 2)
    assert caught.value.reason == "UNSUPPORTED_ATTENTION"
    assert module.config._attn_implementation == ATTENTION_NAME


class _LooksBack(torch.nn.Module):
    """Adds to each row the one before it, as a token shift or a convolution does."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, rows):
        return self.inner(rows + torch.roll(rows, 1, dims=1))


def test_rows_that_meet_outside_of_attention_are_found():
    module = module_of(config_of("Llama"))
    module.model.layers[0].mlp = _LooksBack(module.model.layers[0].mlp)
    with pytest.raises(UnsupportedModelError, match="influence each other"):
        probe_module(module, 2)


def test_layers_that_bypass_our_attention_are_found():
    module = module_of(config_of("Llama"))
    module.model.layers = module.model.layers[:1]
    with pytest.raises(UnsupportedModelError, match="1 of 2 layers"):
        probe_module(module, 2)
