"""What a step came to, booked once there is time for it.

Between two passes a device stands still, for as long as the host takes. So only what the
next pass needs is done there: tokens are final, trees and KV in their place. Counts, spans,
prices and what coordinators are told follow while the next pass runs, or before anything
else is told of a session: nobody sees the difference.

On a CPU the engine computes the pass itself, and there is no such time.
"""

import time
from collections.abc import Collection
from typing import NamedTuple

import structlog

from treedraft.target.finished_step import FinishedStep
from treedraft.target.gate import DraftGate
from treedraft.target.patience import Patience
from treedraft.target.session import TargetSession
from treedraft.target.session_roster import SessionRoster
from treedraft.target.step import PassRunner, RanPass

_log = structlog.get_logger(__name__)


class _OpenStep(NamedTuple):
    """A step that is over and not booked.

    `load` is what it was begun for, `goodput_size` the size that its tokens count for.
    """

    ran: RanPass
    load: int
    goodput_size: int
    num_missed: int
    drafted: Collection[TargetSession]
    ended_ns: int


class StepBooks:
    """Books steps; used by the engine's thread."""

    def __init__(
        self, runner: PassRunner, roster: SessionRoster, patience: Patience, gate: DraftGate
    ) -> None:
        """Enter what `runner` measured of steps at the others."""
        self._runner = runner
        self._roster = roster
        self._patience = patience
        self._gate = gate
        self._open: _OpenStep | None = None
        # Of steps that could not be booked; to be failed.
        self._unbooked: set[TargetSession] = set()
        roster.before_news = self.settle

    def enter(
        self, ran: RanPass, *, load: int, num_missed: int, drafted: Collection[TargetSession]
    ) -> None:
        """Take a step that ends now; at once if there is no time later, or a text may end."""
        size, now_ns = self._patience.goodput.size, time.monotonic_ns()
        self._open = _OpenStep(ran, load, size, num_missed, drafted, now_ns)
        if ran.may_end_texts or not self._runner.waits_for_device:
            self.settle()

    def settle(self) -> None:
        """Book the step that is not yet."""
        step, self._open = self._open, None
        if step is None:
            return
        try:
            self._book(step)
        except Exception:
            # It may be in the midst of the next pass, from which no session can be taken.
            _log.exception("a step could not be booked", sessions=len(step.ran.passes))
            self._unbooked.update(one.session for one in step.ran.passes)

    def fail_unbooked(self) -> bool:
        """End the sessions of steps that could not be booked, between two passes; return if any.

        What such a step emitted may not have been told, and nothing can be told after it.
        """
        if not self._unbooked:
            return False
        self.settle()  # another step may have ended since; it is not told to them
        sessions, self._unbooked = self._unbooked, set()
        for session in sessions:
            self._roster.fail(session, "PASS_FAILED", "the pass failed")
        return True

    def _book(self, step: _OpenStep) -> None:
        outcomes = self._runner.measure(step.ran)
        for outcome in outcomes:
            if outcome.session not in self._unbooked:
                self._roster.settle(outcome)
        elapsed_ms = self._patience.goodput.step_finished(
            sum(len(outcome.verdict.token_ids) for outcome in outcomes),
            step.ended_ns,
            # Prompts take time and give no tokens: not what a wait is weighed against.
            counts=all(session_pass.num_new == 1 for session_pass in step.ran.passes),
            size=step.goodput_size,
        )
        if elapsed_ms is not None:
            finished = FinishedStep.of(
                step.load,
                step.ran.passes,
                outcomes,
                drafted=step.drafted,
                elapsed_ms=elapsed_ms,
                pass_ms=self._runner.last_pass_ms,
                num_missed=step.num_missed,
            )
            self._gate.step_finished(finished)
