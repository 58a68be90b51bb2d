"""What drafting can be expected to bring at a load where it was not tried yet.

A trial under load is dear: all sessions are computed at the drafter, and short texts
end before it is over. Most of what it would find out is known beforehand. What rows
cost is measured from the start; how many tokens a tree of so many nodes brings is
much the same at every load, and so is what drafts take beside a pass, a little more
for each session. So a load begins open or closed by this forecast, and only what it
leaves open is left to trials.
"""

from bisect import bisect_left
from itertools import pairwise

from treedraft.target.step_costs import StepCosts

# Tokens a pass by nodes of a session in it, as `treedraft judge` measured them at
# temperature 0.7 with the drafter of the default model.
_TOKENS = ((0, 1.0), (1, 1.63), (2, 2.06), (4, 2.57), (8, 3.11), (16, 3.65))
# Weight of that against what is seen here, in accepted tokens.
_PRIOR_TOKENS = 16.0
_DECAY = 0.995
# What drafts take beside a pass, as a share of a plain pass of one session, until
# it was measured; and how much more for each session.
_PRIOR_DRAFT_SHARE = 0.25
_MORE_PER_SESSION = 0.1
_SMOOTHING = 0.1
# What a missed token takes a drafter until that was measured, in plain passes of one session.
_PRIOR_MISSED_SHARE = 0.01
_TELLING_TOKENS = 32
# One hiccup of the machine must not keep texts from being drafted for.
_MAX_JUMP = 3.0
# Where a link decides, what speaks against it counts for so much more: a loss costs a trial.
_TRAVEL_DOUBT = 0.4


class Forecast:
    """Learns from steps with drafts; asked for loads that had none."""

    def __init__(self, costs: StepCosts, *, takes_turns: bool = False) -> None:
        """Expect what was measured elsewhere, at the prices of `costs`.

        `takes_turns` says that the target waits for drafters that compute on its own cores.
        """
        self._costs = costs
        self.takes_turns = takes_turns
        self._expected = self._accepted = _PRIOR_TOKENS
        # For one session, so that loads can be compared.
        self._draft_ms: float | None = None
        self._missed_token_ms: float | None = None

    @property
    def missed_token_ms(self) -> float:
        """What a drafter takes for a token of a text that it missed."""
        if self._missed_token_ms is None:
            return _PRIOR_MISSED_SHARE * self._costs.estimate(1)
        return self._missed_token_ms

    def observe(
        self,
        *,
        num_sessions: int,
        num_nodes: int,
        num_accepted: int,
        draft_ms: float,
        travel_ms: float = 0.0,
        num_missed: int = 0,
    ) -> None:
        """Learn from a step with drafts.

        Args:
            num_sessions: sessions in the step.
            num_nodes: drafted nodes in its pass.
            num_accepted: of them, those that the target kept.
            draft_ms: what the step took beside its pass that a plain one would not have.
            travel_ms: round trip to the drafters, a part of that where they are waited for.
            num_missed: tokens of texts that drafters had to catch up with before they drafted.
        """
        if self.takes_turns:
            draft_ms -= travel_ms
        expected = num_sessions * (_tokens_of(num_nodes / num_sessions) - 1.0)
        fresh = (1.0 - _DECAY) * _PRIOR_TOKENS
        self._expected = self._expected * _DECAY + fresh + expected
        self._accepted = self._accepted * _DECAY + fresh + num_accepted
        if num_missed:
            self._learn_missed(draft_ms - self._expected_ms(num_sessions), num_missed)
            return
        own_ms = max(0.0, draft_ms) / _more(num_sessions)
        known_ms = own_ms if self._draft_ms is None else self._draft_ms
        self._draft_ms = known_ms + _SMOOTHING * (own_ms - known_ms)

    def gain_steps(
        self, num_sessions: int, *, overhead_ms: float = 0.0, travel_ms: float = 0.0
    ) -> float:
        """Return what a step with drafts would gain each session, in plain steps.

        Args:
            num_sessions: sessions in the step.
            overhead_ms: what a plain step takes beside its pass.
            travel_ms: what the way to the nearest drafter and back takes.
        """
        plain_ms = self._costs.estimate(num_sessions, num_sessions) + overhead_ms
        skill = self._accepted / self._expected
        waited_ms = self._expected_ms(num_sessions)
        reach = 1.0
        if self.takes_turns:
            # Each tree is asked for and waited for: to draft on beside the pass would hold it up.
            waited_ms += (1.0 + _TRAVEL_DOUBT) * travel_ms
        else:
            # Trees are grown ahead. What nobody foresaw is answered so many steps later.
            reach = plain_ms / (plain_ms + travel_ms)
        return max(
            reach * skill * (tokens - 1.0)
            - (self._added_ms(num_sessions, nodes) + waited_ms) / plain_ms
            for nodes, tokens in _TOKENS[1:]
        )

    def _expected_ms(self, num_sessions: int) -> float:
        """Return what drafts for so many sessions take beside a pass."""
        draft_ms = self._draft_ms
        if draft_ms is None:
            draft_ms = _PRIOR_DRAFT_SHARE * self._costs.estimate(1)
        return _more(num_sessions) * draft_ms

    def _learn_missed(self, added_ms: float, num_missed: int) -> None:
        """Learn what texts that were missed take a drafter, if we wait while it computes them."""
        if self.takes_turns:
            known_ms = self.missed_token_ms
            token_ms = min(max(0.0, added_ms) / num_missed, _MAX_JUMP * known_ms)
            # A few tokens tell little: what else was going on is all that they show.
            weight = _SMOOTHING * min(1.0, num_missed / _TELLING_TOKENS)
            self._missed_token_ms = known_ms + weight * (token_ms - known_ms)

    def _added_ms(self, num_sessions: int, nodes: int) -> float:
        """Return what nodes add to a pass: by prices of late or in proportion, what is more."""
        num_rows = num_sessions * (1 + nodes)
        plain_ms = self._costs.estimate(num_sessions, num_sessions)
        of_late_ms = self._costs.estimate(num_rows, num_sessions) - plain_ms
        usual = self._costs.usual_growth(num_sessions, num_rows) - 1.0
        return max(of_late_ms, usual * plain_ms)


def _more(num_sessions: int) -> float:
    return 1.0 + _MORE_PER_SESSION * (num_sessions - 1)


def _tokens_of(nodes: float) -> float:
    """Return the tokens a pass with so many nodes of each session, on lines between points."""
    index = bisect_left([known for known, _ in _TOKENS], nodes)
    if index == len(_TOKENS):
        return _TOKENS[-1][1]
    if index == 0:
        return 1.0
    (low, fewer), (high, more) = list(pairwise(_TOKENS))[index - 1]
    return fewer + (more - fewer) * (nodes - low) / (high - low)
