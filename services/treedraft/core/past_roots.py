"""The roots that a tree has had: which nodes they were, and what the way to each scored.

Growth may come late, from a root that the text has left. A node that was committed is known
here by the length whose root it is now, so that its children find their place; and a score
that counts from an older root becomes one that counts from a later root by what the drafted
path between the two scored.
"""

_MAX_ROOTS = 512


class PastRoots:
    """Those of one tree, the oldest forgotten at some time."""

    def __init__(self, length: int) -> None:
        """Begin with the root after so many tokens."""
        self._lengths: dict[int, int] = {}
        # By committed length: what the drafted path to that root scored, summed over all
        # roots before it.
        self._scores: dict[int, float] = {length: 0.0}

    def length_of(self, node_id: int) -> int | None:
        """Return the committed length whose root a node is now, None if it is known for none."""
        return self._lengths.get(node_id)

    def score(self, length: int) -> float:
        """Return what the path to the root at a length scored; 0 if that is forgotten."""
        return self._scores.get(length, 0.0)

    def score_between(self, earlier: int, later: int) -> float:
        """Return what the path from one root to another scored; 0 if the first is forgotten."""
        here = self._scores[later]
        return here - self._scores.get(earlier, here)

    def move_to(self, length: int, score: float) -> None:
        """Note what the path to the root at a length scored."""
        self._scores[length] = score
        while len(self._scores) > _MAX_ROOTS:
            del self._scores[next(iter(self._scores))]

    def name(self, node_id: int, length: int) -> None:
        """Note that the root at a length was a node, as one drafter calls it."""
        self._lengths[node_id] = length
        while len(self._lengths) > _MAX_ROOTS:
            del self._lengths[next(iter(self._lengths))]

    def name_late(self, node_id: int, length: int, score: float, *, at: int) -> None:
        """Note the same of a node that came too late; the root is at length `at` by now."""
        self.name(node_id, length)
        if length in self._scores or length == at:
            self.move_to(length, score)

    def rescore(self, node_id: int, base_length: int, score: float) -> None:
        """Take over another score of a node that was committed, counted from an older root."""
        length = self._lengths.get(node_id)
        if length in self._scores and base_length in self._scores:
            change = self._scores[base_length] + score - self._scores[length]
            for later in self._scores:
                self._scores[later] += change * (later >= length)
