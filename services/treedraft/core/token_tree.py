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
from treedraft.core.past_roots import PastRoots


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
        self._past = PastRoots(base_length)
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
        siblings = self.children(parent_id)
        if token_id in siblings or len(self._nodes) >= self.max_nodes:
            return None
        node_id = self._next_id
        self._nodes[node_id] = Node(node_id, parent_id, token_id, score, source)
        siblings[token_id] = node_id
        self._next_id = node_id + 1
        return node_id

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
        base = growth.base_length
        for node_id, score in zip(growth.rescored_ids, growth.rescored_scores, strict=True):
            self._graft_score(node_id, score, base_length=base)
        offset = self._past.score_between(base, self.base_length)
        told = zip(
            growth.parent_offsets, growth.token_ids, growth.scores, growth.sources, strict=True
        )
        node_id, added = growth.first_node_id, []
        for parent_offset, token_id, score, source in told:
            parent_id = node_id - parent_offset if parent_offset else None
            place = self._place_of(parent_id, base)
            if place is None:
                if self._is_past(node_id, parent_id, base, token_id, score, committed):
                    offset = self._past.score_between(base, self.base_length)
            elif self._is_put(Node(node_id, place, token_id, score - offset, source)):
                added.append(node_id)
            node_id += 1
        self._next_id = node_id
        return Grafted(tuple(added), growth.num_nodes - len(added))

    def _place_of(self, parent_id: int | None, base_length: int) -> int | None:
        """Return where a child of a node, None for the root at a length, belongs by now."""
        if parent_id in self._nodes:
            return parent_id
        length = base_length if parent_id is None else self._past.length_of(parent_id)
        return ROOT if length == self.base_length else None

    def _is_put(self, node: Node) -> bool:
        """Put a node into its place, if there is room and no such sibling, and tell whether."""
        if node.parent_id == ROOT:
            siblings, above = self._root_children, 0.0
        else:
            parent = self._nodes[node.parent_id]
            siblings, above = parent.children, parent.score
        if node.token_id in siblings or len(self._nodes) >= self.max_nodes:
            return False
        node.score = min(node.score, above)
        self._nodes[node.node_id] = node
        siblings[node.token_id] = node.node_id
        return True

    def _is_past(
        self,
        node_id: int,
        parent_id: int | None,
        base_length: int,
        token_id: int,
        score: float,
        committed: Sequence[int],
    ) -> bool:
        """Note of a node whose place the root has left if it is what was committed there."""
        length = base_length if parent_id is None else self._past.length_of(parent_id)
        if length is None or length >= self.base_length or committed[length] != token_id:
            return False
        score += self._past.score(base_length)
        self._past.name_late(node_id, length + 1, score, at=self.base_length)
        return True

    def _graft_score(self, node_id: int, score: float, *, base_length: int) -> None:
        """Take over a new score; that of a node committed meanwhile counts for what follows."""
        if node_id in self._nodes:
            self.rescore(node_id, score - self._past.score_between(base_length, self.base_length))
        else:
            self._past.rescore(node_id, base_length, score)

    def reroot(self, token_ids: Sequence[int]) -> Rerooted:
        """Move the root along committed tokens and prune what they rule out."""
        if not self._nodes and token_ids:
            return self._move_bare_root(len(token_ids))
        past, path = self._past, list[int]()
        path_score = before = past.score(self.base_length)
        children: dict[int, int] | None = self._root_children
        for token_id in token_ids:
            self.base_length += 1
            child = None if children is None else children.get(token_id)
            if child is None:
                children = None
            else:
                path.append(child)
                node = self._nodes[child]
                children, path_score = node.children, before + node.score
                past.name(child, self.base_length)
            past.move_to(self.base_length, path_score)
        is_hit = len(path) == len(token_ids)
        removed = self._keep_below(path, is_hit=is_hit) if token_ids else []
        return Rerooted(is_hit, tuple(path), tuple(removed))

    def _move_bare_root(self, num_tokens: int) -> Rerooted:
        """Move a root that has nothing below it: where nobody drafts, that is each round."""
        path_score = self._past.score(self.base_length)
        for _ in range(num_tokens):
            self.base_length += 1
            self._past.move_to(self.base_length, path_score)
        return _NOTHING_FORESEEN

    def _keep_below(self, path: Sequence[int], *, is_hit: bool) -> list[int]:
        """Keep what hangs below the end of a path, nothing after a miss; return what is gone."""
        nodes, removed = self._nodes, list[int]()
        on_path = set(path)
        if not is_hit:
            self._nodes, self._root_children = {}, {}
            return [node_id for node_id in nodes if node_id not in on_path]
        end = nodes[path[-1]]
        kept: dict[int, Node] = {}
        for node_id, node in nodes.items():  # parents first, ids ascending
            if node.parent_id == end.node_id:
                node.parent_id = ROOT
            elif node.parent_id not in kept:
                if node_id not in on_path:
                    removed.append(node_id)
                continue
            node.score = min(0.0, node.score - end.score)
            kept[node_id] = node
        self._nodes, self._root_children = kept, end.children
        return removed

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
