"""Linear layers whose weights are laid out once for the CPU's matrix kernels.

`F.linear` on CPU reorders the weight, or takes a slow path, at every call, so a
pass over eight rows costs up to twice a pass over one. oneDNN can keep the
weight in the blocked layout that its kernels read; with that, a pass over eight
rows costs what a pass over one costs, and both are faster: the difference
between speculation that pays on a CPU and speculation that cannot.

The results are those of `F.linear` up to rounding. What the layout is like is
oneDNN's own affair, so it is made at load and never saved.
"""

import torch
from torch import Tensor, nn

# What the layout is tuned for: a root and a few drafted nodes.
_TYPICAL_ROWS = 8
_PACKABLE = (torch.float32, torch.bfloat16)


class PackedLinear(nn.Module):
    """A linear layer in oneDNN's blocked layout; for inference only."""

    def __init__(self, linear: nn.Linear) -> None:
        """Pack the weight of `linear`, which is not changed and no longer needed."""
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = linear.bias
        self._packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(
            linear.weight.detach(), _TYPICAL_ROWS
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Return `inputs @ weight.T + bias`, [..., in_features] to [..., out_features]."""
        outputs: Tensor = torch.ops.mkldnn._linear_pointwise(
            inputs, self._packed, self.bias, "none", [], ""
        )
        return outputs


def can_prepack(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether this build of torch can pack weights of this kind on this machine."""
    return (
        device.type == "cpu"
        and dtype in _PACKABLE
        and (dtype != torch.bfloat16 or _packs_bfloat16())
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def _packs_bfloat16() -> bool:
    # oneDNN refuses it on processors without AVX-512 or something newer.
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def multiplies_bfloat16(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 by instructions of its own."""
    if device.type != "cpu":
        return True
    able = torch.cpu.get_capabilities()
    return bool(able.get("avx512_bf16") or able.get("amx_bf16") or able.get("bf16"))


def prepack_linears(module: nn.Module) -> int:
    """Replace every plain linear layer by a packed one; return how many there were.

    A weight that an embedding shares stays in memory for the embedding; all
    others are freed.
    """
    count = 0
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                setattr(parent, name, PackedLinear(child))
                count += 1
    return count
