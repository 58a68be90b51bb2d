"""What came before a drawn token, which penalties depend on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


class SessionCounts:
    """Which tokens a session has seen, and how often it put them out.

    One per session with penalties, extended on every commit. Tokens outside
    the vocabulary (a drafter's may be smaller) have no logit and are ignored.
    """

    def __init__(self, vocab_size: int) -> None:
        """Start with an empty session."""
        self.vocab_size = vocab_size
        self.is_seen: npt.NDArray[np.bool_] = np.zeros(vocab_size, dtype=np.bool_)
        self.output_counts: npt.NDArray[np.int64] = np.zeros(vocab_size, dtype=np.int64)

    def add_prompt(self, token_ids: Sequence[int]) -> None:
        """Count tokens of the prompt."""
        self.is_seen[self._known(token_ids)] = True

    def add_output(self, token_ids: Sequence[int]) -> None:
        """Count committed tokens of the output."""
        known = self._known(token_ids)
        self.is_seen[known] = True
        np.add.at(self.output_counts, known, 1)

    def _known(self, token_ids: Sequence[int]) -> npt.NDArray[np.int64]:
        ids = np.asarray(token_ids, dtype=np.int64)
        return ids[ids < self.vocab_size]


@dataclass(frozen=True, slots=True)
class TokenHistory:
    """What came before a drawn token: the session, then a path of the tree.

    `path` holds the drafted tokens from below the root down to the row itself.
    """

    counts: SessionCounts
    path: tuple[int, ...] = ()

    def seen(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the distinct tokens seen, ascending, and how often each was put out."""
        path = np.asarray(self.path, dtype=np.int64)
        path = path[path < self.counts.vocab_size]
        ids = np.union1d(np.flatnonzero(self.counts.is_seen), path)
        in_path = (path[:, None] == ids[None, :]).sum(axis=0)
        return ids, self.counts.output_counts[ids] + in_path
