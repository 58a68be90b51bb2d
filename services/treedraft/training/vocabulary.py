"""Which of the target's ids a drafter can say.

The head over the whole vocabulary is most of what a shallow model costs, and
nearly all that the target writes is written with few of its ids, so a drafter's
head has columns for those alone (FR-Spec, arXiv 2502.14856). An id without a
column is never drafted: that costs a miss where it comes up and nothing else.
"""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from treedraft.core.errors import InvalidRequestError
from treedraft.training.corpus import Corpus

_TOKENS_AT_ONCE = 1 << 24  # index arrays of a piece, not of a whole corpus


def count_response_ids(corpus: Corpus, vocab_size: int) -> npt.NDArray[np.int64]:
    """Return how often each id comes in the answers, [vocab_size].

    Raises:
        InvalidRequestError: reason CORPUS_MISMATCH if an id is not of this vocabulary.
    """
    counts = np.zeros(vocab_size, np.int64)
    first = 0
    while first < corpus.num_documents:
        last = int(np.searchsorted(corpus.offsets, corpus.offsets[first] + _TOKENS_AT_ONCE))
        last = min(max(last, first + 1), corpus.num_documents)
        start, end = corpus.offsets[first], corpus.offsets[last]
        steps = np.zeros(int(end - start) + 1, np.int8)
        # 1 from the end of each prompt to the end of its answer
        np.add.at(steps, corpus.offsets[first:last] + corpus.prompt_lengths[first:last] - start, 1)
        np.add.at(steps, corpus.offsets[first + 1 : last + 1] - start, -1)
        is_response = np.cumsum(steps[:-1], dtype=np.int8).astype(bool)
        found = np.bincount(corpus.flat_tokens[start:end][is_response], minlength=vocab_size)
        if len(found) > vocab_size:
            raise InvalidRequestError(
                f"the corpus has id {len(found) - 1}, the target {vocab_size} ids",
                reason="CORPUS_MISMATCH",
            )
        counts += found
        first = last
    return counts


def choose_vocabulary(
    corpus: Corpus, size: int, *, vocab_size: int, always: Iterable[int] = ()
) -> tuple[int, ...]:
    """Return the ids that a drafter's head has columns for, ascending.

    Those that come most often in the target's answers; of equals, the lower id,
    which in vocabularies made by merging is the more frequent one anywhere.

    Args:
        corpus: the target's texts.
        size: how many; all of the vocabulary if it has no more.
        vocab_size: of the target.
        always: ids that are among them however rare, such as those that end a text.

    Raises:
        InvalidRequestError: reason CORPUS_MISMATCH; reason VOCABULARY_TOO_SMALL if
            `always` alone is more than `size`.
    """
    if size >= vocab_size:
        return tuple(range(vocab_size))
    kept = {token_id for token_id in always if 0 <= token_id < vocab_size}
    if len(kept) > size:
        raise InvalidRequestError(
            f"{len(kept)} ids must be among the drafter's, which has {size}",
            field="vocab_size",
            reason="VOCABULARY_TOO_SMALL",
        )
    counts = count_response_ids(corpus, vocab_size)
    for token_id in np.argsort(-counts, kind="stable").tolist():
        if len(kept) == size:
            break
        kept.add(token_id)
    return tuple(sorted(kept))


def coverage(corpus: Corpus, draft_token_ids: Iterable[int], vocab_size: int) -> float:
    """Return the share of answer tokens that a drafter with these ids can say."""
    counts = count_response_ids(corpus, vocab_size)
    return float(counts[list(draft_token_ids)].sum() / max(1, counts.sum()))
