import pytest
import torch
from torch import nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from treedraft.training.quick_norms import quick_norms


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_quick_norms_say_what_transformers_norms_say_and_only_for_a_while(dtype):
    module = nn.Sequential(LlamaRMSNorm(24, eps=1e-5)).to(dtype)
    nn.init.normal_(module[0].weight)
    states = torch.randn(3, 5, 24, dtype=dtype, requires_grad=True)
    plain = module(states)
    with quick_norms(module):
        assert "forward" in vars(module[0])
        quick = module(states)
        (found,) = torch.autograd.grad(quick.float().square().sum(), states)
    assert "forward" not in vars(module[0])
    (expected,) = torch.autograd.grad(plain.float().square().sum(), states)
    tolerance = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(quick, plain, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(found, expected, atol=10 * tolerance, rtol=10 * tolerance)


def test_a_norm_of_another_kind_is_left_alone():
    norm = GemmaRMSNorm(8)
    norm.variance_epsilon = norm.eps
    with quick_norms(nn.Sequential(norm, nn.LayerNorm(8), nn.Linear(8, 8))):
        assert "forward" not in vars(norm)
