"""The engine's book of drafters: which session drafts where, and what to say.

Lives on the engine thread. Connections live on the event loop (`draft_links`);
events tell the book that a link is up, down or has sent a frame, and the book
collects what is to be sent: at most one frame per drafter and step.

Nothing a drafter does can harm a session. A frame that breaks a rule ends the
link and is counted; the sessions go on with plain steps or another drafter.
"""

import time
from collections.abc import Callable, Iterable

from treedraft.core.errors import InvalidGrowthError
from treedraft.core.exchange import (
    UNKNOWN_ECONOMICS,
    DraftFrame,
    Economics,
    SessionOpen,
    SharedTokenizer,
    TargetFrame,
)
from treedraft.core.session import DraftSpec
from treedraft.target.drafter_state import Attachment, DrafterState
from treedraft.target.session import TargetSession
from treedraft.target.settings import DraftLinkSettings
from treedraft.telemetry.metrics import Metrics

_MAX_REOPENS = 8

Wants = Callable[[TargetSession, int], bool]
"""Says whether to draft for a session of whose text its drafter missed so many tokens."""


class DraftBook:
    """Attaches sessions to drafters and takes in what these send."""

    def __init__(
        self,
        settings: DraftLinkSettings,
        *,
        vocab_size: int,
        metrics: Metrics,
        verifies_drafts: bool = True,
        tokenizer: SharedTokenizer | None = None,
        opens_after_prompts: bool = False,
    ) -> None:
        """Start with no drafter.

        Args:
            settings: of the links.
            vocab_size: token ids in use.
            metrics: what is counted.
            verifies_drafts: whether passes ever hold drafted nodes; drafters are left
                alone if not.
            tokenizer: what drafters get to follow grammars with, if anything.
            opens_after_prompts: whether a drafter is told of a session after its prompt is
                done, since it computes on the target's own cores; else it begins beside it.
        """
        self._opens_after_prompts = opens_after_prompts
        self._num_missed = 0
        self._tokenizer = tokenizer
        self._settings = settings
        self._vocab_size = vocab_size
        self._metrics = metrics
        self._verifies_drafts = verifies_drafts
        self._links: dict[str, DrafterState] = {}
        self._attachments: dict[str, Attachment] = {}
        self._refusals: dict[str, set[str]] = {}  # session id -> endpoints that refused it
        self._sessions: dict[str, TargetSession] = {}
        self._untimed: list[tuple[TargetSession, int]] = []  # commits in no frame yet: length
        self._refused_links: dict[str, str] = {}
        self._is_open = False
        self._wants: Wants = lambda session, num_missed: True

    @property
    def is_at_work(self) -> bool:
        """Whether a drafter knows any session."""
        return bool(self._attachments)

    def is_drafted_for(self, session: TargetSession) -> bool:
        """Return whether a drafter works for the session."""
        return self.endpoint_of(session) is not None

    def drafted_among(self, sessions: Iterable[TargetSession]) -> frozenset[TargetSession]:
        """Return those of the sessions that a drafter works for."""
        return frozenset(filter(self.is_drafted_for, sessions if self.is_at_work else ()))

    def endpoint_of(self, session: TargetSession) -> str | None:
        """Return the drafter that works for the session, None if none does."""
        attachment = self._attachments.get(session.session_id)
        return attachment.endpoint if attachment and not attachment.is_paused else None

    def open(self, session: TargetSession) -> None:
        """Draft for a session, if it wants that, while drafting is open and a drafter is up."""
        options = session.spec.speculation
        is_wanted = options.enabled and options.max_nodes != 0 and options.max_depth != 0
        if is_wanted and self._verifies_drafts:
            self._sessions[session.session_id] = session

    def set_open(self, is_open: bool, wants: Wants = lambda session, num_missed: True) -> None:
        """Let drafters work, or leave them alone until told otherwise.

        A session that a drafter knows stays open there, and what it missed is told when it
        goes on; others are opened when their turn has come.

        Args:
            is_open: whether to draft at all.
            wants: whether to draft for a session.
        """
        self._is_open, self._wants = is_open, wants
        if not self._links:
            return  # then nobody knows a session either
        for session in self._sessions.values():
            attachment = self._attachments.get(session.session_id)
            if attachment is None:
                self._attach(session)
                continue
            missed = session.num_tokens - attachment.told_length if attachment.is_paused else 0
            may_draft = is_open and wants(session, missed)
            if may_draft and missed:  # it takes a commit to end a pause
                self._num_missed += missed
                self._tell(session, attachment)
            elif not (may_draft or attachment.is_paused):
                self._links[attachment.endpoint].outbox.pauses.append(attachment.number)
                attachment.is_paused = True

    def close(self, session: TargetSession) -> None:
        """Draft no longer for a session."""
        attachment = self._attachments.pop(session.session_id, None)
        self._sessions.pop(session.session_id, None)
        self._refusals.pop(session.session_id, None)
        if attachment:
            link = self._links[attachment.endpoint]
            del link.sessions[attachment.number]
            link.outbox.closes.append(attachment.number)

    def committed(self, session: TargetSession) -> None:
        """Tell the session's drafter about the tokens that became final since it was told.

        Where its prompt was waited for, it may be done now, and the session is opened.
        """
        attachment = self._attachments.get(session.session_id)
        if attachment is None and session.session_id in self._sessions:
            self._attach(session)
        elif attachment and not attachment.is_paused:
            self._tell(session, attachment)

    def link_up(self, endpoint: str) -> None:
        """Use a drafter from now on."""
        link = DrafterState()
        link.outbox.credit_nodes = self._settings.credit_nodes
        self._links[endpoint] = link
        for session in self._sessions.values():
            if session.session_id not in self._attachments:
                self._attach(session)

    def link_down(self, endpoint: str) -> None:
        """Move the sessions of a drafter that is gone to others, or go on without."""
        link = self._links.pop(endpoint, None)
        if link:
            for session in link.sessions.values():
                del self._attachments[session.session_id]
                session.drop_drafts()
                self._attach(session)

    def take_frame(self, endpoint: str, frame: DraftFrame, *, arrived_ns: int) -> int | None:
        """Graft what a drafter sent; a breach of the rules ends its link.

        Returns:
            When the drafter was told what it answers; None if that is not known.
        """
        link = self._links.get(endpoint)
        if link is None:
            return None
        asked_ns = link.asked_ns(frame)
        try:
            self._take_growths(link, frame, arrived_ns)
        except InvalidGrowthError as error:
            self._metrics.growth_refused(error.reason)
            self._refused_links[endpoint] = error.message
            self.link_down(endpoint)
            return None
        for rest in frame.rests:
            if session := link.sessions.get(rest.session_number):
                session.rest_length = rest.base_length
        for refusal in frame.refusals:
            self._detach_refused(endpoint, link, refusal.session_number)
        for reopen in frame.reopens:
            self._reopen(endpoint, link, reopen.session_number)
        return asked_ns

    def take_frames(self, economics: Economics = UNKNOWN_ECONOMICS) -> dict[str, TargetFrame]:
        """Return what is to be sent, at most one frame per drafter.

        Args:
            economics: what drafts are worth at present, to be passed on.
        """
        now_ns, untimed = time.monotonic_ns(), self._untimed
        self._untimed = []
        for session, num_tokens in untimed:
            session.commit_sent_ns.append((num_tokens, now_ns))
        return {
            endpoint: link.take_frame(economics)
            for endpoint, link in self._links.items()
            if link.has_news(self._settings.credit_nodes)
        }

    def take_num_missed(self) -> int:
        """Return the tokens that drafters have to catch up with since this was asked last."""
        num_missed, self._num_missed = self._num_missed, 0
        return num_missed

    def take_refused_links(self) -> dict[str, str]:
        """Return the links to end, with the reason."""
        refused, self._refused_links = self._refused_links, {}
        return refused

    def _attach(self, session: TargetSession) -> None:
        is_ready = session.num_pending <= 1 or not self._opens_after_prompts
        if not (self._is_open and is_ready and self._wants(session, session.num_tokens)):
            return
        refused = self._refusals.get(session.session_id, set())
        for address in session.spec.drafters:
            link = self._links.get(address.endpoint)
            if link and address.endpoint not in refused:
                attachment = Attachment(address.endpoint, link.next_number)
                self._attachments[session.session_id] = attachment
                self._open_at(link, attachment, session)
                return

    def _tell(self, session: TargetSession, attachment: Attachment) -> None:
        commit = attachment.commit_to(session.token_ids)
        self._links[attachment.endpoint].outbox.commits.append(commit)
        self._untimed.append((session, session.num_tokens))

    def _open_at(self, link: DrafterState, attachment: Attachment, session: TargetSession) -> None:
        # A number is never used twice, so that nodes still on their way from
        # before cannot be taken for nodes of the new opening.
        attachment.number, link.next_number = link.next_number, link.next_number + 1
        link.sessions[attachment.number] = session
        attachment.told_length, attachment.is_paused = session.num_tokens, False
        self._num_missed += session.num_tokens
        session.drop_drafts()
        spec = DraftSpec(
            session_id=session.session_id,
            token_ids=tuple(session.token_ids),
            prompt_length=session.spec.prompt_length,
            sampling=session.spec.sampling,
            speculation=session.spec.speculation,
            choice=session.spec.choice,
            tenant_salt=session.spec.tenant_salt,
            traceparent=session.span.traceparent,
        )
        if spec.sampling.grammar is not None and not link.has_tokenizer:
            link.outbox.tokenizer, link.has_tokenizer = self._tokenizer, True
        link.outbox.opens.append(SessionOpen(attachment.number, spec))
        self._untimed.append((session, session.num_tokens))

    def _take_growths(self, link: DrafterState, frame: DraftFrame, arrived_ns: int) -> None:
        num_nodes = sum(growth.num_nodes for growth in frame.growths)
        if num_nodes > min(link.credit_nodes, self._settings.max_frame_nodes):
            raise InvalidGrowthError(
                f"{num_nodes} nodes in a frame, more than granted", reason="CREDIT_EXCEEDED"
            )
        # Taken in at once, so what was used may be sent again.
        link.credit_nodes -= num_nodes
        link.outbox.credit_nodes += num_nodes
        link.graft(frame.growths, self._vocab_size, self._metrics, arrived_ns=arrived_ns)

    def _detach_refused(self, endpoint: str, link: DrafterState, number: int) -> None:
        session = link.sessions.pop(number, None)
        if session:
            del self._attachments[session.session_id]
            self._refusals.setdefault(session.session_id, set()).add(endpoint)
            session.drop_drafts()
            self._attach(session)

    def _reopen(self, endpoint: str, link: DrafterState, number: int) -> None:
        session = link.sessions.get(number)
        if session is None:
            return
        link.outbox.closes.append(number)
        attachment = self._attachments[session.session_id]
        attachment.num_reopens += 1
        if attachment.num_reopens > _MAX_REOPENS:
            self._detach_refused(endpoint, link, number)
        else:
            del link.sessions[number]
            self._open_at(link, attachment, session)
