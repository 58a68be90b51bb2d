"""What the target says about a batch of texts, computed once for all students.

A student needs the target's law on its own columns at every row. These laws
are too large to keep, tens of gigabytes for a batch's worth of float32, but
cheap to make again: the target's last hidden state at the row times the head's
rows for those columns, less the logarithm of the sum over the whole
vocabulary. So a batch carries the hidden states and those sums, and students
make the logits in chunks, each for its own vocabulary.

The hidden states of a whole corpus may fit an accelerator's memory (1.2 KB a
token for a width of 576); then the target passes over each text only once,
however many epochs follow.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from treedraft.training.batches import TokenBatch
from treedraft.training.losses import GREEDY_TEMPERATURE
from treedraft.training.products import choose_product
from treedraft.training.student import last_hidden, output_head

# Logits over the whole vocabulary that are in memory at once, in numbers: 1.6 GB.
_MAX_LOGITS = 400_000_000

# (logits [rows, vocab], temperatures [rows]) → log totals, tempered ones, best ids
Summary = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class TeacherRows:
    """The target's part in some rows.

    `hidden` [rows, hidden] is what its head reads; `log_totals` [rows] is the
    logarithm of Σ exp(logit) over its whole vocabulary, `tempered_log_totals` that
    of Σ exp(logit / temperature) at the row's temperature; `best_ids` [rows] are
    its greedy tokens.
    """

    hidden: Tensor
    log_totals: Tensor
    tempered_log_totals: Tensor
    best_ids: Tensor


@dataclass(frozen=True, slots=True)
class TeacherBatch:
    """A batch of texts and what the target says about each row.

    `temperatures` [rows] are those that the laws of the rows are compared at,
    `GREEDY_TEMPERATURE` in place of 0; `tokens` says what the texts are.
    """

    tokens: TokenBatch
    temperatures: Tensor
    target: TeacherRows


def summarise(logits: Tensor, temperatures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return log Σ exp(logits), log Σ exp(logits / T) and the best ids, [rows] each.

    Args:
        logits: float32 [rows, vocab].
        temperatures: above 0, [rows].
    """
    best, best_ids = logits.max(dim=-1)
    below = logits - best[:, None]
    log_totals = best + below.exp().sum(dim=-1).log()
    tempered = best / temperatures + (below / temperatures[:, None]).exp().sum(dim=-1).log()
    return log_totals, tempered, best_ids


class TeacherCache:
    """The target's part in the rows of a corpus, on the device.

    Rows are kept at the temperature that their text was drawn at.
    """

    def __init__(
        self,
        num_rows: int,
        num_documents: int,
        hidden: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Allocate `size_in_bytes`."""
        self._rows = TeacherRows(
            hidden=torch.empty((num_rows, hidden), dtype=dtype, device=device),
            log_totals=torch.empty(num_rows, device=device),
            tempered_log_totals=torch.empty(num_rows, device=device),
            best_ids=torch.empty(num_rows, dtype=torch.int32, device=device),
        )
        self._is_known = np.zeros(num_documents, bool)

    @staticmethod
    def size_in_bytes(num_rows: int, hidden: int, dtype: torch.dtype) -> int:
        """Return what a cache of so many rows takes."""
        return num_rows * (hidden * dtype.itemsize + 12)

    def get(self, batch: TokenBatch) -> TeacherRows | None:
        """Return the rows of a batch, None unless all its documents are known."""
        if not self._is_known[batch.documents].all():
            return None
        index = batch.stored_rows
        return TeacherRows(
            hidden=self._rows.hidden[index],
            log_totals=self._rows.log_totals[index],
            tempered_log_totals=self._rows.tempered_log_totals[index],
            best_ids=self._rows.best_ids[index].long(),
        )

    def put(self, batch: TokenBatch, rows: TeacherRows) -> None:
        """Keep the rows of a batch."""
        index = batch.stored_rows
        self._rows.hidden[index] = rows.hidden
        self._rows.log_totals[index] = rows.log_totals
        self._rows.tempered_log_totals[index] = rows.tempered_log_totals
        self._rows.best_ids[index] = rows.best_ids.int()
        self._is_known[batch.documents] = True


class Teacher:
    """A target that says what it thinks of texts."""

    def __init__(
        self,
        module: PreTrainedModel,
        *,
        chunk_rows: int,
        cache: TeacherCache | None = None,
        summary: Summary = summarise,
    ) -> None:
        """Take a target whose attention is our causal one.

        Args:
            module: the target.
            chunk_rows: most rows whose logits are in memory at once.
            cache: where rows are kept, if at all.
            summary: `summarise`, or something faster that does the same.
        """
        self.module = module
        self._head = output_head(module).weight.detach()  # [vocab, hidden]
        self._chunk_rows = max(1, min(chunk_rows, _MAX_LOGITS // len(self._head)))
        self._product = choose_product(module.device, module.dtype)
        self._cache = cache
        self._summary = summary

    def forget(self) -> None:
        """Give up the cache and its memory."""
        self._cache = None

    @torch.no_grad()
    def look_at(self, batch: TokenBatch, temperature: float | None = None) -> TeacherBatch:
        """Return what the target says about a batch.

        Args:
            batch: texts and rows.
            temperature: to compare laws at, by default that of each text.
        """
        chosen = (
            batch.temperatures
            if temperature is None
            else torch.full_like(batch.temperatures, temperature)
        )
        temperatures = chosen.clamp(min=GREEDY_TEMPERATURE)
        cache = self._cache if temperature is None else None
        known = cache.get(batch) if cache else None
        rows = known or self._pass_over(batch, temperatures)
        if cache and not known:
            cache.put(batch, rows)
        return TeacherBatch(tokens=batch, temperatures=temperatures, target=rows)

    def _pass_over(self, batch: TokenBatch, temperatures: Tensor) -> TeacherRows:
        hidden = last_hidden(self.module, batch.tokens).flatten(0, 1)[batch.rows]
        summaries = [
            self._summary(self._product(rows, self._head.t()), row_temperatures)
            for rows, row_temperatures in zip(
                torch.split(hidden, self._chunk_rows),
                torch.split(temperatures, self._chunk_rows),
                strict=True,
            )
        ]
        log_totals, tempered, best_ids = (
            torch.cat(parts) for parts in zip(*summaries, strict=True)
        )
        return TeacherRows(hidden, log_totals, tempered, best_ids)
