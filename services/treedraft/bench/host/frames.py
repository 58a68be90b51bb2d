"""What both ends of a coordinator's stream compute for the frame of one step.

gRPC's own work, which runs beside the engine, is left out.
"""

import time
from collections.abc import Callable, Sequence
from statistics import median

from treedraft.bench.host.result import FramePoint
from treedraft.core.exchange import CoordinatorFrame
from treedraft.core.growth import TokenSource
from treedraft.core.session import SessionOutput, SessionSpec
from treedraft.rpc.numbered_sessions import ServedSessions, StartedSessions

BY_NUMBER, BY_NAME = "number", "name"
_NUM_FRAMES = 50
_TOKEN_ID = 31_337


def measure_frames(specs: Sequence[SessionSpec]) -> list[FramePoint]:
    """Return what a frame with a token of each session costs, told in either way."""
    outputs = [
        SessionOutput(
            spec.session_id, spec.epoch, spec.prompt_length, (_TOKEN_ID,), (TokenSource.TARGET,)
        )
        for spec in specs
    ]
    started, served = StartedSessions(), ServedSessions()
    served.frame_from_proto(started.frame_to_proto(CoordinatorFrame(starts=specs)))
    # To a coordinator that gave no numbers everything is told by name.
    unnumbered = StartedSessions(), ServedSessions()
    return [
        _measure(BY_NUMBER, outputs, started, served),
        _measure(BY_NAME, outputs, *unnumbered),
    ]


def _measure(
    by: str, outputs: Sequence[SessionOutput], started: StartedSessions, served: ServedSessions
) -> FramePoint:
    data = served.outputs_to_proto(outputs).SerializeToString()
    response = type(served.outputs_to_proto(()))
    return FramePoint(
        len(outputs),
        by,
        _processor_ms(lambda: served.outputs_to_proto(outputs).SerializeToString()),
        _processor_ms(lambda: started.outputs_from_proto(response.FromString(data))),
        len(data),
    )


def _processor_ms(work: Callable[[], object]) -> float:
    """Return the median of what a piece of work takes of this thread, in milliseconds."""
    taken = []
    for _ in range(_NUM_FRAMES):
        begun = time.thread_time()
        work()
        taken.append(time.thread_time() - begun)
    return median(taken) * 1e3
