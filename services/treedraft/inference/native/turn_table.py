"""By how much queries and keys are turned at each position (RoPE), made once.

A pass that asked torch for it would wake torch's own threads, which then spin for
a while on the cores that the pass computes on: that alone had made a pass over two
rows half as dear again as one over one.
"""

import torch
from torch import nn

_FIRST_POSITIONS = 2048
# Kinds of rotary embedding whose frequencies depend on how long the text is.
_CHANGING = frozenset({"dynamic", "longrope"})


def is_steady(rotary: nn.Module) -> bool:
    """Return whether a position is turned alike whatever else is in the pass."""
    return getattr(rotary, "rope_type", "default") not in _CHANGING


class TurnTable:
    """Cosines and sines of the positions so far, float32 [positions, head_dim]."""

    def __init__(self, rotary: nn.Module) -> None:
        """Make the table of a model's rotary embedding, which must be steady."""
        assert is_steady(rotary)
        self._rotary = rotary
        self.cos = self.sin = torch.empty((0, 0))
        self.cover(_FIRST_POSITIONS)

    @torch.inference_mode()
    def cover(self, num_positions: int) -> None:
        """Make the table at least so long."""
        if num_positions <= len(self.cos):
            return
        size = max(num_positions, 2 * len(self.cos))
        cos, sin = self._rotary(torch.empty(0), torch.arange(size)[None])
        self.cos, self.sin = cos[0].float().contiguous(), sin[0].float().contiguous()
