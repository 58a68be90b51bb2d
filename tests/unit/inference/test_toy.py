import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from treedraft.inference.toy import make_toy_model, truncate_model
from treedraft.text.tokenizer import tokenizer_hash


def logits_of(folder, token_ids):
    module = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        return module(torch.tensor([token_ids])).logits[0]


def hash_of(folder):
    return tokenizer_hash((folder / "tokenizer.json").read_text())


def agreement(one, other):
    return float((one.argmax(-1) == other.argmax(-1)).float().mean())


TOKEN_IDS = torch.randint(3, 512, (256,), generator=torch.Generator().manual_seed(7)).tolist()


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_transformers_loads_a_toy_and_the_best_token_wins_clearly(tmp_path, architecture):
    folder = make_toy_model(tmp_path / "toy", architecture=architecture, layers=3, hidden=64)
    logits = logits_of(folder, TOKEN_IDS)
    best = logits.topk(2).values
    assert logits.shape == (256, 512)
    assert float((best[:, 0] - best[:, 1]).median()) > 0.3
    assert not {0, 1, 2} & set(logits.argmax(-1).tolist()), "special tokens hardly ever win"


def test_a_toy_attends_to_what_came_before(tmp_path):
    folder = make_toy_model(tmp_path / "toy")
    changed = [TOKEN_IDS[0] ^ 1, *TOKEN_IDS[1:32]]
    before, after = logits_of(folder, TOKEN_IDS[:32]), logits_of(folder, changed)
    assert float((before - after)[-1].abs().max()) > 1e-2


def test_the_seed_decides_the_weights(tmp_path):
    one, same, other = (
        load_file(make_toy_model(tmp_path / name, seed=seed) / "model.safetensors")
        for name, seed in (("one", 1), ("same", 1), ("other", 2))
    )
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["lm_head.weight"], other["lm_head.weight"])


def test_the_tokenizer_is_whole_and_chats(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(make_toy_model(tmp_path / "toy"))
    assert len(tokenizer) == 512
    assert tokenizer.decode(tokenizer("größer, 日本 🦊").input_ids) == "größer, 日本 🦊"
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False
    )
    assert chat == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer("<|im_end|>").input_ids == [tokenizer.eos_token_id]


def test_noise_makes_an_imperfect_drafter_with_the_same_tokenizer(tmp_path):
    target = make_toy_model(tmp_path / "target")
    exact, near, far = (
        make_toy_model(tmp_path / f"noise{noise}", noise_of=target, noise=noise)
        for noise in (0.0, 0.1, 1.0)
    )
    truth = logits_of(target, TOKEN_IDS)
    assert torch.equal(logits_of(exact, TOKEN_IDS), truth)
    assert 0.4 < agreement(logits_of(near, TOKEN_IDS), truth) < 0.95
    assert agreement(logits_of(far, TOKEN_IDS), truth) < 0.2
    assert hash_of(near) == hash_of(target)


def test_a_truncated_model_has_the_first_layers_and_the_rest(tmp_path):
    source = make_toy_model(tmp_path / "source", architecture="qwen2", layers=3)
    folder = truncate_model(source, tmp_path / "short", 2)
    kept, all_of_it = (load_file(path / "model.safetensors") for path in (folder, source))
    assert set(kept) == {name for name in all_of_it if ".layers.2." not in name}
    assert all(torch.equal(kept[name], all_of_it[name]) for name in kept)
    assert json.loads((folder / "config.json").read_text())["layer_types"] == ["full_attention"] * 2
    assert logits_of(folder, TOKEN_IDS).shape == (256, 512)
    assert hash_of(folder) == hash_of(source)


def test_truncating_nothing_changes_nothing(tmp_path):
    source = make_toy_model(tmp_path / "source")
    folder = truncate_model(source, tmp_path / "copy", 2)
    assert torch.equal(logits_of(folder, TOKEN_IDS), logits_of(source, TOKEN_IDS))


@pytest.mark.parametrize("layers", [0, 3])
def test_layers_that_are_not_there_cannot_be_taken(tmp_path, layers):
    source = make_toy_model(tmp_path / "source")
    with pytest.raises(ValueError, match="of 2 layers"):
        truncate_model(source, tmp_path / "short", layers)
