"""The engine: one thread that owns the target model, its KV and all sessions.

The loop: take in what has arrived, plan a pass, run it, verify, commit, tell.
It never waits for a drafter: a session without a fresh tree takes a plain
step. It never waits for a client either; coordinators and drafters are told
through the event loop, which this thread only ever posts to.
"""

import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable

import structlog

from treedraft.core.errors import TreedraftError, UnavailableError
from treedraft.core.session import (
    FinishReason,
    SessionFailure,
    SessionFinish,
    SessionOutput,
    SessionSpec,
)
from treedraft.core.worker import WorkerReport
from treedraft.target.admission import SessionFactory
from treedraft.target.drafting import DraftBook
from treedraft.target.events import (
    AcknowledgeLog,
    CancelSession,
    ControlEvent,
    EngineEvent,
    EngineNews,
    FrameArrived,
    LinkDown,
    LinkUp,
    StartSession,
    Stop,
    StreamEnded,
)
from treedraft.target.round import RoundOutcome, Verdict
from treedraft.target.round_trace import finish_attributes
from treedraft.target.scheduler import Scheduler
from treedraft.target.session import TargetSession
from treedraft.target.step import PassRunner
from treedraft.telemetry.metrics import Metrics

_REPORT_INTERVAL_NS = 250_000_000
# How long to sleep when sessions exist but none may run: a log is behind, and
# a deadline may pass.
_PAUSE_SECONDS = 0.02

_log = structlog.get_logger(__name__)


class Engine:
    """Runs sessions; talks to the event loop through `post` and `publish`."""

    def __init__(
        self,
        *,
        factory: SessionFactory,
        scheduler: Scheduler,
        runner: PassRunner,
        book: DraftBook,
        metrics: Metrics,
        publish: Callable[[EngineNews], None],
        report: Callable[[Scheduler], WorkerReport],
    ) -> None:
        """Prepare the engine; `start` begins its thread.

        Args:
            factory: checks what coordinators ask for and makes sessions of it.
            scheduler: plans passes.
            runner: runs passes and walks the trees.
            book: attaches sessions to drafters.
            metrics: what is counted.
            publish: called on the engine thread with what is to be passed on.
            report: how the worker is, for the announcement.
        """
        self._factory = factory
        self._scheduler = scheduler
        self._runner = runner
        self._book = book
        self._metrics = metrics
        self._publish = publish
        self._make_report = report
        self._inbox: queue.SimpleQueue[EngineEvent] = queue.SimpleQueue()
        self._deferred: list[ControlEvent] = []
        self._sessions: dict[str, tuple[int, TargetSession]] = {}
        self._outputs: dict[int, list[SessionOutput]] = defaultdict(list)
        self._is_draining = False
        self._is_stopped = False
        self._is_idle = True  # the last plan was empty: nothing to do until something arrives
        self._report = report(scheduler)
        self._report_ns = 0
        self._on_end: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @property
    def report(self) -> WorkerReport:
        """How the worker was when last looked at; safe to read from any thread."""
        return self._report

    def start(self, on_end: Callable[[], None] | None = None) -> None:
        """Begin to run sessions; the thread calls `on_end` when it ends, for whatever reason."""
        if on_end:
            self._on_end = on_end
        self._thread.start()

    def post(self, event: EngineEvent) -> None:
        """Tell the engine something; safe from any thread, never blocks."""
        self._inbox.put(event)

    def join(self, timeout_seconds: float) -> bool:
        """Wait for the thread to end after a Stop; return whether it did."""
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self._is_stopped:
                self._step()
            for _, session in list(self._sessions.values()):
                self._finish(session, FinishReason.CANCELLED)
            self._tell()
        except Exception:
            _log.exception("the engine broke down")
        finally:
            self._on_end()

    def _step(self) -> None:
        """Take in what has arrived, run a pass if there is one to run, tell."""
        self._take_events()
        self._end_expired()
        passes = self._scheduler.plan()
        self._is_idle = not passes
        if passes:
            try:
                outcomes = self._runner.run(passes, self._take_draft_events, self._announce_commits)
                for outcome in outcomes:
                    self._settle(outcome)
            except Exception:
                # Whatever it was, the KV of these sessions is not to be
                # trusted any more; all others are untouched.
                _log.exception("pass failed", sessions=len(passes))
                for session_pass in passes:
                    self._fail(session_pass.session, "INTERNAL", "the pass failed")
        self._tell()

    # Taking in.

    def _take_events(self) -> None:
        deferred, self._deferred = self._deferred, []
        for event in deferred:
            self._take_control(event)
        if self._is_idle:
            self._refresh_report(force=True)
            self._wait_for_event()
        while not self._inbox.empty():
            self._take(self._inbox.get_nowait())
        self._refresh_report()

    def _wait_for_event(self) -> None:
        if self._is_stopped or (self._is_draining and not self._sessions):
            self._is_stopped = True
            return
        timeout = _PAUSE_SECONDS if self._sessions else None
        try:
            self._take(self._inbox.get(timeout=timeout))
        except queue.Empty:
            return

    def _take_draft_events(self) -> None:
        """Take in what drafters sent during the pass; leave the rest for later."""
        while not self._inbox.empty():
            event = self._inbox.get_nowait()
            if isinstance(event, FrameArrived | LinkUp | LinkDown):
                self._take(event)
            else:
                self._deferred.append(event)

    def _take(self, event: EngineEvent) -> None:
        match event:
            case FrameArrived(endpoint, frame, arrived_ns):
                self._book.take_frame(endpoint, frame, arrived_ns=arrived_ns)
            case LinkUp(endpoint):
                self._book.link_up(endpoint)
            case LinkDown(endpoint):
                self._book.link_down(endpoint)
            case _:
                self._take_control(event)

    def _take_control(self, event: ControlEvent) -> None:
        match event:
            case StartSession(stream_id, spec):
                self._start(stream_id, spec)
            case CancelSession(stream_id, session_id):
                self._cancel(stream_id, session_id)
            case StreamEnded(stream_id):
                self._end_stream(stream_id)
            case AcknowledgeLog(acknowledgement):
                owned = self._sessions.get(acknowledgement.session_id)
                if owned:
                    owned[1].logged_length = acknowledgement.logged_length
            case Stop(drain):
                self._is_draining = True
                self._is_stopped = not drain

    def _start(self, stream_id: int, spec: SessionSpec) -> None:
        known = self._sessions.get(spec.session_id)
        if known:
            if known[1].spec.epoch >= spec.epoch:
                self._refuse(stream_id, spec, "SESSION_CONFLICT", "a newer owner holds the session")
                return
            self._finish(known[1], FinishReason.CANCELLED)
        try:
            if self._is_draining:
                raise UnavailableError("the target is draining", reason="DRAINING")
            session = self._factory.make(spec)
            self._scheduler.add(session)
        except TreedraftError as error:
            self._refuse(stream_id, spec, error.reason, error.message)
            return
        self._sessions[spec.session_id] = (stream_id, session)
        self._book.open(session)

    def _cancel(self, stream_id: int, session_id: str) -> None:
        owned = self._sessions.get(session_id)
        if owned and owned[0] == stream_id:
            self._finish(owned[1], FinishReason.CANCELLED)

    def _end_stream(self, stream_id: int) -> None:
        for owner, session in list(self._sessions.values()):
            if owner == stream_id:
                self._finish(session, FinishReason.CANCELLED)
        self._outputs.pop(stream_id, None)

    def _end_expired(self) -> None:
        now_ns = time.monotonic_ns()
        for _, session in list(self._sessions.values()):
            if session.deadline_ns is not None and now_ns >= session.deadline_ns:
                self._finish(session, FinishReason.CANCELLED)

    # Telling.

    def _settle(self, outcome: RoundOutcome) -> None:
        """Pass the tokens of a round on, and the end of the text if it came."""
        session, verdict = outcome.session, outcome.verdict
        if verdict.finish is None:
            self._output(session, outcome.base_length, verdict)
        else:
            self._finish(session, verdict.finish, outcome)

    def _output(
        self,
        session: TargetSession,
        base_length: int,
        verdict: Verdict | None = None,
        finish: SessionFinish | None = None,
    ) -> None:
        stream_id, _ = self._sessions[session.session_id]
        self._outputs[stream_id].append(
            SessionOutput(
                session_id=session.session_id,
                epoch=session.spec.epoch,
                base_length=base_length,
                token_ids=verdict.token_ids if verdict else (),
                sources=verdict.sources if verdict else (),
                finish=finish,
            )
        )

    def _finish(
        self, session: TargetSession, reason: FinishReason, outcome: RoundOutcome | None = None
    ) -> None:
        statistics = session.statistics()
        self._output(
            session,
            outcome.base_length if outcome else session.num_tokens,
            outcome.verdict if outcome else None,
            SessionFinish(reason, statistics),
        )
        self._metrics.session_finished(reason)
        session.span.set(finish_attributes(reason, statistics))
        session.span.end()
        self._forget(session)

    def _fail(self, session: TargetSession, reason: str, message: str) -> None:
        owned = self._sessions.get(session.session_id)
        if owned:
            self._refuse(owned[0], session.spec, reason, message)
            session.span.end(error=message)
            self._forget(session)

    def _refuse(self, stream_id: int, spec: SessionSpec, reason: str, message: str) -> None:
        self._metrics.session_failed(reason)
        self._outputs[stream_id].append(
            SessionOutput(
                session_id=spec.session_id,
                epoch=spec.epoch,
                base_length=len(spec.token_ids),
                failure=SessionFailure(reason, message),
            )
        )

    def _forget(self, session: TargetSession) -> None:
        del self._sessions[session.session_id]
        self._book.close(session)
        self._scheduler.remove(session)

    def _announce_commits(self) -> None:
        frames = self._book.take_frames()
        if frames:
            self._publish(EngineNews(frames=frames))

    def _tell(self) -> None:
        frames, refused_links = self._book.take_frames(), self._book.take_refused_links()
        if self._outputs or frames or refused_links:
            outputs, self._outputs = self._outputs, defaultdict(list)
            self._publish(EngineNews(outputs, frames, refused_links))

    def _refresh_report(self, *, force: bool = False) -> None:
        now_ns = time.monotonic_ns()
        if force or now_ns - self._report_ns > _REPORT_INTERVAL_NS:
            self._report, self._report_ns = self._make_report(self._scheduler), now_ns
            self._metrics.load_reported(self._report)
