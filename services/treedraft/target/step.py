"""Runs a pass for all its sessions and makes the tokens of the round final.

The order of work after the forward pass is chosen for latency: drafters learn
of the commits first, so that they grow the next tree while KV is compacted and
the coordinators are told. Where a pass runs on a device the next one goes before
either, unless it may wait for them (`engine`).
"""

import time
from collections.abc import Callable, Sequence
from itertools import accumulate, chain, compress, islice
from typing import NamedTuple

import torch

from treedraft.core.logprobs import TokenLogprobs
from treedraft.core.session import RoundTimes
from treedraft.inference.kv_pool import KVPool
from treedraft.inference.logprobs import token_logprobs
from treedraft.inference.runner import Runner
from treedraft.inference.sampler import CoupledDraws, LawRow, target_probs
from treedraft.target.budget import SurvivalCalibrator
from treedraft.target.drafting import DraftBook
from treedraft.target.pass_rows import (
    acceptance_noise,
    build_segment,
    cut_nodes,
    law_rows,
    sibling_laws_by_row,
)
from treedraft.target.round import (
    Round,
    RoundOutcome,
    StepClock,
    StepTimes,
    compaction,
    holds_bonus,
    judge,
    node_scores,
    report_round,
)
from treedraft.target.round_trace import RoundTrace
from treedraft.target.scheduler import Scheduler, SessionPass
from treedraft.target.step_costs import StepCosts
from treedraft.target.verification import Walk, coupled_walk, rejection_walk


class RanPass(NamedTuple):
    """A pass that was run. Its tokens are final; what it came to is yet to be measured."""

    passes: Sequence[SessionPass]
    rounds: Sequence[Round]
    clock: StepClock
    is_disturbed: bool

    @property
    def may_end_texts(self) -> bool:
        """Whether a session may be over: it reached its end, or has a grammar that may fail."""
        return any(
            round_.verdict.finish is not None or round_.session_pass.session.grammar is not None
            for round_ in self.rounds
        )


class PassRunner:
    """Runs passes on the model; owns no session."""

    def __init__(
        self,
        *,
        runner: Runner,
        kv: KVPool,
        block_size: int,
        scheduler: Scheduler,
        book: DraftBook,
        costs: StepCosts,
        calibrator: SurvivalCalibrator,
        trace: RoundTrace,
    ) -> None:
        """Run on `runner`, whose KV lies in `kv`."""
        self._runner = runner
        self._kv = kv
        self._block_size = block_size
        self._scheduler = scheduler
        self._book = book
        self._costs = costs
        self._calibrator = calibrator
        self._trace = trace
        self._draws = CoupledDraws()
        self.last_pass_ms = 0.0
        self._has_untold = False

    @property
    def waits_for_device(self) -> bool:
        """Whether a pass is only queued here, so that there is time while it runs."""
        return self._kv.device.type != "cpu"

    def run(
        self,
        passes: Sequence[SessionPass],
        take_draft_events: Callable[[], None],
        announce_commits: Callable[[], None],
        meanwhile: Callable[[], None] = lambda: None,
    ) -> RanPass:
        """Run one pass and return what it made final, to be measured soon.

        Args:
            passes: the rows of each session.
            take_draft_events: called after the model has run, so that nodes
                which arrived meanwhile count.
            announce_commits: called as soon as the book knows the commits.
            meanwhile: called once everything is queued, where the pass runs on a device
                that is waited for.
        """
        clock = StepClock()
        is_disturbed = self._book.is_at_work and any(map(self._is_drafted_for, passes))
        segments = [build_segment(session_pass, self._block_size) for session_pass in passes]
        target_logits = self._runner.forward(segments)
        clock.forwarded = time.monotonic_ns()
        # On an accelerator the pass has only been queued, and this goes on beside it.
        drawing = [session_pass for session_pass in passes if session_pass.reaches_end]
        laws = [law_rows(session_pass.session, session_pass.tree) for session_pass in drawing]
        drawn = self._draw(drawing, laws, target_logits, meanwhile)
        if self.waits_for_device:
            clock.forwarded = time.monotonic_ns()  # now the tokens are here
        walks = self._walk(drawing, laws, drawn, target_logits)
        logprobs = _logprobs(drawing, laws, walks, target_logits)
        take_draft_events()
        clock.walked = time.monotonic_ns()
        rounds = [
            self._commit(session_pass, walk, told)
            for session_pass, walk, told in zip(drawing, walks, logprobs, strict=True)
        ]
        announce_commits()
        self._settle_kv(passes, rounds)
        clock.committed = time.monotonic_ns()
        for session_pass in passes:
            session_pass.session.begin_round(clock.committed)
        return RanPass(passes, rounds, clock, is_disturbed)

    def _draw(
        self,
        drawing: Sequence[SessionPass],
        laws: Sequence[list[LawRow]],
        target_logits: torch.Tensor,
        meanwhile: Callable[[], None],
    ) -> list[int]:
        """Draw at every row of the sessions under the coupled rule."""
        is_coupled = [not p.session.is_rejection for p in drawing]
        rows = list(chain.from_iterable(compress(laws, is_coupled)))
        if not all(is_coupled):
            own = compress(_rows_of(laws), is_coupled)
            target_logits = target_logits[list(chain.from_iterable(own))]
        return self._draws.draw(target_logits, rows, meanwhile)

    def _walk(
        self,
        drawing: Sequence[SessionPass],
        laws: Sequence[list[LawRow]],
        drawn: Sequence[int],
        target_logits: torch.Tensor,
    ) -> list[Walk]:
        """Walk each tree; logits are in the order of `drawing`, tokens of the coupled among it."""
        left = iter(drawn)
        return [
            self._reject(session_pass, target_logits[own], rows)
            if session_pass.session.is_rejection
            else coupled_walk(
                session_pass.tree,
                list(islice(left, len(rows))),
                cut_nodes(session_pass.session, session_pass.tree),
            )
            for session_pass, rows, own in zip(drawing, laws, _rows_of(laws), strict=True)
        ]

    @staticmethod
    def _reject(session_pass: SessionPass, logits: torch.Tensor, rows: list[LawRow]) -> Walk:
        session, tree = session_pass.session, session_pass.tree
        return rejection_walk(
            tree,
            sibling_laws_by_row(session, tree),
            target_probs(logits, rows),
            acceptance_noise(session),
            cut_nodes(session, tree),
        )

    def _commit(
        self, session_pass: SessionPass, walk: Walk, logprobs: tuple[TokenLogprobs, ...]
    ) -> Round:
        """Make the tokens of a walk final and move the root of the tree."""
        session, tree = session_pass.session, session_pass.tree
        is_hit = holds_bonus(session_pass, walk) if self._book.is_drafted_for(session) else None
        self._calibrator.observe_walk(session_pass.grown, tree, walk.accepted)
        verdict = judge(session, tree, walk)
        moves = compaction(session, verdict.accepted, self._block_size)
        scores = node_scores(session_pass) if session.spec.watch_rounds else ()
        base_length = session.num_tokens
        session.num_computed = base_length + len(verdict.accepted)
        session.commit(verdict.token_ids)
        if verdict.finish is None:
            self._book.committed(session)
        told = logprobs[: len(verdict.token_ids)]
        return Round(session_pass, verdict, base_length, is_hit, moves, session.clock, scores, told)

    def _settle_kv(self, passes: Sequence[SessionPass], rounds: Sequence[Round]) -> None:
        """Put accepted KV in its place and publish the pages that are full."""
        sources = [slot for round_ in rounds for slot in round_.moves[0]]
        if sources:
            self._kv.copy_slots(sources, [slot for r in rounds for slot in r.moves[1]])
        for session_pass in passes:
            if not session_pass.reaches_end:
                session_pass.session.num_computed += session_pass.num_new
            self._scheduler.publish_pages(session_pass.session)

    def measure(self, ran: RanPass) -> list[RoundOutcome]:
        """Count and observe a pass, once, and return what is told of it."""
        passes, rounds, clock, is_disturbed = ran
        self._observe_costs(passes, clock, is_disturbed=is_disturbed)
        self._trace.step(passes, clock)
        times_of = StepTimes(clock)
        times = [times_of.round(round_.clock) for round_ in rounds]
        outcomes = [
            self._measure_round(round_, own) for round_, own in zip(rounds, times, strict=True)
        ]
        self._trace.rounds(rounds, times, clock, batch_sessions=len(passes))
        for session_pass in passes:
            if not session_pass.reaches_end:
                self._trace.prefill(session_pass, clock)
        return outcomes

    @staticmethod
    def _measure_round(round_: Round, times: RoundTimes) -> RoundOutcome:
        session, tree = round_.session_pass.session, round_.session_pass.tree
        session.counts.add_round(
            times,
            num_emitted=len(round_.verdict.token_ids),
            num_admitted=tree.num_nodes,
            depth=max(tree.depths, default=0),
            num_accepted=len(round_.verdict.accepted),
            is_hit=round_.is_hit,
        )
        report = report_round(round_, times) if session.spec.watch_rounds else None
        return RoundOutcome(session, round_.base_length, round_.verdict, report, round_.logprobs)

    def _is_drafted_for(self, session_pass: SessionPass) -> bool:
        session = session_pass.session
        return self._book.is_drafted_for(session) and not session.is_resting

    def _observe_costs(
        self, passes: Sequence[SessionPass], clock: StepClock, *, is_disturbed: bool
    ) -> None:
        self.last_pass_ms = (clock.walked - clock.started) / 1e6
        num_rows = sum(p.num_new + p.tree.num_nodes for p in passes)
        num_drawn = sum(1 + p.tree.num_nodes for p in passes if p.reaches_end)
        # Nobody waits for what draws nothing: it is computed within the time of the next pass.
        is_telling = bool(num_drawn) or not self.waits_for_device
        follows_untold, self._has_untold = self._has_untold, not is_telling
        if follows_untold or not is_telling:
            return
        self._costs.observe(
            num_rows,
            self.last_pass_ms,
            num_sessions=len(passes),
            num_undrawn=num_rows - num_drawn,
            is_disturbed=is_disturbed,
        )


def _rows_of(laws: Sequence[list[LawRow]]) -> list[range]:
    """Return which rows of the logits belong to each session."""
    ends = accumulate(len(rows) for rows in laws)
    return [range(end - len(rows), end) for rows, end in zip(laws, ends, strict=True)]


def _logprobs(
    drawing: Sequence[SessionPass],
    laws: Sequence[list[LawRow]],
    walks: Sequence[Walk],
    target_logits: torch.Tensor,
) -> list[tuple[TokenLogprobs, ...]]:
    """Return the log-probabilities of each walk's tokens, for sessions that want them."""
    told: list[tuple[TokenLogprobs, ...]] = []
    for session_pass, own, walk, rows in zip(drawing, laws, walks, _rows_of(laws), strict=True):
        num_top = session_pass.session.spec.num_logprobs
        if num_top is None:
            told.append(())
            continue
        # The row of a token is that of the node before it, the root's for the first.
        drawn_at = [0, *(node + 1 for node in walk.accepted)]
        logits = target_logits[[rows[row] for row in drawn_at]]
        told.append(token_logprobs(logits, [own[row] for row in drawn_at], walk.token_ids, num_top))
    return told
