"""Noised logits: what both sides of the coupling take their tokens from.

A token is drawn as the argmax of its law's logits plus position-keyed Gumbel
noise (`core.noise`). The target takes the best token of each row, the drafter
the best few of its own; equal noise is what makes them agree. Only tokens that
survive the cuts get noise, and everything is summed in float64.

Noise over a whole vocabulary is the expensive part, and it is the same for all
rows that draw the token of one position, so `NoiseRows` keeps what was made:
siblings share it within a pass, and deeper nodes of one pass share it with the
next, which draws at the same positions again.
"""

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from treedraft.core.noise import Domain, gumbel, to_gumbel, to_uniform, uniform_bits
from treedraft.inference.law import (
    LawRow,
    adjusted_logits,
    is_truncated,
    processed_logits,
    survivors,
    temperature_of,
)

# Distances below the best score that are tried in turn when looking for the top few.
_TOP_DEPTHS = (8.0, 12.0, 16.0, 24.0, math.inf)
_CHUNK_PAIRS = 8192  # keeps the generator's temporaries in the cache
# Up to this many tokens get noise by themselves, without a row over the vocabulary.
_MAX_SINGLE_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class Candidates:
    """The tokens that one row may draw, ascending, each with a score."""

    token_ids: npt.NDArray[np.int64] | None  # None: the whole vocabulary, in order
    scores: npt.NDArray[np.floating]

    def token_at(self, index: int) -> int:
        """Return the token of one score."""
        return index if self.token_ids is None else int(self.token_ids[index])

    def top(self, count: int) -> npt.NDArray[np.int64]:
        """Return the indices of the best scores, best first, the lower one among equals."""
        best = float(self.scores.max())
        for depth in _TOP_DEPTHS:
            near = np.flatnonzero(self.scores >= best - depth)
            if len(near) >= count:
                break
        return near[np.argsort(-self.scores[near], kind="stable")][:count]


def gumbel_row(
    vocab_size: int, *, seed: int, position: int, choice: int = 0
) -> npt.NDArray[np.float64]:
    """Return the noise of every token at one position, float64 [vocab].

    The numbers of `core.noise.gumbel` over the same tokens, at less cost.
    """
    bits = np.empty(vocab_size + 1, dtype=np.int64)
    positions = np.array([position])
    for start in range(0, vocab_size, 2 * _CHUNK_PAIRS):
        stop = min(start + 2 * _CHUNK_PAIRS, vocab_size + vocab_size % 2)
        bits[start:stop:2], bits[start + 1 : stop : 2] = uniform_bits(
            np.arange(start // 2, stop // 2),
            positions,
            seed=seed,
            domain=Domain.COUPLED_DRAW,
            choice=choice,
        )
    return to_gumbel(to_uniform(bits[:vocab_size]))


class NoiseRows:
    """The last noise rows over a vocabulary; one row of 49,152 is 393 kB."""

    def __init__(self, max_rows: int = 32) -> None:
        """Keep up to `max_rows` rows, least recently used first out."""
        self._max_rows = max_rows
        self._rows: OrderedDict[tuple[int, int, int, int], npt.NDArray[np.float64]] = OrderedDict()

    def get(self, vocab_size: int, row: LawRow) -> npt.NDArray[np.float64]:
        """Return the noise of every token at the row's position, not to be written to."""
        key = (vocab_size, seed_of(row), row.position, row.choice)
        noise = self._rows.pop(key, None)
        if noise is None:
            noise = gumbel_row(vocab_size, seed=key[1], position=row.position, choice=row.choice)
        self._rows[key] = noise
        if len(self._rows) > self._max_rows:
            self._rows.popitem(last=False)
        return noise


def seed_of(row: LawRow) -> int:
    """Return the key of the row's noise."""
    if row.sampling.seed is None:
        raise ValueError("a sampled row needs a seed")
    return row.sampling.seed


def law_candidates(logits: npt.NDArray[np.float32], row: LawRow) -> Candidates:
    """Return the tokens that survive the cuts, scored by the logits of their law.

    Args:
        logits: one row [vocab], bias and penalties applied.
        row: its law.
    """
    if row.sampling.is_greedy:
        return Candidates(None, logits)
    tempered = logits / np.float32(temperature_of(row.sampling))
    if is_truncated(row.sampling):
        ids = survivors(tempered, row.sampling)
        return Candidates(ids, tempered[ids])
    return Candidates(None, tempered)


def noised_rows(
    target_logits: Tensor, rows: Sequence[LawRow], noise_rows: NoiseRows
) -> Iterator[Candidates]:
    """Yield the noised logits of each row, in order; greedy rows get no noise.

    Args:
        target_logits: float32 [num_rows, vocab], on the CPU.
        rows: their laws.
        noise_rows: noise made before, and where new noise is kept.
    """
    logits = adjusted_logits(target_logits, rows).numpy()
    everything = np.arange(logits.shape[-1])
    laws = [law_candidates(logits[index], row) for index, row in enumerate(rows)]
    few = {
        index: everything if law.token_ids is None else law.token_ids
        for index, law in enumerate(laws)
        if len(law.scores) <= _MAX_SINGLE_TOKENS and not rows[index].sampling.is_greedy
    }
    noise_of_few = noise_of_tokens([rows[index] for index in few], list(few.values()))
    few_noise = dict(zip(few, noise_of_few, strict=True))
    for index, (row, law) in enumerate(zip(rows, laws, strict=True)):
        if row.sampling.is_greedy:
            yield law
            continue
        noise = few_noise.get(index)
        if noise is None:
            noise = noise_rows.get(len(everything), row)
            noise = noise if law.token_ids is None else noise[law.token_ids]
        yield Candidates(law.token_ids, law.scores.astype(np.float64) + noise)


def noise_of_tokens(
    rows: Sequence[LawRow],
    token_ids: Sequence[npt.NDArray[np.int64]],
    *,
    domain: Domain = Domain.COUPLED_DRAW,
) -> list[npt.NDArray[np.float64]]:
    """Return the noise of a few tokens of each row, made in one go per seed.

    The drafter's own draws differ by branch as well as by position, and
    nothing else ever does.
    """
    groups: dict[int, list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(seed_of(row), []).append(index)
    result: list[npt.NDArray[np.float64]] = [np.empty(0)] * len(rows)
    for seed, members in groups.items():
        lengths = [len(token_ids[index]) for index in members]
        positions = np.array([rows[index].position for index in members])
        choices = np.array([_choice(rows[index], domain) for index in members])
        noise = gumbel(
            np.concatenate([token_ids[index] for index in members]),
            np.repeat(positions, lengths),
            seed=seed,
            domain=domain,
            choice=np.repeat(choices, lengths),
        )
        ends = np.cumsum(lengths).tolist()
        for index, length, end in zip(members, lengths, ends, strict=True):
            result[index] = noise[end - length : end]
    return result


def _choice(row: LawRow, domain: Domain) -> int:
    branch = row.branch if domain is Domain.DRAFT_SAMPLING else 0
    return (row.choice + branch) & 0xFFFFFFFF


def draw_on_device(target_logits: Tensor, rows: Sequence[LawRow]) -> Tensor:
    """Return the drawn token of each row, int64 [num_rows], on the logits' own device.

    The same law and the same bits as `noised_rows`, for all rows at once.
    """
    scores = processed_logits(target_logits, rows).double()
    sampled = [index for index, row in enumerate(rows) if not row.sampling.is_greedy]
    groups: dict[tuple[int, int], list[int]] = {}
    for index in sampled:
        groups.setdefault((seed_of(rows[index]), rows[index].choice), []).append(index)
    for (seed, choice), members in groups.items():
        positions = sorted({rows[index].position for index in members})
        noise = gumbel_on_device(
            scores.shape[-1], positions, seed=seed, choice=choice, device=scores.device
        )
        place = {position: index for index, position in enumerate(positions)}
        scores[members] += noise[[place[rows[index].position] for index in members]]
    return scores.argmax(dim=-1)


def gumbel_on_device(
    vocab_size: int, positions: Sequence[int], *, seed: int, choice: int, device: torch.device
) -> Tensor:
    """Return the noise of every token at some positions, float64 [num_positions, vocab]."""
    pairs = torch.arange((vocab_size + 1) // 2, device=device)[None, :]
    at = torch.tensor(positions, device=device)[:, None]
    even, odd = uniform_bits(pairs, at, seed=seed, domain=Domain.COUPLED_DRAW, choice=choice)
    bits = torch.stack((even, odd), dim=-1).flatten(start_dim=1)[:, :vocab_size]
    uniforms = (bits | 1).double() * 2.0**-53
    return -torch.log(-torch.log(uniforms))
