"""A drafter takes the quickest way that there is for it here."""

import pytest
import torch
from tests.unit.inference.test_drafter_folder import save_toy_drafter

from treedraft.inference import drafting_model, forward_path
from treedraft.inference.drafting_model import load_drafting_model
from treedraft.inference.native.compiler import find_compiler
from treedraft.inference.native.decoder import WeightStorage
from treedraft.inference.toy import make_toy_model

needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler")


@pytest.fixture
def target(tmp_path):
    return make_toy_model(tmp_path / "target")


@pytest.fixture(params=[False, True], ids=["no bfloat16", "bfloat16"])
def has_bfloat16(request, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": request.param})
    return request.param


@pytest.fixture
def without_library(monkeypatch):
    for module in (drafting_model, forward_path):
        monkeypatch.setattr(module, "native_library", lambda: None)


@needs_compiler
def test_a_distilled_drafter_holds_its_weights_in_int8(tmp_path, target, has_bfloat16):
    model = load_drafting_model(save_toy_drafter(target, tmp_path / "drafter"), device="cpu")
    assert model.native.storage is WeightStorage.INT8
    assert model.dtype is torch.float32


@needs_compiler
def test_another_model_loses_nothing(target, has_bfloat16):
    model = load_drafting_model(target, device="cpu")
    assert model.native.storage is WeightStorage.FLOAT32


@needs_compiler
def test_what_was_asked_for_is_taken(tmp_path, target, has_bfloat16):
    drafter = save_toy_drafter(target, tmp_path / "drafter")
    assert load_drafting_model(drafter, device="cpu", weights="float32").native.storage is (
        WeightStorage.FLOAT32
    )
    assert load_drafting_model(drafter, device="cpu", dtype="bfloat16").native is None


def test_without_the_native_decoder_it_computes_in_bfloat16_where_that_is_quick(
    target, has_bfloat16, without_library
):
    model = load_drafting_model(target, device="cpu")
    assert model.native is None
    assert model.dtype is (torch.bfloat16 if has_bfloat16 else torch.float32)
