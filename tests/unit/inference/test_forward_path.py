"""Which way a model's passes go, and what is refused."""

import gc
from pathlib import Path

import pytest
import torch

from treedraft.core.errors import InvalidRequestError
from treedraft.inference import forward_path
from treedraft.inference.models import load_model
from treedraft.inference.native.compiler import find_compiler
from treedraft.inference.native.decoder import WeightStorage
from treedraft.inference.toy import make_toy_model

MAPS = Path("/proc/self/maps")
needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler")


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return make_toy_model(tmp_path_factory.mktemp("toy"))


@needs_compiler
@pytest.mark.parametrize("weights", ["float32", "bfloat16", "int8"])
def test_weights_are_held_as_was_asked(toy, weights):
    model = load_model(toy, weights=weights)
    assert model.native.storage is WeightStorage(weights)


@needs_compiler
def test_models_of_other_storage_have_other_fingerprints(toy):
    prints = {load_model(toy, weights=w).fingerprint for w in ("float32", "bfloat16", "int8")}
    assert len(prints) == 3


@needs_compiler
def test_unknown_storage_is_refused(toy):
    with pytest.raises(InvalidRequestError) as caught:
        load_model(toy, weights="int3")
    assert caught.value.field == "weights"


def test_storage_is_refused_where_no_native_decoder_runs(toy, monkeypatch):
    monkeypatch.setattr(forward_path, "native_library", lambda: None)
    with pytest.raises(InvalidRequestError) as caught:
        load_model(toy, weights="int8")
    assert caught.value.reason == "WEIGHTS_UNSUPPORTED"
    assert load_model(toy).native is None


def test_another_dtype_goes_through_torch(toy):
    model = load_model(toy, dtype="bfloat16")
    assert model.native is None
    assert model.dtype is torch.bfloat16


@pytest.mark.skipif(not MAPS.exists(), reason="needs Linux")
@pytest.mark.parametrize("is_native", [pytest.param(True, marks=needs_compiler), False])
def test_a_packed_module_lets_go_of_its_files(toy, monkeypatch, is_native):
    if not is_native:
        monkeypatch.setattr(forward_path, "native_library", lambda: None)
    kept = load_model(toy, is_packed=False)
    assert str(toy) in MAPS.read_text()
    del kept
    gc.collect()
    model = load_model(toy)
    assert (model.native is not None) == is_native
    gc.collect()
    assert str(toy) not in MAPS.read_text()
