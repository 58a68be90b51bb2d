"""Connections to drafters, kept on the event loop.

One task per drafter: dial, shake hands, then pass frames both ways until the
stream ends, and dial again after a pause. The engine is told of each change and
never waits for any of this.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field

import structlog

from treedraft.core.errors import (
    IncompatiblePeerError,
    InvalidGrowthError,
    TreedraftError,
    UnavailableError,
)
from treedraft.core.exchange import Hello, TargetFrame
from treedraft.core.worker import DrafterAddress, WorkerRole
from treedraft.rpc.draft_client import TreeExchange
from treedraft.settings import TlsSettings
from treedraft.target.events import FrameArrived, LinkDown, LinkMeasured, LinkUp
from treedraft.target.settings import DraftLinkSettings
from treedraft.telemetry.metrics import Metrics

DRAFTER_SILENT = "DRAFTER_SILENT"

_FIRST_BACKOFF_SECONDS = 0.1
_LOOKS = 4
# A link whose way has become another one is found out after so long.
_MEASURING_SECONDS = 10.0

_log = structlog.get_logger(__name__)

_UNREAD_POLL_SECONDS = 0.002


@dataclass(slots=True)
class _UnreadFrames:
    """Frames handed to the engine and not taken in yet; each side writes one number."""

    num_posted: int = 0
    num_taken: int = 0

    @property
    def count(self) -> int:
        return self.num_posted - self.num_taken

    def take(self) -> None:
        self.num_taken += 1


class _Question:
    """Whether a drafter owes an answer: it has one to every open and commit, if only that it rests.

    A frozen drafter keeps its connection, so nothing else tells it from a slow one.
    """

    def __init__(self) -> None:
        self._asked_at: float | None = None
        self._is_open = asyncio.Event()

    def asked(self) -> None:
        """Note that something was sent that wants an answer."""
        if self._asked_at is None:
            self._asked_at = time.monotonic()
            self._is_open.set()

    def answered(self) -> None:
        """Note that something came."""
        self._asked_at = None
        self._is_open.clear()

    async def watch(self, seconds: float) -> None:
        """Raise UnavailableError, reason DRAFTER_SILENT, when an answer is overdue."""
        num_late = 0
        while num_late < _LOOKS:
            await self._is_open.wait()
            asked_at = self._asked_at
            await asyncio.sleep(seconds / _LOOKS)
            # Looked for several times over: a freeze of our own counts for one look only.
            num_late = num_late + 1 if self._asked_at == asked_at else 0
        raise UnavailableError(f"no answer for {seconds:g} s", reason=DRAFTER_SILENT)


LinkEvent = LinkUp | LinkMeasured | LinkDown | FrameArrived
Dial = Callable[..., Awaitable[TreeExchange]]
"""Opens an exchange, as `TreeExchange.dial` does."""


@dataclass(slots=True)
class _Link:
    """One drafter that sessions have named."""

    endpoint: str
    num_sessions: int = 0
    is_up: bool = False
    question: _Question = field(default_factory=_Question)
    frames: asyncio.Queue[TargetFrame] = field(default_factory=asyncio.Queue)
    refused: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class DraftLinks:
    """Dials the drafters that sessions name and keeps the streams up."""

    def __init__(
        self,
        hello: Hello,
        settings: DraftLinkSettings,
        *,
        post: Callable[[LinkEvent], None],
        metrics: Metrics,
        max_message_mb: int,
        tls: TlsSettings | None = None,
        dial: Dial = TreeExchange.dial,
        rng: random.Random | None = None,
    ) -> None:
        """Say `hello` to drafters and `post` what they do to the engine.

        `dial` opens an exchange; `rng` spreads the attempts.
        """
        self._dial = dial
        self._rng = rng or random.Random()
        self._hello = hello
        self._settings = settings
        self._post = post
        self._metrics = metrics
        self._max_message_mb = max_message_mb
        self._tls = tls
        self._links: dict[str, _Link] = {}

    def acquire(self, drafters: Iterable[DrafterAddress]) -> None:
        """See to it that the drafters of a session are dialled."""
        for drafter in drafters:
            link = self._links.get(drafter.endpoint)
            if link is None:
                link = self._links[drafter.endpoint] = _Link(drafter.endpoint)
                link.task = asyncio.create_task(self._keep(link))
            link.num_sessions += 1

    def release(self, drafters: Iterable[DrafterAddress]) -> None:
        """Let the drafters of a session that ended go; links in use stay up."""
        for drafter in drafters:
            link = self._links.get(drafter.endpoint)
            if link:
                link.num_sessions -= 1

    def send(self, frames: Mapping[str, TargetFrame]) -> None:
        """Queue one frame per drafter; a drafter too slow to take them is dropped."""
        for endpoint, frame in frames.items():
            link = self._links.get(endpoint)
            if link is None or not link.is_up:
                continue
            if link.frames.qsize() >= self._settings.max_queued_frames:
                self.refuse(endpoint, "frames pile up")
            else:
                link.frames.put_nowait(frame)

    def refuse(self, endpoint: str, reason: str) -> None:
        """End a link whose drafter broke the rules, and stay away for a while."""
        link = self._links.get(endpoint)
        if link and link.is_up:
            _log.warning("drafter refused", endpoint=endpoint, reason=reason)
            link.refused.set()

    async def close(self) -> None:
        """End all links."""
        tasks = [link.task for link in self._links.values() if link.task]
        self._links.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(self, link: _Link) -> None:
        """Dial again and again until no session has named the drafter for a while."""
        try:
            await self._keep_up(link)
        finally:
            self._links.pop(link.endpoint, None)

    async def _keep_up(self, link: _Link) -> None:
        backoff = _FIRST_BACKOFF_SECONDS
        idle_since: float | None = None
        while True:
            started = time.monotonic()
            pause = await self._serve_once(link)
            now = time.monotonic()
            if now - started > self._settings.max_backoff_seconds:
                backoff = _FIRST_BACKOFF_SECONDS
            idle_since = None if link.num_sessions else idle_since or now
            if idle_since and now - idle_since > self._settings.idle_seconds:
                return
            await asyncio.sleep(pause or backoff * self._rng.uniform(0.5, 1.0))
            backoff = min(2 * backoff, self._settings.max_backoff_seconds)

    async def _serve_once(self, link: _Link) -> float:
        """Hold one stream for as long as it lasts; return a pause if it was refused."""
        try:
            exchange = await self._dial(
                link.endpoint,
                self._hello,
                timeout_seconds=self._settings.dial_timeout_seconds,
                tls=self._tls,
                max_message_mb=self._max_message_mb,
            )
        except IncompatiblePeerError as error:
            _log.warning("drafter does not fit", endpoint=link.endpoint, reason=error.reason)
            self._metrics.link_failed(WorkerRole.DRAFT.value, error.reason)
            return self._settings.refusal_seconds
        except TreedraftError as error:
            self._metrics.link_failed(WorkerRole.DRAFT.value, error.reason)
            return 0.0
        # First: whether drafts can pay over this link is asked with the first session.
        self._post(LinkMeasured(link.endpoint, await exchange.round_trip_ms()))
        link.frames = asyncio.Queue()
        link.refused.clear()
        link.is_up = True
        self._post(LinkUp(link.endpoint))
        _log.info("drafter attached", endpoint=link.endpoint, drafter=exchange.peer.worker_id)
        try:
            await self._pass_frames(link, exchange)
        finally:
            link.is_up = False
            self._post(LinkDown(link.endpoint))
            await exchange.close()
        return self._settings.refusal_seconds if link.refused.is_set() else 0.0

    async def _pass_frames(self, link: _Link, exchange: TreeExchange) -> None:
        link.question.answered()
        tasks = [
            asyncio.create_task(self._send_frames(link, exchange)),
            asyncio.create_task(self._receive_frames(link, exchange)),
            asyncio.create_task(link.question.watch(self._settings.silence_seconds)),
            asyncio.create_task(self._measure(link, exchange)),
            asyncio.create_task(link.refused.wait()),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, TreedraftError):
                self._metrics.link_failed(WorkerRole.DRAFT.value, result.reason)
                _log.warning("drafter lost", endpoint=link.endpoint, reason=result.reason)
                if isinstance(result, InvalidGrowthError | IncompatiblePeerError):
                    link.refused.set()

    async def _measure(self, link: _Link, exchange: TreeExchange) -> None:
        while True:
            await asyncio.sleep(_MEASURING_SECONDS)
            self._post(LinkMeasured(link.endpoint, await exchange.round_trip_ms()))

    @staticmethod
    async def _send_frames(link: _Link, exchange: TreeExchange) -> None:
        while True:
            frame = await link.frames.get()
            if frame.opens or frame.commits:
                link.question.asked()
            await exchange.send(frame)

    async def _receive_frames(self, link: _Link, exchange: TreeExchange) -> None:
        unread = _UnreadFrames()
        while (frame := await exchange.receive()) is not None:
            link.question.answered()
            unread.num_posted += 1
            self._post(FrameArrived(link.endpoint, frame, time.monotonic_ns(), unread.take))
            while unread.count > self._settings.max_unread_frames:  # noqa: ASYNC110 - set by a thread
                # Not reading on is what slows the sender down: gRPC's own flow control.
                await asyncio.sleep(_UNREAD_POLL_SECONDS)
