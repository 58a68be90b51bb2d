"""The drafter's book: links to targets, their sessions, what came of each frame.

Lives on the drafter's thread. Whatever a target sends, the answer is drafting,
a refusal of that one session, or a wish to have it opened afresh; no frame can
harm another session.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from treedraft.core.errors import InvalidRequestError, OverloadedError, TreedraftError
from treedraft.core.exchange import (
    Commit,
    ReopenRequest,
    Rest,
    SessionOpen,
    SessionRefusal,
    TargetFrame,
)
from treedraft.core.session import DraftSpec
from treedraft.draft.grammars import DraftGrammars
from treedraft.draft.growth import GrowthLimits, least_score
from treedraft.draft.links import DraftLink, FrameArrived, GrammarReady, LinkClosed, LinkOpened
from treedraft.draft.lookup import SessionLookup
from treedraft.draft.session import DraftSession
from treedraft.draft.settings import DraftSettings
from treedraft.draft.tenants import Tenants
from treedraft.telemetry import names
from treedraft.telemetry.spans import RequestSpan
from treedraft.telemetry.tracing import Tracing


class ModelSessions(Protocol):
    """The sessions of a draft model, as the book sees them."""

    @property
    def max_new_nodes(self) -> int:
        """Nodes that a step may add to one session."""

    def add(self, session: DraftSession, vocab_size: int) -> None:
        """Draft for a session from now on, or raise a TreedraftError."""

    def check_tokens(self, token_ids: Sequence[int]) -> None:
        """Raise InvalidRequestError for tokens that the model lacks."""

    def remove(self, session: DraftSession) -> None:
        """Forget a session."""


class SessionBook:
    """All links and sessions."""

    def __init__(
        self,
        settings: DraftSettings,
        model: ModelSessions | None,
        *,
        tracing: Tracing,
        grammars: DraftGrammars,
        post: Callable[[GrammarReady], None],
    ) -> None:
        """Start without a link; `model` is None where lookup alone drafts.

        What `grammars` makes is brought to the book by `post`, from any thread.
        """
        self._settings = settings
        self._model = model
        self._tracing = tracing
        self._links: dict[int, DraftLink] = {}
        self.is_draining = False
        self.num_sessions = 0
        # Sessions whose text or tree changed since lookup looked at them.
        self.changed: dict[DraftSession, DraftLink] = {}
        # Sessions whose target may still be waiting for more.
        self.restless: dict[DraftSession, DraftLink] = {}
        self.tenants = Tenants(settings.lookup)
        self._grammars = grammars
        self._post = post

    @property
    def links(self) -> Iterable[DraftLink]:
        """All open links."""
        return self._links.values()

    @property
    def sessions(self) -> Iterator[tuple[DraftSession, DraftLink]]:
        """All sessions with their links."""
        for link in self._links.values():
            for session in link.sessions.values():
                yield session, link

    def take(self, event: LinkOpened | FrameArrived | LinkClosed | GrammarReady) -> None:
        """Take in what happened on a stream; frames of closed ones are ignored."""
        match event:
            case LinkOpened(link_id, vocab_size, send):
                self._links[link_id] = DraftLink(vocab_size, send)
            case FrameArrived(link_id, frame, arrived_ns):
                if link := self._links.get(link_id):
                    self._take_frame(link, frame, arrived_ns)
            case LinkClosed(link_id):
                if link := self._links.pop(link_id, None):
                    for number in list(link.sessions):
                        self._close(link, number)
            case GrammarReady(session, state, num_tokens):
                state.commit(session.token_ids[num_tokens:])
                session.grammar = state

    def flush(self) -> None:
        """Send what has gathered, one frame per link."""
        for link in self._links.values():
            link.flush()

    def close(self) -> None:
        """End all sessions."""
        for link_id in list(self._links):
            self.take(LinkClosed(link_id))

    def rest(self, sessions: Iterable[DraftSession]) -> None:
        """Say of sessions that nothing follows until their next commit, once for each commit."""
        for session in sessions:
            if link := self.restless.pop(session, None):
                link.rests.append(Rest(session.number, session.num_tokens))

    def refuse(self, session: DraftSession, link: DraftLink, reason: str) -> None:
        """Draft no longer for a session; the target goes on without."""
        link.refusals.append(SessionRefusal(session.number, reason))
        self._close(link, session.number)

    def _take_frame(self, link: DraftLink, frame: TargetFrame, arrived_ns: int) -> None:
        link.credit_nodes += frame.credit_nodes
        if frame.economics.token_us:
            link.economics = frame.economics
        if frame.tokenizer is not None:
            link.tokenizer = frame.tokenizer
        for opened in frame.opens:
            self._close(link, opened.session_number)
            try:
                self._open(link, opened, arrived_ns)
            except TreedraftError as error:
                link.refusals.append(SessionRefusal(opened.session_number, error.reason))
        for commit in frame.commits:
            self._commit(link, commit, arrived_ns)
        for number in frame.pauses:
            self._pause(link, number)
        for number in frame.closes:
            self._close(link, number)

    def _open(self, link: DraftLink, opened: SessionOpen, arrived_ns: int) -> None:
        spec = opened.spec
        _check_spec(spec)
        if self.is_draining:
            raise OverloadedError("the drafter is going away", reason="DRAINING")
        if self.num_sessions >= self._settings.max_sessions:
            raise OverloadedError("the drafter is full", reason="TOO_MANY_SESSIONS")
        growth = self._settings.growth
        tenant = self.tenants.get(spec.tenant_salt)
        session = DraftSession(
            opened.session_number,
            spec,
            limits=GrowthLimits.of(growth, spec.speculation),
            tree_capacity=growth.max_live_nodes + (self._model.max_new_nodes if self._model else 0),
            span=self._start_span(spec),
            arrived_ns=arrived_ns,
            mixer=tenant.mixer(is_greedy=spec.sampling.temperature == 0.0),
        )
        if self._model:
            self._model.add(session, link.vocab_size)
        # Where a model samples a node's children, no other child may be there.
        is_wanted = self._settings.lookup.enabled and spec.speculation.lookup
        if is_wanted and not (self._model and session.is_rejection):
            is_beside_model = self._model is not None
            session.use_lookup(
                SessionLookup(self._settings.lookup, tenant, is_beside_model=is_beside_model)
            )
        session.least_score = least_score(session.limits, link.economics)
        link.sessions[session.number] = session
        self.num_sessions += 1
        self.changed[session] = self.restless[session] = link
        self._follow_grammar(link, session)

    def _follow_grammar(self, link: DraftLink, session: DraftSession) -> None:
        grammar, num_tokens = session.spec.sampling.grammar, session.num_tokens
        if grammar is None or link.tokenizer is None:
            return
        self._grammars.want(
            link.tokenizer,
            link.vocab_size,
            grammar,
            session.spec.token_ids[session.spec.prompt_length :],
            lambda state: self._post(GrammarReady(session, state, num_tokens)),
        )

    def _start_span(self, spec: DraftSpec) -> RequestSpan | None:
        # Without a context above it, a span would begin a trace of its own.
        if not self._tracing.is_recorded(spec.traceparent):
            return None
        attributes = {names.ATTR_SESSION_ID: spec.session_id}
        return self._tracing.start(names.SPAN_DRAFT_SESSION, spec.traceparent, attributes)

    def _commit(self, link: DraftLink, commit: Commit, arrived_ns: int) -> None:
        session = link.sessions.get(commit.session_number)
        if session is None or not commit.token_ids:
            return
        if commit.base_length != session.num_tokens:
            link.reopens.append(ReopenRequest(session.number, session.num_tokens))
            self._close(link, session.number)
            return
        try:
            if self._model:
                self._model.check_tokens(commit.token_ids)
        except InvalidRequestError as error:
            self.refuse(session, link, error.reason)
            return
        session.is_paused = False
        session.least_score = least_score(session.limits, link.economics)
        session.commit(commit.token_ids, arrived_ns=arrived_ns)
        self.changed[session] = self.restless[session] = link

    def _pause(self, link: DraftLink, number: int) -> None:
        if session := link.sessions.get(number):
            session.is_paused = True
            self.changed.pop(session, None)
            self.restless.pop(session, None)

    def _close(self, link: DraftLink, number: int) -> None:
        session = link.sessions.pop(number, None)
        if session:
            if self._model:
                self._model.remove(session)
            if session.spec.speculation.lookup:
                self.tenants.remember(session.spec.tenant_salt, session.token_ids)
            session.close()
            self.changed.pop(session, None)
            self.restless.pop(session, None)
            self.num_sessions -= 1


def _check_spec(spec: DraftSpec) -> None:
    if not spec.token_ids or spec.prompt_length > len(spec.token_ids):
        raise InvalidRequestError("a session without text", reason="INVALID_SESSION")
    if spec.sampling.seed is None:
        raise InvalidRequestError("a session without a seed", reason="INVALID_SESSION")
