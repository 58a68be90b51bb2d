"""Lookup drafting: what followed the same words the last time.

Much of what models write copies the prompt or repeats itself: code that is
edited, names, quotations. And much of what one user asks resembles what they
asked before. The longest suffix of the text that occurred earlier is a guess at
what comes next (prompt lookup decoding, Saxena 2023; LLMA, Yang et al. 2023,
arXiv 2304.04487) and costs no model. It is looked for in the session's own text
and in recent traffic of the same tenant, and what followed more often counts
for more (SuffixDecoding, Oliaro et al. 2024, arXiv 2411.04975).

It works from any place of the tree, not only from its root, so it grows ahead
like a model does. How far a match is to be trusted is learned: at each
committed token each source is asked what it would have said, and counts by
length of match and by how unanimous it is keep the score, for the session with
those of its tenant as prior. That does not depend on which proposals were
drafted or admitted, so it is not biased by our own choices.
"""

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from treedraft.draft.calibration import Kind, MatchCalibrator
from treedraft.draft.settings import LookupSettings
from treedraft.draft.suffix_index import SuffixIndex, find
from treedraft.draft.tenants import Tenant

# No match is a certainty, or a chain of them would never lose score.
_MAX_PROBABILITY = 0.98
# Output for which a session's index is laid out; more is found less thoroughly.
_EXPECTED_OUTPUT = 1024
_OWN_TEXT = "own"
_RECENT_TRAFFIC = "recent"


@dataclass(frozen=True, slots=True)
class Proposal:
    """A token that followed an earlier occurrence of the present suffix."""

    token_id: int
    probability: float


@dataclass(frozen=True, slots=True)
class Match:
    """A continuation: how long its longest match is, and how many speak for it.

    Of `num_places` places whose match is at least so long, `num_agreeing` are
    followed by this token.
    """

    token_id: int
    length: int
    num_agreeing: int
    num_places: int

    @property
    def claim(self) -> float:
        """The probability of such a match before anything is known of the text."""
        return (1.0 - math.exp(-self.length / 4.0)) * self.num_agreeing / (self.num_places + 0.1)

    def kind(self, source: str) -> Kind:
        """Return what the match is counted as."""
        share = (4 * self.num_agreeing - 1) // self.num_places  # quarters, 3 for the last
        unanimity = 3 + min(self.num_agreeing, 3) if share == 3 else share
        return (source, min(self.length, 8) + (self.length >= 12), unanimity)


def weigh(found: Sequence[tuple[int, int]], *, max_matches: int) -> list[Match]:
    """Return continuations among what was found, each token once, long matches first.

    Args:
        found: (token, length of match) of each place, the latest first.
        max_matches: continuations to return, at most.
    """
    matches: dict[int, Match] = {}
    counts: dict[int, int] = {}
    num_places = 0
    # Sorting is stable: among equals the latest stays first.
    for length, places in groupby(sorted(found, key=_minus_length), key=_minus_length):
        for token_id, _ in places:
            counts[token_id] = counts.get(token_id, 0) + 1
            num_places += 1
        new = [token_id for token_id in counts if token_id not in matches]
        for token_id in sorted(new, key=counts.__getitem__, reverse=True):
            matches[token_id] = Match(token_id, -length, counts[token_id], num_places)
            if len(matches) == max_matches:
                return list(matches.values())
    return list(matches.values())


def _minus_length(place: tuple[int, int]) -> int:
    return -place[1]


class SessionLookup:
    """The lookup drafter of one session: its text, and how well it has done."""

    def __init__(
        self,
        settings: LookupSettings,
        tenant: Tenant | None = None,
        *,
        is_beside_model: bool = False,
    ) -> None:
        """Start with an empty text.

        Args:
            settings: what to look for.
            tenant: whose recent traffic to search and whose counts to begin
                with; None for a tenant that nothing is known of.
            is_beside_model: whether only stronger matches become nodes.
        """
        self.min_probability = (
            settings.min_probability_beside_model if is_beside_model else settings.min_probability
        )
        self._settings = settings
        self._tenant = tenant or Tenant(settings)
        self._index = SuffixIndex(settings)
        self._matches = MatchCalibrator(self._tenant.matches)
        # What was found after the present text and a path.
        self._found: dict[tuple[int, ...], dict[str, list[Match]]] = {}

    def read(self, token_ids: Sequence[int]) -> None:
        """Take in text that says nothing about how well lookup does, as a prompt."""
        if not len(self._index):
            expected = len(token_ids) + _EXPECTED_OUTPUT
            self._index = SuffixIndex(self._settings, expected_tokens=expected)
        self._index.extend(token_ids)
        self._found.clear()

    def learn(self, token_ids: Sequence[int]) -> None:
        """Take in committed output, and learn from what lookup would have said."""
        for index, token_id in enumerate(token_ids):
            # Where growth has looked already, this is what it found.
            said = self._find(tuple(token_ids[:index]))
            self._learn_agreement(said, token_id)
            for source, matches in said.items():
                for match in matches:
                    is_true = match.token_id == token_id
                    self._matches.observe(match.kind(source), is_true=is_true)
        self._index.extend(token_ids)
        self._found.clear()

    def say(self, path: Sequence[int]) -> list[Proposal]:
        """Return what may follow the text and a drafted path, most likely first.

        Args:
            path: drafted tokens from below the root.
        """
        claims = self._claims(self._find(tuple(path)))
        said = {
            token_id: self._tenant.agreement.probability(both) if len(both) > 1 else both[0]
            for token_id, both in claims.items()
        }
        excess = max(1.0, sum(said.values()) / _MAX_PROBABILITY)
        proposals = [Proposal(token_id, p / excess) for token_id, p in said.items()]
        proposals.sort(key=lambda proposal: -proposal.probability)
        return proposals[: self._settings.max_branches]

    def propose(self, path: Sequence[int]) -> list[Proposal]:
        """Return what of `say` is likely enough to become a node."""
        return [p for p in self.say(path) if p.probability >= self.min_probability]

    def _find(self, path: tuple[int, ...]) -> dict[str, list[Match]]:
        """Return by source what followed the end of the text and a drafted path."""
        if path in self._found:
            return self._found[path]
        needed = self._settings.max_suffix
        suffix = self._index.token_ids[-needed:]
        if path:
            suffix = (suffix + array("I", path))[-needed:]
        found = {
            _OWN_TEXT: find([self._index], suffix, max_found=self._settings.max_candidates),
            _RECENT_TRAFFIC: self._tenant.recent.find(suffix),
        }
        matches = {
            source: weigh(places, max_matches=2 * self._settings.max_branches)
            for source, places in found.items()
            if places
        }
        self._found[path] = matches
        return matches

    def _claims(self, said: dict[str, list[Match]]) -> dict[int, list[float]]:
        """Return the calibrated claims for each token, of the own text first."""
        claims: dict[int, list[float]] = {}
        for source, matches in said.items():
            for match in matches:
                claim = self._matches.probability(match.kind(source), match.claim)
                claims.setdefault(match.token_id, []).append(claim)
        return claims

    def _learn_agreement(self, said: dict[str, list[Match]], token_id: int) -> None:
        if len(said) > 1:
            for named, claims in self._claims(said).items():
                if len(claims) > 1:
                    self._tenant.agreement.observe(claims, is_true=named == token_id)
