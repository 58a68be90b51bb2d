"""One session at the drafter: committed text, living tree, what is not yet sent.

The target is the source of truth. Text only grows, by commits; everything else
is a guess and can be rebuilt from the text.
"""

import math
from collections.abc import Sequence
from typing import Protocol

from treedraft.core.growth import ROOT, Growth, SiblingLaw, TokenSource
from treedraft.core.sampling import Verification
from treedraft.core.session import DraftSpec
from treedraft.core.token_tree import Rerooted, TokenTree
from treedraft.draft.calibration import OpinionMixer
from treedraft.draft.growth import GrowthLimits
from treedraft.draft.held_children import HeldChildren
from treedraft.draft.lookup import SessionLookup
from treedraft.draft.opinions import Opinions
from treedraft.telemetry.spans import RequestSpan
from treedraft.text.grammar import GrammarState

# A score that changed by less, in nats, is not worth telling.
_MIN_CHANGE = 0.1


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
        mixer: OpinionMixer | None = None,
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
            mixer: makes scores of what model and lookup say; None for one that
                has learned nothing.
        """
        self.number = number
        self.spec = spec
        self.limits = limits
        self.span = span
        self.token_ids: list[int] = list(spec.token_ids)
        self.tree = TokenTree(len(self.token_ids), max_nodes=tree_capacity)
        self.lookup: SessionLookup | None = None
        self.model: ModelState | None = None
        # What may be drafted at all, if the session has a grammar that can be followed.
        self.grammar: GrammarState | None = None
        self.base_arrived_ns = arrived_ns
        # Not worth drafting for, as the target says, until its next commit.
        self.is_paused = False
        # Step at which a model last worked for it: the least recent goes first.
        self.last_step = 0
        # Nodes (or ROOT) whose lookup children are in the tree, and those whose
        # one group of siblings was drawn (rejection mode).
        self.looked_up: set[int] = set()
        self.grouped: set[int] = set()
        self.opinions = Opinions(mixer or OpinionMixer())
        self._held = HeldChildren()
        # The score from which on a child is worth what it takes to send and to take in.
        self.least_score = limits.min_child_score
        # Nodes that the step under way may still add: more would be beyond the credit.
        self.step_room = 1 << 30
        self._laws: list[SiblingLaw] = []
        self._first_unsent_id = 0
        # Nodes whose score is another than the one that was sent.
        self._rescored: set[int] = set()

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

    @property
    def num_new_nodes(self) -> int:
        """Nodes that the step under way may add to the tree."""
        return min(self.num_free_nodes, self.step_room)

    def use_lookup(self, lookup: SessionLookup) -> None:
        """Draft by lookup too; the text so far is read at once."""
        lookup.read(self.token_ids)
        self.lookup = lookup

    def path_tokens(self, node_id: int) -> tuple[int, ...]:
        """Return the drafted tokens from below the root down to a node."""
        return tuple(self.tree[i].token_id for i in self.tree.path(node_id))

    def allows(self, path: tuple[int, ...], token_id: int) -> bool:
        """Return whether the target could ever draw a token after a path."""
        return self.grammar is None or self.grammar.allows(path, token_id)

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

    def hear(
        self, place: int, guesses: Sequence[tuple[int, float]], source: TokenSource
    ) -> list[tuple[int, float]]:
        """Take note of what a source says follows a living node or ROOT.

        Children that are there already get the score that all opinions about
        them amount to.

        Args:
            place: a living node or ROOT.
            guesses: (token, log-probability given the place), best first.
            source: who guesses.

        Returns:
            The guesses that are no children yet, in the order given, with the
            log-probabilities that all opinions amount to.
        """
        exp = math.exp
        said = {token_id: exp(claim) if claim < 0.0 else 1.0 for token_id, claim in guesses}
        self.opinions.hear(place, said, source)
        unknown = list(said)
        if children := self.tree.children(place):
            for token_id, node_id in children.items():
                if self.opinions.is_known(place, token_id):
                    self._rescore(place, node_id, self.opinions.probability(place, token_id))
            unknown = [token_id for token_id in said if token_id not in children]
        probabilities = self.opinions.probabilities(place, unknown)
        return list(zip(unknown, map(math.log, probabilities), strict=True))

    def add_likely(self, place: int, guesses: Sequence[tuple[int, float]]) -> None:
        """Add what a model says follows a place, as `hear` has it; hold the unlikely back."""
        tree, source, held = self.tree, TokenSource.DRAFT_MODEL, []
        above = tree.score(place)
        for token_id, log_probability in self.hear(place, guesses, source):
            score = above + log_probability
            if score >= self.least_score and self.step_room:
                self.step_room -= tree.add(place, token_id, score, source) is not None
            else:
                held.append((token_id, log_probability))
        self._held.hold(place, held)

    def add_held(self, *, max_nodes: int) -> int:
        """Add the best of what was held back and is likely by now; return how many nodes."""
        room = min(max_nodes, self.num_free_nodes)
        ripe = self._held.release(self.tree, min_score=self.least_score, max_nodes=room)
        return sum(self.add(*guess, TokenSource.DRAFT_MODEL) for guess in ripe)

    def _rescore(self, place: int, node_id: int, probability: float) -> None:
        score = self.tree.score(place) + math.log(probability)
        if abs(score - self.tree.score(node_id)) >= _MIN_CHANGE:
            self.tree.rescore(node_id, score)
            self._rescored.add(node_id)

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
        if not self.is_rejection:
            self.opinions.learn(self.tree, token_ids)
        if self.grammar:
            self.grammar.commit(token_ids)
        moved = self.tree.reroot(token_ids)
        self.opinions.follow(moved)
        self._held.follow(moved)
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

    def take_growths(self, *, draft_us: int, now_ns: int) -> list[Growth]:
        """Return the living nodes that were added or rescored since the last call.

        Ids that a commit has ruled out meanwhile are left out; it takes a growth to go on
        behind each gap of them.
        """
        first, self._first_unsent_id = self._first_unsent_id, self.tree.next_node_id
        unsent = [i for i in range(first, self.tree.next_node_id) if i in self.tree]
        rescored = sorted(i for i in self._rescored if i < first and i in self.tree)
        self._rescored.clear()
        laws, self._laws = [law for law in self._laws if law.first_child_id in self.tree], []
        runs = _runs(unsent) or ([range(first, first)] if rescored else [])
        growths = []
        for run in runs:
            nodes = [self.tree[node_id] for node_id in run]
            growths.append(
                Growth(
                    session_number=self.number,
                    base_length=self.tree.base_length,
                    first_node_id=run.start,
                    parent_offsets=tuple(
                        [0 if n.parent_id == ROOT else n.node_id - n.parent_id for n in nodes]
                    ),
                    token_ids=tuple([node.token_id for node in nodes]),
                    scores=tuple([node.score for node in nodes]),
                    sources=tuple([node.source for node in nodes]),
                    sibling_laws=tuple(law for law in laws if law.first_child_id in run),
                    draft_us=draft_us,
                    held_us=max(0, now_ns - self.base_arrived_ns) // 1000,
                    rescored_ids=tuple(rescored),
                    rescored_scores=tuple(self.tree.score(node_id) for node_id in rescored),
                )
            )
            draft_us, rescored = 0, []
        return growths

    def close(self) -> None:
        """Give everything back and end the session's span."""
        if self.model:
            self.model.release()
            self.model = None
        if self.span:
            self.span.end()


def _runs(node_ids: Sequence[int]) -> list[range]:
    """Return ascending ids as ranges."""
    runs: list[range] = []
    for node_id in node_ids:
        if runs and runs[-1].stop == node_id:
            runs[-1] = range(runs[-1].start, node_id + 1)
        else:
            runs.append(range(node_id, node_id + 1))
    return runs
