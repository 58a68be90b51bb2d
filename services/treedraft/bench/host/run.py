"""Measures the host's costs at several loads.

A step around a toy is set against a pass of the real target over as many rows, and so is what
both ends of the stream compute to say and to understand one step.
"""

import cProfile
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from treedraft.bench.host.engine import Drafts, run_sessions
from treedraft.bench.host.frames import measure_frames
from treedraft.bench.host.profile import falls
from treedraft.bench.host.result import HostPoint, HostResult
from treedraft.core.lasting_heap import keep_heap
from treedraft.core.sampling import SamplingParameters, StoppingCriteria
from treedraft.core.session import SessionSpec
from treedraft.inference.kv_pool import KVPool
from treedraft.inference.models import LoadedModel, load_model
from treedraft.inference.runner import Runner
from treedraft.inference.stamp import take_stamp
from treedraft.inference.toy import make_toy_model
from treedraft.settings import TelemetrySettings
from treedraft.target.step_costs import StepCosts
from treedraft.target.warm_up import warm_up
from treedraft.telemetry.tracing import Tracing

_PROMPT_TOKENS = 32
_NUM_HITS = 3  # nodes of a tree that come true
_MAX_STEP_NODES = 256  # as a target's own limit is


def run_host(
    target: str, folder: Path, num_sessions: Sequence[int], *, num_steps: int, num_nodes: int = 0
) -> HostResult:
    """Measure the engine and its frames with these numbers of sessions.

    Args:
        target: name of the real target, for the result.
        folder: of its weights.
        num_sessions: loads to measure.
        num_steps: with all sessions in them, at each load.
        num_nodes: of a session's tree, where the nodes of a step are not too many; 0 leaves
            drafts out.

    Raises:
        UnavailableError: reason TOO_FEW_STEPS, on a machine too busy to measure on.
    """
    stamp = take_stamp()
    real = _pass_costs(load_model(str(folder), dtype="float32", device="cpu"), max(num_sessions))
    with tempfile.TemporaryDirectory(prefix="treedraft-") as place:
        toy = load_model(str(make_toy_model(Path(place), seed=0)), dtype="float32", device="cpu")
        costs = _pass_costs(toy, max(num_sessions) + (_MAX_STEP_NODES if num_nodes else 0))
        keep_heap()  # as a target does when it is ready
        points = tuple(
            _measure(toy, number, num_steps, toy_ms=costs.estimate(number), real=real)
            for number in num_sessions
        )
        drafted = tuple(
            _measure_drafted(toy, number, num_steps, num_nodes, costs)
            for number in (num_sessions if num_nodes else ())
        )
    frames = tuple(point for number in num_sessions for point in measure_frames(specs_of(number)))
    return HostResult(stamp, target, num_steps, points, frames, drafted)


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
    toy: LoadedModel, number: int, num_steps: int, *, toy_ms: float, real: StepCosts
) -> HostPoint:
    specs, profile = specs_of(number), cProfile.Profile()
    tracing = Tracing("target", TelemetrySettings(sample_ratio=0.0))
    try:
        steps = run_sessions(toy, specs, tracing, num_steps=num_steps)
        run_sessions(toy, specs, tracing, num_steps=num_steps, profile=profile)
    finally:
        tracing.shutdown()
    point = HostPoint(
        number, steps.step_ms, toy_ms, steps.parts, real.estimate(number), steps.engine_ms
    )
    return replace(point, falls=falls(profile, point.thread_ms))


def _measure_drafted(
    toy: LoadedModel, number: int, num_steps: int, num_nodes: int, costs: StepCosts
) -> HostPoint:
    """Measure steps that hold a tree for each session, whose best path comes true."""
    num_nodes = max(1, min(num_nodes, _MAX_STEP_NODES // number))
    specs, profile = specs_of(number), cProfile.Profile()
    tracing = Tracing("target", TelemetrySettings(sample_ratio=0.0))
    try:
        truth = run_sessions(toy, specs, tracing, num_steps=(num_steps + 8) * (1 + _NUM_HITS))
        drafts = Drafts(truth.texts, num_nodes, min(_NUM_HITS, num_nodes))
        steps = run_sessions(toy, specs, tracing, num_steps=num_steps, drafts=drafts)
        run_sessions(toy, specs, tracing, num_steps=num_steps, drafts=drafts, profile=profile)
    finally:
        tracing.shutdown()
    point = HostPoint(
        number,
        steps.step_ms,
        costs.estimate(number * (1 + num_nodes)),
        steps.parts,
        pass_ms=0.0,
        engine_ms=steps.engine_ms,
        num_nodes=num_nodes,
        num_tokens=steps.num_tokens,
    )
    return replace(point, falls=falls(profile, point.thread_ms))


def specs_of(number: int) -> list[SessionSpec]:
    """Return so many sessions with prompts that have nothing in common, and no end."""
    return [_spec(index) for index in range(number)]


def _spec(index: int) -> SessionSpec:
    token_ids = tuple((7 * index + place) % 500 for place in range(_PROMPT_TOKENS))
    return SessionSpec(
        session_id=f"host-{index:019d}",  # as long as names are
        epoch=1,
        token_ids=token_ids,
        prompt_length=len(token_ids),
        sampling=SamplingParameters(temperature=0.0, seed=1),
        stopping=StoppingCriteria(ignore_eos=True),
    )
