"""The law of the next token: from a model's logits to what may be drawn.

Parameters are applied in the order of transformers' logits processors, with
the two penalties that transformers lacks after its own:

    logit bias, repetition penalty, presence and frequency penalty,
    what a grammar or a minimum of tokens rules out                  (adjust)
    temperature, top-k, top-p, min-p                                 (warp)

Each of the three cuts keeps a beginning of one order, that of falling logits
with the lower id first among equals, and at least one token. So the law is a
function of its row alone: what else is in the batch cannot change it.
"""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from treedraft.core.sampling import SamplingParameters
from treedraft.inference.token_history import TokenHistory

# A lower temperature is taken as this one, at which a gap of 1e-4 between two
# logits already makes odds of e**100, and nothing overflows in float32.
MIN_TEMPERATURE = 1e-6
# Distances below the best logit that are tried in turn when looking for the
# few tokens that hold the mass of top-p; sorting a whole vocabulary is slow.
_HEAD_DEPTHS = (2.0, 4.0, 8.0, 16.0, math.inf)


@dataclass(frozen=True, slots=True)
class LawRow:
    """How the token after one row of a pass is drawn.

    Attributes:
        sampling: the parameters; `seed` is present unless they are greedy.
        position: absolute index in the session that the drawn token will have.
        choice: which of several answers to one prompt this is.
        history: what came before; required if there are penalties.
        branch: names the row's path from the root, see `branch_of`. Only the
            drafter's own draws of rejection mode read it.
        allowed: which tokens may be drawn at all, bool [vocab], at least one of
            them; None for all. Tokens beyond its end may not.
    """

    sampling: SamplingParameters
    position: int
    choice: int = 0
    history: TokenHistory | None = None
    branch: int = 0
    allowed: npt.NDArray[np.bool_] | None = field(default=None, compare=False)


def branch_of(path: Sequence[int]) -> int:
    """Return a number in [0, 2**32) that tells the paths of one tree apart.

    Rejection sampling needs the children of two nodes at one depth to be drawn
    independently: a drafter that has seen the one draw must know nothing of the
    other when it decides whether to make it.
    """
    return zlib.crc32(np.asarray(path, dtype="<i8").tobytes())


def adjusted_logits(
    target_logits: Tensor,
    rows: Sequence[LawRow],
    column_ids: npt.NDArray[np.int64] | None = None,
) -> Tensor:
    """Apply logit bias, penalties and what is not allowed, float32 [num_rows, columns].

    Returns the argument itself if there is nothing to apply.

    Args:
        target_logits: any floating type [num_rows, columns].
        rows: their laws.
        column_ids: ascending, the token of each column, for a drafter whose head
            lacks some; None where columns are tokens.
    """
    adjusted = target_logits.float()
    is_own = adjusted is not target_logits
    for index, row in enumerate(rows):
        is_adjusted = row.sampling.logit_bias or row.sampling.has_penalties
        if is_adjusted or row.allowed is not None:
            if not is_own:
                adjusted, is_own = adjusted.clone(), True
            _add_bias(adjusted[index], row.sampling, column_ids)
            _penalise(adjusted[index], row, column_ids)
            _rule_out(adjusted[index], row, column_ids)
    return adjusted


def _columns_of(
    token_ids: npt.NDArray[np.int64],
    num_columns: int,
    column_ids: npt.NDArray[np.int64] | None,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return the columns of those tokens that have one, and which tokens these are."""
    if column_ids is None:
        is_known = token_ids < num_columns
        return token_ids[is_known], is_known
    columns = np.minimum(np.searchsorted(column_ids, token_ids), num_columns - 1)
    is_known = column_ids[columns] == token_ids
    return columns[is_known], is_known


def _add_bias(
    logits: Tensor, sampling: SamplingParameters, column_ids: npt.NDArray[np.int64] | None
) -> None:
    if sampling.logit_bias:
        token_ids = np.array([token_id for token_id, _ in sampling.logit_bias], dtype=np.int64)
        columns, is_known = _columns_of(token_ids, logits.shape[0], column_ids)
        biases = np.array([bias for _, bias in sampling.logit_bias], dtype=np.float32)
        logits[torch.from_numpy(columns).to(logits.device)] += torch.from_numpy(
            biases[is_known]
        ).to(logits)


def _penalise(logits: Tensor, row: LawRow, column_ids: npt.NDArray[np.int64] | None) -> None:
    sampling = row.sampling
    if not sampling.has_penalties:
        return
    if row.history is None:
        raise ValueError("penalties need the history of the row")
    seen, num_outputs = row.history.seen()
    columns, is_known = _columns_of(seen, logits.shape[0], column_ids)
    ids = torch.from_numpy(columns).to(logits.device)
    counts = torch.from_numpy(num_outputs[is_known]).to(logits.device)
    penalty = sampling.repetition_penalty
    values = logits[ids]
    values = torch.where(values < 0, values * penalty, values / penalty)
    values -= sampling.frequency_penalty * counts.float()
    values -= sampling.presence_penalty * (counts > 0).float()
    logits[ids] = values


def _rule_out(logits: Tensor, row: LawRow, column_ids: npt.NDArray[np.int64] | None) -> None:
    if row.allowed is None:
        return
    ids = np.arange(logits.shape[0]) if column_ids is None else column_ids
    is_known = ids < len(row.allowed)
    is_ruled_out = ~is_known
    is_ruled_out[is_known] = ~row.allowed[ids[is_known]]
    logits.masked_fill_(torch.from_numpy(is_ruled_out).to(logits.device), -math.inf)


def temperature_of(sampling: SamplingParameters) -> float:
    """Return what logits are divided by: 1 for greedy rows, which have no noise."""
    return 1.0 if sampling.is_greedy else max(sampling.temperature, MIN_TEMPERATURE)


def is_truncated(sampling: SamplingParameters) -> bool:
    """Whether some tokens may be cut from the law."""
    has_cut = sampling.top_k > 0 or sampling.top_p < 1.0 or sampling.min_p > 0.0
    return has_cut and not sampling.is_greedy


def is_plain(row: LawRow) -> bool:
    """Whether nothing but temperature and noise is between a row's logits and what is drawn."""
    sampling = row.sampling
    is_adjusted = bool(sampling.logit_bias) or sampling.has_penalties or row.allowed is not None
    return not (is_adjusted or is_truncated(sampling))


def survivors(
    logits: npt.NDArray[np.float32], sampling: SamplingParameters
) -> npt.NDArray[np.int64]:
    """Return the tokens that no cut removes, ascending.

    Args:
        logits: one row [vocab], temperature applied.
        sampling: a law with at least one cut.
    """
    head = _falling_head(logits, sampling)
    values = head.astype(np.float64) - float(head[0])
    count = len(head)
    if sampling.top_p < 1.0:
        everything = values if sampling.top_k else logits.astype(np.float64) - float(head[0])
        needed = sampling.top_p * np.exp(everything).sum()
        # A token stays while the mass before it falls short of top-p.
        count = 1 + int(np.searchsorted(np.cumsum(np.exp(values[:-1])), needed))
    if sampling.min_p > 0.0:
        count = min(count, max(1, int((values >= math.log(sampling.min_p)).sum())))
    is_kept = logits > head[count - 1]
    num_above = int(np.count_nonzero(is_kept))
    is_kept[np.flatnonzero(logits == head[count - 1])[: count - num_above]] = True
    return np.flatnonzero(is_kept)


def _falling_head(
    logits: npt.NDArray[np.float32], sampling: SamplingParameters
) -> npt.NDArray[np.float32]:
    """Return the largest logits in falling order, as many as the cuts can leave over."""
    best = float(logits.max())
    if sampling.top_k:
        start = max(len(logits) - sampling.top_k, 0)
        head = np.partition(logits, start)[start:]
    elif sampling.top_p == 1.0:
        head = logits[logits >= best + math.log(sampling.min_p)]
    else:
        weights = np.exp(logits.astype(np.float64) - best)
        needed = sampling.top_p * weights.sum()
        for depth in _HEAD_DEPTHS:
            is_near = logits >= best - depth
            if weights[is_near].sum() > needed:
                break
        head = logits[is_near]
    return np.sort(head)[::-1]


def truncate_on_device(logits: Tensor, rows: Sequence[LawRow]) -> Tensor:
    """Set the logits of cut tokens to -inf, for all rows at once on any device.

    The same cuts as `survivors`, by one sort of the vocabulary.

    Args:
        logits: [num_rows, vocab], temperature applied.
        rows: their laws.
    """
    kept = [row.sampling for row in rows]

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float64, device=logits.device)[:, None]

    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    values = ordered.double()
    rank = torch.arange(logits.shape[-1], device=logits.device)
    stays = rank < column([s.top_k if s.top_k and not s.is_greedy else math.inf for s in kept])
    mass = torch.softmax(values.masked_fill(~stays, -math.inf), dim=-1)
    before = mass.cumsum(dim=-1) - mass
    stays &= before < column([s.top_p if s.top_p < 1.0 and not s.is_greedy else 2.0 for s in kept])
    least = [math.log(s.min_p) if s.min_p > 0.0 and not s.is_greedy else -math.inf for s in kept]
    stays &= values >= values[:, :1] + column(least)
    stays[:, 0] = True
    is_kept = torch.zeros_like(stays).scatter_(-1, order, stays)
    return logits.masked_fill(~is_kept, -math.inf)


def processed_logits(target_logits: Tensor, rows: Sequence[LawRow]) -> Tensor:
    """Return the logits of the law, float32 [num_rows, vocab]; cut tokens are -inf.

    Greedy rows keep all tokens: only bias and penalties matter to an argmax.
    """
    divisors = torch.tensor([temperature_of(row.sampling) for row in rows])
    adjusted = adjusted_logits(target_logits, rows)
    processed = adjusted / divisors.to(adjusted.device)[:, None]
    if not any(is_truncated(row.sampling) for row in rows):
        return processed
    if processed.device.type != "cpu":
        return truncate_on_device(processed, rows)
    for index, row in enumerate(rows):
        if is_truncated(row.sampling):
            ids = torch.from_numpy(survivors(processed[index].numpy(), row.sampling))
            values = processed[index, ids]
            processed[index] = -math.inf
            processed[index, ids] = values
    return processed


def target_probs(target_logits: Tensor, rows: Sequence[LawRow]) -> npt.NDArray[np.float64]:
    """Return the law of each row as probabilities, float64 [num_rows, vocab].

    The law of a greedy row is a point mass on its most likely token.
    """
    processed = processed_logits(target_logits, rows)
    probs = torch.softmax(processed.double(), dim=-1)
    for index, row in enumerate(rows):
        if row.sampling.is_greedy:
            probs[index] = 0.0
            probs[index, processed[index].argmax()] = 1.0
    result: npt.NDArray[np.float64] = probs.cpu().numpy()
    return result
