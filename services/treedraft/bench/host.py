"""What the engine itself costs a step: planning, laying out rows, drawing, telling.

The engine runs in this process around a toy whose pass takes next to nothing, so
that what a step takes is nearly all its own. That is set against a pass of the
real target over as many rows. What the engine's thread computes is told apart from what
it waits for on a busy machine, and so is what both ends of the stream compute to say and to
understand one step. gRPC's own work, which runs beside the engine, is left out.
"""

import json
import queue
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

from treedraft.core.exchange import CoordinatorFrame, LogAcknowledgement
from treedraft.core.growth import TokenSource
from treedraft.core.sampling import SamplingParameters, StoppingCriteria
from treedraft.core.session import RoundTimes, SessionOutput, SessionSpec, SessionStatistics
from treedraft.inference.kv_pool import KVPool
from treedraft.inference.models import LoadedModel, load_model
from treedraft.inference.runner import Runner
from treedraft.inference.stamp import Stamp, take_stamp
from treedraft.inference.toy import make_toy_model
from treedraft.rpc.numbered_sessions import ServedSessions, StartedSessions
from treedraft.settings import TelemetrySettings
from treedraft.target.assembly import assemble
from treedraft.target.events import AcknowledgeLog, EngineNews, StartSession, Stop
from treedraft.target.settings import KVSettings, TargetSettings
from treedraft.target.step_costs import StepCosts
from treedraft.target.warm_up import warm_up
from treedraft.telemetry.metrics import Metrics
from treedraft.telemetry.tracing import Tracing

_PROMPT_TOKENS = 32
_STREAM = 1
_LIMIT_SECONDS = 120.0
_NUM_FRAMES = 50


@dataclass(frozen=True, slots=True)
class HostPoint:
    """A step with so many sessions, in milliseconds.

    `step_ms` is what it takes around the toy, `toy_ms` what the toy's pass takes by
    itself; `parts` are the means that the sessions were told; `pass_ms` is a pass of the
    real target over as many rows. `engine_ms` is processor time of the engine's thread for
    a step, the toy's share of that thread included; `wire_ms` that of the target and of the
    coordinator for its frame.
    """

    num_sessions: int
    step_ms: float
    toy_ms: float
    parts: RoundTimes
    pass_ms: float
    engine_ms: float = 0.0
    wire_ms: tuple[float, float] = (0.0, 0.0)

    @property
    def host_ms(self) -> float:
        """What a step takes beside its pass."""
        return max(0.0, self.step_ms - self.toy_ms)

    @property
    def share(self) -> float:
        """Share of a step with the real target."""
        return self.host_ms / (self.host_ms + self.pass_ms)


@dataclass(frozen=True, slots=True)
class HostResult:
    """A whole run."""

    stamp: Stamp
    target: str
    num_tokens: int
    points: tuple[HostPoint, ...]


def run_host(
    target: str, folder: Path, num_sessions: Sequence[int], *, num_tokens: int
) -> HostResult:
    """Measure the engine with these numbers of sessions.

    Args:
        target: name of the real target, for the result.
        folder: of its weights.
        num_sessions: loads to measure.
        num_tokens: tokens of each session.
    """
    stamp = take_stamp()
    real = _pass_costs(load_model(str(folder), dtype="float32", device="cpu"), max(num_sessions))
    with tempfile.TemporaryDirectory(prefix="treedraft-") as place:
        toy = load_model(str(make_toy_model(Path(place), seed=0)), dtype="float32", device="cpu")
        costs = _pass_costs(toy, max(num_sessions))
        points = tuple(
            _measure(toy, number, num_tokens, toy_ms=costs.estimate(number), real=real)
            for number in num_sessions
        )
    return HostResult(stamp, target, num_tokens, points)


def _pass_costs(model: LoadedModel, max_rows: int) -> StepCosts:
    costs = StepCosts()
    kv = KVPool(
        model.num_layers,
        max_rows,
        model.num_kv_heads,
        model.head_dim,
        dtype=model.dtype,
        device=model.device,
    )
    warm_up(Runner(model, kv), costs, max_rows=max_rows)
    return costs


def _measure(
    toy: LoadedModel, number: int, num_tokens: int, *, toy_ms: float, real: StepCosts
) -> HostPoint:
    specs = [_spec(index, num_tokens) for index in range(number)]
    step_ms, engine_ms, statistics = _run_sessions(toy, specs)
    parts = RoundTimes(
        **{
            part: sum(getattr(one.round_ms, part) for one in statistics) / len(statistics)
            for part in asdict(RoundTimes())
        }
    )
    wire_ms = _wire_ms(specs)
    return HostPoint(number, step_ms, toy_ms, parts, real.estimate(number), engine_ms, wire_ms)


def _wire_ms(specs: Sequence[SessionSpec]) -> tuple[float, float]:
    """Return what it takes to say one step of these sessions, and to understand it."""
    started, served = StartedSessions(), ServedSessions()
    served.frame_from_proto(started.frame_to_proto(CoordinatorFrame(starts=specs)))
    outputs = [
        SessionOutput(spec.session_id, spec.epoch, spec.prompt_length, (7,), (TokenSource.TARGET,))
        for spec in specs
    ]
    said, understood = list[float](), list[float]()
    for _ in range(_NUM_FRAMES):
        begun = time.thread_time()
        frame = served.outputs_to_proto(outputs)
        data = frame.SerializeToString()
        between = time.thread_time()
        started.outputs_from_proto(type(frame).FromString(data))
        said.append(between - begun)
        understood.append(time.thread_time() - between)
    return median(said) * 1e3, median(understood) * 1e3


def _spec(index: int, num_tokens: int) -> SessionSpec:
    token_ids = tuple((7 * index + place) % 500 for place in range(_PROMPT_TOKENS))
    return SessionSpec(
        session_id=f"host-{index}",
        epoch=1,
        token_ids=token_ids,
        prompt_length=len(token_ids),
        sampling=SamplingParameters(temperature=0.0, seed=1),
        stopping=StoppingCriteria(max_tokens=num_tokens, ignore_eos=True),
    )


def _run_sessions(
    model: LoadedModel, specs: Sequence[SessionSpec]
) -> tuple[float, float, list[SessionStatistics]]:
    """Run sessions at once; return what a step with all of them takes, and counts.

    That is the median in milliseconds by the clock, and by the engine thread's own.
    """
    news: queue.SimpleQueue[tuple[float, float, EngineNews]] = queue.SimpleQueue()
    tracing = Tracing("target", TelemetrySettings(sample_ratio=0.0))
    parts = assemble(
        model,
        TargetSettings(kv=KVSettings(tokens=65_536)),
        tracing=tracing,
        metrics=Metrics("target"),
        publish=lambda one: news.put((time.perf_counter(), time.thread_time(), one)),
    )
    for spec in specs:
        parts.engine.post(StartSession(_STREAM, spec))
    parts.engine.start()
    whole: list[tuple[float, float]] = []
    statistics: list[SessionStatistics] = []
    try:
        while len(statistics) < len(specs):
            moment, computed, one = news.get(timeout=_LIMIT_SECONDS)
            outputs = one.outputs.get(_STREAM, ())
            if len(outputs) == len(specs):
                whole.append((moment, computed))
            for output in outputs:
                length = output.base_length + len(output.token_ids)
                parts.engine.post(AcknowledgeLog([LogAcknowledgement(output.session_id, length)]))
                if output.finish:
                    statistics.append(output.finish.statistics)
    finally:
        parts.engine.post(Stop(drain=False))
        parts.engine.join(_LIMIT_SECONDS)
        tracing.shutdown()
    steps = [(after[0] - before[0]) * 1e3 for before, after in pairwise(whole)]
    computed_ms = [(after[1] - before[1]) * 1e3 for before, after in pairwise(whole)]
    return median(steps), median(computed_ms), statistics


def markdown(result: HostResult) -> str:
    """Return the table."""
    lines = [
        "| sessions | host ms a step | plan and tell | walk | commit | pass ms | share "
        "| engine's thread | frame, target | frame, coordinator |",
        "| --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |",
    ]
    lines += [
        f"| {p.num_sessions} | {p.host_ms:.2f} | {p.parts.queue:.2f} | {p.parts.walk:.2f} "
        f"| {p.parts.commit:.2f} | {p.pass_ms:.1f} | {p.share:.1%} "
        f"| {p.engine_ms:.2f} | {p.wire_ms[0]:.3f} | {p.wire_ms[1]:.3f} |"
        for p in result.points
    ]
    words = (
        f"The engine around a toy, {result.num_tokens} tokens a session; what the parts leave of "
        f"a host step lays rows out. The last three are processor time, the toy's "
        f"pass on the engine's thread included. The pass is one of {result.target} in float32 "
        f"over as many rows. {result.stamp.machine}; commit {result.stamp.commit}."
    )
    return "\n".join([*lines, "", words])


def to_json(result: HostResult) -> str:
    """Return all of it."""
    return json.dumps({**asdict(result), "table": markdown(result)}, indent=1, ensure_ascii=False)
