"""A device that is played: models say what follows from position and token, in a given time."""

import ctypes
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
import torch

from treedraft.inference.law import LawRow
from treedraft.inference.level_growth import Child, GrownRow, Seed, Worth
from treedraft.inference.segment import Segment

VOCAB_SIZE = 512
_FIRST_TOKEN = 3  # below are those that end texts
# The drafter's guesses, and how likely each of them is right. In all its first one is
# right in 75 of 100 places, one of four in 92, of eight in 95 and of sixteen in 97.
_SURE = (0.93, 0.03, 0.02, 0.01, *[0.001] * 4, *[0.0003] * 8)
_UNSURE = (0.48, 0.20, 0.085, 0.05, *[0.0175] * 4, *[0.006] * 8)
_SHARE_SURE = 0.6
_LOW_LOGIT = -20.0
# A pass over this many rows more takes twice as long.
_ROWS_PER_PASS = 112
_PR_SET_TIMERSLACK = 29  # so that a sleep ends when it should, and not 50 µs later
_LIBC = ctypes.CDLL(None)


def next_token(token_id: int, position: int) -> int:
    """Return what follows a token at a position."""
    return _FIRST_TOKEN + _hash("next", token_id, position) % (VOCAB_SIZE - _FIRST_TOKEN)


def guesses(token_id: int, position: int) -> tuple[Child, ...]:
    """Return the drafter's guesses at that, with their log-probabilities, best first."""
    is_sure = _hash("sure", token_id, position) % 1000 < 1000 * _SHARE_SURE
    law = _SURE if is_sure else _UNSURE
    right, luck = next_token(token_id, position), _hash("luck", token_id, position) / 2**32
    ids = [_FIRST_TOKEN + (right + 7 * n) % (VOCAB_SIZE - _FIRST_TOKEN) for n in range(1, 17)]
    for rank, share in enumerate(law):
        luck -= share
        if luck < 0:
            ids[rank] = right
            break
    return tuple((guess, math.log(share)) for guess, share in zip(ids, law, strict=True))


def _hash(kind: str, token_id: int, position: int) -> int:
    # A checksum's bits hang together: two kinds of the same place must not.
    mixed = crc32(f"{kind} {token_id} {position}".encode()) * 0x9E3779B97F4A7C15
    return (mixed >> 24) & 0xFFFFFFFF


def target_says(token_id: int, position: int) -> tuple[Child, ...]:
    """Return the target's logits after a token, but for those that are low."""
    return ((next_token(token_id, position), 0.0),)


class Device:
    """Takes the time that it is told to, for one thing after another."""

    def __init__(self) -> None:
        """Begin with nothing to do."""
        self._over_at = 0.0

    def queue(self, ms: float) -> None:
        """Begin something as soon as all before it is done."""
        self._over_at = max(self._over_at, time.perf_counter()) + ms / 1e3

    def wait(self) -> None:
        """Return when all is done."""
        if (left := self._over_at - time.perf_counter()) > 0:
            _LIBC.prctl(_PR_SET_TIMERSLACK, 1)
            time.sleep(left)


def pass_ms(ms: float, num_rows: int) -> float:
    """Return what a pass takes where one of a single row takes `ms`."""
    return ms * (1 + (num_rows - 1) / _ROWS_PER_PASS)


@dataclass(frozen=True)
class PlayedRunner:
    """Queues passes; `waits` says whether they are over when it returns."""

    pool: Any
    device: Device
    ms: float
    says: Callable[[int, int], Sequence[Child]]
    waits: bool = False
    sizes: tuple[int, ...] = ()

    def forward(self, segments: Sequence[Segment]) -> torch.Tensor:
        """Queue a pass and return its logits."""
        self.device.queue(pass_ms(self.ms, sum(segment.num_rows for segment in segments)))
        places = [(segment, row) for segment in segments for row in segment.output_rows]
        logits = np.full((len(places), VOCAB_SIZE), _LOW_LOGIT, dtype=np.float32)
        for own, (segment, row) in zip(logits, places, strict=True):
            for token_id, logit in self.says(segment.token_ids[row], segment.positions[row]):
                own[token_id] = logit
        if self.waits:
            self.device.wait()
        return torch.from_numpy(logits)


class PlayedDraws:
    """Waits for the pass, as who fetches its tokens does."""

    def __init__(self, device: Device) -> None:
        """Wait for this device."""
        self._device = device

    def draw(
        self, logits: torch.Tensor, rows: Sequence[LawRow], meanwhile: Callable[[], None]
    ) -> list[int]:
        """Return the best token of each row, when they are there."""
        meanwhile()
        self._device.wait()
        return logits.argmax(dim=-1).tolist() if len(rows) else []


class PlayedLevels:
    """Grows trees as the fused kernels do."""

    max_sessions = 4
    minds_room = False

    def __init__(self, device: Device, ms: float) -> None:
        """Compute on a device, so long for a level."""
        self._device = device
        self._ms = ms
        self.level_ms: Sequence[float] = ()

    def grow(
        self,
        seeds: Sequence[Seed],
        *,
        levels: int,
        width: int,
        num_children: int,
        num_columns: int,
        max_rows: int,
        worth: Worth | None,
    ) -> list[list[GrownRow]]:
        """Run all levels of all sessions."""
        self._device.queue(self._ms * (1 + levels))
        grown = [_grow(seed, levels, width, num_children) for seed in seeds]
        self._device.wait()
        self.level_ms = [self._ms] * (1 + levels)
        return grown


def _grow(seed: Seed, levels: int, width: int, num_children: int) -> list[GrownRow]:
    segment, slots = seed.segment, iter(seed.slots)
    rows: list[GrownRow] = []
    candidates: list[tuple[float, int, int, int]] = []  # score, whose child, token, position

    def run(parent: int | None, token_id: int, position: int, score: float, level: int) -> None:
        children = guesses(token_id, position)[:num_children]
        candidates.extend((score + gain, len(rows), t, position + 1) for t, gain in children)
        named = (None, None, None) if parent is None else (parent, token_id, next(slots))
        rows.append(GrownRow(*named, children, level))

    for row, score in zip(segment.output_rows, seed.scores, strict=True):
        run(None, segment.token_ids[row], segment.positions[row], score, 0)
    for level in range(1, levels + 1):
        candidates.sort(reverse=True)
        chosen, candidates[:width] = candidates[:width], []
        for score, parent, token_id, position in chosen:
            if score >= seed.min_score and position <= seed.last_position:
                run(parent, token_id, position, score, level)
    return rows
