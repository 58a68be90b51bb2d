import weakref

import pytest
import torch
from torch import nn

from treedraft.inference import forward_path
from treedraft.inference.models import load_model
from treedraft.inference.prepacked import PackedLinear, can_prepack, prepack_linears
from treedraft.inference.toy import make_toy_model

pytestmark = pytest.mark.skipif(
    not can_prepack(torch.device("cpu"), torch.float32), reason="torch is built without oneDNN"
)


@pytest.mark.parametrize("rows", [1, 2, 7, 8, 33])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_a_packed_layer_computes_what_the_plain_one_does(rows, has_bias, dtype):
    if not can_prepack(torch.device("cpu"), dtype):
        pytest.skip(f"this processor packs no {dtype}")
    torch.manual_seed(0)
    linear = nn.Linear(48, 80, bias=has_bias, dtype=dtype)
    inputs = torch.randn(1, rows, 48, dtype=dtype)
    tolerance = 1e-5 if dtype is torch.float32 else 2e-2
    torch.testing.assert_close(
        PackedLinear(linear)(inputs), linear(inputs), atol=tolerance, rtol=tolerance
    )


@torch.inference_mode()
def test_rows_that_are_not_contiguous_are_read_right():
    linear = nn.Linear(16, 8)
    inputs = torch.randn(5, 32)[:, ::2]
    torch.testing.assert_close(PackedLinear(linear)(inputs), linear(inputs))


def test_plain_weights_are_freed():
    module = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 4)))
    weights = [weakref.ref(module[0].weight), weakref.ref(module[2][0].weight)]
    assert prepack_linears(module) == 2
    assert [weight() for weight in weights] == [None, None]


def test_loading_on_a_cpu_without_a_compiler_packs_every_layer(tmp_path, monkeypatch):
    monkeypatch.setattr(forward_path, "native_library", lambda: None)
    loaded = load_model(make_toy_model(tmp_path / "toy"))
    kinds = [type(layer) for layer in loaded.module.modules()]
    assert kinds.count(PackedLinear) == 2 * 4 + 1
    assert nn.Linear not in kinds


def test_what_cannot_be_packed_is_left_alone():
    assert not can_prepack(torch.device("cuda"), torch.float32)
    assert not can_prepack(torch.device("cpu"), torch.float16)
