"""Runs a target's engine in this process, with drafters that a test scripts.

The engine is the real one, on its own thread, with a real (toy) model; only
the network is left out: a test is the event loop and the drafter.
"""

import os
import queue
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import torch
from tests.waiting import PATIENCE_SECONDS
from transformers import AutoModelForCausalLM, PreTrainedModel

from treedraft.core.exchange import DraftFrame, LogAcknowledgement, TargetFrame
from treedraft.core.growth import TokenSource
from treedraft.core.logprobs import TokenLogprobs
from treedraft.core.sampling import SamplingParameters, SpeculationOptions, StoppingCriteria
from treedraft.core.session import RoundReport, SessionFailure, SessionFinish, SessionSpec
from treedraft.core.worker import DrafterAddress
from treedraft.inference.models import LoadedModel, load_model
from treedraft.inference.sampler import LawRow, SessionCounts, TokenHistory, tie_margin
from treedraft.settings import TelemetrySettings
from treedraft.target.assembly import assemble
from treedraft.target.events import (
    AcknowledgeLog,
    CancelSession,
    EngineNews,
    FrameArrived,
    LinkDown,
    LinkUp,
    StartSession,
    Stop,
)
from treedraft.target.settings import TargetSettings
from treedraft.telemetry.metrics import Metrics
from treedraft.telemetry.tracing import Tracing

FAKE_DRAFTER = DrafterAddress("drafter-0", "incarnation-0", "fake:1")
TIE_TOLERANCE = 1e-3
# `TEST_DEVICE=cuda make test` runs the exactness suites on an accelerator.
DEVICE = os.environ.get("TEST_DEVICE", "cpu")

Drafter = Callable[[TargetFrame], Sequence[DraftFrame]]


def spec(
    token_ids: Sequence[int],
    *,
    session_id: str = "s",
    sampling: SamplingParameters | None = None,
    max_tokens: int = 32,
    stopping: StoppingCriteria | None = None,
    speculation: SpeculationOptions | None = None,
    prompt_length: int | None = None,
    epoch: int = 1,
    tenant_salt: bytes = b"",
    choice: int = 0,
    time_limit_seconds: float | None = None,
) -> SessionSpec:
    """Return a session for the fake drafter; greedy unless told otherwise."""
    return SessionSpec(
        session_id=session_id,
        epoch=epoch,
        token_ids=tuple(token_ids),
        prompt_length=len(token_ids) if prompt_length is None else prompt_length,
        sampling=sampling or SamplingParameters(temperature=0.0, seed=1),
        stopping=stopping or StoppingCriteria(max_tokens=max_tokens, ignore_eos=True),
        speculation=speculation or SpeculationOptions(),
        drafters=(FAKE_DRAFTER,),
        choice=choice,
        tenant_salt=tenant_salt,
        time_limit_seconds=time_limit_seconds,
    )


@dataclass
class SessionResult:
    """All that came out of one session."""

    token_ids: list[int] = field(default_factory=list)
    sources: list[TokenSource] = field(default_factory=list)
    rounds: list[RoundReport] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish: SessionFinish | None = None
    failure: SessionFailure | None = None

    @property
    def is_over(self) -> bool:
        return self.finish is not None or self.failure is not None


class EngineHarness:
    """An engine, its news, and perhaps a drafter.

    A drafter in lockstep answers on the engine's own thread: what it drafts is
    there before the next pass, however slow it is.
    """

    def __init__(
        self,
        model: LoadedModel,
        settings: TargetSettings,
        drafter: Drafter | None = None,
        *,
        is_lockstep: bool = False,
        tracing: Tracing | None = None,
    ) -> None:
        self.model = model
        self.metrics = Metrics("target")
        self._news: queue.SimpleQueue[EngineNews] = queue.SimpleQueue()
        self._tracing = tracing or Tracing("target", TelemetrySettings(sample_ratio=0.0))
        self.drafter = drafter
        self.is_lockstep = is_lockstep
        self.parts = assemble(
            model,
            settings,
            tracing=self._tracing,
            metrics=self.metrics,
            publish=self._publish,
        )
        self.engine, self.pool = self.parts.engine, self.parts.pool
        self.acknowledges = True
        self.refused_links: dict[str, str] = {}
        self.results: dict[str, SessionResult] = {}
        self.on_output: Callable[[str, SessionResult], None] = lambda *_: None
        # Called by the engine itself, in the step that made the tokens.
        self.on_published: Callable[[str, int], None] = lambda *_: None

    def __enter__(self) -> "EngineHarness":
        self.engine.start()
        if self.drafter:
            self.engine.post(LinkUp(FAKE_DRAFTER.endpoint))
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.post(Stop(drain=False))
        assert self.engine.join(PATIENCE_SECONDS)
        self._tracing.shutdown()
        self.pool.check_integrity()

    def start(self, *specs: SessionSpec) -> None:
        for one in specs:
            self.results[one.session_id] = SessionResult()
            self.engine.post(StartSession(1, one))

    def run(self, *specs: SessionSpec, timeout_seconds: float = 120.0) -> list[SessionResult]:
        """Start the sessions and pump news until all of them are over."""
        self.start(*specs)
        self.pump(
            lambda: all(self.results[one.session_id].is_over for one in specs), timeout_seconds
        )
        return [self.results[one.session_id] for one in specs]

    def pump(self, is_done: Callable[[], bool], timeout_seconds: float = 120.0) -> None:
        deadline = time.monotonic() + timeout_seconds
        while not is_done():
            self._take(self._news.get(timeout=max(0.0, deadline - time.monotonic())))

    def cancel(self, session_id: str) -> None:
        self.engine.post(CancelSession(1, session_id))

    def kill_drafter(self) -> None:
        self.drafter = None
        self.engine.post(LinkDown(FAKE_DRAFTER.endpoint))

    def revive_drafter(self, drafter: Drafter) -> None:
        self.drafter = drafter
        self.engine.post(LinkUp(FAKE_DRAFTER.endpoint))

    def _take(self, news: EngineNews) -> None:
        self.refused_links.update(news.refused_links)
        for outputs in news.outputs.values():
            for output in outputs:
                result = self.results[output.session_id]
                result.token_ids.extend(output.token_ids)
                result.sources.extend(output.sources)
                result.logprobs.extend(output.logprobs)
                result.rounds.extend([output.round] if output.round else [])
                result.finish = output.finish or result.finish
                result.failure = output.failure or result.failure
                length = output.base_length + len(output.token_ids)
                if self.acknowledges:
                    acknowledgement = LogAcknowledgement(output.session_id, length)
                    self.engine.post(AcknowledgeLog([acknowledgement]))
                self.on_output(output.session_id, result)
        if not self.is_lockstep:
            self._answer(news)

    def _publish(self, news: EngineNews) -> None:
        if self.is_lockstep:
            self._answer(news)
        for outputs in news.outputs.values():
            for output in outputs:
                self.on_published(output.session_id, output.base_length + len(output.token_ids))
        self._news.put(news)

    def _answer(self, news: EngineNews) -> None:
        for endpoint, frame in news.frames.items():
            for answer in self.drafter(frame) if self.drafter else ():
                self.engine.post(FrameArrived(endpoint, answer, time.monotonic_ns()))


def load_toy(folder: Path) -> LoadedModel:
    return load_model(str(folder), dtype="float32", device=DEVICE)


@dataclass
class TieBook:
    """Counts the ties that comparisons proved; a difference that is none fails."""

    num_tokens: int = 0
    num_ties: int = 0


def assert_same_but_for_ties(
    model: LoadedModel,
    session: SessionSpec,
    reference: Sequence[int],
    rerun: Callable[[SessionSpec], Sequence[int]],
    actual: Sequence[int],
    book: TieBook,
) -> None:
    """Compare two texts of one session; go on past a proven tie by teacher forcing.

    Args:
        model: the target's model, for the proof.
        session: what was asked.
        reference: the tokens of plain sampling.
        rerun: runs a session that starts further on, under speculation.
        actual: the tokens under speculation.
        book: where tokens and ties are counted.
    """
    prompt, done = list(session.token_ids), 0
    while True:
        expected = list(reference[done:])
        same = 0
        while same < min(len(expected), len(actual)) and expected[same] == actual[same]:
            same += 1
        book.num_tokens += same
        if same == len(expected):
            assert len(actual) == same, "the text goes on past its end"
            return
        prefix = prompt + list(reference[: done + same])
        margin = draw_margin(model, session, prefix)
        assert margin < TIE_TOLERANCE, (
            f"token {done + same} differs without a tie: {expected[same : same + 3]} expected, "
            f"{list(actual[same : same + 3])} came, margin {margin:.5f}"
        )
        book.num_ties += 1
        done += same + 1
        if done == len(reference):
            return
        actual = rerun(_further_on(session, prompt + list(reference[:done])))


def _further_on(session: SessionSpec, token_ids: list[int]) -> SessionSpec:
    return replace(session, session_id=f"{session.session_id}+", token_ids=tuple(token_ids))


def draw_margin(model: LoadedModel, session: SessionSpec, token_ids: Sequence[int]) -> float:
    """Return how near the draw after these tokens was to coming out differently."""
    logits = reference_logits(model, token_ids)[-1]
    return tie_margin(logits, law_after(model, session, token_ids))


def law_after(model: LoadedModel, session: SessionSpec, token_ids: Sequence[int]) -> LawRow:
    """Return the law of the token that follows these."""
    history = None
    if session.sampling.has_penalties:
        counts = SessionCounts(model.vocab_size)
        counts.add_prompt(token_ids[: session.prompt_length])
        counts.add_output(token_ids[session.prompt_length :])
        history = TokenHistory(counts, ())
    return LawRow(session.sampling, len(token_ids), session.choice, history)


@torch.inference_mode()
def reference_logits(model: LoadedModel, token_ids: Sequence[int]) -> torch.Tensor:
    """Return transformers' own logits, float32 [tokens, vocab], by its own attention."""
    module = _reference_module(model.module.name_or_path, model.dtype, str(model.device))
    logits = module(input_ids=torch.tensor([list(token_ids)], device=model.device)).logits[0]
    return logits.float().cpu()


@cache
def _reference_module(folder: str, dtype: torch.dtype, device: str) -> PreTrainedModel:
    """Return transformers' own module: neither its forward nor its attention are ours."""
    module = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
    return module.to(device).eval()
