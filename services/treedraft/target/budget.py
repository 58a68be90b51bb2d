"""Which drafted nodes a pass verifies: as many as pay for themselves.

Goodput of a pass over `sessions` roots and a set of nodes is
`(sessions + Σ survival) / step_time(rows)`. Survival is the drafter's path
score, calibrated by what became of earlier nodes of its kind; the step time is
measured at the sizes that really ran. Taking nodes in the order of their
survival keeps the set closed under ancestors, and scanning that order finds
its best prefix. Budget zero is always among the candidates.

Prompt chunks in the pass are work that gets done too: a token is worth what it
takes in a plain step of all sessions, those with a prompt to come included, a
prompt's rows what they add to one. So nodes that hold up a prompt for longer than
they bring tokens are left out; to the one session that decodes while seven wait, a
token is not worth a pass.

References: TurboSpec (arXiv 2406.14066), Sequoia (2402.12374), EAGLE-2
(2406.16858).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from treedraft.core.flat_tree import FlatTree
from treedraft.core.growth import ROOT, SiblingLaw, TokenSource
from treedraft.core.token_tree import TokenTree
from treedraft.target.step_costs import StepCosts

_FORGETTING = 0.002
_NUM_BINS = 12
_BIN_WIDTH = 0.5
# Drafters calibrate their scores themselves: what a few walks show weighs little
# against that, or the first misses of a session would empty its passes.
_PRIOR_WEIGHT = 8.0
_DECAY = 0.995


@dataclass(slots=True)
class _Bin:
    """Decayed counts of edges, as they stood after `num_walks`."""

    accepted: float = 0.0
    verified: float = 0.0
    num_walks: int = 0

    def drift(self, num_walks: int) -> None:
        """Drift to the claims for the walks since, so that what was given up is tried again."""
        left = (1.0 - _FORGETTING) ** (num_walks - self.num_walks)
        self.accepted, self.verified = self.accepted * left, self.verified * left
        self.num_walks = num_walks


class SurvivalCalibrator:
    """Turns drafters' scores into the frequencies with which nodes survive.

    An edge (a node, given that its parent was accepted) of claimed probability
    p falls into a bin of -log p; each bin keeps decayed counts of accepted and
    verified edges, with the claim itself as prior. Edges of probability below
    1 only ever shrink a path, so calibrated path scores stay monotone.
    """

    def __init__(self) -> None:
        """Believe every claim until told otherwise."""
        self._bins = {source: [_Bin() for _ in range(_NUM_BINS)] for source in TokenSource}
        self._num_walks = 0

    def _bin(self, edge_score: float, source: TokenSource) -> _Bin:
        index = int(edge_score / -_BIN_WIDTH)
        found = self._bins[source][index if index < _NUM_BINS else _NUM_BINS - 1]
        if found.num_walks != self._num_walks:
            found.drift(self._num_walks)
        return found

    def edge_survival(self, edge_score: float, source: TokenSource) -> float:
        """Return the estimated probability that an edge survives, in (0, 1)."""
        counts = self._bin(edge_score, source)
        claim = math.exp(edge_score if edge_score > -30.0 else -30.0)
        survival = (counts.accepted + _PRIOR_WEIGHT * claim) / (counts.verified + _PRIOR_WEIGHT)
        return survival if survival < 0.999 else 0.999

    def observe(self, edge_score: float, source: TokenSource, *, is_accepted: bool) -> None:
        """Learn what became of an edge whose parent was accepted."""
        counts = self._bin(edge_score, source)
        counts.verified = counts.verified * _DECAY + 1.0
        counts.accepted = counts.accepted * _DECAY + float(is_accepted)

    def observe_walk(self, tree: TokenTree, flat: FlatTree, accepted: Sequence[int]) -> None:
        """Learn from a walk: every child of an accepted node was put to the test.

        Args:
            tree: the living tree, before it is re-rooted.
            flat: the nodes that were in the pass.
            accepted: their indices on the accepted path.
        """
        self._num_walks += 1  # most walks of many sessions end here: there are no drafts
        if not flat.num_nodes:
            return
        on_path = {ROOT, *accepted}
        for index, parent in enumerate(flat.parents):
            if parent in on_path:
                node = tree[flat.node_ids[index]]
                edge = node.score - tree.score(node.parent_id)
                self.observe(edge, node.source, is_accepted=index in on_path)


def node_survivals(
    tree: TokenTree, calibrator: SurvivalCalibrator, max_depth: int
) -> dict[int, float]:
    """Return the calibrated survival of each node down to a depth, parents first."""
    survivals: dict[int, float] = {}
    # Of each node that is deep enough: depth, score and survival.
    known = {ROOT: (0, 0.0, 1.0)}
    survival_of = calibrator.edge_survival
    for node in tree:
        above = known.get(node.parent_id)
        if above is None or above[0] >= max_depth:
            continue
        score = node.score
        survival = above[2] * survival_of(score - above[1], node.source)
        known[node.node_id] = above[0] + 1, score, survival
        survivals[node.node_id] = survival
    return survivals


@dataclass(frozen=True, slots=True)
class BudgetRequest:
    """One session of a pass: its tree and its own limits."""

    tree: TokenTree
    max_nodes: int
    max_depth: int
    # Rejection mode: the intact laws by the id of their first child.
    sibling_laws: Mapping[int, SiblingLaw] | None = None


class _Candidate(NamedTuple):
    survival: float
    session: int
    node_ids: tuple[int, ...]


class Budget:
    """Chooses nodes over all sessions of a pass at once."""

    def __init__(
        self,
        costs: StepCosts,
        calibrator: SurvivalCalibrator,
        *,
        max_step_nodes: int,
        is_fixed: bool = False,
    ) -> None:
        """Weigh by `costs` and `calibrator`, or take all that limits allow if `is_fixed`."""
        self._costs = costs
        self._calibrator = calibrator
        self._max_step_nodes = max_step_nodes
        self._is_fixed = is_fixed

    def choose(
        self,
        requests: Sequence[BudgetRequest],
        *,
        num_plain_rows: int,
        num_sessions: int,
        num_passing: int = 0,
        load: int = 0,
    ) -> list[FlatTree]:
        """Return the admitted tree of each session, in the order given.

        Args:
            requests: the sessions of this pass that have a tree.
            num_plain_rows: rows of the pass that are no drafted nodes.
            num_sessions: sessions that get a token from this pass, with a tree or without.
            num_passing: sessions in the pass, those with a mere part of their prompt
                included; 0 if there are no such.
            load: sessions that could get a token from one once no prompt is waited for.
        """
        candidates = [
            candidate
            for index, request in enumerate(requests)
            for candidate in self._candidates(index, request)
        ]
        # Stable: within a session candidates already come best first, and a
        # parent never after its child.
        candidates.sort(key=lambda candidate: -candidate.survival)
        count = self._best_prefix(
            candidates,
            num_sessions,
            num_plain_rows,
            max(num_sessions, num_passing),
            max(num_sessions, load),
        )
        admitted: list[list[int]] = [[] for _ in requests]
        for candidate in candidates[:count]:
            admitted[candidate.session].extend(candidate.node_ids)
        return [
            request.tree.flatten(node_ids)
            for request, node_ids in zip(requests, admitted, strict=True)
        ]

    def prompt_rows(self, num_decoding: int, *, max_stall_steps: float) -> int:
        """Return how many rows of prompts may share a pass with so many decoding sessions.

        Args:
            num_decoding: sessions that wait for a token.
            max_stall_steps: how much longer than a step without prompts it may take, in
                such steps.
        """
        plain_ms = self._costs.estimate(num_decoding, num_decoding)
        limit_ms = (1.0 + max_stall_steps) * plain_ms
        return self._costs.rows_within(limit_ms, num_decoding + 1) - num_decoding

    def pass_seconds(self, num_rows: int) -> float:
        """Return what a pass over so many rows is expected to take; 0 before any was measured."""
        return self._costs.estimate(num_rows) / 1e3 if self._costs.is_known else 0.0

    def _candidates(self, index: int, request: BudgetRequest) -> list[_Candidate]:
        if request.sibling_laws is not None:
            return self._sibling_groups(index, request)
        return self._single_nodes(index, request)

    def _single_nodes(self, index: int, request: BudgetRequest) -> list[_Candidate]:
        survivals = self._survivals(request)
        best = sorted(survivals.items(), key=lambda item: -item[1])[: request.max_nodes]
        return [_Candidate(survival, index, (node_id,)) for node_id, survival in best]

    def _sibling_groups(self, index: int, request: BudgetRequest) -> list[_Candidate]:
        """Return groups of siblings, all or none, ranked by their parent alone.

        Ranking by the values that were drawn would bias the law.
        """
        laws = request.sibling_laws or {}
        survivals = self._survivals(request)
        ranked = sorted(
            {request.tree[node_id].parent_id for node_id in survivals},
            key=lambda parent: (-survivals.get(parent, 1.0), parent),
        )
        candidates, num_nodes = [], 0
        admitted = {ROOT}
        for parent in ranked:
            children = tuple(sorted(request.tree.children(parent).values()))
            law = laws.get(children[0])
            if parent not in admitted or law is None or law.num_children != len(children):
                continue
            num_nodes += len(children)
            if num_nodes > request.max_nodes:
                break
            admitted.update(children)
            # Weighed as certain: whether a group pays must not depend on what
            # was drawn, so these sessions are bounded by their limits alone.
            candidates.append(_Candidate(1.0, index, children))
        return candidates

    def _survivals(self, request: BudgetRequest) -> dict[int, float]:
        return node_survivals(request.tree, self._calibrator, request.max_depth)

    def _best_prefix(
        self,
        candidates: Sequence[_Candidate],
        num_sessions: int,
        num_plain_rows: int,
        num_passing: int,
        load: int,
    ) -> int:
        """Return how many candidates make the pass that gets most done in its time."""
        estimate = self._costs.estimate
        token_ms = estimate(load, load) / max(1, load)
        pass_ms = estimate(num_plain_rows, num_passing)
        # What the pass does anyway: a plain step, and the prompts beside it.
        worth_ms = max(pass_ms, num_sessions * token_ms)
        num_nodes, best_count, best_rate = 0, 0, worth_ms / pass_ms
        for count, candidate in enumerate(candidates, start=1):
            num_nodes += len(candidate.node_ids)
            if num_nodes > self._max_step_nodes:
                break
            worth_ms += candidate.survival * token_ms
            rate = worth_ms / estimate(num_plain_rows + num_nodes, num_passing)
            if self._is_fixed or candidate.survival == 1.0 or rate > best_rate:
                best_count, best_rate = count, rate
        return best_count
