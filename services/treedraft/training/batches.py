"""Texts of a corpus as batches: of similar length, in an order that a seed decides.

An epoch is cut into windows of shuffled documents; within a window they are
sorted by length, so that a batch holds texts of one length and little padding,
and then the batches of a window are shuffled. Everything follows from seed and
epoch, so a run that is resumed sees what it would have seen.

Whole prompts are held out for validation, with all their answers: which ones,
their tokens decide.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from treedraft.core.errors import InvalidRequestError
from treedraft.training.corpus import Corpus

_WINDOW_BATCHES = 64
_LENGTH_STEP = 32  # lengths of batches are multiples, so that few shapes come up

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Documents side by side, and the positions whose next token is the target's.

    A row is such a position. `tokens` [batch, length] is padded at the end; `rows`
    [num_rows] indexes the flattened batch, document by document in order;
    `is_first` [num_rows] marks the first of each document; `temperatures`
    [num_rows] are those that the next tokens were drawn at; `stored_rows`
    [num_rows] number the rows throughout the corpus. `num_tokens` counts without
    padding.
    """

    tokens: torch.Tensor
    rows: torch.Tensor
    is_first: torch.Tensor
    temperatures: torch.Tensor
    stored_rows: torch.Tensor
    documents: Indices
    num_tokens: int

    @property
    def num_rows(self) -> int:
        """Positions that are trained on."""
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class Split:
    """Documents to train on and documents never trained on."""

    training: Indices
    validation: Indices


def split_documents(corpus: Corpus, num_validation_prompts: int, max_length: int) -> Split:
    """Hold out about so many prompts with all their answers.

    At most a tenth of the prompts, and at least one, are held out. Documents
    without an answer, without a prompt or longer than `max_length` are left out.

    Raises:
        InvalidRequestError: reason CORPUS_TOO_SMALL if one side would be empty.
    """
    is_usable = (
        (corpus.lengths > corpus.prompt_lengths)
        & (corpus.prompt_lengths >= 1)
        & (corpus.lengths <= max_length)
    )
    usable = np.flatnonzero(is_usable)
    checksums = np.array([_prompt_checksum(corpus, int(index)) for index in usable], np.uint32)
    prompts = np.unique(checksums)
    num_held_out = max(1, min(num_validation_prompts, len(prompts) // 10))
    is_held_out = np.isin(checksums, prompts[:num_held_out])
    split = Split(training=usable[~is_held_out], validation=usable[is_held_out])
    if not len(split.training) or not len(split.validation):
        raise InvalidRequestError(
            f"{len(prompts)} prompts with answers are too few to train on some and test on others",
            reason="CORPUS_TOO_SMALL",
        )
    return split


def _prompt_checksum(corpus: Corpus, index: int) -> int:
    start = corpus.offsets[index]
    prompt = corpus.flat_tokens[start : start + corpus.prompt_lengths[index]]
    return zlib.crc32(prompt.astype("<u4").tobytes())


def plan_epoch(
    corpus: Corpus, documents: Indices, *, batch_tokens: int, seed: int, epoch: int
) -> list[Indices]:
    """Return the documents of each batch of an epoch, in order.

    A batch has at most `batch_tokens` tokens with padding, or one document.
    """
    rng = np.random.default_rng((seed, epoch))
    shuffled = rng.permutation(documents)
    mean_length = float(corpus.lengths[documents].mean())
    window = max(1, round(_WINDOW_BATCHES * batch_tokens / mean_length))
    batches: list[Indices] = []
    for start in range(0, len(shuffled), window):
        cut = list(_cut_by_length(corpus, shuffled[start : start + window], batch_tokens))
        batches += [cut[index] for index in rng.permutation(len(cut))]
    return batches


def _cut_by_length(corpus: Corpus, documents: Indices, batch_tokens: int) -> Iterator[Indices]:
    by_length = documents[np.argsort(-corpus.lengths[documents], kind="stable")]
    first = 0
    while first < len(by_length):
        longest = _padded(int(corpus.lengths[by_length[first]]))
        count = max(1, batch_tokens // longest)
        yield by_length[first : first + count]
        first += count


def _padded(length: int) -> int:
    return -(-length // _LENGTH_STEP) * _LENGTH_STEP


class BatchMaker:
    """Puts documents side by side and brings them to a device."""

    def __init__(self, corpus: Corpus, device: torch.device) -> None:
        """Number the rows of the corpus; the corpus is read at every batch."""
        self._corpus = corpus
        self._device = device
        response_lengths = (corpus.lengths - corpus.prompt_lengths).astype(np.int64)
        self._first_rows = np.concatenate([np.zeros(1, np.int64), np.cumsum(response_lengths)])

    @property
    def num_stored_rows(self) -> int:
        """Rows of the whole corpus."""
        return int(self._first_rows[-1])

    def make(self, documents: Indices) -> TokenBatch:
        """Return these documents as a batch."""
        corpus = self._corpus
        lengths = corpus.lengths[documents].astype(np.int64)
        prompts = corpus.prompt_lengths[documents].astype(np.int64)
        width = _padded(int(lengths.max()))
        tokens = np.zeros((len(documents), width), np.int64)
        for place, index in enumerate(documents):
            start = corpus.offsets[index]
            tokens[place, : lengths[place]] = corpus.flat_tokens[start : start + lengths[place]]
        answers = lengths - prompts
        place_of_row = np.repeat(np.arange(len(documents)), answers)
        step_of_row = np.arange(len(place_of_row)) - np.repeat(
            np.cumsum(answers) - answers, answers
        )
        # the position before a token is where that token is predicted
        rows = place_of_row * width + prompts[place_of_row] - 1 + step_of_row
        return TokenBatch(
            tokens=self._bring(tokens),
            rows=self._bring(rows),
            is_first=self._bring(step_of_row == 0),
            temperatures=self._bring(corpus.temperatures[documents][place_of_row]),
            stored_rows=self._bring(self._first_rows[documents][place_of_row] + step_of_row),
            documents=documents,
            num_tokens=int(lengths.sum()),
        )

    def _bring(self, array: npt.NDArray[np.generic]) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        if self._device.type == "cuda":
            # Out of pinned memory the copy waits for nothing that is under way.
            return tensor.pin_memory().to(self._device, non_blocking=True)
        return tensor.to(self._device)
