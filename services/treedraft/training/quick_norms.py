"""RMS norms in one kernel while training, where transformers takes seven.

transformers spells them out in float32, so each goes over the hidden states many times, and
back as often. torch has the same in one kernel, which keeps float32 up to its result.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import rms_norm

_PROBE_ROWS = 4


@contextmanager
def quick_norms(module: nn.Module) -> Iterator[None]:
    """Compute the RMS norms of a module by torch's own kernel for a while."""
    changed = use_quick_norms(module)
    try:
        yield
    finally:
        for norm in changed:
            del norm.forward


def use_quick_norms(module: nn.Module) -> list[nn.Module]:
    """Compute the RMS norms of a module by torch's own kernel; return those that are."""
    changed = [norm for norm in module.modules() if _is_rms_norm(norm)]
    for norm in changed:
        norm.forward = partial(_forward, norm)
    return changed


def _forward(norm: nn.Module, hidden_states: Tensor) -> Tensor:
    weight, epsilon = norm.weight, norm.variance_epsilon
    assert isinstance(weight, Tensor)
    assert isinstance(epsilon, float)
    return rms_norm(hidden_states, weight.shape, weight, epsilon)


@torch.no_grad()
def _is_rms_norm(norm: nn.Module) -> bool:
    """Return whether a module computes just that; others go by the same name."""
    weight, epsilon = getattr(norm, "weight", None), getattr(norm, "variance_epsilon", None)
    if "forward" in vars(norm) or not isinstance(weight, Tensor) or not isinstance(epsilon, float):
        return False
    probe = torch.linspace(-3, 4, _PROBE_ROWS * weight.numel(), device=weight.device)
    probe = probe.to(weight.dtype).reshape(_PROBE_ROWS, -1)
    tolerance = 4 * torch.finfo(weight.dtype).eps
    found, expected = _forward(norm, probe).float(), norm(probe).float()
    return bool(torch.allclose(found, expected, rtol=tolerance, atol=tolerance))
