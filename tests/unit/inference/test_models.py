import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from treedraft.core.errors import InvalidRequestError, UnsupportedModelError
from treedraft.core.generation import ChatMessage
from treedraft.inference.models import load_model
from treedraft.inference.toy import make_toy_model
from treedraft.inference.tree_attention import ATTENTION_NAME
from treedraft.text.chat_template import render_chat
from treedraft.text.tokenizer import Tokenizer, tokenizer_hash


@pytest.fixture
def toy(tmp_path):
    return make_toy_model(tmp_path / "toy")


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_a_loaded_model_says_what_it_is(tmp_path, architecture):
    folder = make_toy_model(tmp_path / "toy", architecture=architecture, layers=3, hidden=64)
    loaded = load_model(folder)
    assert loaded.name == "toy"
    assert loaded.eos_token_ids == {2}
    assert loaded.special_tokens["eos_token"] == "<|im_end|>"
    assert not loaded.adds_bos
    assert (loaded.vocab_size, loaded.context_length) == (512, 2048)
    assert (loaded.num_layers, loaded.num_kv_heads, loaded.head_dim) == (3, 2, 16)
    assert (loaded.device, loaded.dtype) == (torch.device("cpu"), torch.float32)


def test_the_module_is_ready_to_run_with_our_attention(toy):
    module = load_model(str(toy)).module
    assert module.config._attn_implementation == ATTENTION_NAME
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())


def test_the_tokenizer_travels_as_text_and_encodes_as_transformers_does(toy):
    loaded = load_model(toy, name="mine")
    text = "The fox<|im_end|> größer"
    tokenizer = Tokenizer.from_json(loaded.tokenizer_json)
    assert loaded.name == "mine"
    assert tokenizer.encode(text) == AutoTokenizer.from_pretrained(toy)(text).input_ids
    assert loaded.tokenizer_hash == tokenizer_hash(loaded.tokenizer_json)
    rendered = render_chat(loaded.chat_template, [ChatMessage("user", "Hi")], loaded.special_tokens)
    assert rendered == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_a_beginning_that_the_tokenizer_adds_is_reported(toy):
    config = json.loads((toy / "tokenizer.json").read_text())
    config["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            "<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}
        },
    }
    (toy / "tokenizer.json").write_text(json.dumps(config))
    loaded = load_model(toy)
    assert loaded.adds_bos
    assert 0 not in Tokenizer.from_json(loaded.tokenizer_json).encode("a")


def test_all_ends_of_text_count(toy):
    generation = json.loads((toy / "config.json").read_text())
    (toy / "generation_config.json").write_text(
        json.dumps(
            {"eos_token_id": [0, 5], "transformers_version": generation["transformers_version"]}
        )
    )
    assert load_model(toy).eos_token_ids == {0, 2, 5}


def test_the_fingerprint_is_that_of_the_numbers(tmp_path, toy):
    fingerprint = load_model(toy).fingerprint
    copy = make_toy_model(tmp_path / "copy", noise_of=toy, noise=0.0)
    noisy = make_toy_model(tmp_path / "noisy", noise_of=toy, noise=1e-3)
    assert load_model(copy, name="other").fingerprint == fingerprint
    assert load_model(noisy).fingerprint != fingerprint
    assert load_model(toy, dtype="bfloat16").fingerprint != fingerprint


def test_the_fingerprint_covers_settings_that_are_no_weights(toy):
    fingerprint = load_model(toy).fingerprint
    config = json.loads((toy / "config.json").read_text())
    config["rope_parameters"]["rope_theta"] = 12345.0
    (toy / "config.json").write_text(json.dumps(config))
    assert load_model(toy).fingerprint != fingerprint


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"dtype": "int3"}, "dtype"),
        ({"device": "abacus"}, "device"),
    ],
)
def test_unknown_dtypes_and_devices_are_refused(toy, options, field):
    with pytest.raises(InvalidRequestError) as caught:
        load_model(toy, **options)
    assert caught.value.field == field


def test_auto_is_float32_on_a_cpu(toy):
    assert load_model(toy, dtype="auto", device="cpu").dtype == torch.float32


def test_missing_tensors_are_refused_and_not_filled_with_random_numbers(toy):
    weights = load_file(toy / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, toy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UnsupportedModelError, match="up_proj") as caught:
        load_model(toy)
    assert caught.value.reason == "WEIGHTS_CORRUPT"


def test_a_damaged_file_is_refused(toy):
    content = (toy / "model.safetensors").read_bytes()
    (toy / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(UnsupportedModelError) as caught:
        load_model(toy)
    assert caught.value.reason == "WEIGHTS_CORRUPT"


def test_an_unknown_architecture_is_refused(toy):
    config = json.loads((toy / "config.json").read_text())
    (toy / "config.json").write_text(json.dumps(config | {"model_type": "perpetuum"}))
    with pytest.raises(UnsupportedModelError, match="perpetuum"):
        load_model(toy)


def test_a_sliding_window_is_refused_before_the_weights_are_read(toy):
    config = json.loads((toy / "config.json").read_text())
    config |= {
        "model_type": "mistral",
        "sliding_window": 64,
        "architectures": ["MistralForCausalLM"],
    }
    (toy / "config.json").write_text(json.dumps(config))
    (toy / "model.safetensors").write_bytes(b"")
    with pytest.raises(UnsupportedModelError, match="window of 64") as caught:
        load_model(toy)
    assert caught.value.reason == "UNSUPPORTED_ATTENTION"


def test_a_loaded_model_cannot_be_changed(toy):
    loaded = load_model(toy)
    with pytest.raises(dataclasses.FrozenInstanceError):
        loaded.name = "other"


@pytest.mark.real_model
def test_the_default_model_chats_as_transformers_lets_it():
    loaded = load_model("default")
    tokenizer = AutoTokenizer.from_pretrained(loaded.module.name_or_path)
    messages = [ChatMessage("user", "Why is the sky blue in 2026?")]
    rendered = render_chat(loaded.chat_template, messages, loaded.special_tokens)
    expected = tokenizer.apply_chat_template(
        [dataclasses.asdict(message) for message in messages],
        add_generation_prompt=True,
        tokenize=False,
    )
    assert rendered == expected
    assert (
        Tokenizer.from_json(loaded.tokenizer_json).encode(rendered)
        == tokenizer(expected, add_special_tokens=False).input_ids
    )
    assert (loaded.num_layers, loaded.num_kv_heads, loaded.vocab_size) == (30, 3, 49152)
    assert loaded.eos_token_ids == {2}
