"""Our engine without speculation on the work of a peer, in this process and without a network."""

import queue
import time
from collections.abc import Sequence

from treedraft.core.exchange import LogAcknowledgement
from treedraft.core.sampling import SamplingParameters, StoppingCriteria
from treedraft.core.session import SessionSpec
from treedraft.inference.models import LoadedModel
from treedraft.settings import TelemetrySettings
from treedraft.target.assembly import TargetParts, assemble
from treedraft.target.events import AcknowledgeLog, EngineNews, StartSession, Stop
from treedraft.target.settings import KVSettings, TargetSettings
from treedraft.telemetry.metrics import Metrics
from treedraft.telemetry.tracing import Tracing

_STREAM = 1
_PATIENCE_SECONDS = 120.0


def plain_speed(
    model: LoadedModel, prompts: Sequence[Sequence[int]], num_tokens: int, repeats: int
) -> float:
    """Return the best tokens per second of some repeats, all prompts at once, prompts included."""
    told: queue.SimpleQueue[EngineNews] = queue.SimpleQueue()
    tracing = Tracing("target", TelemetrySettings(sample_ratio=0.0))
    most = max(map(len, prompts)) + num_tokens
    settings = TargetSettings(
        kv=KVSettings(tokens=(len(prompts) + 1) * (most // 16 + 2) * 16),
        max_sessions=len(prompts),
        max_waiting=len(prompts),
    )
    parts = assemble(model, settings, tracing=tracing, metrics=Metrics("target"), publish=told.put)
    parts.engine.start()
    try:
        return max(_once(parts, told, prompts, num_tokens, turn) for turn in range(repeats))
    finally:
        parts.engine.post(Stop(drain=False))
        parts.engine.join(_PATIENCE_SECONDS)
        tracing.shutdown()


def _once(
    parts: TargetParts,
    told: "queue.SimpleQueue[EngineNews]",
    prompts: Sequence[Sequence[int]],
    num_tokens: int,
    turn: int,
) -> float:
    started, open_, count = time.perf_counter(), set(), 0
    for index, prompt in enumerate(prompts):
        # Begins otherwise each time: nobody finds pages of the time before.
        own = ((prompt[0] + turn) % 90 + 3, *prompt[1:])
        spec = SessionSpec(
            session_id=f"{turn}-{index}",
            epoch=1,
            token_ids=own,
            prompt_length=len(own),
            sampling=SamplingParameters(temperature=0.0, seed=1),
            stopping=StoppingCriteria(max_tokens=num_tokens, ignore_eos=True),
        )
        open_.add(spec.session_id)
        parts.engine.post(StartSession(_STREAM, spec))
    while open_:
        outputs = told.get(timeout=_PATIENCE_SECONDS).outputs.get(_STREAM, ())
        for output in outputs:
            if output.failure:
                raise RuntimeError(output.failure)
            count += len(output.token_ids)
            if output.finish:
                open_.discard(output.session_id)
        logged = [
            LogAcknowledgement(one.session_id, one.base_length + len(one.token_ids))
            for one in outputs
        ]
        parts.engine.post(AcknowledgeLog(logged))
    return count / (time.perf_counter() - started)
