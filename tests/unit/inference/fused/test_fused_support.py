"""Which models and devices passes are fused for."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.unit.inference.tiny_models import SIZES, build, tiny_model
from transformers import LlamaConfig, LlamaForCausalLM

from treedraft.inference.fused import support


@pytest.fixture
def cuda(monkeypatch):
    monkeypatch.setattr(support, "_is_able", lambda _device: True)
    return torch.device("cuda")


def test_kernels_are_for_two_types_on_cuda(cuda):
    assert support.is_available(cuda, torch.bfloat16)
    assert support.is_available(cuda, torch.float16)
    assert not support.is_available(cuda, torch.float32)
    assert not support.is_available(torch.device("cpu"), torch.bfloat16)


def test_they_can_be_turned_off(cuda, monkeypatch):
    monkeypatch.setenv("TREEDRAFT_FUSED", "0")
    assert not support.is_available(cuda, torch.bfloat16)


def test_models_with_what_kernels_do_not_know_are_left_to_torch():
    known = LlamaConfig(**SIZES | {"num_attention_heads": 3, "num_key_value_heads": 1})
    assert support.can_fuse(build(known, LlamaForCausalLM, torch.float32).module)
    assert not support.can_fuse(tiny_model("granite").module)
    assert not support.can_fuse(tiny_model("llama").module)  # heads of 8 numbers
    biased = LlamaConfig(**known.to_diff_dict() | {"mlp_bias": True})
    assert not support.can_fuse(build(biased, LlamaForCausalLM, torch.float32).module)


def test_tests_of_kernels_are_left_out_where_there_is_no_triton():
    collect = (
        "import sys, pytest\n"
        "sys.modules['triton'] = None\n"
        "options = ['-q', '--collect-only', '-p', 'no:cacheprovider']\n"
        f"sys.exit(pytest.main([*options, {str(Path(__file__).parent)!r}]))\n"
    )
    command = [sys.executable, "-c", collect]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "test_fused_support.py" in done.stdout
    assert "test_fused_fence.py" not in done.stdout
