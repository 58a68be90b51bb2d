"""What model and lookup said about the places of a tree, and the scores it makes.

A node has one score, whoever named its token and in whatever order: each source
is kept by its word, and whenever one has spoken about a place, the children of
that place are weighed again. A commit shows which of them came true.
"""

from collections.abc import Sequence

from treedraft.core.growth import ROOT, TokenSource
from treedraft.core.token_tree import Rerooted, TokenTree
from treedraft.draft.calibration import OpinionMixer

_Said = dict[int, dict[int, float]]
"""By place, node or ROOT: probability by token."""


class Opinions:
    """The opinions about one session's tree."""

    def __init__(self, mixer: OpinionMixer) -> None:
        """Start without any; `mixer` weighs them, and learns for all sessions of a tenant."""
        self._mixer = mixer
        self._model: _Said = {}
        self._lookup: _Said = {}

    def hear(self, place: int, said: dict[int, float], source: TokenSource) -> None:
        """Take note, and keep, what a source says follows a node or ROOT: probability by token."""
        by_place = self._model if source is TokenSource.DRAFT_MODEL else self._lookup
        by_place[place] = said

    def is_known(self, place: int, token_id: int) -> bool:
        """Return whether a source named a token at a place."""
        return token_id in self._model.get(place, ()) or token_id in self._lookup.get(place, ())

    @property
    def model_belief(self) -> tuple[float, float]:
        """Bias and weight of the log-odds of what the model alone names."""
        return self._mixer.model_belief

    def probability(self, place: int, token_id: int) -> float:
        """Return the probability of a token that was named at a place."""
        return self._mixer.probability(
            token_id, self._model.get(place), self._lookup.get(place, {})
        )

    def probabilities(self, place: int, token_ids: Sequence[int]) -> list[float]:
        """Return the probability of each of these tokens, all named at a place."""
        return self._mixer.probabilities(
            token_ids, self._model.get(place), self._lookup.get(place, {})
        )

    def learn(self, tree: TokenTree, token_ids: Sequence[int]) -> None:
        """Learn from committed tokens, before the tree is re-rooted along them."""
        place: int | None = ROOT
        for token_id in token_ids:
            if place is None:
                return
            self._mixer.learn(token_id, self._model.get(place), self._lookup.get(place, {}))
            place = tree.children(place).get(token_id)

    def follow(self, moved: Rerooted) -> None:
        """Move with the root."""
        for said in (self._model, self._lookup):
            at_root = said.get(moved.path[-1]) if moved.is_hit else None
            for node_id in (ROOT, *moved.path, *moved.removed_ids):
                said.pop(node_id, None)
            if at_root is not None:
                said[ROOT] = at_root
