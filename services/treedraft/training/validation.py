"""How well a student drafts, seen on texts that it is not trained on.

These are quick looks during training, with the target's own next tokens given
at every row; the evaluation of a finished drafter, with real trees, is
elsewhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from treedraft.training.losses import acceptance
from treedraft.training.student import last_hidden
from treedraft.training.student_trainer import StudentTrainer
from treedraft.training.teacher import TeacherBatch

TOP = 4
OTHER_TEMPERATURE = 0.7  # that batches for validation are looked at with
_CHAIN_DEPTH = 8


@dataclass(frozen=True, slots=True)
class Validation:
    """Shares, from 0 to 1, over the rows of held-out texts.

    `top[k - 1]`: the target's greedy token is among the drafter's k best;
    `greedy_top` the same on greedy texts alone. `overlap` and `overlap_at_07` are
    Σ min(p, q), that is 1 - TV, at T = 1 and 0.7. `chain_tokens` are the tokens a
    target pass would emit on greedy texts with chains of up to 8 drafts,
    `tree_tokens` if every node had 4 children.
    """

    top: tuple[float, ...]
    greedy_top: tuple[float, ...]
    overlap: float
    overlap_at_07: float
    chain_tokens: float
    tree_tokens: float

    def __str__(self) -> str:
        """Return the figures in one line."""
        return (
            f"greedy top-1 {self.greedy_top[0]:.3f} top-4 {self.greedy_top[-1]:.3f}, "
            f"all top-1 {self.top[0]:.3f}, "
            f"1-TV {self.overlap:.3f} (T=0.7 {self.overlap_at_07:.3f}), "
            f"τ chain {self.chain_tokens:.2f} tree {self.tree_tokens:.2f}"
        )


@torch.no_grad()
def validate(trainer: StudentTrainer, batches: Sequence[TeacherBatch]) -> Validation:
    """Look at a student.

    Args:
        trainer: of the student.
        batches: held-out texts, looked at with `OTHER_TEMPERATURE`.
    """
    ranks, overlaps, others, greedy, first = [], [], [], [], []
    for batch in batches:
        hidden = last_hidden(trainer.student, batch.tokens.tokens).flatten(0, 1)
        hidden = hidden[batch.tokens.rows]
        for rows in trainer.chunks(batch):
            draft_logits, target_logits = trainer.logits(batch, rows, hidden)
            ranks.append(_ranks(draft_logits, trainer.column_of[batch.target.best_ids[rows]]))
            overlaps.append(_overlap(draft_logits, target_logits, batch, rows, is_tempered=False))
            others.append(_overlap(draft_logits, target_logits, batch, rows, is_tempered=True))
        greedy.append(batch.tokens.temperatures <= 0)
        first.append(batch.tokens.is_first)
    rank = torch.cat(ranks).cpu().numpy()
    is_greedy, is_first = torch.cat(greedy).cpu().numpy(), torch.cat(first).cpu().numpy()
    return Validation(
        top=_shares(rank),
        greedy_top=_shares(rank[is_greedy]),
        overlap=float(torch.cat(overlaps).mean()),
        overlap_at_07=float(torch.cat(others).mean()),
        chain_tokens=_tokens_per_pass(rank[is_greedy] < 1, is_first[is_greedy]),
        tree_tokens=_tokens_per_pass(rank[is_greedy] < TOP, is_first[is_greedy]),
    )


def _ranks(draft_logits: Tensor, best_columns: Tensor) -> Tensor:
    """Return the place of the target's best id among the drafter's, `TOP` if behind those."""
    best = draft_logits.topk(min(TOP, draft_logits.shape[1]), dim=-1).indices
    is_found = best == best_columns[:, None]
    return torch.where(is_found.any(dim=-1), is_found.int().argmax(dim=-1), TOP)


def _overlap(
    draft_logits: Tensor,
    target_logits: Tensor,
    batch: TeacherBatch,
    rows: slice,
    *,
    is_tempered: bool,
) -> Tensor:
    target = batch.target
    totals = target.tempered_log_totals[rows] if is_tempered else target.log_totals[rows]
    temperatures = batch.temperatures[rows] if is_tempered else torch.ones_like(totals)
    log_probs = target_logits / temperatures[:, None] - totals[:, None]
    return acceptance(draft_logits, log_probs, temperatures)


def _shares(rank: npt.NDArray[np.int64]) -> tuple[float, ...]:
    return tuple(float((rank < k).mean()) if len(rank) else 0.0 for k in range(1, TOP + 1))


def _tokens_per_pass(is_hit: npt.NDArray[np.bool_], is_first: npt.NDArray[np.bool_]) -> float:
    """Return the mean tokens of a pass, the target's own included, walking along all texts."""
    num_rows = len(is_hit)
    num_passes = place = 0
    while place < num_rows:
        length = 0
        while length < _CHAIN_DEPTH and place + length < num_rows and is_hit[place + length]:
            if length and is_first[place + length]:
                break
            length += 1
        num_passes += 1
        # the pass's own token, unless the text ended with the drafts
        is_over = place + length >= num_rows or (length > 0 and bool(is_first[place + length]))
        place += length if is_over else length + 1
    return num_rows / num_passes if num_passes else 0.0
