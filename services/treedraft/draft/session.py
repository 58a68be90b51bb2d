"""One session at the drafter: committed text, living tree, what is not yet sent.

The target is the source of truth. Text only grows, by commits; everything else
is a guess and can be rebuilt from the text.
"""

from collections.abc import Sequence
from typing import Protocol

from treedraft.core.growth import ROOT, Growth, SiblingLaw, TokenSource
from treedraft.core.sampling import Verification
from treedraft.core.session import DraftSpec
from treedraft.core.token_tree import Rerooted, TokenTree
from treedraft.draft.growth import GrowthLimits
from treedraft.draft.lookup import SessionLookup
from treedraft.telemetry.tracing import RequestSpan


class ModelState(Protocol):
    """What a draft model keeps of a session."""

    def commit(self, token_ids: Sequence[int], moved: Rerooted) -> None:
        """Take over committed tokens, after the tree was re-rooted along them."""

    def release(self) -> None:
        """Give all memory back."""


class DraftSession:
    """A session while it is drafted for."""

    def __init__(
        self,
        number: int,
        spec: DraftSpec,
        *,
        limits: GrowthLimits,
        tree_capacity: int,
        span: RequestSpan | None,
        arrived_ns: int,
    ) -> None:
        """Begin with a bare root after the text so far.

        Args:
            number: what the target calls the session on its stream.
            spec: the session; its text is not empty.
            limits: how far to grow.
            tree_capacity: nodes that the tree can hold; above the limit on
                living nodes, so that a group of siblings always fits.
            span: of the session, if it is traced.
            arrived_ns: when the opening arrived, on the drafter's clock.
        """
        self.number = number
        self.spec = spec
        self.limits = limits
        self.span = span
        self.token_ids: list[int] = list(spec.token_ids)
        self.tree = TokenTree(len(self.token_ids), max_nodes=tree_capacity)
        self.lookup: SessionLookup | None = None
        self.model: ModelState | None = None
        self.base_arrived_ns = arrived_ns
        # Step at which a model last worked for it: the least recent goes first.
        self.last_step = 0
        # Nodes (or ROOT) whose lookup children are in the tree, and those whose
        # one group of siblings was drawn (rejection mode).
        self.looked_up: set[int] = set()
        self.grouped: set[int] = set()
        self._laws: list[SiblingLaw] = []
        self._first_unsent_id = 0

    @property
    def is_rejection(self) -> bool:
        """Whether drafts are accepted by rejection sampling."""
        return self.spec.sampling.verification is Verification.REJECTION

    @property
    def num_tokens(self) -> int:
        """Committed length, prompt included."""
        return len(self.token_ids)

    @property
    def num_free_nodes(self) -> int:
        """Nodes that may be added until the tree has to wait for a commit."""
        return max(0, self.limits.max_live_nodes - len(self.tree))

    def use_lookup(self, lookup: SessionLookup) -> None:
        """Draft by lookup too; the text so far is read at once."""
        lookup.read(self.token_ids)
        self.lookup = lookup

    def path_tokens(self, node_id: int) -> tuple[int, ...]:
        """Return the drafted tokens from below the root down to a node."""
        return tuple(self.tree[i].token_id for i in self.tree.path(node_id))

    def add(
        self, parent_id: int, token_id: int, log_probability: float, source: TokenSource
    ) -> bool:
        """Add a guess under a living node or ROOT; return whether it is new.

        Args:
            parent_id: a living node or ROOT.
            token_id: the guess.
            log_probability: that the target emits it, given the parent.
            source: who guesses.
        """
        score = self.tree.score(parent_id) + min(0.0, log_probability)
        return self.tree.add(parent_id, token_id, score, source) is not None

    def add_group(
        self,
        parent_id: int,
        token_ids: Sequence[int],
        log_probabilities: Sequence[float],
        source: TokenSource,
        *,
        support: Sequence[int],
        probabilities: Sequence[float],
    ) -> None:
        """Add all siblings drawn from one law, in the order of their drawing.

        None is left out whatever was drawn, and a node gets one group only.
        """
        assert not self.tree.children(parent_id)
        assert parent_id not in self.grouped
        self.grouped.add(parent_id)
        first = self.tree.next_node_id
        above = self.tree.score(parent_id)
        for token_id, log_probability in zip(token_ids, log_probabilities, strict=True):
            added = self.tree.add(parent_id, token_id, above + log_probability, source)
            assert added is not None, "a group of siblings does not fit"
        self._laws.append(SiblingLaw(first, len(token_ids), tuple(support), tuple(probabilities)))

    def commit(self, token_ids: Sequence[int], *, arrived_ns: int) -> Rerooted:
        """Make tokens final and move the root of the tree along them."""
        self.token_ids.extend(token_ids)
        self.base_arrived_ns = arrived_ns
        moved = self.tree.reroot(token_ids)
        new_root = moved.path[-1] if moved.is_hit else None
        is_grouped = new_root in self.grouped
        for marked in (self.looked_up, self.grouped):
            marked.difference_update((ROOT, *moved.removed_ids, *moved.path))
        if is_grouped:
            self.grouped.add(ROOT)
        if self.lookup:
            self.lookup.learn(token_ids)
        if self.model:
            self.model.commit(token_ids, moved)
        return moved

    def take_growth(self, *, draft_us: int, now_ns: int) -> Growth | None:
        """Return the nodes that were added since the last call, None without any."""
        first, self._first_unsent_id = self._first_unsent_id, self.tree.next_node_id
        nodes = [self.tree[node_id] for node_id in range(first, self.tree.next_node_id)]
        if not nodes:
            return None
        laws, self._laws = tuple(self._laws), []
        return Growth(
            session_number=self.number,
            base_length=self.tree.base_length,
            first_node_id=first,
            parent_offsets=tuple(
                0 if node.parent_id == ROOT else node.node_id - node.parent_id for node in nodes
            ),
            token_ids=tuple(node.token_id for node in nodes),
            scores=tuple(node.score for node in nodes),
            sources=tuple(node.source for node in nodes),
            sibling_laws=laws,
            draft_us=draft_us,
            held_us=max(0, now_ns - self.base_arrived_ns) // 1000,
        )

    def close(self) -> None:
        """Give everything back and end the session's span."""
        if self.model:
            self.model.release()
            self.model = None
        if self.span:
            self.span.end()
