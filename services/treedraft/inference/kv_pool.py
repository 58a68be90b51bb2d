"""The memory of keys and values, one slot per token, in all layers at once.

A slot is a place in every layer. Who owns which slot is none of this module's
business (see `block_pool`); what a slot means is decided by the session that
wrote it. Keys are kept as attention wants them, with the rotary embedding of
their position applied, so a slot may move but its token may not change place
in the text.

Invariant: a slot that was never written holds zeros, and no reader looks at a
slot of another session.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

_ALIGNMENT = 64  # bytes: a cache line, as torch has it


class KVPool:
    """Keys and values of `num_slots` tokens.

    `keys` and `values` are [num_layers, num_slots, num_kv_heads, head_dim];
    `key_layers` and `value_layers` are views of one layer each.
    """

    def __init__(
        self,
        num_layers: int,
        num_slots: int,
        num_kv_heads: int,
        head_dim: int,
        *,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        """Reserve the memory; on a CPU it is taken as slots are first used, lowest first."""
        shape = (num_layers, num_slots, num_kv_heads, head_dim)
        self.keys = _zeros(shape, dtype, torch.device(device))
        self.values = _zeros(shape, dtype, torch.device(device))
        self._words = (
            None
            if self.keys.device.type != "cpu"
            else tuple(map(_words_of, (self.keys, self.values)))
        )
        self.key_layers: tuple[torch.Tensor, ...] = self.keys.unbind(0)
        self.value_layers: tuple[torch.Tensor, ...] = self.values.unbind(0)

    @property
    def device(self) -> torch.device:
        """Where keys and values lie."""
        return self.keys.device

    @property
    def num_layers(self) -> int:
        """Layers of the model."""
        return self.keys.shape[0]

    @property
    def num_slots(self) -> int:
        """Tokens that the pool can hold."""
        return self.keys.shape[1]

    @property
    def num_kv_heads(self) -> int:
        """Heads of keys and values in a layer."""
        return self.keys.shape[2]

    @property
    def head_dim(self) -> int:
        """Numbers in one key or value."""
        return self.keys.shape[3]

    @property
    def num_bytes(self) -> int:
        """Memory that keys and values take."""
        return self.keys.nbytes + self.values.nbytes

    def copy_slots(self, sources: Sequence[int], destinations: Sequence[int]) -> None:
        """Copy tokens from slots to other slots in all layers.

        All sources are read before the first destination is written, so the
        two may overlap. Destinations are distinct.
        """
        if not sources:
            return
        assert len(sources) == len(set(destinations)) == len(destinations)
        if self._words is not None:
            # Torch would do it in parallel, and its threads then spin beside the next pass.
            for words in self._words:
                words[:, destinations] = words[:, sources]
            return
        device = self.keys.device
        read = torch.tensor(sources, dtype=torch.int64, device=device)
        write = torch.tensor(destinations, dtype=torch.int64, device=device)
        for stored in (self.keys, self.values):
            stored.index_copy_(1, write, stored.index_select(1, read))


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Return zeros; on a CPU, such as the system makes when they are first touched.

    Torch would write them all at once: gigabytes taken and never used.
    """
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    num_bytes = math.prod(shape) * dtype.itemsize
    raw = np.zeros(num_bytes + _ALIGNMENT, dtype=np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return torch.from_numpy(raw[start : start + num_bytes]).view(dtype).view(shape)


def _words_of(stored: torch.Tensor) -> npt.NDArray[np.signedinteger]:
    """Return numbers on the CPU as integers of their width, which numpy knows for every type."""
    kind = {2: torch.int16, 4: torch.int32}[stored.itemsize]
    words: npt.NDArray[np.signedinteger] = stored.view(kind).numpy()
    return words
