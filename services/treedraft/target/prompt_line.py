"""The sessions whose prompts are not complete, in the order in which they are computed.

Whether a first token can be in time hangs on what passes take, which the target
measures; what is due when is a setting. The order itself is `prompt_order`.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from treedraft.target.budget import Budget
from treedraft.target.prompt_order import WaitingPrompt, order_prompts
from treedraft.target.session import TargetSession


@dataclass(frozen=True, slots=True)
class FirstTokenLimit:
    """How long a first token may take: so many seconds, or so many times its prompt alone.

    The longer of the two holds; 0 seconds are no limit at all.
    """

    seconds: float = 0.0
    prompt_factor: float = 0.0

    def of(self, seconds_alone: float) -> float:
        """Return the limit for a prompt that takes `seconds_alone` at an idle target."""
        return max(self.seconds, self.prompt_factor * seconds_alone) if self.seconds else math.inf


class PromptLine:
    """Says whose prompt comes first, and whose comes too late."""

    def __init__(
        self,
        limit: FirstTokenLimit,
        budget: Budget,
        prompt_rows: Callable[[int], int],
        *,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """Order by what passes take.

        Args:
            limit: of first tokens.
            budget: knows what passes take.
            prompt_rows: rows of prompts in a pass beside so many decoding sessions.
            now_ns: monotonic clock.
        """
        self._limit = limit
        self._budget = budget
        self._prompt_rows = prompt_rows
        self._now_ns = now_ns

    def order(
        self, sessions: Sequence[TargetSession], num_decoding: int
    ) -> tuple[list[TargetSession], list[TargetSession]]:
        """Return the sessions in order, and apart those whose first token cannot be in time.

        Args:
            sessions: with prompts to compute, as they came.
            num_decoding: sessions that share their passes.
        """
        if len(sessions) < 2 and not self._limit.seconds:
            return list(sessions), []
        per_row = self._seconds_per_row(num_decoding)
        alone = self._seconds_per_row(0)
        order = order_prompts(
            self._now_ns() / 1e9, [self._waiting(one, per_row, alone) for one in sessions]
        )
        return (
            [sessions[index] for index in order.line],
            [sessions[index] for index in order.hopeless],
        )

    def _waiting(self, session: TargetSession, per_row: float, alone: float) -> WaitingPrompt:
        is_owed = session.num_tokens > session.spec.prompt_length
        due = session.started_ns / 1e9 + self._limit.of(session.spec.prompt_length * alone)
        # One that moved here in the middle of its text had its first token elsewhere.
        session.first_token_due = math.inf if is_owed else due
        return WaitingPrompt(session.num_pending * per_row, due, is_owed)

    def _seconds_per_row(self, num_decoding: int) -> float:
        rows = self._prompt_rows(num_decoding)
        return self._budget.pass_seconds(num_decoding + rows) / rows
