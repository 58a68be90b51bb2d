"""Lookup drafting: what followed the same words the last time.

Much of what models write copies the prompt or repeats itself: code that is
edited, names, quotations. The longest suffix of the text that occurred before
is a guess at what comes next (prompt lookup decoding, Saxena 2023; LLMA, Yang
et al. 2023, arXiv 2304.04487) and costs no model.

It works from any place of the tree, not only from its root, so it grows ahead
like a model does. How far a match is to be trusted is learned per session: at
each committed token the index is asked what it would have said, and a Beta
count per length of match keeps the score. That count does not depend on which
proposals were drafted or admitted, so it is not biased by our own choices, and
nothing learned in one session is used in another.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from treedraft.draft.settings import LookupSettings

_PRIOR_WEIGHT = 4.0
# No match is a certainty, or a chain of them would never lose score.
_MAX_PROBABILITY = 0.98


@dataclass(frozen=True, slots=True)
class Proposal:
    """A token that followed an earlier occurrence of the present suffix."""

    token_id: int
    probability: float


@dataclass(frozen=True, slots=True)
class _Match:
    """A continuation: how long the match is, and which of several it is."""

    token_id: int
    length: int
    rank: int


class SuffixIndex:
    """Finds earlier occurrences of a suffix in a text that only grows."""

    def __init__(self, settings: LookupSettings) -> None:
        """Start with an empty text."""
        self._settings = settings
        self._key_length = min(settings.min_suffix, settings.max_suffix)
        self.token_ids: list[int] = []
        # For each run of `key_length` tokens the places of what followed it.
        self._places: dict[tuple[int, ...], list[int]] = defaultdict(list)

    def append(self, token_id: int) -> None:
        """Add a token to the end of the text."""
        text, place = self.token_ids, len(self.token_ids)
        if place >= self._key_length:
            self._places[tuple(text[place - self._key_length :])].append(place)
        text.append(token_id)

    def find(self, path: Sequence[int]) -> list[_Match]:
        """Return continuations of the text followed by a drafted path, best first.

        The longest match wins, the latest of equals. Continuations of one
        token count once.
        """
        needed = self._settings.max_suffix
        suffix = [*self.token_ids[-needed:], *path][-needed:]
        if len(suffix) < self._key_length:
            return []
        places = self._places.get(tuple(suffix[-self._key_length :]), [])
        latest = reversed(places[-self._settings.max_candidates :])
        # Sorting is stable: among equals the latest stays first.
        candidates = sorted(
            ((self._match_length(place, suffix), place) for place in latest), key=lambda c: -c[0]
        )
        best: dict[int, int] = {}
        for length, place in candidates:
            best.setdefault(self.token_ids[place], length)
        branches = list(best.items())[: self._settings.max_branches]
        return [_Match(token, length, rank) for rank, (token, length) in enumerate(branches)]

    def _match_length(self, place: int, suffix: Sequence[int]) -> int:
        length = self._key_length
        longest = min(place, len(suffix))
        while length < longest and self.token_ids[place - length - 1] == suffix[-length - 1]:
            length += 1
        return length


class SessionLookup:
    """The lookup drafter of one session: its index, and how well it has done."""

    def __init__(self, settings: LookupSettings, *, is_beside_model: bool = False) -> None:
        """Start with an empty text; beside a model only strong matches count."""
        self._min_probability = (
            settings.min_probability_beside_model if is_beside_model else settings.min_probability
        )
        self._index = SuffixIndex(settings)
        # By (length of match, rank): Beta counts of proposals that came true or not.
        self._successes: dict[tuple[int, int], float] = defaultdict(float)
        self._trials: dict[tuple[int, int], float] = defaultdict(float)

    def read(self, token_ids: Sequence[int]) -> None:
        """Take in text that says nothing about how well lookup does, as a prompt."""
        for token_id in token_ids:
            self._index.append(token_id)

    def learn(self, token_ids: Sequence[int]) -> None:
        """Take in committed output, and learn from what lookup would have said."""
        for token_id in token_ids:
            for match in self._index.find(()):
                self._trials[match.length, match.rank] += 1.0
                self._successes[match.length, match.rank] += match.token_id == token_id
            self._index.append(token_id)

    def propose(self, path: Sequence[int]) -> list[Proposal]:
        """Return what may follow the text and a drafted path, most likely first.

        Args:
            path: drafted tokens from below the root.
        """
        proposals = []
        for match in self._index.find(path):
            probability = self._probability(match.length, match.rank)
            if probability >= self._min_probability:
                proposals.append(Proposal(match.token_id, probability))
        return sorted(proposals, key=lambda proposal: -proposal.probability)

    def _probability(self, length: int, rank: int) -> float:
        prior = (1.0 - math.exp(-length / 4.0)) * 0.9 * 0.25**rank
        successes = self._successes[length, rank] + prior * _PRIOR_WEIGHT
        return min(_MAX_PROBABILITY, successes / (self._trials[length, rank] + _PRIOR_WEIGHT))
