import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from treedraft.bench.peers.files import prepare, widened
from treedraft.bench.peers.gguf_export import export_model
from treedraft.bench.peers.plan import SOURCE_TYPE
from treedraft.inference.drafter_folder import build_drafter_module, drafter_config, save_drafter
from treedraft.inference.models import load_model
from treedraft.inference.toy import make_toy_model
from treedraft.inference.weights import gguf_source, resolve

KEPT = tuple(range(1, 512, 5))
MATRIX = np.linspace(-1, 1, 128, dtype=np.float32).reshape(4, 32)


@pytest.fixture
def source(tmp_path):
    """Return a GGUF file with a quantised matrix and a norm."""
    file = tmp_path / "source.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_uint32("general.file_type", 3)
    writer.add_block_count(1)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b"])
    kind = gguf.GGMLQuantizationType.Q4_1
    writer.add_tensor("token_embd.weight", gguf.quants.quantize(MATRIX, kind), raw_dtype=kind)
    writer.add_tensor("output_norm.weight", np.ones(32, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def tensors(file):
    return {
        tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        for tensor in gguf.GGUFReader(file).tensors
    }


def test_the_f32_file_holds_exactly_what_the_quantised_one_unpacks_to(source, tmp_path):
    made = tensors(export_model(source, tmp_path / "made.gguf", "F32"))
    for name, tensor in tensors(source).items():
        np.testing.assert_array_equal(made[name], tensor)
    assert not np.array_equal(made["token_embd.weight"], MATRIX)  # it was quantised


@pytest.mark.parametrize(("name", "number"), [("F16", 1), ("BF16", 32), ("Q8_0", 7)])
def test_other_types_are_near_and_say_what_they_are(source, tmp_path, name, number):
    file = export_model(source, tmp_path / "made.gguf", name)
    reader = gguf.GGUFReader(file)
    assert reader.get_field("general.file_type").contents() == number
    assert reader.get_field("tokenizer.ggml.tokens").contents() == ["a", "b"]
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds == {"token_embd.weight": name, "output_norm.weight": "F32"}
    difference = tensors(file)["token_embd.weight"] - tensors(source)["token_embd.weight"]
    assert np.abs(difference).max() < 0.01


def test_a_widened_head_has_zeros_for_what_is_never_drafted():
    head = torch.arange(6.0).reshape(3, 2) + 1
    full = widened(head, (1, 2, 4), 6)
    assert full[[1, 2, 4]].equal(head)
    assert not full[[0, 3, 5]].any()


def test_a_drafter_becomes_a_model_that_transformers_loads(tmp_path):
    target = make_toy_model(tmp_path / "target", layers=3)
    loaded = load_model(target, attention="sdpa", is_packed=False)
    module = build_drafter_module(drafter_config(loaded.config, 2), len(KEPT))
    weights = load_file(target / "model.safetensors")
    weights["lm_head.weight"] = weights["lm_head.weight"][list(KEPT)]
    module.load_state_dict({name: weights[name] for name in module.state_dict()})
    drafter = save_drafter(
        module,
        KEPT,
        tmp_path / "drafter",
        target_name="toy",
        target_source=str(target),
        tokenizer_hash=loaded.tokenizer_hash,
        eos_token_ids=frozenset({2}),
    )
    made = tmp_path / "made"
    made.mkdir()
    files = prepare(resolve(str(target)), str(target), str(drafter), ["F32"], made, print)
    assert files.gguf == {}  # a folder of safetensors is made of no GGUF file
    wide = AutoModelForCausalLM.from_pretrained(files.drafter, dtype=torch.float32)
    own = load_model(drafter, attention="sdpa", is_packed=False).module
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        torch.testing.assert_close(wide(ids).logits[..., list(KEPT)], own(ids).logits)


def test_an_ordinary_draft_model_stays_where_it_is(tmp_path, source):
    target = make_toy_model(tmp_path / "target")
    types = ["BF16", SOURCE_TYPE]
    files = prepare(resolve(str(target)), str(source), str(target), types, tmp_path, print)
    assert files.drafter == str(target)
    assert files.gguf == {"BF16": str(tmp_path / "model.BF16.gguf"), SOURCE_TYPE: str(source)}


def test_the_file_behind_a_source(tmp_path, source):
    assert gguf_source(str(source)) == source
    assert gguf_source(str(tmp_path)) is None
    assert gguf_source("default", cache=tmp_path) is None
