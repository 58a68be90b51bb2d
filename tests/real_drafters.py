"""The draft service's own engine, as a drafter of the engine harness."""

import time

from treedraft.core.exchange import DraftFrame, TargetFrame
from treedraft.draft.assembly import assemble
from treedraft.draft.drafter import Drafter
from treedraft.draft.grammars import DraftGrammars
from treedraft.draft.links import FrameArrived, LinkOpened
from treedraft.draft.settings import DraftSettings
from treedraft.inference.models import LoadedModel
from treedraft.settings import TelemetrySettings
from treedraft.telemetry.metrics import Metrics
from treedraft.telemetry.tracing import Tracing

_LINK_ID = 1


class RealDrafter:
    """Answers each frame with all that can be grown in a few steps; nobody's thread runs it.

    Args:
        settings: of the draft service.
        model: drafts, beside lookup if the settings have it; None for lookup alone.
        vocab_size: of the target.
        num_steps: steps for each frame, so that trees have some depth.
    """

    def __init__(
        self,
        settings: DraftSettings,
        model: LoadedModel | None,
        *,
        vocab_size: int,
        num_steps: int = 4,
    ) -> None:
        self._frames: list[DraftFrame] = []
        self._num_steps = num_steps
        self._drafter = Drafter(
            settings,
            assemble(model, settings).grower if model else None,
            tracing=Tracing("draft", TelemetrySettings(sample_ratio=0.0)),
            metrics=Metrics("draft"),
            grammars=DraftGrammars(lambda work: work()),
        )
        self._drafter.take(LinkOpened(_LINK_ID, vocab_size, self._frames.append))

    def __call__(self, frame: TargetFrame) -> list[DraftFrame]:
        self._drafter.take(FrameArrived(_LINK_ID, frame, time.monotonic_ns()))
        self._drafter.take_posted()
        for _ in range(self._num_steps):
            if not self._drafter.step():
                break
        frames, self._frames[:] = list(self._frames), []
        return frames
