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

from treedraft.target.finished_step import FinishedStep
from treedraft.target.gate import DraftGate
from treedraft.target.patience import Patience
from treedraft.target.session import TargetSession
from treedraft.target.session_roster import SessionRoster
from treedraft.target.step import PassRunner, RanPass


class _OpenStep(NamedTuple):
    """A step that is over and not booked; `load` is what it was begun for."""

    ran: RanPass
    load: int
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
        roster.before_news = self.settle

    def enter(
        self, ran: RanPass, *, load: int, num_missed: int, drafted: Collection[TargetSession]
    ) -> None:
        """Take a step that ends now; at once if there is no time later, or a text may end."""
        self._open = _OpenStep(ran, load, num_missed, drafted, time.monotonic_ns())
        if ran.may_end_texts or not self._runner.waits_for_device:
            self.settle()

    def settle(self) -> None:
        """Book the step that is not yet."""
        step, self._open = self._open, None
        if step is None:
            return
        outcomes = self._runner.measure(step.ran)
        for outcome in outcomes:
            self._roster.settle(outcome)
        elapsed_ms = self._patience.goodput.step_finished(
            sum(len(outcome.verdict.token_ids) for outcome in outcomes),
            step.ended_ns,
            # Prompts take time and give no tokens: not what a wait is weighed against.
            counts=all(session_pass.num_new == 1 for session_pass in step.ran.passes),
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
