"""The living tree of one session, on either side of the exchange.

It has stable node ids, is grafted onto as growth arrives and re-rooted as
tokens are committed; `growth` is how new nodes travel, `flat_tree` a pass.

Invariants: the tree hangs under the root at `base_length`, so a child of the
root is a guess for the token at that index; (parent, token) is unique; a
child's score never exceeds its parent's. A score counts from the root it was
grown under, so when the root moves the scores of what lives on move with it.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from treedraft.core.errors import InvalidGrowthError
from treedraft.core.flat_tree import FlatTree
from treedraft.core.growth import ROOT, Growth, TokenSource

_MAX_ALIASES = 512


@dataclass(slots=True)
class Node:
    """One drafted token of a living tree; `score` counts from the present root."""

    node_id: int
    parent_id: int
    token_id: int
    score: float
    source: TokenSource
    children: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Grafted:
    """What became of the nodes of a growth."""

    added_ids: tuple[int, ...]
    num_dropped: int


@dataclass(frozen=True, slots=True)
class Rerooted:
    """What a commit did to the tree.

    `path` has the node id of each committed token that the tree held, in
    order; `is_hit` says that it held all of them, so that the subtree below
    the last one lives on; `removed_ids` are all nodes that are gone, those of
    the path not included.
    """

    is_hit: bool
    path: tuple[int, ...]
    removed_ids: tuple[int, ...]


_NOTHING_FORESEEN = Rerooted(is_hit=False, path=(), removed_ids=())


class TokenTree:
    """The living tree of one session, under the root at `base_length`."""

    def __init__(self, base_length: int, *, max_nodes: int = 1024) -> None:
        """Start with a bare root after `base_length` committed tokens."""
        self.base_length = base_length
        self.max_nodes = max_nodes
        self._nodes: dict[int, Node] = {}
        self._root_children: dict[int, int] = {}
        # Ids of nodes that were committed: the length whose root they are now.
        self._aliases: dict[int, int] = {}
        # By committed length: what the drafted path to that root scored, summed
        # over all roots before it. Differences turn a score that counts from an
        # older root into one that counts from the present root.
        self._path_scores: dict[int, float] = {base_length: 0.0}
        self._next_id = 0

    def __len__(self) -> int:
        """Return the number of living nodes, the root not counted."""
        return len(self._nodes)

    def __contains__(self, node_id: int) -> bool:
        """Return whether a node lives."""
        return node_id in self._nodes

    def __getitem__(self, node_id: int) -> Node:
        """Return a living node."""
        return self._nodes[node_id]

    def __iter__(self) -> Iterator[Node]:
        """Iterate over the living nodes, parents before children."""
        return iter(self._nodes.values())

    @property
    def next_node_id(self) -> int:
        """The id that the next node added by this side would get."""
        return self._next_id

    def children(self, node_id: int) -> dict[int, int]:
        """Return the children of a node or of ROOT as token to node id."""
        return self._root_children if node_id == ROOT else self._nodes[node_id].children

    def score(self, node_id: int) -> float:
        """Return the score of a node; that of ROOT is 0."""
        return 0.0 if node_id == ROOT else self._nodes[node_id].score

    def path(self, node_id: int) -> list[int]:
        """Return the node ids from below the root down to `node_id`."""
        ids = []
        while node_id != ROOT:
            ids.append(node_id)
            node_id = self._nodes[node_id].parent_id
        return ids[::-1]

    def depth(self, node_id: int) -> int:
        """Return the distance from the root; ROOT has 0."""
        return len(self.path(node_id))

    def add(self, parent_id: int, token_id: int, score: float, source: TokenSource) -> int | None:
        """Add a node under a living parent and return its id.

        Returns None, and changes nothing, if the parent already has a child
        of that token or the tree is full.
        """
        if token_id in self.children(parent_id) or len(self._nodes) >= self.max_nodes:
            return None
        return self._insert(self._next_id, parent_id, token_id, score, source)

    def rescore(self, node_id: int, score: float) -> None:
        """Give a node another score, at most its parent's; all below it move by as much."""
        node, pending = self._nodes[node_id], [node_id]
        change = min(score, self.score(node.parent_id)) - node.score
        while pending:
            node = self._nodes[pending.pop()]
            node.score = min(node.score + change, self.score(node.parent_id))
            pending.extend(node.children.values())

    def graft(self, growth: Growth, committed: Sequence[int]) -> Grafted:
        """Take over the nodes of a growth, also one that grew from an older root.

        New scores of older nodes come first. Nodes whose path agrees with the
        committed tokens are kept; dropped are others, and those beyond
        `max_nodes`, under a parent that is gone, or beside a sibling of the
        same token. Scores of a stale growth come to count from the present root.

        Args:
            growth: checked with `Growth.check` before.
            committed: all committed tokens of the session.

        Raises:
            InvalidGrowthError: ids were used before or the base lies ahead.
        """
        if growth.first_node_id < self._next_id:
            raise InvalidGrowthError("node ids must count up")
        if growth.base_length > self.base_length:
            raise InvalidGrowthError("growth on a base that was never committed")
        for node_id, score in zip(growth.rescored_ids, growth.rescored_scores, strict=True):
            self._graft_score(node_id, score, base_length=growth.base_length)
        added = []
        for index, token_id in enumerate(growth.token_ids):
            node_id = growth.first_node_id + index
            offset = growth.parent_offsets[index]
            node = self._graft_node(
                node_id,
                parent_id=node_id - offset if offset else None,
                base_length=growth.base_length,
                token_id=token_id,
                score=growth.scores[index],
                source=growth.sources[index],
                committed=committed,
            )
            if node:
                added.append(node_id)
        self._next_id = growth.first_node_id + growth.num_nodes
        return Grafted(tuple(added), growth.num_nodes - len(added))

    def _graft_node(
        self,
        node_id: int,
        *,
        parent_id: int | None,
        base_length: int,
        token_id: int,
        score: float,
        source: TokenSource,
        committed: Sequence[int],
    ) -> bool:
        if parent_id in self._nodes:
            place = parent_id
        else:
            length = base_length if parent_id is None else self._aliases.get(parent_id)
            if length is None:
                return False
            if length < self.base_length:
                # The root has moved on: the node is either what was committed
                # in its place, or dead.
                if committed[length] == token_id:
                    path_score = self._path_scores.get(base_length, 0.0) + score
                    self._remember_alias(node_id, length + 1, path_score)
                return False
            place = ROOT
        if token_id in self.children(place) or len(self._nodes) >= self.max_nodes:
            return False
        score = min(score - self._score_since(base_length), self.score(place))
        self._insert(node_id, place, token_id, score, source)
        return True

    def _graft_score(self, node_id: int, score: float, *, base_length: int) -> None:
        """Take over a new score; that of a node committed meanwhile counts for what follows."""
        if node_id in self._nodes:
            self.rescore(node_id, score - self._score_since(base_length))
            return
        length, path_scores = self._aliases.get(node_id), self._path_scores
        if length in path_scores and base_length in path_scores:
            change = path_scores[base_length] + score - path_scores[length]
            for later in path_scores:
                path_scores[later] += change * (later >= length)

    def _score_since(self, base_length: int) -> float:
        """Return what the drafted path from an older root to the present one scored."""
        here = self._path_scores[self.base_length]
        return here - self._path_scores.get(base_length, here)

    def _insert(
        self, node_id: int, parent_id: int, token_id: int, score: float, source: TokenSource
    ) -> int:
        self._nodes[node_id] = Node(node_id, parent_id, token_id, score, source)
        self.children(parent_id)[token_id] = node_id
        self._next_id = node_id + 1
        return node_id

    def reroot(self, token_ids: Sequence[int]) -> Rerooted:
        """Move the root along committed tokens and prune what they rule out."""
        if not self._nodes and token_ids:
            return self._move_bare_root(len(token_ids))
        before = set(self._nodes)
        path = []
        for token_id in token_ids:
            path_score = self._path_scores[self.base_length]
            self.base_length += 1
            child = self._root_children.get(token_id)
            if child is None:
                self._nodes.clear()
                self._root_children = {}
                self._remember_path_score(self.base_length, path_score)
                continue
            path.append(child)
            self._remember_alias(child, self.base_length, path_score + self.score(child))
            self._keep_subtree(child)
        removed = before.difference(self._nodes, path)
        return Rerooted(len(path) == len(token_ids), tuple(path), tuple(sorted(removed)))

    def _move_bare_root(self, num_tokens: int) -> Rerooted:
        """Move a root that has nothing below it: where nobody drafts, that is each round."""
        path_score = self._path_scores[self.base_length]
        for _ in range(num_tokens):
            self.base_length += 1
            self._remember_path_score(self.base_length, path_score)
        return _NOTHING_FORESEEN

    def _keep_subtree(self, node_id: int) -> None:
        new_root = self._nodes[node_id]
        kept: dict[int, Node] = {}
        pending = list(new_root.children.values())
        for child_id in pending:
            self._nodes[child_id].parent_id = ROOT
        while pending:
            node = self._nodes[pending.pop()]
            node.score = min(0.0, node.score - new_root.score)
            kept[node.node_id] = node
            pending.extend(node.children.values())
        self._root_children = new_root.children
        self._nodes = dict(sorted(kept.items()))

    def _remember_alias(self, node_id: int, length: int, path_score: float) -> None:
        self._aliases[node_id] = length
        while len(self._aliases) > _MAX_ALIASES:
            del self._aliases[next(iter(self._aliases))]
        if length in self._path_scores or length == self.base_length:
            self._remember_path_score(length, path_score)

    def _remember_path_score(self, length: int, path_score: float) -> None:
        self._path_scores[length] = path_score
        while len(self._path_scores) > _MAX_ALIASES:
            del self._path_scores[next(iter(self._path_scores))]

    def flatten(self, admitted: Iterable[int]) -> FlatTree:
        """Return the admitted nodes as rows of a pass, best path first.

        Args:
            admitted: node ids, closed under ancestors.
        """
        chosen = set(admitted)
        order, pending = [], [(ROOT, 0)]  # (node id, depth)
        while pending:
            node_id, depth = pending.pop()
            order.append((node_id, depth))
            pending.extend([(child, depth + 1) for child in self._worst_first(node_id, chosen)])
        del order[0]
        if len(order) != len(chosen):
            raise ValueError("the admitted nodes are not closed under ancestors")
        index_of = {node_id: index for index, (node_id, _) in enumerate(order)}
        nodes = [self._nodes[node_id] for node_id, _ in order]
        return FlatTree(
            node_ids=tuple(index_of),
            token_ids=tuple([node.token_id for node in nodes]),
            parents=tuple([index_of.get(node.parent_id, ROOT) for node in nodes]),
            depths=tuple([depth for _, depth in order]),
            sources=tuple([node.source for node in nodes]),
        )

    def _worst_first(self, node_id: int, chosen: set[int]) -> list[int]:
        children = [child for child in self.children(node_id).values() if child in chosen]
        if len(children) > 1:
            children.sort(key=lambda child: (self._nodes[child].score, -child))
        return children
