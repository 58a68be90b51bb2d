"""Whether passes of a model can be fused here. Imports Triton only to see that it is there."""

import importlib.util
import os
from functools import cache
from importlib.metadata import version

import torch
from transformers import PreTrainedModel

from treedraft.inference.lean import can_streamline
from treedraft.inference.native.turn_table import is_steady

_HEAD_DIMS = (16, 32, 64, 128, 256)
_MAX_HIDDEN = 16384  # one program norms a row


def is_available(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether the kernels run on a device; `TREEDRAFT_FUSED=0` says that they shall not."""
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return False
    return os.environ.get("TREEDRAFT_FUSED") != "0" and _is_able(device)


@cache
def _is_able(device: torch.device) -> bool:
    has_triton = importlib.util.find_spec("triton") is not None
    return has_triton and torch.cuda.get_device_capability(device) >= (8, 0)


def can_come_early(device: torch.device) -> bool:
    """Return whether a kernel may come up on a device while the one before still runs."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


def triton_version() -> str:
    """Return which Triton compiles the kernels, since it decides how they round."""
    return f"triton-{version('triton')}"


def can_fuse(module: PreTrainedModel) -> bool:
    """Return whether the kernels know everything that a module does."""
    if not can_streamline(module) or not is_steady(module.model.rotary_emb):
        return False
    config, layer = module.config, module.model.layers[0]
    attention, mlp = layer.self_attn, layer.mlp
    plain = (attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj, module.lm_head)
    return (
        attention.head_dim in _HEAD_DIMS
        and config.hidden_size <= _MAX_HIDDEN
        and all(linear.bias is None for linear in plain)
        and getattr(config, "partial_rotary_factor", 1.0) in (None, 1.0)
    )
