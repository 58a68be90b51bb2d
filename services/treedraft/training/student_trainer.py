"""One student learning from batches that a teacher has looked at.

A step is a pass of the student, then its head and the losses in chunks of
rows, then the way back. Logits of all rows would be gigabytes, so the head is
taken apart from the model: each chunk's gradient of the loss with respect to its
logits (`logit_gradients`) goes from there by hand to head and hidden states, and
the hidden states' gradient goes back through the layers at the end.

Several students can learn from the same batches, each with its own vocabulary
and losses; the teacher, the larger part of the work, looks only once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from treedraft.core.errors import TreedraftError
from treedraft.inference.downloads import Progress
from treedraft.inference.weights import be_silent
from treedraft.training.compilation import compile_for_any_rows, with_fallback
from treedraft.training.logit_gradients import (
    law_gradients,
    law_sums,
    logit_gradients,
)
from treedraft.training.loss_mix import LossChunk, LossMix
from treedraft.training.losses import hidden_distance
from treedraft.training.optimisation import MasterWeights
from treedraft.training.products import choose_product
from treedraft.training.student import last_hidden, output_head
from treedraft.training.teacher import TeacherBatch
from treedraft.training.train_settings import TrainSettings

_MAX_BAD_STEPS = 20


@dataclass(frozen=True, slots=True)
class StepReport:
    """Means over the steps since the last report.

    `loss` is per row and weighted as trained; `accepted` is Σ min(p, q) at the
    texts' temperatures, 0 while no loss needs it; `gradient_norm` is that of the last
    step, before clipping.
    """

    loss: float
    accepted: float
    gradient_norm: float


class StudentTrainer:
    """A student, its losses and its optimiser."""

    def __init__(
        self,
        student: PreTrainedModel,
        draft_token_ids: Sequence[int],
        target: PreTrainedModel,
        settings: TrainSettings,
        *,
        progress: Progress = be_silent,
    ) -> None:
        """Prepare to train a student.

        Args:
            student: from `make_student`.
            draft_token_ids: the target's id of each column of its head.
            target: the model that the student learns from.
            settings: of losses and steps.
            progress: told if the losses cannot be compiled.
        """
        device = student.device
        self.student = student
        self.draft_token_ids = tuple(draft_token_ids)
        self.settings = settings
        self.weights = MasterWeights(student, settings)
        target_head = output_head(target).weight.detach()
        self._target_head = target_head[torch.tensor(self.draft_token_ids, device=device)]
        self.column_of = torch.full((len(target_head),), -1, device=device)
        self.column_of[torch.tensor(self.draft_token_ids, device=device)] = torch.arange(
            len(self.draft_token_ids), device=device
        )
        self._product = choose_product(device, student.dtype)
        self._target_product = choose_product(device, target.dtype)
        plain = partial(logit_gradients, law_sums, law_gradients)
        self._logit_gradients: Callable[..., tuple[Tensor, Tensor, Tensor]] = plain
        if settings.compilation != "off" and device.type == "cuda":
            fused = partial(
                logit_gradients, compile_for_any_rows(law_sums), compile_for_any_rows(law_gradients)
            )
            self._logit_gradients = with_fallback(fused, plain, progress)
        self._sums = torch.zeros(3, device=device)  # loss, accepted, rows

    def step(self, batch: TeacherBatch, share: float) -> None:
        """Learn from one batch.

        Args:
            batch: texts, and what the target says about them.
            share: of the run that is done, from 0 to 1; decides losses and pace.
        """
        mix = LossMix.at(share, self.settings.loss)
        hidden = last_hidden(self.student, batch.tokens.tokens)
        rows = hidden.flatten(0, 1).index_select(0, batch.tokens.rows)
        row_gradients, head_gradient = self._through_the_head(rows.detach(), batch, mix)
        torch.autograd.backward(rows, row_gradients)
        self.weights.step({id(output_head(self.student).weight): head_gradient}, share)

    def rehearse(self, batch: TeacherBatch) -> None:
        """Go forth and back through the layers without learning anything."""
        hidden = last_hidden(self.student, batch.tokens.tokens)
        torch.autograd.backward(hidden.float().square().mean())
        self.student.zero_grad(set_to_none=True)

    def report(self) -> StepReport:
        """Return the means since the last report; waits for the device.

        Raises:
            TreedraftError: reason TRAINING_DIVERGED, after too many steps in a row
                without a finite gradient.
        """
        loss, accepted, num_rows = self._sums.tolist()
        self._sums.zero_()
        if int(self.weights.num_bad_in_a_row) >= _MAX_BAD_STEPS:
            raise TreedraftError(
                f"the gradients of the last {_MAX_BAD_STEPS} steps or more were not finite; go on "
                "from the last checkpoint with a lower learning rate",
                reason="TRAINING_DIVERGED",
            )
        per_row = 1.0 / max(num_rows, 1.0)
        return StepReport(loss * per_row, accepted * per_row, float(self.weights.gradient_norm))

    @torch.no_grad()
    def logits(self, batch: TeacherBatch, rows: slice, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return the drafter's and the target's logits of some rows, float32 [rows, columns].

        Args:
            batch: as the teacher has it.
            rows: which of its rows.
            hidden: the student's hidden states of all its rows.
        """
        own_head = output_head(self.student).weight
        return (
            self._product(hidden[rows], own_head.t()),
            self._target_product(batch.target.hidden[rows], self._target_head.t()),
        )

    def chunks(self, batch: TeacherBatch) -> list[slice]:
        """Return the rows of a batch in pieces whose logits fit in memory."""
        size, num_rows = self.settings.chunk_rows, batch.tokens.num_rows
        return [slice(i, min(i + size, num_rows)) for i in range(0, num_rows, size)]

    def state_dict(self) -> dict[str, Any]:
        """Return everything that `load_state_dict` needs to go on."""
        return self.weights.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of the same student."""
        self.weights.load_state_dict(state)

    def _through_the_head(
        self, hidden: Tensor, batch: TeacherBatch, mix: LossMix
    ) -> tuple[Tensor, Tensor]:
        """Return the gradients of the hidden states and of the head (float32)."""
        head = output_head(self.student).weight.detach()
        row_gradients = torch.empty_like(hidden)
        head_gradient = torch.zeros(head.shape, dtype=torch.float32, device=head.device)
        per_row = 1.0 / len(hidden)
        for rows in self.chunks(batch):
            draft_logits, target_logits = self.logits(batch, rows, hidden)
            chunk = LossChunk(
                log_totals=batch.target.log_totals[rows],
                tempered_log_totals=batch.target.tempered_log_totals[rows],
                temperatures=batch.temperatures[rows],
                best_columns=self.column_of[batch.target.best_ids[rows]],
                is_first=batch.tokens.is_first[rows],
            )
            gradients, loss, accepted = self._logit_gradients(
                draft_logits, target_logits, chunk, mix, per_row, hidden.dtype
            )
            row_gradients[rows] = gradients @ head
            head_gradient += self._product(gradients.t(), hidden[rows])
            if mix.hidden:
                row_gradients[rows] += (mix.hidden * per_row) * _hidden_gradients(
                    hidden[rows], batch.target.hidden[rows]
                )
            self._sums += torch.stack([loss, accepted, torch.full_like(loss, len(gradients))])
        return row_gradients, head_gradient


def _hidden_gradients(hidden: Tensor, target_hidden: Tensor) -> Tensor:
    leaf = hidden.detach().requires_grad_()
    (gradients,) = torch.autograd.grad(hidden_distance(leaf, target_hidden).sum(), leaf)
    return gradients
