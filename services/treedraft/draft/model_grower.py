"""Grows the trees of all sessions by a draft model: one batched pass a step.

A pass holds, for each session that takes part, either the committed tokens
whose KV is missing, the root last, or the most promising nodes of its tree.
Children follow from the logits, see `model_children`.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch

from treedraft.core.errors import InvalidRequestError, OverloadedError
from treedraft.core.exchange import Economics
from treedraft.core.growth import ROOT
from treedraft.draft.breadth import Breadth
from treedraft.draft.growth import Wish, frontier, plan_step
from treedraft.draft.model_children import ChildChooser, DraftLimits
from treedraft.draft.model_levels import LevelSteps
from treedraft.draft.model_state import DraftModelState
from treedraft.draft.segments import Work, build_segment
from treedraft.draft.session import DraftSession
from treedraft.draft.settings import GrowthSettings
from treedraft.draft.slot_sharing import share_slots
from treedraft.draft.thrift import Thrift
from treedraft.inference.block_pool import SlotPool
from treedraft.inference.segment import Segment


class ForwardRunner(Protocol):
    """Runs passes; `inference.runner.Runner`, or a stand-in for it."""

    def forward(self, segments: Sequence[Segment]) -> torch.Tensor:
        """Return the logits of all output rows, float32 [rows, vocab_size]."""


@dataclass(frozen=True, slots=True)
class StepReport:
    """What a step did: rows of each session in it, whom it had to give up, who needs nothing."""

    num_rows: dict[DraftSession, int]
    starved: tuple[DraftSession, ...] = ()
    idle: tuple[DraftSession, ...] = ()


class ModelGrower:
    """Owns the draft model's KV and runs its steps; used by one thread."""

    def __init__(
        self,
        runner: ForwardRunner,
        pool: SlotPool,
        limits: DraftLimits,
        settings: GrowthSettings,
        levels: LevelSteps | None = None,
        breadth: Breadth | None = None,
    ) -> None:
        """Draft with `runner`, whose KV slots `pool` hands out.

        `levels` runs steps that it can run in place of single passes; `breadth` says how
        wide they are, by default as the settings say.
        """
        self._breadth = breadth or Breadth(settings, settings)
        self._levels = levels
        self._runner = runner
        self._pool = pool
        self._limits = limits
        self._children = ChildChooser(limits, settings)
        self._settings = settings
        self._sessions: dict[DraftSession, DraftModelState] = {}
        self._num_steps = 0
        self._thrift = Thrift(is_sharing=settings.shares_device)

    @property
    def max_new_nodes(self) -> int:
        """Nodes that a step may add to one session."""
        num_rows = self._settings.max_rows_per_session
        if self._levels:
            num_rows += self._levels.max_new_rows
        return num_rows * self._settings.num_children

    @property
    def max_new_siblings(self) -> int:
        """Nodes that a step may add to one session of rejection mode, which grows by one pass."""
        return self._settings.max_rows_per_session * self._settings.siblings

    @property
    def passes_per_step(self) -> int:
        """Passes of a step that nothing ends early, one for each level."""
        return 1 + self._settings.levels if self._levels else 1

    @property
    def num_free_slots(self) -> int:
        """Tokens of KV that are free."""
        return self._pool.num_free

    @property
    def num_slots(self) -> int:
        """Tokens of KV in all."""
        return self._pool.num_slots

    def add(self, session: DraftSession, vocab_size: int) -> None:
        """Draft for a session from now on.

        Args:
            session: just opened.
            vocab_size: token ids that the target has in use; 0 if unknown.

        Raises:
            InvalidRequestError: the text has tokens that the model lacks, or the
                target has none of those that the model drafts.
            OverloadedError: the text can never fit into the KV.
        """
        self.check_tokens(session.token_ids)
        if session.num_tokens > self._pool.num_slots:
            raise OverloadedError("the session is larger than the KV", reason="KV_POOL_FULL")
        vocab_size = min(vocab_size or self._limits.vocab_size, self._limits.vocab_size)
        if not self._limits.num_columns(vocab_size):
            raise InvalidRequestError(
                f"the model drafts no token below {vocab_size}",
                field="vocab_size",
                reason="TOKEN_OUT_OF_RANGE",
            )
        state = DraftModelState(session.spec, self._pool, vocab_size=vocab_size)
        session.model = self._sessions[session] = state

    def check_tokens(self, token_ids: Sequence[int]) -> None:
        """Raise InvalidRequestError for tokens that the model has no embedding of."""
        if max(token_ids) >= self._limits.num_embeddings:
            raise InvalidRequestError(
                f"token {max(token_ids)} is outside the draft model's vocabulary",
                field="token_ids",
                reason="TOKEN_OUT_OF_RANGE",
            )

    def remove(self, session: DraftSession) -> None:
        """Forget a session; its slots are given back by the session itself."""
        self._sessions.pop(session, None)

    def wants_work(self, session: DraftSession) -> bool:
        """Return whether a pass could do anything for a session."""
        wish = self._wish(session)
        return bool(wish.num_missing or wish.nodes)

    def step(self, sessions: Sequence[DraftSession]) -> StepReport:
        """Run one pass for some of the sessions and add children to their trees."""
        self._num_steps += 1
        started = time.perf_counter()
        starved = tuple(s for s in sessions if s.num_tokens > self._pool.num_slots)
        fitting = [session for session in sessions if session not in starved]
        ordered = sorted(fitting, key=lambda session: session.last_step)
        wishes = [self._wish(session) for session in ordered]
        shares = plan_step(
            wishes,
            max_rows=self._settings.max_rows_per_step,
            max_rows_per_session=self._breadth.rows,
            prefill_chunk=self._settings.prefill_chunk,
            num_worth_it=partial(self._num_worth_it, self._grow_whole(ordered, wishes)),
        )
        idle = [s for s, w in zip(ordered, wishes, strict=True) if not (w.num_missing or w.nodes)]
        works = share_slots(
            self._pool, self._sessions, [(ordered[share.index], share) for share in shares]
        )
        if works:
            self._run_measured(works, started)
        for work in works:
            work.session.last_step = self._num_steps
        return StepReport(
            {w.session: len(w.slots) for w in works}, starved, tuple(idle if shares else ordered)
        )

    def _grow_whole(self, sessions: Sequence[DraftSession], wishes: Sequence[Wish]) -> bool:
        """Return whether nodes of all these sessions can only be run with levels below them."""
        levels = self._levels
        if not levels or not levels.is_whole:
            return False
        wishing = [s for s, wish in zip(sessions, wishes, strict=True) if wish.nodes]
        return all(levels.may_run(session, self._sessions[session]) for session in wishing)

    def _num_worth_it(self, is_whole: bool, scores: Sequence[float]) -> int:
        """Return how many of the nodes that could be run are worth a step."""
        levels, width = self._levels, self._breadth.rows
        # A pass of one session has no more nodes, so these are of so many sessions at least.
        num_sessions = -(-len(scores) // width)
        if not levels or not is_whole or num_sessions > levels.max_sessions:
            return self._thrift.num_worth_it(scores)
        is_worth_it = self._thrift.is_worth_levels(
            scores, levels=self._settings.levels, width=num_sessions * width
        )
        return len(scores) if is_worth_it else 0

    def target_says(self, economics: Economics) -> None:
        """Note what drafts are worth to the target."""
        self._thrift.target_says(economics)
        self._breadth.target_says(economics)

    def calibrate(self, step_ms: Mapping[int, float]) -> None:
        """Take what steps of so many rows took on this machine."""
        self._thrift.calibrate(step_ms)

    def _run_measured(self, works: Sequence[Work], started: float) -> None:
        places_of = [work.places for work in works]  # a root's is another one after the pass
        # Passes that compute more of a text than its root are no measure of others.
        is_measure = all(len(p) == len(w.slots) for p, w in zip(places_of, works, strict=True))
        if self._levels and self._levels.can_run(works):
            self._run_levels(self._levels, works, started, 0 if is_measure else 1)
            return
        self._run(works)
        elapsed_ms = (time.perf_counter() - started) * 1e3
        if is_measure and self._thrift.is_sharing:
            trees = (work.session.tree for work in works)
            self._thrift.step_finished(
                elapsed_ms,
                [
                    (tree.score(place), [tree.score(i) for i in tree.children(place).values()])
                    for tree, places in zip(trees, places_of, strict=True)
                    for place in places
                ],
            )

    def _run_levels(
        self, levels: LevelSteps, works: Sequence[Work], started: float, first_measure: int
    ) -> None:
        worth = self._thrift.worth(self._settings.max_rows_per_step)
        reports = levels.run(works, worth, self._breadth, is_measured=self._thrift.is_sharing)
        elapsed_ms = (time.perf_counter() - started) * 1e3
        if not first_measure:
            self._breadth.step_finished(elapsed_ms - levels.passes_ms, num_sessions=len(works))
        for report in reports[first_measure:]:
            # Passes that are not told apart take what the step took, planning and all.
            pass_ms = elapsed_ms / len(reports) if levels.is_whole else report.elapsed_ms
            self._thrift.step_finished(pass_ms, report.expanded)

    def _wish(self, session: DraftSession) -> Wish:
        state = self._sessions[session]
        room = self._limits.context_length - session.num_tokens
        if not session.num_free_nodes or room <= 0:
            return Wish(0)
        if state.num_computed < session.num_tokens:
            if state.is_evicted and session.tree.children(ROOT):
                # There is a tree to verify; to compute the KV again now would
                # only evict another, and that one us in turn.
                return Wish(0)
            return Wish(session.num_tokens - state.num_computed)
        nodes = frontier(
            session.tree,
            session.limits,
            expanded=state.node_slots,
            barren=self._limits.eos_token_ids,
        )
        best = nodes[: self._breadth.rows]
        return Wish(0, tuple(entry for entry in best if session.tree.depth(entry[1]) < room))

    def _run(self, works: Sequence[Work]) -> None:
        try:
            logits = self._runner.forward([build_segment(work) for work in works])
        except BaseException:
            for work in works:
                self._pool.release(work.slots)
            raise
        places = [work.places for work in works]
        for work in works:
            if work.node_ids:
                work.state.node_slots.update(zip(work.node_ids, work.slots, strict=True))
            else:
                work.state.extend_prefix(work.slots)
                work.state.is_evicted = False
        drafting = [(work, own) for work, own in zip(works, places, strict=True) if own]
        self._children.add(drafting, logits)
