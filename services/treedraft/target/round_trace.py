"""Spans and histograms of rounds.

Spans are written only for sessions whose request is sampled; histograms always.
Moments arrive on the monotonic clock and are shifted to wall time here.
"""

import math
import time
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

from treedraft.core.session import FinishReason, RoundTimes, SessionStatistics
from treedraft.target.round import Round, StepClock
from treedraft.target.scheduler import SessionPass
from treedraft.telemetry import names
from treedraft.telemetry.metrics import Metrics
from treedraft.telemetry.round_metrics import FinishedRound
from treedraft.telemetry.spans import AttributeValue, ChildSpan
from treedraft.telemetry.tracing import Tracing

_PARTS = (names.SPAN_QUEUE, names.SPAN_FORWARD, names.SPAN_WALK, names.SPAN_COMMIT)


class RoundTrace:
    """Records what happened in a step."""

    def __init__(self, tracing: Tracing, metrics: Metrics) -> None:
        """Write spans to `tracing` and observations to `metrics`."""
        self._tracing = tracing
        self._metrics = metrics
        self._to_wall_ns = time.time_ns() - time.monotonic_ns()

    def step(self, passes: Sequence[SessionPass], clock: StepClock) -> None:
        """Record the pass as a whole, and how long those waited for it that are new in it."""
        num_rows = sum(p.num_new + p.tree.num_nodes for p in passes)
        self._metrics.pass_finished(
            (clock.forwarded - clock.started) / 1e9,
            num_rows=num_rows,
            # A decoding session brings one new token, the bonus token of its last round.
            has_prompt=any(p.num_new > 1 for p in passes),
        )
        for session_pass in passes:
            session = session_pass.session
            if not session.first_pass_ns:
                session.first_pass_ns = clock.started
                waited_ns = max(0, clock.started - session.started_ns)
                self._metrics.session_started(waited_ns / 1e9)

    def prefill(self, session_pass: SessionPass, clock: StepClock) -> None:
        """Record a chunk of a prompt that did not reach its end."""
        session = session_pass.session
        self._metrics.prompt_prefilled(num_computed=session_pass.num_new, num_cached=0)
        self._tracing.record(
            names.SPAN_PREFILL,
            session.span.traceparent,
            clock.started + self._to_wall_ns,
            clock.committed + self._to_wall_ns,
            {
                names.ATTR_BASE_LENGTH: session.num_computed,
                names.ATTR_PREFILL_TOKENS: session_pass.num_new,
            },
        )

    def rounds(
        self,
        rounds: Sequence[Round],
        times: Sequence[RoundTimes],
        clock: StepClock,
        *,
        batch_sessions: int,
    ) -> None:
        """Record the rounds that a step ended, each with its parts."""
        plain: dict[tuple[int, bool | None], FinishedRound] = {}
        self._metrics.rounds_finished(
            [_finished(round_, own, plain) for round_, own in zip(rounds, times, strict=True)]
        )
        self._observe_latency(rounds, clock)
        for round_, own in zip(rounds, times, strict=True):
            if round_.session_pass.session.span.is_recorded:
                self._record(round_, own, clock, batch_sessions)

    def _record(
        self, round_: Round, times: RoundTimes, clock: StepClock, batch_sessions: int
    ) -> None:
        """Write the span of one round, with its parts as children."""
        session, tree = round_.session_pass.session, round_.session_pass.tree
        verdict = round_.verdict
        # Numbers only: what is held back must keep no tree and no session alive.
        facts = _RoundFacts(
            session.counts.rounds,
            round_.base_length,
            round_.clock.drafted_nodes,
            tree.num_nodes,
            len(verdict.accepted),
            len(verdict.token_ids),
            batch_sessions,
            round_.is_hit,
            min(round_.clock.ready_ns, clock.started) - clock.started,
        )
        make = partial(_round_span, facts, times, clock, self._to_wall_ns)
        self._tracing.record_lazily(session.span.traceparent, make)

    def _observe_latency(self, rounds: Sequence[Round], clock: StepClock) -> None:
        later: list[tuple[int, float]] = []
        for round_ in rounds:
            session, num_tokens = round_.session_pass.session, len(round_.verdict.token_ids)
            if session.counts.rounds > 1:
                later.append((num_tokens, (clock.committed - round_.clock.ready_ns) / 1e9))
                continue
            self._metrics.first_token((session.first_token_ns - session.started_ns) / 1e9)
            if session.first_token_due < math.inf:
                is_missed = session.first_token_ns / 1e9 > session.first_token_due
                self._metrics.first_token_due(is_missed=is_missed)
            self._metrics.prompt_prefilled(
                num_computed=round_.session_pass.num_new,
                num_cached=session.counts.cached_prompt_tokens,
            )
            self._metrics.tokens_emitted(num_tokens)
        self._metrics.later_tokens_emitted(later)


def _finished(
    round_: Round, times: RoundTimes, plain: dict[tuple[int, bool | None], FinishedRound]
) -> FinishedRound:
    """Return what is counted of a round: one object for all of a step that had no nodes."""
    sources, accepted, is_hit = (
        round_.session_pass.tree.sources,
        round_.verdict.accepted,
        round_.is_hit,
    )
    if sources:
        return FinishedRound(times, sources, [sources[index] for index in accepted], is_hit)
    key = id(times), is_hit
    if key not in plain:
        plain[key] = FinishedRound(times, (), (), is_hit)
    return plain[key]


class _RoundFacts(NamedTuple):
    """What the span of a round tells besides its times."""

    number: int
    base_length: int
    drafted: int
    admitted: int
    accepted: int
    emitted: int
    batch_sessions: int
    is_hit: bool | None
    ready_ns: int  # before the start of the step, at most 0


def _round_span(
    facts: _RoundFacts, times: RoundTimes, clock: StepClock, shift_ns: int
) -> ChildSpan:
    """Return the span of a round with its parts; moments are shifted to wall time."""
    attributes: dict[str, AttributeValue] = {
        names.ATTR_ROUND_NUMBER: facts.number,
        names.ATTR_BASE_LENGTH: facts.base_length,
        names.ATTR_ROUND_DRAFTED: facts.drafted,
        names.ATTR_ROUND_ADMITTED: facts.admitted,
        names.ATTR_ROUND_ACCEPTED: facts.accepted,
        names.ATTR_ROUND_EMITTED: facts.emitted,
        names.ATTR_ROUND_BATCH: facts.batch_sessions,
        names.ATTR_ROUND_DRAFT_MS: times.draft,
        names.ATTR_ROUND_WIRE_MS: times.wire,
    }
    if facts.is_hit is not None:
        attributes[names.ATTR_ROUND_IS_HIT] = facts.is_hit
    started_ns = clock.started + facts.ready_ns
    moments = (started_ns, clock.started, clock.forwarded, clock.walked, clock.committed)
    return ChildSpan(
        names.SPAN_ROUND,
        started_ns + shift_ns,
        clock.committed + shift_ns,
        attributes,
        [
            ChildSpan(part, start + shift_ns, end + shift_ns)
            for part, (start, end) in zip(_PARTS, pairwise(moments), strict=True)
        ],
    )


def finish_attributes(
    reason: FinishReason, statistics: SessionStatistics
) -> Mapping[str, AttributeValue]:
    """Return the attributes that the span of a session gets at its end."""
    return {
        names.ATTR_FINISH_REASONS: (reason.value,),
        names.ATTR_OUTPUT_TOKENS: statistics.emitted_tokens,
        names.ATTR_CACHED_TOKENS: statistics.cached_prompt_tokens,
        names.ATTR_NUM_ROUNDS: statistics.rounds,
        names.ATTR_TOKENS_PER_ROUND: statistics.tokens_per_round,
        names.ATTR_HITS: statistics.hits,
        names.ATTR_MISSES: statistics.misses,
        names.ATTR_PREEMPTIONS: statistics.preemptions,
    }
