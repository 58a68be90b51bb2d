"""The sessions of an engine: who asked for them, how they begin and how they end.

Lives on the engine thread. Each session belongs to the stream of the
coordinator that started it; what happens to it is gathered here, and the engine
passes it on once per step.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from treedraft.core.errors import TreedraftError, UnavailableError
from treedraft.core.exchange import LogAcknowledgement
from treedraft.core.session import (
    FinishReason,
    SessionFailure,
    SessionFinish,
    SessionOutput,
    SessionSpec,
)
from treedraft.target.admission import SessionFactory
from treedraft.target.drafting import DraftBook
from treedraft.target.round import RoundOutcome
from treedraft.target.round_trace import finish_attributes
from treedraft.target.scheduler import Scheduler
from treedraft.target.session import TargetSession
from treedraft.telemetry.metrics import Metrics
from treedraft.text.grammar import GRAMMAR_TOO_COMPLEX

FIRST_TOKEN_LATE = "FIRST_TOKEN_LATE"


class SessionRoster:
    """Begins and ends sessions, and gathers what is to be told of them."""

    def __init__(
        self,
        factory: SessionFactory,
        scheduler: Scheduler,
        book: DraftBook,
        metrics: Metrics,
    ) -> None:
        """Make sessions with `factory` and enter them at `scheduler` and `book`."""
        self._factory = factory
        self._scheduler = scheduler
        self._book = book
        self._metrics = metrics
        self._sessions: dict[str, tuple[int, TargetSession]] = {}
        self._outputs: dict[int, list[SessionOutput]] = defaultdict(list)
        self.is_draining = False
        # Called before anything is told but the rounds of a step: these come first.
        self.before_news: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        """Return the number of sessions, waiting ones included."""
        return len(self._sessions)

    def start(self, stream_id: int, spec: SessionSpec) -> None:
        """Begin a session, or tell its stream why not."""
        known = self._sessions.get(spec.session_id)
        if known:
            if known[1].spec.epoch >= spec.epoch:
                self._refuse(stream_id, spec, "SESSION_CONFLICT", "a newer owner holds the session")
                return
            self.fail(known[1], "SESSION_CONFLICT", "a newer owner holds the session")
        try:
            if self.is_draining:
                raise UnavailableError("the target is draining", reason="DRAINING")
            session = self._factory.make(spec)
        except TreedraftError as error:
            self._refuse(stream_id, spec, error.reason, error.message)
            return
        try:
            self._scheduler.add(session)
        except TreedraftError as error:
            self._refuse(stream_id, spec, error.reason, error.message)
            session.span.end(error)
            return
        self._sessions[spec.session_id] = (stream_id, session)
        self._book.open(session)
        if session.reached_end:
            self.finish(session, session.reached_end)

    def cancel(self, stream_id: int, session_id: str) -> None:
        """End a session that its own stream gave up."""
        owned = self._sessions.get(session_id)
        if owned and owned[0] == stream_id:
            self.finish(owned[1], FinishReason.CANCELLED)

    def end_stream(self, stream_id: int) -> None:
        """End all sessions of a stream that is gone; nobody is left to tell."""
        owned = [s for owner, s in self._sessions.values() if owner == stream_id]
        for session in owned:
            self.finish(session, FinishReason.CANCELLED)
        self._outputs.pop(stream_id, None)

    def end_expired(self) -> None:
        """End the sessions whose time is up."""
        now_ns = time.monotonic_ns()
        for _, session in list(self._sessions.values()):
            if session.deadline_ns is not None and now_ns >= session.deadline_ns:
                self.finish(session, FinishReason.CANCELLED)

    def refuse_late(self) -> None:
        """Refuse those whose first token would come too late, while others still can be served."""
        for session in self._scheduler.hopeless():
            self._metrics.first_token_due(is_missed=True)
            self.fail(session, FIRST_TOKEN_LATE, "the first token could not be in time")

    def end_all(self) -> None:
        """Give up what still runs, as a failure: a text that is cut off is no good end."""
        for _, session in list(self._sessions.values()):
            self.fail(session, "DRAINING", "the target is going away")

    def acknowledge(self, acknowledgements: Sequence[LogAcknowledgement]) -> None:
        """Note how much of sessions their log holds."""
        for one in acknowledgements:
            if owned := self._sessions.get(one.session_id):
                owned[1].logged_length = one.logged_length

    def settle(self, outcome: RoundOutcome) -> None:
        """Pass the tokens of a round on, and the end of the text if it came."""
        session, verdict = outcome.session, outcome.verdict
        if session.grammar is not None and session.grammar.problem:
            # What the parser says of itself may quote the grammar and the text.
            self.fail(
                session, GRAMMAR_TOO_COMPLEX, "the text came to where its grammar is too much"
            )
        elif verdict.finish is None:
            self._tell(session, outcome.base_length, outcome)
        else:
            self.finish(session, verdict.finish, outcome)

    def finish(
        self, session: TargetSession, reason: FinishReason, outcome: RoundOutcome | None = None
    ) -> None:
        """End a session well, with the tokens of its last round if there is one."""
        self.before_news()
        statistics = session.statistics()
        self._tell(
            session,
            outcome.base_length if outcome else session.num_tokens,
            outcome,
            SessionFinish(reason, statistics),
        )
        seconds = (time.monotonic_ns() - session.started_ns) / 1e9
        self._metrics.session_finished(reason, seconds)
        session.span.set(finish_attributes(reason, statistics))
        session.span.end()
        self._forget(session)

    def fail(self, session: TargetSession, reason: str, message: str) -> None:
        """End a session that cannot go on."""
        self.before_news()
        owned = self._sessions.get(session.session_id)
        if owned:
            self._refuse(owned[0], session.spec, reason, message)
            session.span.end(error=reason)
            self._forget(session)

    def take_outputs(self) -> Mapping[int, Sequence[SessionOutput]]:
        """Return what is to be told, by stream, and forget it."""
        self.before_news()
        outputs, self._outputs = self._outputs, defaultdict(list)
        return outputs

    def _tell(
        self,
        session: TargetSession,
        base_length: int,
        outcome: RoundOutcome | None = None,
        finish: SessionFinish | None = None,
    ) -> None:
        stream_id, _ = self._sessions[session.session_id]
        verdict = outcome.verdict if outcome else None
        self._outputs[stream_id].append(
            SessionOutput(
                session_id=session.session_id,
                epoch=session.spec.epoch,
                base_length=base_length,
                token_ids=verdict.token_ids if verdict else (),
                sources=verdict.sources if verdict else (),
                finish=finish,
                round=outcome.report if outcome else None,
                logprobs=outcome.logprobs if outcome else (),
            )
        )

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
