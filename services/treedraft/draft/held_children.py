"""Children that the model named and nobody was told of: places that are hardly reached have many.

A node costs whoever writes, carries and reads it. So a child is sent once it is likely
enough, by the score of its path; until then it is held back here. When the root moves
towards its place it becomes likelier, and is told without the model being asked again,
which never names the children of a place twice.

Invariant: those of a place are held best first.
"""

from collections.abc import Sequence

from treedraft.core.growth import ROOT
from treedraft.core.token_tree import Rerooted, TokenTree


class HeldChildren:
    """Those of one session's tree."""

    def __init__(self) -> None:
        """Hold nobody back yet."""
        self._by_place: dict[int, list[tuple[int, float]]] = {}

    def hold(self, place: int, children: Sequence[tuple[int, float]]) -> None:
        """Keep children of a living node or ROOT, as (token, log-probability given it)."""
        self._by_place.pop(place, None)
        if children:
            self._by_place[place] = sorted(children, key=lambda child: -child[1])

    def release(
        self, tree: TokenTree, *, min_score: float, max_nodes: int
    ) -> list[tuple[int, int, float]]:
        """Return those whose path scores so much by now as (place, token, log-probability).

        The best come first, and no more than asked for; they are held no longer.
        """
        ripe = []
        for place, children in self._by_place.items():
            above = tree.score(place)
            for token_id, log_probability in children:
                if above + log_probability < min_score:
                    break  # those that follow are no better
                ripe.append((above + log_probability, place, token_id, log_probability))
        # A parent is in the tree already, so that none waits for another.
        ripe.sort(key=lambda entry: (-entry[0], entry[1], entry[2]))
        told = [entry[1:] for entry in ripe[: max(0, max_nodes)]]
        for place in {place for place, _, _ in told}:
            tokens = {token_id for at, token_id, _ in told if at == place}
            self.hold(place, [c for c in self._by_place[place] if c[0] not in tokens])
        return told

    def follow(self, moved: Rerooted) -> None:
        """Move with the root."""
        at_root = self._by_place.get(moved.path[-1]) if moved.is_hit else None
        for node_id in (ROOT, *moved.path, *moved.removed_ids):
            self._by_place.pop(node_id, None)
        if at_root is not None:
            self._by_place[ROOT] = at_root
