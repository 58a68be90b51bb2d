import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from treedraft.core.errors import UnsupportedModelError
from treedraft.inference import drafter_folder
from treedraft.inference.drafter_folder import (
    build_drafter_module,
    drafter_config,
    is_drafter_folder,
    read_own_weights,
    save_drafter,
)
from treedraft.inference.models import load_model
from treedraft.inference.target_embedding import embedding_sha256, quantise_rows, restore_rows
from treedraft.inference.toy import make_toy_model
from treedraft.inference.tree_attention import ATTENTION_NAME

KEPT = tuple(range(1, 512, 5))
EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture
def target(tmp_path):
    return make_toy_model(tmp_path / "target", layers=3)


def student_of(target, *, layers=2, token_ids=KEPT):
    """Return the first layers of a target under a head over some of its tokens."""
    weights = load_file(target / "model.safetensors")
    loaded = load_model(target, attention="sdpa", is_packed=False)
    module = build_drafter_module(drafter_config(loaded.config, layers), len(token_ids))
    weights["lm_head.weight"] = weights["lm_head.weight"][list(token_ids)]
    module.load_state_dict({name: weights[name] for name in module.state_dict()})
    return module


def save_toy_drafter(target, folder, *, token_ids=KEPT, **options):
    return save_drafter(
        student_of(target, token_ids=token_ids),
        token_ids,
        folder,
        target_name="toy",
        target_source=str(target),
        tokenizer_hash=load_model(target).tokenizer_hash,
        eos_token_ids=frozenset({2}),
        **options,
    )


@pytest.fixture
def drafter(tmp_path, target):
    return save_toy_drafter(target, tmp_path / "drafter")


def change(file, **fields):
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def change_weights(folder, edit):
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def refusal(folder):
    with pytest.raises(UnsupportedModelError) as caught:
        load_model(folder)
    return caught.value


def logits_of(module, token_ids):
    with torch.inference_mode():
        return module(input_ids=torch.tensor([token_ids]), use_cache=False).logits[0].float()


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
@pytest.mark.parametrize("embedding", ["target", "int8", "plain"])
def test_a_saved_drafter_is_the_module_in_bfloat16(tmp_path, architecture, embedding):
    target = make_toy_model(tmp_path / "target", architecture=architecture, layers=3)
    module = student_of(target)
    folder = save_toy_drafter(target, tmp_path / "drafter", embedding=embedding)
    loaded = load_model(folder, attention="sdpa", is_packed=False)
    saved = loaded.module.state_dict()
    for name, tensor in module.state_dict().items():
        if name != EMBEDDING:
            assert torch.equal(saved[name], tensor.bfloat16().float()), name
    exact = module.state_dict()[EMBEDDING]
    match embedding:
        case "target":
            assert torch.equal(saved[EMBEDDING], exact)
        case "plain":
            assert torch.equal(saved[EMBEDDING], exact.bfloat16().float())
        case "int8":
            assert (saved[EMBEDDING] - exact).abs().max() < exact.abs().max() / 200
    text = [5, 300, 17, 99]
    difference = logits_of(module, text) - logits_of(loaded.module, text)
    assert difference.abs().max() < 0.2
    assert logits_of(module, text).shape == (4, len(KEPT))


@pytest.mark.parametrize("embedding", ["target", "int8", "plain"])
def test_matrices_in_int8_are_read_as_the_same_module(tmp_path, target, embedding):
    folder = save_toy_drafter(target, tmp_path / "d", weights="int8", embedding=embedding)
    assert json.loads((folder / "drafter.json").read_text())["format_version"] == 2
    stored = load_file(folder / "model.safetensors")
    assert not [name for name in stored if name.endswith("proj.weight")]
    module, loaded = student_of(target), load_model(folder, attention="sdpa", is_packed=False)
    saved = loaded.module.state_dict()
    for name, tensor in module.state_dict().items():
        assert (saved[name] - tensor).abs().max() <= tensor.abs().max() / 127, name
    difference = logits_of(module, [5, 300, 17]) - logits_of(loaded.module, [5, 300, 17])
    assert difference.abs().max() < 0.2
    own = read_own_weights(folder)
    assert set(own) == set(saved) - {EMBEDDING}
    assert all(torch.equal(own[name].float(), saved[name]) for name in own)


def test_a_drafter_in_bfloat16_is_one_of_the_first_version(drafter):
    document = json.loads((drafter / "drafter.json").read_text())
    assert document["format_version"] == 1
    assert "weights" not in document


def test_weights_that_are_more_precise_than_the_module_are_stored_instead(tmp_path, target):
    precise = {"model.norm.weight": torch.full((32,), 3.0)}
    folder = save_toy_drafter(target, tmp_path / "d", precise=precise)
    assert read_own_weights(folder)["model.norm.weight"].float().eq(3).all()


@pytest.mark.parametrize(
    "edit",
    [
        lambda weights: weights.pop("lm_head.scale"),
        lambda weights: weights.pop("lm_head.int8"),
        lambda weights: weights.update({"lm_head.scale": torch.ones(103, 5)}),
        lambda weights: weights.update({"lm_head.weight": torch.ones(103, 32)}),
        lambda weights: weights.update({"lm_head.int8": torch.ones(103, 32)}),
        lambda weights: weights.update({"model.embed_tokens.int8": torch.ones(512, 32).char()}),
    ],
    ids=["no scales", "no numbers", "groups", "twice", "type", "embedding"],
)
def test_matrices_in_int8_that_do_not_fit_are_refused(tmp_path, target, edit):
    folder = save_toy_drafter(target, tmp_path / "d", weights="int8")
    change_weights(folder, edit)
    assert refusal(folder).reason == "WEIGHTS_CORRUPT"


def test_int8_in_a_folder_that_speaks_of_none_is_refused(tmp_path, target):
    folder = save_toy_drafter(target, tmp_path / "d", weights="int8")
    change(folder / "drafter.json", format_version=1)
    assert refusal(folder).reason == "WEIGHTS_CORRUPT"


def test_a_loaded_drafter_says_what_it_is(target, drafter):
    loaded, of_target = load_model(drafter), load_model(target)
    assert is_drafter_folder(drafter)
    assert not is_drafter_folder(target)
    assert loaded.draft_token_ids == KEPT
    assert of_target.draft_token_ids is None
    assert (loaded.vocab_size, loaded.num_layers) == (len(KEPT), 2)
    assert loaded.tokenizer_hash == of_target.tokenizer_hash
    assert loaded.eos_token_ids == {2}
    assert loaded.module.config._attn_implementation == ATTENTION_NAME
    assert not loaded.module.training
    assert not any(parameter.requires_grad for parameter in loaded.module.parameters())


def test_only_what_is_the_drafters_own_is_stored(tmp_path, target, drafter):
    size = {"target": (drafter / "model.safetensors").stat().st_size}
    for kind in ("int8", "plain"):
        folder = save_toy_drafter(target, tmp_path / kind, embedding=kind)
        size[kind] = (folder / "model.safetensors").stat().st_size
    rows, hidden = 512, 32
    assert size["plain"] - size["target"] == pytest.approx(2 * rows * hidden, abs=200)
    assert size["int8"] - size["target"] == pytest.approx((hidden + 4) * rows, abs=300)


def test_the_ids_of_the_columns_are_part_of_the_fingerprint(target, tmp_path):
    folders = [
        save_toy_drafter(target, tmp_path / name, token_ids=ids)
        for name, ids in (("a", KEPT), ("b", (0, *KEPT[1:])))
    ]
    change_weights(
        folders[1],
        lambda weights: weights.update(load_file(folders[0] / "model.safetensors")),
    )
    fingerprints = [load_model(folder).fingerprint for folder in folders]
    assert fingerprints[0] != fingerprints[1]


def test_the_embedding_of_another_target_is_refused(tmp_path, target, drafter):
    make_toy_model(target, layers=3, seed=1)
    error = refusal(drafter)
    assert error.reason == "DRAFTER_TARGET_MISMATCH"
    assert str(target) in error.message


def test_a_target_that_is_gone_is_named(target, drafter):
    target.rename(target.with_name("elsewhere"))
    error = refusal(drafter)
    assert error.reason == "DRAFTER_TARGET_MISSING"
    assert str(target) in error.message


def test_a_target_in_bfloat16_has_the_embedding_of_the_one_in_float32(tmp_path, target, drafter):
    change_weights(
        target,
        lambda weights: weights.update({k: tensor.bfloat16() for k, tensor in weights.items()}),
    )
    assert load_model(drafter).draft_token_ids == KEPT


def test_the_embedding_is_found_in_the_right_one_of_several_files(target, drafter):
    weights = load_file(target / "model.safetensors")
    (target / "model.safetensors").unlink()
    save_file({EMBEDDING: weights.pop(EMBEDDING)}, target / "model-1.safetensors")
    save_file(weights, target / "model-2.safetensors")
    places = dict.fromkeys(weights, "model-2.safetensors") | {EMBEDDING: "model-1.safetensors"}
    index = target / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    assert load_model(drafter).draft_token_ids == KEPT
    index.write_text(json.dumps({"weight_map": {}}))
    assert refusal(drafter).reason == "DRAFTER_TARGET_MISMATCH"


@pytest.mark.parametrize(
    ("token_ids", "message"),
    [
        ([], "no ids"),
        ([1, 2, 2], "ascend"),
        ([3, 2, 1], "ascend"),
        ([1, 2, 512], r"in \[0, 512\)"),
        ([-1, 2, 3], r"in \[0, 512\)"),
        ([1.0, 2, 3], "whole numbers"),
        (["1", 2, 3], "whole numbers"),
        ([True, 2, 3], "whole numbers"),
        ([1, 2, 3], "3 ids but has 103"),
        ("none", "token_ids"),
    ],
)
def test_a_vocabulary_that_is_none_is_refused(drafter, token_ids, message):
    change(drafter / "vocabulary.json", token_ids=token_ids)
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        load_model(drafter)
    assert caught.value.reason == "DRAFTER_INVALID"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"format_version": 3}, "DRAFTER_VERSION"),
        ({"format_version": True}, "DRAFTER_VERSION"),
        ({"format_version": None}, "DRAFTER_VERSION"),
        ({"format_version": 2}, "DRAFTER_INVALID"),
        ({"format_version": 2, "weights": "int8"}, "DRAFTER_INVALID"),
        ({"format_version": 2, "weights": {"kind": "int4"}}, "DRAFTER_INVALID"),
        ({"draft_vocab_size": 7}, "DRAFTER_INVALID"),
        ({"draft_vocab_size": "103"}, "DRAFTER_INVALID"),
        ({"target": None}, "DRAFTER_INVALID"),
        ({"target": {"name": "toy"}}, "DRAFTER_INVALID"),
        ({"embedding": {"kind": "int4", "sha256": ""}}, "DRAFTER_INVALID"),
        ({"embedding": {"kind": "int8", "sha256": ""}}, "WEIGHTS_CORRUPT"),
        ({"embedding": {"kind": "plain", "sha256": ""}}, "WEIGHTS_CORRUPT"),
        ({"embedding": {"kind": "target", "sha256": "0" * 64}}, "DRAFTER_TARGET_MISMATCH"),
    ],
)
def test_a_manifest_that_says_something_else_is_refused(drafter, fields, reason):
    change(drafter / "drafter.json", **fields)
    assert refusal(drafter).reason == reason


def test_ends_of_text_that_are_no_ids_are_refused(drafter):
    target = json.loads((drafter / "drafter.json").read_text())["target"]
    change(drafter / "drafter.json", target=target | {"eos_token_ids": [600]})
    assert refusal(drafter).reason == "DRAFTER_INVALID"


@pytest.mark.parametrize("content", ["", "[]", "{", "\ud800"])
@pytest.mark.parametrize("name", ["drafter.json", "vocabulary.json"])
def test_a_file_that_is_no_json_is_refused(drafter, name, content):
    (drafter / name).write_bytes(content.encode("utf-8", "surrogatepass"))
    assert refusal(drafter).reason == "DRAFTER_INVALID"


def test_a_missing_vocabulary_is_refused(drafter):
    (drafter / "vocabulary.json").unlink()
    assert refusal(drafter).reason == "DRAFTER_INVALID"


@pytest.mark.parametrize(
    "edit",
    [
        lambda weights: weights.pop("model.norm.weight"),
        lambda weights: weights.update({"model.layers.9.what": torch.ones(1)}),
        lambda weights: weights.update({"lm_head.weight": torch.ones(9, 32)}),
        lambda weights: weights.update({"lm_head.weight": torch.ones(103, 64)}),
    ],
    ids=["missing", "unknown", "columns", "width"],
)
def test_weights_of_another_shape_are_refused(drafter, edit):
    change_weights(drafter, edit)
    assert refusal(drafter).reason == "WEIGHTS_CORRUPT"


@pytest.mark.parametrize("length", [0, 100, 20_000])
def test_a_file_cut_off_is_refused(drafter, length):
    os.truncate(drafter / "model.safetensors", length)
    assert refusal(drafter).reason == "WEIGHTS_CORRUPT"


@pytest.mark.parametrize("token_ids", [KEPT[:-1], KEPT[::-1], (*KEPT[:-1], 512)])
def test_ids_that_do_not_fit_the_head_are_not_saved(tmp_path, target, token_ids):
    with pytest.raises(UnsupportedModelError) as caught:
        save_drafter(
            student_of(target),
            token_ids,
            tmp_path / "drafter",
            target_name="toy",
            target_source=str(target),
            tokenizer_hash="",
            eos_token_ids=frozenset(),
        )
    assert caught.value.reason == "DRAFTER_INVALID"
    assert not (tmp_path / "drafter").exists()


def test_whoever_may_read_the_folder_may_read_all_of_it(drafter):
    assert len({file.stat().st_mode for file in drafter.iterdir()}) == 1


def test_saving_again_replaces_the_drafter_and_keeps_what_else_is_there(target, drafter):
    (drafter / "report.json").write_text("{}")
    save_toy_drafter(target, drafter, token_ids=KEPT[:50])
    assert load_model(drafter).draft_token_ids == KEPT[:50]
    assert (drafter / "report.json").read_text() == "{}"
    assert [path.name for path in drafter.parent.iterdir() if "partial" in path.name] == []


def test_a_drafter_cut_off_while_it_was_replaced_is_no_drafter(target, drafter, monkeypatch):
    moved = []

    def dying(source, destination):
        moved.append(destination.name)
        if len(moved) == 3:
            raise KeyboardInterrupt
        source.rename(destination)

    monkeypatch.setattr(drafter_folder.os, "replace", dying)
    with pytest.raises(KeyboardInterrupt):
        save_toy_drafter(target, drafter, token_ids=tuple(token - 1 for token in KEPT))
    assert not is_drafter_folder(drafter)
    assert refusal(drafter).reason in {"WEIGHTS_CORRUPT", "INVALID_TOKENIZER"}


def test_a_relative_path_to_the_target_is_made_to_last(tmp_path, target, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = save_drafter(
        student_of(target),
        KEPT,
        tmp_path / "drafter",
        target_name="toy",
        target_source="target",
        tokenizer_hash="",
        eos_token_ids=frozenset(),
    )
    monkeypatch.chdir("/")
    assert load_model(folder).num_layers == 2


def test_a_hash_depends_on_every_number_and_not_on_the_type():
    weight = torch.randn(5000, 4, generator=torch.Generator().manual_seed(0))
    other = weight.clone()
    other[4999, 3] += 1.0
    assert embedding_sha256(weight) == embedding_sha256(weight.bfloat16())
    assert embedding_sha256(weight) != embedding_sha256(other)


def test_int8_rows_are_right_to_half_a_step_of_their_own_scale():
    weight = torch.randn(50, 16) * torch.logspace(-4, 4, 50)[:, None]
    weight[7] = 0.0
    numbers, scales = quantise_rows(weight)
    assert numbers.dtype == torch.int8
    assert ((restore_rows(numbers, scales) - weight).abs() <= 0.501 * scales[:, None]).all()


def test_a_drafter_config_has_the_layers_of_the_first(target):
    config = load_model(target).config
    config.layer_types = ["full_attention"] * 3
    config.tie_word_embeddings = True
    shallow = drafter_config(config, 2)
    assert (shallow.num_hidden_layers, len(shallow.layer_types)) == (2, 2)
    assert not shallow.tie_word_embeddings
    assert config.num_hidden_layers == 3
