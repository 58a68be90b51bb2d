"""Steps of many sessions: what Python costs them, and how many messages they take.

The engine runs in this process, without a network: a step is timed from one to the next,
and so is the device's part of it, the pass and the draw with all of it queued before. What
is left is the host's, and a profile says where it falls.
"""

import cProfile
from dataclasses import asdict
from typing import Any

from scripts.gpu.passes import many_ms
from scripts.gpu.section import Call, Found
from scripts.gpu.subjects import load

from treedraft.bench.host.engine import Drafts, EngineSteps, run_sessions
from treedraft.bench.host.profile import falls
from treedraft.bench.host.run import specs_of
from treedraft.core.lasting_heap import keep_heap
from treedraft.inference.models import LoadedModel
from treedraft.settings import TelemetrySettings
from treedraft.telemetry.tracing import Tracing

_NUM_HITS = 2
_NUM_NODES = 4


def measure(call: Call) -> Found:
    """Yield steps of 1 and of 64 sessions, without drafts and with them."""
    model = load(call.options.weights, call.device)
    tracing = Tracing("target", TelemetrySettings(sample_ratio=0.0))
    num_steps, loads = (4, (1, 3)) if call.is_tiny else (60, (64, 1))
    keep_heap()  # as a target does when it is ready
    try:
        for count in loads:
            yield from _steps(model, tracing, count, num_steps)
    finally:
        tracing.shutdown()


def _steps(model: LoadedModel, tracing: Tracing, count: int, num_steps: int) -> Found:
    specs = specs_of(count)
    run_sessions(model, specs, tracing, num_steps=2)  # compiles
    profile = cProfile.Profile()
    steps = run_sessions(model, specs, tracing, num_steps=num_steps)
    device_ms = many_ms(model, [1] * count)
    yield f"{count} sessions", _told(steps, device_ms)
    yield f"{count} sessions, parts of a round", asdict(steps.parts)
    run_sessions(model, specs, tracing, num_steps=num_steps, profile=profile)
    host_ms = max(0.0, steps.step_ms - device_ms)
    yield f"{count} sessions, where the host's time falls", falls(profile, host_ms)
    truth = run_sessions(model, specs, tracing, num_steps=(num_steps + 8) * (1 + _NUM_HITS))
    drafts = Drafts(truth.texts, _NUM_NODES, _NUM_HITS)
    drafted = run_sessions(model, specs, tracing, num_steps=num_steps, drafts=drafts)
    yield (
        f"{count} sessions, {_NUM_NODES} nodes each",
        _told(drafted, many_ms(model, [1 + _NUM_NODES] * count)),
    )


def _told(steps: EngineSteps, device_ms: float) -> dict[str, Any]:
    host_ms = max(0.0, steps.step_ms - device_ms)
    return {
        "step_ms": steps.step_ms,
        "device_ms": device_ms,
        "python's share (bar 0.1)": host_ms / steps.step_ms,
        "messages a step": steps.num_messages,
        "tokens a session": steps.num_tokens,
    }
