"""Growth: new nodes of a token tree as they travel, flat arrays, parents first.

Also who may propose a token, and the law that siblings were drawn from. A
growth from the wire is checked before a tree sees it: what no tree can be is
refused here, whatever its sender meant by it.
"""

import math
from dataclasses import dataclass
from enum import Enum
from itertools import count, pairwise
from operator import le, sub

from treedraft.core.errors import InvalidGrowthError

ROOT = -1
"""The parent of the nodes that hang directly under the committed text."""

MAX_LAW_SUPPORT = 256
MAX_RESCORED = 1024
"""New scores of older nodes in one growth; more than any drafter's tree holds."""

# Scores cross the wire as float32; a parent and a child of probability 1 may
# round apart by this much.
_SCORE_SLACK = 1e-4


class TokenSource(Enum):
    """Who proposed a token."""

    DRAFT_MODEL = "draft_model"
    LOOKUP = "lookup"
    TARGET = "target"

    # Members are compared by identity; Enum's own hash is a call of Python for each look-up.
    __hash__ = object.__hash__


@dataclass(frozen=True, slots=True)
class SiblingLaw:
    """The law that the children of one node were drawn from (rejection mode).

    Truncated and renormalised before the draw, so it is exactly that law. The
    children are numbered in the order in which they were drawn.
    """

    first_child_id: int
    num_children: int
    token_ids: tuple[int, ...]
    probabilities: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Growth:
    """New nodes of one session, parents first.

    `parent_offsets[i]` is own id minus parent's id, 0 for a child of the root
    at `base_length`. Node `i` has the id `first_node_id + i`.
    """

    session_number: int
    base_length: int
    first_node_id: int
    parent_offsets: tuple[int, ...]
    token_ids: tuple[int, ...]
    scores: tuple[float, ...]
    sources: tuple[TokenSource, ...]
    sibling_laws: tuple[SiblingLaw, ...] = ()
    draft_us: int = 0
    held_us: int = 0
    rescored_ids: tuple[int, ...] = ()
    rescored_scores: tuple[float, ...] = ()

    @property
    def num_nodes(self) -> int:
        """Number of nodes in the message."""
        return len(self.token_ids)

    def check(self, vocab_size: int) -> None:
        """Raise InvalidGrowthError unless this is a well-formed piece of a tree.

        Whether parents in earlier messages exist only the tree can tell.
        """
        num_nodes = len(self.token_ids)
        if not len(self.parent_offsets) == len(self.scores) == len(self.sources) == num_nodes:
            raise InvalidGrowthError("arrays of a growth differ in length")
        if self.base_length < 1 or self.first_node_id < 0:
            raise InvalidGrowthError("growth without a base or with a negative node id")
        if num_nodes and not self._is_sound(vocab_size):
            for index in range(num_nodes):
                self._check_node(index, vocab_size)
        for law in self.sibling_laws:
            self._check_law(law, vocab_size)
        if self.rescored_ids or self.rescored_scores:
            self._check_rescored()

    def _is_sound(self, vocab_size: int) -> bool:
        """Return whether no node can be found fault with; where not, each is looked at."""
        offsets, scores = self.parent_offsets, self.scores
        above = [
            scores[index - offset] if 0 < offset <= index else 0.0
            for index, offset in enumerate(offsets)
        ]
        return (
            min(offsets) >= 0
            and min(map(sub, count(self.first_node_id), offsets)) >= 0
            and min(self.token_ids) >= 0
            and max(self.token_ids) < vocab_size
            # With one that is not finite a sum of floats is not finite either.
            and math.isfinite(sum(scores))
            and all(map(le, scores, above))
        )

    def _check_node(self, index: int, vocab_size: int) -> None:
        offset = self.parent_offsets[index]
        if not 0 <= offset <= self.first_node_id + index:
            raise InvalidGrowthError(f"node {index} has a parent that cannot exist")
        if not 0 <= self.token_ids[index] < vocab_size:
            raise InvalidGrowthError(f"token {self.token_ids[index]} is outside the vocabulary")
        score = self.scores[index]
        if not (math.isfinite(score) and score <= 0.0):
            raise InvalidGrowthError(f"score {score} is no log-probability")
        if 0 < offset <= index and score > self.scores[index - offset] + _SCORE_SLACK:
            raise InvalidGrowthError(f"node {index} scores above its parent")

    def _check_rescored(self) -> None:
        ids = self.rescored_ids
        if len(ids) != len(self.rescored_scores):
            raise InvalidGrowthError("arrays of a growth differ in length")
        if len(ids) > MAX_RESCORED:
            raise InvalidGrowthError(f"a growth rescores more than {MAX_RESCORED} nodes")
        if any(second <= first for first, second in pairwise((ROOT, *ids, self.first_node_id))):
            raise InvalidGrowthError("rescored nodes are not earlier ones in ascending order")
        if not all(math.isfinite(score) and score <= 0.0 for score in self.rescored_scores):
            raise InvalidGrowthError("a new score is no log-probability")

    def _check_law(self, law: SiblingLaw, vocab_size: int) -> None:
        first = law.first_child_id - self.first_node_id
        if law.num_children < 1 or first < 0 or first + law.num_children > self.num_nodes:
            raise InvalidGrowthError("a sibling law names children that were not sent")
        support = dict(zip(law.token_ids, law.probabilities, strict=False))
        if len(law.token_ids) > MAX_LAW_SUPPORT:
            raise InvalidGrowthError(f"a sibling law has more than {MAX_LAW_SUPPORT} tokens")
        if len(law.token_ids) != len(law.probabilities) or len(support) != len(law.token_ids):
            raise InvalidGrowthError("a sibling law is no map from tokens to probabilities")
        if not all(0 <= token < vocab_size for token in support):
            raise InvalidGrowthError("a sibling law has tokens outside the vocabulary")
        if not all(0.0 < p <= 1.0 + _SCORE_SLACK for p in support.values()):
            raise InvalidGrowthError("a sibling law has probabilities outside (0, 1]")
        if abs(sum(support.values()) - 1.0) > 1e-3:
            raise InvalidGrowthError("a sibling law does not sum to 1")
        children = range(first, first + law.num_children)
        parents = {
            law.first_child_id + i - self.parent_offsets[c] if self.parent_offsets[c] else ROOT
            for i, c in enumerate(children)
        }
        if len(parents) != 1 or not all(self.token_ids[c] in support for c in children):
            raise InvalidGrowthError("a sibling law does not fit its children")
