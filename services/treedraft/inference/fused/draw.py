"""Draws the tokens of all rows of a pass on the device, in two kernels that read and write
what is the host's.

`DeviceDraws` replays them from logits that lie where they lay before, as those of a target's
passes do; `queue_draw` draws from any.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch
import triton
from torch import Tensor

from treedraft.inference.draw import seed_of
from treedraft.inference.fused.fence import Fence
from treedraft.inference.fused.graphs import PassGraphs
from treedraft.inference.fused.kernels.draw import draw_best, draw_parts
from treedraft.inference.law import (
    LawRow,
    adjusted_logits,
    is_plain,
    is_truncated,
    processed_logits,
    temperature_of,
)

_PAIRS = 1024  # of tokens, that a program goes through
_LAW_NUMBERS = 5  # of a row, as kernels take them
# Up to so many rows kernels fetch laws from the host's memory by themselves: sooner there
# than a copy is.
_FETCHED_ROWS = 4
_FIRST_CAPACITY = 64


def queue_draw(target_logits: Tensor, rows: Sequence[LawRow]) -> Tensor:
    """Return the drawn token of each row, int64 [num_rows] on the logits' device.

    The law and the noise are those of `draw.noised_rows`. Nothing waits for the device.

    Args:
        target_logits: float32 [num_rows, vocab].
        rows: their laws, at least one.
    """
    is_cut = any(is_truncated(row.sampling) for row in rows)
    scale = processed_logits if is_cut else adjusted_logits
    logits = scale(target_logits, rows)
    if logits.stride(1) != 1:
        logits = logits.contiguous()
    told = [(*key_of(row), _bits_of(_divisor(row, is_divided=is_cut))) for row in rows]
    laws = upload(np.array(told, dtype=np.int64), logits.device)
    parts = _Parts(len(rows), logits.shape[1], logits.device)
    tokens = torch.empty(len(rows), dtype=torch.int64, device=logits.device)
    parts.queue(logits, laws, tokens)
    return tokens


class DeviceDraws:
    """Draws with what plain laws need at addresses that stay; used by one thread.

    Laws and drawn tokens lie in page-locked memory of the host, so that a step has nothing
    to allocate, and no copy of its own to wait for at the end.
    """

    def __init__(self, *, uses_graphs: bool = True) -> None:
        """Remember nothing yet; `uses_graphs` replays draws where there is CUDA."""
        self._graphs = PassGraphs() if uses_graphs else None
        self._board: Board | None = None

    @staticmethod
    def can_replay(target_logits: Tensor, rows: Sequence[LawRow]) -> bool:
        """Return whether the kernels know all that the laws of rows ask for."""
        is_straight = target_logits.dtype == torch.float32 and target_logits.stride(1) == 1
        return is_straight and bool(rows) and all(map(is_plain, rows))

    @torch.inference_mode()
    def draw(
        self,
        target_logits: Tensor,
        rows: Sequence[LawRow],
        meanwhile: Callable[[], None] = lambda: None,
    ) -> list[int]:
        """Return the token of each row, having waited for the device.

        Args:
            target_logits: float32 [num_rows, vocab].
            rows: their laws, at least one.
            meanwhile: called once, before the wait.
        """
        if not self.can_replay(target_logits, rows):
            drawn = queue_draw(target_logits, rows)
            meanwhile()
            return drawn.tolist()
        board = self._fitting(target_logits, len(rows))
        board.tell(rows)
        try:
            self.queue(target_logits, len(rows))
        finally:
            board.mark()
        meanwhile()
        board.wait()
        return board.read(len(rows))

    def queue(self, target_logits: Tensor, num_rows: int) -> None:
        """Queue the kernels for laws that were told."""
        board = self._fitting(target_logits, num_rows)
        if target_logits.device.type == "cuda" and self._graphs:
            key = (target_logits.data_ptr(), target_logits.stride(0), num_rows)
            self._graphs.run(key, lambda: board.queue(target_logits, num_rows))
        else:
            board.queue(target_logits, num_rows)

    def _fitting(self, logits: Tensor, num_rows: int) -> "Board":
        board = self._board
        if board is None or not board.fits(logits, num_rows):
            if self._graphs:
                self._graphs.clear()
            capacity = _FIRST_CAPACITY
            while capacity < num_rows:
                capacity *= 2
            self._board = board = Board(capacity, logits.shape[1], logits.device)
        return board


class Board:
    """The memory of draws, of so many rows at most over one vocabulary."""

    def __init__(self, capacity: int, vocab: int, device: torch.device) -> None:
        """Allocate."""
        self._capacity, self._vocab, self._device = capacity, vocab, device
        is_on_cuda = device.type == "cuda"
        self._parts = _Parts(capacity, vocab, device)
        self._laws = torch.zeros((capacity, _LAW_NUMBERS), dtype=torch.int64, pin_memory=is_on_cuda)
        self._laws_on_device = torch.zeros_like(self._laws, device=device)
        self._tokens = torch.zeros(capacity, dtype=torch.int64, pin_memory=is_on_cuda)
        self._told, self._drawn = self._laws.numpy(), self._tokens.numpy()
        self._is_on_cuda, self._fence = is_on_cuda, Fence(device)

    def fits(self, logits: Tensor, num_rows: int) -> bool:
        """Return whether draws from such logits have room."""
        own = self._capacity, self._vocab, self._device
        return own[0] >= num_rows and own[1:] == (logits.shape[1], logits.device)

    def tell(self, rows: Sequence[LawRow]) -> None:
        """Put laws where the kernels find them, once those of earlier draws are read."""
        self._fence.wait()
        self._told[: len(rows)] = [law_of(row) for row in rows]

    def queue(self, logits: Tensor, num_rows: int) -> None:
        """Queue the kernels, and nothing that waits."""
        laws = self._laws
        if self._is_on_cuda and num_rows > _FETCHED_ROWS:
            laws = self._laws_on_device
            laws[:num_rows].copy_(self._laws[:num_rows], non_blocking=True)
        self._parts.queue(logits[:num_rows], laws, self._tokens)

    def mark(self) -> None:
        """Note that all that is to be waited for is queued."""
        self._fence.mark()

    def wait(self) -> None:
        """Wait until the tokens are here; other threads may run meanwhile."""
        self._fence.wait()

    def read(self, num_rows: int) -> list[int]:
        """Return the tokens of so many rows, having waited."""
        drawn: list[int] = self._drawn[:num_rows].tolist()
        return drawn


class _Parts:
    """The best tokens of parts of the vocabulary, between the two kernels."""

    def __init__(self, num_rows: int, vocab: int, device: torch.device) -> None:
        self._vocab = vocab
        self._num_parts = -(-vocab // (2 * _PAIRS))
        size = (num_rows, self._num_parts)
        self._scores = torch.empty(size, dtype=torch.float64, device=device)
        self._found = torch.empty(size, dtype=torch.int32, device=device)

    def queue(self, logits: Tensor, laws: Tensor, tokens: Tensor) -> None:
        draw_parts[(len(logits), self._num_parts)](
            logits,
            logits.stride(0),
            laws,
            self._scores,
            self._found,
            VOCAB=self._vocab,
            BLOCK=_PAIRS,
            NUM_PARTS=self._num_parts,
            num_warps=4,
        )
        draw_best[(len(logits),)](
            self._scores,
            self._found,
            tokens,
            NUM_PARTS=self._num_parts,
            PADDED_PARTS=triton.next_power_of_2(self._num_parts),
            num_warps=1,
        )


def key_of(row: LawRow) -> tuple[int, int, int, int]:
    """Return what the noise of a row is keyed by, as kernels take it."""
    if row.sampling.is_greedy:
        return 0, 0, 0, 0
    seed = seed_of(row)
    return seed & 0xFFFFFFFF, seed >> 32, row.position, row.choice


def law_of(row: LawRow) -> tuple[int, int, int, int, int]:
    """Return the numbers of a plain law, as kernels take them."""
    if row.sampling.is_greedy:
        return 0, 0, 0, 0, 0
    return *key_of(row), _bits_of(temperature_of(row.sampling))


def _divisor(row: LawRow, *, is_divided: bool) -> float:
    """Return what the kernel divides by: 0 says that a row gets no noise."""
    if row.sampling.is_greedy:
        return 0.0
    return 1.0 if is_divided else temperature_of(row.sampling)


@lru_cache(maxsize=256)
def _bits_of(divisor: float) -> int:
    return int(np.float32(divisor).view(np.int32))


def upload(numbers: npt.NDArray[np.generic], device: torch.device) -> Tensor:
    """Queue a copy of numbers to a device, from memory that it need not wait for."""
    return staged(numbers, device).to(device, non_blocking=True)


def staged(numbers: npt.NDArray[np.generic], device: torch.device) -> Tensor:
    """Return numbers on the CPU, in memory from which a copy to the device need not wait."""
    tensor = torch.from_numpy(numbers)
    return tensor.pin_memory() if device.type == "cuda" else tensor
