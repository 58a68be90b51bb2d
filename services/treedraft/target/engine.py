"""The engine: one thread that owns the target model, its KV and all sessions.

The loop: take in what has arrived, wait for drafts if that pays, plan a pass,
run it, verify, commit, tell. It never depends on a drafter: the wait is bounded
(see `patience`), and a session without a fresh tree takes a plain step. It
never waits for a client; coordinators and drafters are told through the event
loop, which this thread only ever posts to.
"""

import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import structlog

from treedraft.core.watchdog import StepClock
from treedraft.core.worker import WorkerReport
from treedraft.target.drafting import DraftBook
from treedraft.target.events import (
    AcknowledgeLog,
    CancelSession,
    ControlEvent,
    EngineEvent,
    EngineNews,
    FrameArrived,
    LinkDown,
    LinkMeasured,
    LinkUp,
    StartSession,
    Stop,
    StreamEnded,
)
from treedraft.target.gate import DraftGate
from treedraft.target.patience import DraftingSession, Patience, held_ms
from treedraft.target.scheduler import Scheduler
from treedraft.target.session_roster import SessionRoster
from treedraft.target.step import PassRunner
from treedraft.target.step_books import StepBooks
from treedraft.target.teller import Teller
from treedraft.telemetry.metrics import Metrics

_REPORT_INTERVAL_NS = 250_000_000
# How long to sleep when sessions exist but none may run: a log is behind.
_PAUSE_SECONDS = 0.02
# After so many failed passes in a row the process ends, to be started afresh.
_MAX_FAILED_PASSES = 5

_log = structlog.get_logger(__name__)


class Engine:
    """Runs sessions; talks to the event loop through `post` and `publish`."""

    def __init__(
        self,
        *,
        roster: SessionRoster,
        scheduler: Scheduler,
        runner: PassRunner,
        book: DraftBook,
        patience: Patience,
        gate: DraftGate,
        metrics: Metrics,
        publish: Callable[[EngineNews], None],
        report: Callable[[Scheduler], WorkerReport],
    ) -> None:
        """Prepare the engine; `start` begins its thread.

        Args:
            roster: begins and ends sessions.
            scheduler: plans passes.
            runner: runs passes and walks the trees.
            book: attaches sessions to drafters.
            patience: says how long a step waits for drafts.
            gate: says whether drafting pays at the present load.
            metrics: what is counted.
            publish: called on the engine thread with what is to be passed on.
            report: how the worker is, for the announcement.
        """
        self._roster = roster
        self._scheduler = scheduler
        self._runner = runner
        self._book = book
        self._patience = patience
        self._gate = gate
        self._metrics = metrics
        self._books = StepBooks(runner, roster, patience, gate)
        self._teller = Teller(roster, book, patience, publish)
        self._make_report = report
        self.clock = StepClock()
        self._inbox: queue.SimpleQueue[EngineEvent] = queue.SimpleQueue()
        self._deferred: list[ControlEvent] = []
        self._is_stopped = False
        self._is_idle = True  # the last plan was empty: nothing to do until something arrives
        self._was_idle = False
        self._tells_at_once = True  # drafters, of what became final
        self._num_failed = 0
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
            self._roster.end_all()
            self._teller.tell_all()
        except Exception:
            _log.exception("the engine broke down")
        finally:
            self._on_end()

    def _step(self) -> None:
        """Take in what has arrived, run a pass, tell."""
        self._take_events()
        with self.clock.step():
            self._do_step()

    def _do_step(self) -> None:
        self._roster.end_expired()
        self._roster.refuse_late()
        load = self._scheduler.num_sessions
        self._book.set_open(self._gate.is_open(load), self._gate.wants)
        num_missed = self._book.take_num_missed()
        self._wait_for_drafts(load)
        self._is_idle = not (passes := self._scheduler.plan())
        if self._is_idle:
            self._books.settle()
            self._patience.goodput.pause()
        has_failed = False
        if passes:
            drafted = self._book.drafted_among(p.session for p in passes)
            try:
                ran = self._runner.run(
                    passes, self._take_draft_events, self._tell_if_awaited, self._tell_beside
                )
                self._books.enter(ran, load=load, num_missed=num_missed, drafted=drafted)
            except Exception:
                # The KV of these sessions is not to be trusted; others are untouched.
                _log.exception("pass failed", sessions=len(passes))
                has_failed = True
                for session_pass in passes:
                    self._roster.fail(session_pass.session, "PASS_FAILED", "the pass failed")
        has_failed |= self._books.fail_unbooked()
        if passes:
            self._num_failed = self._num_failed + 1 if has_failed else 0
        if not passes or self._num_failed or not self._runner.waits_for_device:
            self._teller.tell_commits()
            self._teller.tell_all()
        if self._num_failed >= _MAX_FAILED_PASSES:
            raise RuntimeError("passes keep failing; the device may be gone")

    def _wait_for_drafts(self, load: int) -> None:
        """Take in events for as long as the drafts to come are worth it at this load."""
        sessions = self._scheduler.decoding(beside_prompts=self._patience.takes_turns)
        drafted = sessions if self._book.is_at_work else ()
        drafting = [DraftingSession(one, self._book.endpoint_of(one)) for one in drafted]
        self._patience.begin_step(drafting, num_sessions=load if sessions else 0)
        # Who is waited for begins now. Others are told while the pass runs: to send it takes
        # the interpreter, and the device would stand still meanwhile.
        self._tells_at_once = not self._runner.waits_for_device or self._patience.is_awaiting
        self._tell_if_awaited()
        has_waited, started_ns = False, time.monotonic_ns()
        while not self._is_stopped and (until_ns := self._patience.wait_until_ns(load)):
            if not has_waited:
                self._teller.tell_all()
            has_waited = True
            try:
                timeout = max(0.0, (until_ns - time.monotonic_ns()) / 1e9)
                event = self._inbox.get(timeout=timeout)
            except queue.Empty:
                self._patience.time_is_up()
                break
            self._take(event)
            if isinstance(event, StartSession | CancelSession | StreamEnded | Stop):
                break  # the next step is another one
        self._patience.end_wait()
        if has_waited:
            self._metrics.drafts_awaited((time.monotonic_ns() - started_ns) / 1e9)

    def _take_events(self) -> None:
        deferred, self._deferred = self._deferred, []
        for event in deferred:
            self._take_control(event)
        if self._is_idle:
            self._refresh_report(force=not self._was_idle)
            self._wait_for_event()
        self._was_idle = self._is_idle
        # As many as there are now: a flood of events must not keep passes waiting.
        for _ in range(self._inbox.qsize()):
            self._take(self._inbox.get_nowait())
        self._refresh_report()

    def _wait_for_event(self) -> None:
        if self._is_stopped or (self._roster.is_draining and not self._roster):
            self._is_stopped = True
            return
        timeout = _PAUSE_SECONDS if self._roster else None
        with suppress(queue.Empty):
            self._take(self._inbox.get(timeout=timeout))

    def _take_draft_events(self) -> None:
        """Take in what drafters sent during the pass; leave the rest for later."""
        for _ in range(self._inbox.qsize()):
            event = self._inbox.get_nowait()
            if isinstance(event, FrameArrived | LinkUp | LinkMeasured | LinkDown):
                self._take(event)
            else:
                self._deferred.append(event)

    def _take(self, event: EngineEvent) -> None:
        match event:
            case FrameArrived(endpoint, frame, arrived_ns, on_taken):
                asked_ns = self._book.take_frame(endpoint, frame, arrived_ns=arrived_ns)
                held = held_ms(frame)
                self._patience.frame_taken(endpoint, arrived_ns, held_ms=held, asked_ns=asked_ns)
                on_taken()
            case LinkUp(endpoint):
                self._book.link_up(endpoint)
            case LinkMeasured(endpoint, round_trip_ms):
                self._patience.link_measured(endpoint, round_trip_ms)
            case LinkDown(endpoint):
                self._book.link_down(endpoint)
                self._patience.link_down(endpoint)
            case _:
                self._take_control(event)

    def _take_control(self, event: ControlEvent) -> None:
        match event:
            case StartSession(stream_id, spec):
                self._roster.start(stream_id, spec)
            case CancelSession(stream_id, session_id):
                self._roster.cancel(stream_id, session_id)
            case StreamEnded(stream_id):
                self._roster.end_stream(stream_id)
            case AcknowledgeLog(acknowledgements):
                self._roster.acknowledge(acknowledgements)
            case Stop(drain):
                self._roster.is_draining = True
                self._is_stopped = not drain

    def _tell_if_awaited(self) -> None:
        """Tell drafters what became final, unless there is a better moment."""
        if self._tells_at_once:
            self._teller.tell_commits()

    def _tell_beside(self) -> None:
        """Book the step before and tell of it while a device is busy with this one.

        To say it takes the event loop a good part of a small model's pass, and takes it
        from this thread: between two passes the device would stand still meanwhile.
        """
        if self._runner.waits_for_device:
            self._teller.tell_commits()
            self._teller.tell_all()

    def _refresh_report(self, *, force: bool = False) -> None:
        now_ns = time.monotonic_ns()
        if force or now_ns - self._report_ns > _REPORT_INTERVAL_NS:
            self._report, self._report_ns = self._make_report(self._scheduler), now_ns
            self._metrics.load_reported(self._report)
