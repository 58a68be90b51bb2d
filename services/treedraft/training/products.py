"""Products of bfloat16 matrices whose results keep float32's precision.

Logits of 20 and more are 0.125 apart in bfloat16, too coarse to tell which of
two tokens is likelier. The hardware adds up in float32 anyway; all that is
needed is that the sum is not rounded when it is stored. Where torch cannot do
that, the rounded product is widened.
"""

from collections.abc import Callable

import torch
from torch import Tensor

# ([rows, inner], [inner, columns]) → float32 [rows, columns]
Product = Callable[[Tensor, Tensor], Tensor]


def choose_product(device: torch.device, dtype: torch.dtype) -> Product:
    """Return how to multiply matrices of a dtype on a device into float32."""
    if device.type != "cuda" or dtype == torch.float32:
        return multiply_and_widen
    probe = torch.ones((16, 16), dtype=dtype, device=device)
    try:
        multiply_wide(probe, probe)
    except (RuntimeError, TypeError, NotImplementedError):
        return multiply_and_widen
    return multiply_wide


def multiply_wide(left: Tensor, right: Tensor) -> Tensor:
    """Return the product in float32, added up and stored as such."""
    return torch.mm(left, right, out_dtype=torch.float32)


def multiply_and_widen(left: Tensor, right: Tensor) -> Tensor:
    """Return the product in float32, rounded to the matrices' dtype on the way."""
    return torch.mm(left, right).float()
