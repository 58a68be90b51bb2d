"""The children that a draft model gives to the places it has run.

In coupled mode they are the tokens that the target is most likely to draw with its
noise, in rejection mode a sample without replacement from a law that travels along.
Places of all sessions are looked at together, since on an accelerator every look is a
wait for the device.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, islice, pairwise

import numpy as np
import numpy.typing as npt
import torch

from treedraft.core.growth import ROOT, TokenSource
from treedraft.draft.model_state import DraftModelState
from treedraft.draft.segments import Work
from treedraft.draft.session import DraftSession
from treedraft.draft.settings import GrowthSettings
from treedraft.inference.draft_sampler import draft_children, draft_siblings
from treedraft.inference.sampler import LawRow, TokenHistory, branch_of

# How likely a sample of a law close to the target's is accepted at a place. In
# rejection mode scores must not depend on which token was drawn.
_SAMPLE_ACCEPTANCE = 0.7


@dataclass(frozen=True, slots=True)
class DraftLimits:
    """What the draft model can take.

    `vocab_size` ids are in use; `num_embeddings`, padding included, can be read.
    `column_ids` are the ids of the head's columns, ascending, None if they are
    the columns.
    """

    vocab_size: int
    num_embeddings: int
    context_length: int
    eos_token_ids: frozenset[int]
    column_ids: npt.NDArray[np.int64] | None = None

    def num_columns(self, vocab_size: int) -> int:
        """Return the columns, from the first on, whose ids are below `vocab_size`."""
        if self.column_ids is None:
            return vocab_size
        return int(np.searchsorted(self.column_ids, vocab_size))


@dataclass(frozen=True, slots=True)
class _Placed:
    """The places of one session that were run, their laws, and their rows of the logits."""

    session: DraftSession
    places: Sequence[int]
    rows: Sequence[LawRow]
    logit_rows: range


class ChildChooser:
    """Puts children into the trees of sessions; used by one thread."""

    def __init__(self, limits: DraftLimits, settings: GrowthSettings) -> None:
        """Choose for a model of these limits."""
        self._limits = limits
        self._settings = settings

    def add(self, drafting: Sequence[tuple[Work, Sequence[int]]], logits: torch.Tensor) -> None:
        """Give the places of each session their children; logits are in the order of places."""
        ends = accumulate((len(places) for _, places in drafting), initial=0)
        coupled: dict[int, list[_Placed]] = {}
        for (work, places), (start, end) in zip(drafting, pairwise(ends), strict=True):
            session, state = work.session, work.state
            rows = [law_row(session, state, place) for place in places]
            # A padded head has logits of ids that nobody uses.
            num_columns = self._limits.num_columns(state.vocab_size)
            placed = _Placed(session, places, rows, range(start, end))
            if session.is_rejection:
                self._add_groups(session, places, logits[start:end, :num_columns].cpu(), rows)
            else:
                coupled.setdefault(num_columns, []).append(placed)
        for num_columns, group in coupled.items():
            own = logits[:, :num_columns]
            self._add_coupled(group, own if len(group) == len(drafting) else _only(own, group))

    def _add_coupled(self, group: Sequence[_Placed], logits: torch.Tensor) -> None:
        drafted = iter(
            draft_children(
                logits,
                list(chain.from_iterable(placed.rows for placed in group)),
                self._settings.num_children,
                score_temperature=self._settings.score_temperature,
                column_ids=self._column_ids(logits),
            )
        )
        for placed in group:
            session = placed.session
            own = islice(drafted, len(placed.rows))
            for place, children in zip(placed.places, own, strict=True):
                session.add_likely(place, children)

    def _column_ids(self, logits: torch.Tensor) -> npt.NDArray[np.int64] | None:
        column_ids = self._limits.column_ids
        return None if column_ids is None else column_ids[: logits.shape[1]]

    def _add_groups(
        self,
        session: DraftSession,
        places: Sequence[int],
        logits: torch.Tensor,
        rows: Sequence[LawRow],
    ) -> None:
        drafted = draft_siblings(
            logits, rows, self._settings.siblings, column_ids=self._column_ids(logits)
        )
        for place, (children, law) in zip(places, drafted, strict=True):
            if place in session.grouped or not children:
                continue  # computed again after its KV was dropped, or nothing is allowed
            session.add_group(
                place,
                children,
                [_sample_score(rank) for rank in range(len(children))],
                TokenSource.DRAFT_MODEL,
                support=law.token_ids,
                probabilities=law.probabilities,
            )


def law_row(session: DraftSession, state: DraftModelState, place: int) -> LawRow:
    """Return the law of the token after a place."""
    path = () if place == ROOT else session.path_tokens(place)
    return LawRow(
        sampling=session.spec.sampling,
        position=session.num_tokens + len(path),
        choice=session.spec.choice,
        history=TokenHistory(state.counts, path) if state.counts else None,
        branch=branch_of(path),
        allowed=session.grammar.allowed_after(path) if session.grammar else None,
    )


def _only(logits: torch.Tensor, group: Sequence[_Placed]) -> torch.Tensor:
    return logits[list(chain.from_iterable(placed.logit_rows for placed in group))]


def _sample_score(rank: int) -> float:
    return math.log(_SAMPLE_ACCEPTANCE) + rank * math.log(1.0 - _SAMPLE_ACCEPTANCE)
