"""The drafter: one thread that owns all sessions and grows their trees.

The loop: take in what targets sent, look up, run one pass of the draft model,
send what grew. It never waits for a verdict: as long as a tree is worth growing
it goes on, and a commit only moves the root. With nothing worth growing it
sleeps on its inbox.

Invariant: nodes are sent in the step that made them, unless the root has left
them meanwhile, and never beyond the target's credit, so both sides agree on
what a node id means.
"""

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import structlog

from treedraft.core.exchange import Economics
from treedraft.core.watchdog import StepClock
from treedraft.core.worker import WorkerReport
from treedraft.draft.credit import sessions_in_credit
from treedraft.draft.grammars import DraftGrammars
from treedraft.draft.links import DrafterEvent, DraftLink, Stop
from treedraft.draft.lookup_grower import grow_by_lookup
from treedraft.draft.session import DraftSession
from treedraft.draft.session_book import ModelSessions, SessionBook
from treedraft.draft.settings import DraftSettings
from treedraft.telemetry import names
from treedraft.telemetry.metrics import Metrics
from treedraft.telemetry.tracing import Tracing

# Nodes of one round of lookup, of all sessions together: then it is the model's turn.
_MAX_FOUND_NODES = 1024
# Tokens of ended sessions indexed in a step: about 0.1 ms.
_DIGESTED_TOKENS = 64
# A step that computes more of a text than this takes so long that nothing waits for it.
_MAX_BRIEF_ROWS = 16
# A text that is foreseen word by word grows on and on: after so many passes a drafter sends
# what there is, or the target has given up the wait for it.
_MAX_HELD_PASSES = 8

_log = structlog.get_logger(__name__)


class StepReport(Protocol):
    """What a step of the draft model did."""

    @property
    def num_rows(self) -> Mapping[DraftSession, int]:
        """Rows of each session that took part."""

    @property
    def starved(self) -> Sequence[DraftSession]:
        """Sessions that the KV cannot hold."""

    @property
    def idle(self) -> Sequence[DraftSession]:
        """Sessions for which there is nothing to do as they stand."""


class Grower(ModelSessions, Protocol):
    """A draft model, as the loop sees it."""

    @property
    def max_new_siblings(self) -> int:
        """Nodes that a step may add to one session of rejection mode."""

    @property
    def num_free_slots(self) -> int:
        """Tokens of KV that are free."""

    @property
    def num_slots(self) -> int:
        """Tokens of KV in all."""

    @property
    def passes_per_step(self) -> int:
        """Passes of a step that nothing ends early."""

    def wants_work(self, session: DraftSession) -> bool:
        """Return whether a pass could do anything for a session."""

    def target_says(self, economics: Economics) -> None:
        """Note what drafts are worth to the target."""

    def step(self, sessions: Sequence[DraftSession]) -> StepReport:
        """Run one pass for some of the sessions and add children to their trees."""


class Drafter:
    """Grows trees; talks to the event loop through `post` and the links' `send`."""

    def __init__(
        self,
        settings: DraftSettings,
        grower: Grower | None,
        *,
        tracing: Tracing,
        metrics: Metrics,
        clock_ns: Callable[[], int] = time.monotonic_ns,
        grammars: DraftGrammars | None = None,
    ) -> None:
        """Prepare the drafter; `start` begins its thread.

        Args:
            settings: limits.
            grower: the draft model; None drafts by lookup alone.
            tracing: where spans go.
            metrics: what is counted.
            clock_ns: the clock that `arrived_ns` of frames is read from.
            grammars: makes them; by default on a thread of their own.
        """
        self._settings = settings
        self._grower = grower
        self._tracing = tracing
        self._metrics = metrics
        self._clock_ns = clock_ns
        self._wall_minus_clock_ns = time.time_ns() - clock_ns()
        self._inbox: queue.SimpleQueue[DrafterEvent] = queue.SimpleQueue()
        self._book = SessionBook(
            settings,
            grower,
            tracing=tracing,
            grammars=grammars or DraftGrammars(),
            post=self.post,
        )
        self._is_awaited = settings.growth.shares_device and grower is not None
        self._num_held = 0  # passes
        self.clock = StepClock()
        self._is_stopped = False
        self._on_end: Callable[[], None] | None = None
        self._thread = threading.Thread(target=self._run, name="drafter", daemon=True)

    @property
    def report(self) -> WorkerReport:
        """How the drafter is now; safe to read from any thread."""
        return WorkerReport(
            num_sessions=self._book.num_sessions,
            free_kv_blocks=self._grower.num_free_slots if self._grower else 0,
            total_kv_blocks=self._grower.num_slots if self._grower else 0,
            is_draining=self._book.is_draining,
        )

    def start(self, on_end: Callable[[], None] | None = None) -> None:
        """Begin to draft; `on_end` is called on the thread when it ends, for whatever reason."""
        self._on_end = on_end
        self._thread.start()

    def post(self, event: DrafterEvent) -> None:
        """Tell the drafter something; safe from any thread, never blocks."""
        self._inbox.put(event)

    def drain(self) -> None:
        """Refuse new sessions from now on; safe from any thread."""
        self._book.is_draining = True

    def join(self, timeout_seconds: float) -> bool:
        """Wait for the thread to end after a Stop; return whether it did."""
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def take(self, event: DrafterEvent) -> None:
        """Take in one event. For the thread that calls `step`."""
        if isinstance(event, Stop):
            self._is_stopped = True
        else:
            self._book.take(event)

    def take_posted(self) -> None:
        """Take in all that was posted so far. For the thread that calls `step`."""
        while not self._inbox.empty():
            self.take(self._inbox.get_nowait())

    def step(self) -> bool:
        """Grow once by lookup and once by the model; return whether there was work.

        The drafter's own thread calls it; without that thread, whoever drives it.
        """
        has_looked_up = self._look_up()
        if self._grower is None:
            self._rest(list(self._book.restless))
        if not self._is_awaited:
            # What lookup found need not wait for the model.
            self._book.flush()
        report = self._run_model()
        if not self._holds_back(report):
            self._book.flush()
        has_computed = bool(report and (report.num_rows or report.starved))
        return self._book.tenants.digest(_DIGESTED_TOKENS) or has_looked_up or has_computed

    def _run(self) -> None:
        is_busy = False
        try:
            while not self._is_stopped:
                if not is_busy:
                    self.take(self._inbox.get())
                self.take_posted()
                with self.clock.step():
                    is_busy = self.step()
        except Exception:
            _log.exception("the drafter ends")
        finally:
            self._book.close()
            if self._on_end:
                self._on_end()

    def _holds_back(self, report: StepReport | None) -> bool:
        """Return whether what the step made waits for what the next one makes.

        A frame costs a target that takes turns with us, and us, about what a small pass does.
        """
        num_rows = max(report.num_rows.values(), default=0) if report else 0
        is_growing = self._is_awaited and 0 < num_rows <= _MAX_BRIEF_ROWS
        num_passes = self._grower.passes_per_step if self._grower else 0
        num_held = self._num_held + num_passes
        self._num_held = num_held if is_growing and num_held < _MAX_HELD_PASSES else 0
        return self._num_held > 0

    def _look_up(self) -> bool:
        """Look up for the sessions that changed; return whether there is more to do."""
        num_added = 0
        for session, link in list(self._book.changed.items()):
            room = min(self._settings.lookup.max_length, link.room_nodes)
            if not room:
                continue  # until the target grants credit
            if num_added + room > _MAX_FOUND_NODES:
                break
            started_ns = self._clock_ns()
            room_for_held = min(link.room_nodes, _MAX_FOUND_NODES - num_added) - room
            num_added += session.add_held(max_nodes=room_for_held)
            added = grow_by_lookup(session, max_nodes=room)
            self._metrics.looked_up((self._clock_ns() - started_ns) / 1e9)
            num_added += added
            if added < room:
                del self._book.changed[session]
            self._tell(session, link, started_ns, num_rows=0)
        return num_added > 0

    def _run_model(self) -> StepReport | None:
        """Run the model once; return what that did, None if it failed or there is nobody to ask."""
        if self._grower is None:
            return None
        link_of = sessions_in_credit(self._book, self._grower)
        if not link_of:
            return None
        started_ns = self._clock_ns()
        said = [link.economics for link in link_of.values()]  # we go by who has the least time
        self._grower.target_says(min(said, key=lambda economics: economics.token_us))
        try:
            report = self._grower.step(list(link_of))
        except Exception:
            # Their KV and trees are not to be trusted; all others are untouched.
            _log.exception("draft step failed", sessions=len(link_of))
            for session, link in link_of.items():
                self._book.refuse(session, link, "INTERNAL")
            return None
        for session in report.starved:
            self._book.refuse(session, link_of[session], "KV_POOL_FULL")
        self._book.changed.update({session: link_of[session] for session in report.num_rows})
        self._rest(report.idle)
        if report.num_rows:
            self.take_posted()  # what a commit ruled out meanwhile need not be carried
        for session, num_rows in report.num_rows.items():
            if link_of[session].sessions.get(session.number) is session:
                self._tell(session, link_of[session], started_ns, num_rows=num_rows)
        # Who waits for a tree that is full need not wait for a frame that says so.
        self._book.rest(session for session in report.num_rows if not session.num_free_nodes)
        if report.num_rows:
            seconds = (self._clock_ns() - started_ns) / 1e9
            self._metrics.pass_finished(seconds, num_rows=sum(report.num_rows.values()))
        return report

    def _rest(self, sessions: Sequence[DraftSession]) -> None:
        # Lookup may not have had its turn, for want of credit or of room in a frame.
        self._book.rest(session for session in sessions if session not in self._book.changed)

    def _tell(
        self, session: DraftSession, link: DraftLink, started_ns: int, *, num_rows: int
    ) -> None:
        """Put what a session's tree gained into the next frame, and record the step."""
        now_ns = self._clock_ns()
        growths = session.take_growths(draft_us=(now_ns - started_ns) // 1000, now_ns=now_ns)
        for growth in growths:
            link.queue_growth(growth)
            self._metrics.nodes_drafted(growth.sources)
        if session.span and (growths or num_rows):
            self._tracing.record(
                names.SPAN_GROW,
                session.span.traceparent,
                started_ns + self._wall_minus_clock_ns,
                now_ns + self._wall_minus_clock_ns,
                {
                    names.ATTR_BASE_LENGTH: session.num_tokens,
                    names.ATTR_GROW_NODES: sum(growth.num_nodes for growth in growths),
                    names.ATTR_GROW_ROWS: num_rows,
                },
            )
