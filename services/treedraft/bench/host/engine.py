"""What the engine itself costs a step: planning, laying out rows, drawing, telling.

The engine runs in this process around a toy whose pass takes next to nothing, so
that what a step takes is nearly all its own. What the engine's thread computes is told
apart from what it waits for on a busy machine. Only steps count that have all
sessions in them; when there were enough, the sessions are cancelled.
"""

import cProfile
import queue
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from statistics import fmean, median

from treedraft.bench.host.drafter import ADDRESS, StandInDrafter
from treedraft.core.errors import UnavailableError
from treedraft.core.exchange import LogAcknowledgement
from treedraft.core.session import RoundTimes, SessionOutput, SessionSpec
from treedraft.inference.models import LoadedModel
from treedraft.target.assembly import TargetParts, assemble
from treedraft.target.events import (
    AcknowledgeLog,
    CancelSession,
    EngineNews,
    FrameArrived,
    LinkUp,
    StartSession,
    Stop,
)
from treedraft.target.settings import (
    BudgetSettings,
    GateSettings,
    KVSettings,
    PatienceSettings,
    TargetSettings,
)
from treedraft.telemetry.metrics import Metrics
from treedraft.telemetry.tracing import Tracing

TOO_FEW_STEPS = "TOO_FEW_STEPS"
_STREAM = 1
_LIMIT_SECONDS = 120.0
# Tokens of the first session by the time that the last one's prompt is computed, at most: prompts
# share passes with those that decode, in chunks of eight tokens at least.
_MAX_HEAD_START = 1024


@dataclass(frozen=True, slots=True)
class Drafts:
    """What sessions are drafted: texts by session, nodes of a tree, and those that come true."""

    texts: Mapping[str, Sequence[int]]
    num_nodes: int
    num_hits: int


@dataclass(frozen=True, slots=True)
class EngineSteps:
    """What a step with all sessions takes, in milliseconds: by the clock, and by the thread's.

    `parts` are the means of one session's rounds in these steps, `texts` what each session
    came to say, its prompt included, `num_tokens` those of a session and step, `num_messages`
    what the engine says a step, to coordinators and drafters together.
    """

    step_ms: float
    engine_ms: float
    parts: RoundTimes
    texts: Mapping[str, Sequence[int]]
    num_tokens: float
    num_messages: float


def run_sessions(
    model: LoadedModel,
    specs: Sequence[SessionSpec],
    tracing: Tracing,
    *,
    num_steps: int,
    drafts: Drafts | None = None,
    profile: cProfile.Profile | None = None,
    limit_seconds: float = _LIMIT_SECONDS,
) -> EngineSteps:
    """Run sessions at once until so many steps had all of them.

    Args:
        model: the toy.
        specs: the sessions; none of them may end by itself.
        tracing: where spans go.
        num_steps: to measure, at least one.
        drafts: what a drafter that takes no time sends for every step; none without.
        profile: enabled on the engine's thread during these steps, if given.
        limit_seconds: for anything to happen, and for all steps together.

    Raises:
        UnavailableError: reason TOO_FEW_STEPS if the steps did not come about in time.
    """
    watch = _Watch(specs, num_steps, profile)
    if drafts:
        specs = [replace(spec, drafters=(ADDRESS,)) for spec in specs]
    first, *others = specs
    parts = assemble(
        model,
        _settings(specs, num_steps, drafts),
        tracing=tracing,
        metrics=Metrics("target"),
        publish=watch.see,
    )
    if drafts:
        parts.engine.post(LinkUp(ADDRESS.endpoint))
    for spec in (replace(first, watch_rounds=True), *others):
        parts.engine.post(StartSession(_STREAM, spec))
    parts.engine.start()
    try:
        _acknowledge_until_over(parts, watch, drafts, limit_seconds)
        for spec in specs:
            parts.engine.post(CancelSession(_STREAM, spec.session_id))
    finally:
        parts.engine.post(Stop(drain=False))
        parts.engine.join(limit_seconds)
    return watch.found()


def _settings(
    specs: Sequence[SessionSpec], num_steps: int, drafts: Drafts | None
) -> TargetSettings:
    nodes, hits = (drafts.num_nodes, drafts.num_hits) if drafts else (0, 0)
    longest = max(len(spec.token_ids) for spec in specs) + num_steps * (1 + hits) + nodes
    return TargetSettings(
        kv=KVSettings(tokens=len(specs) * (longest + _MAX_HEAD_START * (1 + hits))),
        # Each step has all of its trees, whole.
        budget=BudgetSettings(mode="fixed", max_nodes=nodes, max_step_nodes=nodes * len(specs)),
        gate=GateSettings(enabled=False),
        patience=PatienceSettings(is_synchronous=True),
        max_sessions=len(specs),
        max_waiting=len(specs),
    )


def _acknowledge_until_over(
    parts: TargetParts, watch: "_Watch", drafts: Drafts | None, limit_seconds: float
) -> None:
    """Play coordinator and drafter: one answer a frame, until enough steps were seen."""
    limit = time.monotonic() + limit_seconds
    drafter = drafts and StandInDrafter(
        drafts.texts, num_nodes=drafts.num_nodes, num_hits=drafts.num_hits
    )
    try:
        while True:
            news = watch.told.get(timeout=max(0.0, limit - time.monotonic()))
            if news is None:
                return
            frame = news.frames.get(ADDRESS.endpoint)
            if frame and drafter:
                answer = drafter.answer(frame)
                parts.engine.post(FrameArrived(ADDRESS.endpoint, answer, time.monotonic_ns()))
            parts.engine.post(
                AcknowledgeLog(
                    [
                        LogAcknowledgement(one.session_id, one.base_length + len(one.token_ids))
                        for one in news.outputs.get(_STREAM, ())
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

    def __init__(
        self, specs: Sequence[SessionSpec], num_steps: int, profile: cProfile.Profile | None
    ) -> None:
        self.num_sessions = len(specs)
        self.num_steps = num_steps
        self.told: queue.SimpleQueue[EngineNews | None] = queue.SimpleQueue()
        self._texts = {spec.session_id: list(spec.token_ids) for spec in specs}
        self._profile = profile
        self._moments: list[tuple[float, float]] = []  # by the clock, by the thread's
        self._rounds: list[RoundTimes] = []
        self._num_tokens: list[int] = []
        self._num_messages = 0

    @property
    def num_whole(self) -> int:
        """Steps that count, so far."""
        return max(0, len(self._moments) - 1)

    def see(self, news: EngineNews) -> None:
        """Note a step; one without all sessions does not count."""
        outputs = news.outputs.get(_STREAM, ())
        if self._moments and self.num_whole < self.num_steps:
            self._num_messages += len(news.outputs) + len(news.frames)
        if self.num_whole < self.num_steps and len(outputs) == self.num_sessions:
            self._count(outputs)
        for output in outputs:
            self._texts[output.session_id].extend(output.token_ids)
        self.told.put(None if self.num_whole == self.num_steps else news)

    def _count(self, outputs: Sequence[SessionOutput]) -> None:
        self._num_tokens.append(sum(len(output.token_ids) for output in outputs))
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
            texts=self._texts,
            num_tokens=fmean(self._num_tokens[1:]) / self.num_sessions,
            num_messages=self._num_messages / len(pairs),
        )
