"""What the engine itself costs a step: planning, laying out rows, drawing, telling.

The engine runs in this process around a toy whose pass takes next to nothing, so
that what a step takes is nearly all its own. That is set against a pass of the
real target over as many rows. gRPC, which runs beside the engine, is left out.
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

from treedraft.core.exchange import LogAcknowledgement
from treedraft.core.sampling import SamplingParameters, StoppingCriteria
from treedraft.core.session import RoundTimes, SessionSpec, SessionStatistics
from treedraft.inference.kv_pool import KVPool
from treedraft.inference.models import LoadedModel, load_model
from treedraft.inference.runner import Runner
from treedraft.inference.stamp import Stamp, take_stamp
from treedraft.inference.toy import make_toy_model
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


@dataclass(frozen=True, slots=True)
class HostPoint:
    """A step with so many sessions, in milliseconds.

    `step_ms` is what it takes around the toy, `toy_ms` what the toy's pass takes by
    itself; `parts` are the means that the sessions were told; `pass_ms` is a pass of the
    real target over as many rows.
    """

    num_sessions: int
    step_ms: float
    toy_ms: float
    parts: RoundTimes
    pass_ms: float

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
    step_ms, statistics = _run_sessions(toy, specs)
    parts = RoundTimes(
        **{
            part: sum(getattr(one.round_ms, part) for one in statistics) / len(statistics)
            for part in asdict(RoundTimes())
        }
    )
    return HostPoint(number, step_ms, toy_ms, parts, real.estimate(number))


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
) -> tuple[float, list[SessionStatistics]]:
    """Run sessions at once; return the median time of a step with all of them, and counts."""
    news: queue.SimpleQueue[tuple[float, EngineNews]] = queue.SimpleQueue()
    tracing = Tracing("target", TelemetrySettings(sample_ratio=0.0))
    parts = assemble(
        model,
        TargetSettings(kv=KVSettings(tokens=65_536)),
        tracing=tracing,
        metrics=Metrics("target"),
        publish=lambda one: news.put((time.perf_counter(), one)),
    )
    for spec in specs:
        parts.engine.post(StartSession(_STREAM, spec))
    parts.engine.start()
    moments: list[tuple[float, int]] = []
    statistics: list[SessionStatistics] = []
    try:
        while len(statistics) < len(specs):
            moment, one = news.get(timeout=_LIMIT_SECONDS)
            outputs = one.outputs.get(_STREAM, ())
            moments.append((moment, len(outputs)))
            for output in outputs:
                length = output.base_length + len(output.token_ids)
                parts.engine.post(AcknowledgeLog([LogAcknowledgement(output.session_id, length)]))
                if output.finish:
                    statistics.append(output.finish.statistics)
    finally:
        parts.engine.post(Stop(drain=False))
        parts.engine.join(_LIMIT_SECONDS)
        tracing.shutdown()
    whole = [moment for moment, count in moments if count == len(specs)]
    steps = [(after - before) * 1e3 for before, after in pairwise(whole)]
    return median(steps), statistics


def markdown(result: HostResult) -> str:
    """Return the table."""
    lines = [
        "| sessions | host ms a step | plan and tell | walk | commit | pass ms | share |",
        "| --: | --: | --: | --: | --: | --: | --: |",
    ]
    lines += [
        f"| {p.num_sessions} | {p.host_ms:.2f} | {p.parts.queue:.2f} | {p.parts.walk:.2f} "
        f"| {p.parts.commit:.2f} | {p.pass_ms:.1f} | {p.share:.1%} |"
        for p in result.points
    ]
    words = (
        f"The engine around a toy, {result.num_tokens} tokens a session; what the parts leave of "
        f"a host step lays rows out. The pass is one of {result.target} in float32 over as many "
        f"rows. {result.stamp.machine}; commit {result.stamp.commit}."
    )
    return "\n".join([*lines, "", words])


def to_json(result: HostResult) -> str:
    """Return all of it."""
    return json.dumps({**asdict(result), "table": markdown(result)}, indent=1, ensure_ascii=False)
