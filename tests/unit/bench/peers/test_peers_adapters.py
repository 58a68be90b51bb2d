"""Adapters of engines that are not installed here, over fakes of what they call."""

import sys
from importlib import import_module, reload
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import pytest
import torch

from treedraft.bench.peers.protocol import PeerSetup, UnsupportedModeError
from treedraft.inference.toy import make_toy_model


@pytest.fixture
def adapter(monkeypatch):
    """Return a function that imports an adapter over fake modules."""
    before = torch.get_num_threads()

    def load(name, **modules):
        for module_name, content in modules.items():
            module = ModuleType(module_name)
            vars(module).update(content)
            monkeypatch.setitem(sys.modules, module_name.replace("__", "."), module)
        full_name = f"treedraft.bench.peers.{name}"
        known = sys.modules.get(full_name)
        return reload(known) if known else import_module(full_name)

    yield load
    torch.set_num_threads(before)


class FakeLlama:
    made: ClassVar[list] = []

    def __init__(self, path, **options):
        FakeLlama.made.append((path, options))
        self.num_resets = 0

    def reset(self):
        self.num_resets += 1

    def generate(self, tokens, **options):
        assert options["temp"] == 0.0
        assert options["reset"]
        token = tokens[-1]
        while True:
            token += 1
            yield token


@pytest.fixture
def llama(adapter):
    FakeLlama.made = []
    lookup = {"LlamaPromptLookupDecoding": lambda num_pred_tokens: ("lookup", num_pred_tokens)}
    fakes = {"llama_cpp": {"Llama": FakeLlama}, "llama_cpp__llama_speculative": lookup}
    return adapter("llama_cpp_peer", **fakes).LlamaCppPeer


def test_llama_cpp_has_a_context_per_mode_emptied_before_each_prompt(llama):
    peer = llama(PeerSetup("llama.cpp", "Q8_0", 2, gguf="m.gguf"))
    for _ in range(2):
        assert peer.generate("plain", [1, 2], 3).token_ids == [3, 4, 5]
    peer.generate("prompt lookup", [1, 2], 3)
    (path, plain), (_, lookup) = FakeLlama.made
    assert (path, plain["n_threads"], "draft_model" in plain) == ("m.gguf", 2, False)
    assert lookup["draft_model"][0] == "lookup"
    assert peer._contexts["plain"].num_resets == 3  # when it was made, too


def test_llama_cpp_without_a_file_is_unsupported(llama):
    with pytest.raises(UnsupportedModeError, match="GGUF"):
        llama(PeerSetup("llama.cpp", "float32", 1))


class FakePipeline:
    made: ClassVar[list] = []

    def __init__(self, path, device, **options):
        FakePipeline.made.append(options)

    def generate(self, inputs, config):
        assert config.ignore_eos
        assert not config.do_sample
        ids, mask = inputs
        assert ids.shape == mask.shape
        return SimpleNamespace(tokens=[[int(ids[0, -1])] * config.max_new_tokens])


@pytest.fixture
def openvino(adapter):
    FakePipeline.made = []
    genai = {
        "LLMPipeline": FakePipeline,
        "GenerationConfig": SimpleNamespace,
        "TokenizedInputs": lambda ids, mask: (ids, mask),
    }
    fakes = {"openvino": {"Tensor": lambda array: array}, "openvino_genai": genai}
    return adapter("openvino_peer", **fakes).OpenVinoPeer


def test_openvino_computes_and_caches_in_the_precision_asked_for(openvino):
    peer = openvino(PeerSetup("openvino", "float32", 2, gguf="m.gguf"))
    assert peer.generate("plain", [1, 8], 2).token_ids == [8, 8]
    assert peer.generate("prompt lookup", [1, 8], 2).token_ids == [8, 8]
    plain, lookup = FakePipeline.made
    assert plain == {
        "INFERENCE_NUM_THREADS": 2,
        "INFERENCE_PRECISION_HINT": "f32",
        "KV_CACHE_PRECISION": "f32",
    }
    assert lookup == {**plain, "prompt_lookup": True}


def test_openvino_at_its_own_precision_is_left_alone(openvino):
    openvino(PeerSetup("openvino", "file's own", 1, gguf="m.gguf"))
    assert FakePipeline.made == [{"INFERENCE_NUM_THREADS": 1}]


def test_openvino_reads_no_draft_model(openvino):
    peer = openvino(PeerSetup("openvino", "float32", 2, gguf="m.gguf"))
    with pytest.raises(UnsupportedModeError, match="draft model"):
        peer.generate("assisted", [1], 2)
    with pytest.raises(UnsupportedModeError, match="GGUF"):
        openvino(PeerSetup("openvino", "float32", 2))


class FakeEngine:
    def __init__(self, config, drafters, target):
        self.drafters = drafters

    def generate(self, input_ids, num_tokens):
        ids = torch.full((1, num_tokens + 2), len(self.drafters))
        return SimpleNamespace(output_ids=ids, arm_steps=("step",) * 4)


def test_flashspec_counts_its_steps(adapter, tmp_path):
    folder = str(make_toy_model(tmp_path / "toy"))
    record = lambda *arguments, **options: (arguments, options)  # noqa: E731
    names = ("BanditConfig", "FlashSpecConfig", "SamplingConfig")
    flashspec = {**dict.fromkeys(names, record), "SpeculativeEngine": FakeEngine}
    engine = dict.fromkeys(("HuggingFaceDrafter", "NgramDrafter", "TargetModel"), record)
    module = adapter("flashspec_peer", flashspec=flashspec, flashspec__engine=engine)
    peer = module.FlashSpecPeer(PeerSetup("flashspec", "float32", 1, folder))
    generation = peer.generate("prompt lookup", [1, 2], 3)
    assert (generation.token_ids, generation.num_passes) == ([1, 1, 1], 4)
    with pytest.raises(UnsupportedModeError):
        peer.generate("assisted", [1, 2], 3)


class FakeQwen2(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.lm_head = torch.nn.Linear(2, 3)
        self.model = SimpleNamespace(embed_tokens=SimpleNamespace(weight=self.lm_head.weight))


class FakeInferenceEngine:
    def __init__(self, model, config, **options):
        assert not options["enable_prefix_caching"]
        self.model, self.config = model, config

    def add_request(self, prompt_ids, max_tokens):
        self.sequence = SimpleNamespace(output_token_ids=[])
        return self.sequence

    def step(self):
        self.sequence.output_token_ids.append(9)


@pytest.fixture
def mini_infer(adapter):
    config = SimpleNamespace(from_dict=lambda known: SimpleNamespace(**known))
    names = {
        "InferenceEngine": FakeInferenceEngine,
        "Qwen2Config": config,
        "Qwen2ForCausalLM": FakeQwen2,
    }
    loader = {"_load_safetensors_into_model": lambda model, file, target_dtype: None}
    return adapter("mini_infer_peer", mini_infer=names, mini_infer__models__loader=loader)


def test_mini_infer_is_given_a_llama_without_biases(mini_infer, tmp_path):
    folder = make_toy_model(tmp_path / "toy")
    peer = mini_infer.MiniInferPeer(PeerSetup("mini-infer", "float32", 1, str(folder)))
    assert not peer._engine.model.lm_head.bias.any()
    assert peer._engine.config.rope_theta > 0
    generation = peer.generate("plain", [1, 2], 3)
    assert (generation.token_ids, generation.num_passes) == ([9, 9, 9], 3)
    with pytest.raises(UnsupportedModeError):
        peer.generate("prompt lookup", [1, 2], 3)


def test_mini_infer_refuses_what_it_would_get_wrong(mini_infer):
    with pytest.raises(UnsupportedModeError, match="gemma"):
        mini_infer._config({"model_type": "gemma"})
