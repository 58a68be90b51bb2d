"""What the engine itself costs a step: planning, laying out rows, drawing, telling.

The engine runs in this process around a toy whose pass takes next to nothing, so
that what a step takes is nearly all its own. What the engine's thread computes is told
apart from what it waits for on a busy machine. Only steps count that have all
sessions in them; when there were enough, the sessions are cancelled.
"""

import cProfile
import queue
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from statistics import fmean, median

from treedraft.core.errors import UnavailableError
from treedraft.core.exchange import LogAcknowledgement
from treedraft.core.session import RoundTimes, SessionOutput, SessionSpec
from treedraft.inference.models import LoadedModel
from treedraft.target.assembly import TargetParts, assemble
from treedraft.target.events import (
    AcknowledgeLog,
    CancelSession,
    EngineNews,
    StartSession,
    Stop,
)
from treedraft.target.settings import KVSettings, TargetSettings
from treedraft.telemetry.metrics import Metrics
from treedraft.telemetry.tracing import Tracing

TOO_FEW_STEPS = "TOO_FEW_STEPS"
_STREAM = 1
_LIMIT_SECONDS = 120.0
# Tokens of the first session by the time that the last one's prompt is computed, at most: prompts
# share passes with those that decode, in chunks of eight tokens at least.
_MAX_HEAD_START = 1024


@dataclass(frozen=True, slots=True)
class EngineSteps:
    """What a step with all sessions takes, in milliseconds: by the clock, and by the thread's.

    `parts` are the means of one session's rounds in these steps.
    """

    step_ms: float
    engine_ms: float
    parts: RoundTimes


def run_sessions(
    model: LoadedModel,
    specs: Sequence[SessionSpec],
    tracing: Tracing,
    *,
    num_steps: int,
    profile: cProfile.Profile | None = None,
    limit_seconds: float = _LIMIT_SECONDS,
) -> EngineSteps:
    """Run sessions at once until so many steps had all of them.

    Args:
        model: the toy.
        specs: the sessions; none of them may end by itself.
        tracing: where spans go.
        num_steps: to measure, at least one.
        profile: enabled on the engine's thread during these steps, if given.
        limit_seconds: for anything to happen, and for all steps together.

    Raises:
        UnavailableError: reason TOO_FEW_STEPS if the steps did not come about in time.
    """
    watch = _Watch(len(specs), num_steps, profile)
    first, *others = specs
    parts = assemble(
        model,
        _settings(specs, num_steps),
        tracing=tracing,
        metrics=Metrics("target"),
        publish=watch.see,
    )
    for spec in (replace(first, watch_rounds=True), *others):
        parts.engine.post(StartSession(_STREAM, spec))
    parts.engine.start()
    try:
        _acknowledge_until_over(parts, watch, limit_seconds)
        for spec in specs:
            parts.engine.post(CancelSession(_STREAM, spec.session_id))
    finally:
        parts.engine.post(Stop(drain=False))
        parts.engine.join(limit_seconds)
    return watch.found()


def _settings(specs: Sequence[SessionSpec], num_steps: int) -> TargetSettings:
    longest = max(len(spec.token_ids) for spec in specs) + num_steps
    return TargetSettings(
        kv=KVSettings(tokens=len(specs) * (longest + _MAX_HEAD_START)),
        max_sessions=len(specs),
        max_waiting=len(specs),
    )


def _acknowledge_until_over(parts: TargetParts, watch: "_Watch", limit_seconds: float) -> None:
    """Play the coordinator: one acknowledgement a frame, until enough steps were seen."""
    limit = time.monotonic() + limit_seconds
    try:
        while True:
            outputs = watch.told.get(timeout=max(0.0, limit - time.monotonic()))
            if outputs is None:
                return
            parts.engine.post(
                AcknowledgeLog(
                    [
                        LogAcknowledgement(one.session_id, one.base_length + len(one.token_ids))
                        for one in outputs
                    ]
                )
            )
    except queue.Empty:
        raise UnavailableError(
            f"too few steps had all {watch.num_sessions} sessions in them within "
            f"{limit_seconds:g} seconds: {watch.num_whole} of {watch.num_steps}",
            reason=TOO_FEW_STEPS,
        ) from None


class _Watch:
    """Sees each step on the engine's thread, as it is told of."""

    def __init__(self, num_sessions: int, num_steps: int, profile: cProfile.Profile | None) -> None:
        self.num_sessions = num_sessions
        self.num_steps = num_steps
        self.told: queue.SimpleQueue[Sequence[SessionOutput] | None] = queue.SimpleQueue()
        self._profile = profile
        self._moments: list[tuple[float, float]] = []  # by the clock, by the thread's
        self._rounds: list[RoundTimes] = []

    @property
    def num_whole(self) -> int:
        """Steps that count, so far."""
        return max(0, len(self._moments) - 1)

    def see(self, news: EngineNews) -> None:
        """Note a step; one without all sessions does not count."""
        outputs = news.outputs.get(_STREAM, ())
        if self.num_whole < self.num_steps and len(outputs) == self.num_sessions:
            self._count(outputs)
        self.told.put(None if self.num_whole == self.num_steps else outputs)

    def _count(self, outputs: Sequence[SessionOutput]) -> None:
        self._moments.append((time.perf_counter(), time.thread_time()))
        self._rounds += [output.round.times for output in outputs if output.round]
        if self._profile and self.num_whole == 0:
            self._profile.enable()
        elif self._profile and self.num_whole == self.num_steps:
            self._profile.disable()

    def found(self) -> EngineSteps:
        """Return what the steps took."""
        pairs = list(pairwise(self._moments))
        return EngineSteps(
            step_ms=median(after[0] - before[0] for before, after in pairs) * 1e3,
            engine_ms=median(after[1] - before[1] for before, after in pairs) * 1e3,
            parts=RoundTimes(
                **{
                    part: fmean(getattr(times, part) for times in self._rounds[1:])
                    for part in asdict(RoundTimes())
                }
            ),
        )
