"""One stream to each target, with all our sessions on it.

What sessions have to say gathers for one turn of the event loop and leaves as
one frame; what the target answers is handed to the sessions it is for. When a
stream breaks, or brings not even a sign of life for a while, all its sessions are
told so, and the next session placed on that target gets a new stream.
"""

import asyncio
import functools
from collections.abc import Callable, Iterable
from dataclasses import replace

import structlog

from treedraft.coordinator.failures import without_unasked_end
from treedraft.coordinator.target_stream import (
    Outbox,
    SessionSink,
    SessionStream,
    TargetConnection,
)
from treedraft.core.errors import InvalidRequestError, TreedraftError, UnavailableError
from treedraft.core.exchange import CoordinatorFrame
from treedraft.core.session import SessionSpec
from treedraft.core.worker import WorkerRegistration

TARGET_LOST = "TARGET_LOST"
TARGET_SILENT = "TARGET_SILENT"

# Silence is looked for several times over, so that a freeze of our own, after
# which frames lie unread, counts for one look only.
_LOOKS = 4


class TargetLink:
    """The stream to one start of one target."""

    def __init__(
        self,
        target: WorkerRegistration,
        connection: TargetConnection,
        coordinator_id: str,
        *,
        silence_seconds: float = 10.0,
        on_failure: Callable[[str], None] = lambda reason: None,
    ) -> None:
        """Connect when `run` is called; sessions may be started before.

        A stream that brings no frame for `silence_seconds` is given up.
        `on_failure` is told the reason when the stream breaks.
        """
        self.target = target
        self._connection = connection
        self._coordinator_id = coordinator_id
        self._silence_seconds = silence_seconds
        self._on_failure = on_failure
        self._was_heard = False
        self._sinks: dict[str, tuple[int, SessionSink]] = {}
        self._outbox = Outbox()
        self._has_mail = asyncio.Event()
        self._is_open = True
        self._log = structlog.get_logger("treedraft.coordinator.target_links")

    @property
    def is_open(self) -> bool:
        """Whether sessions can still be started here."""
        return self._is_open

    @property
    def num_sessions(self) -> int:
        """Sessions on this stream."""
        return len(self._sinks)

    def start(self, spec: SessionSpec, sink: SessionSink) -> None:
        """Run a session; its outputs go to `sink`.

        Raises:
            UnavailableError: the stream has ended (TARGET_LOST).
        """
        if not self._is_open:
            raise self._lost("its stream has ended")
        self._sinks[spec.session_id] = (spec.epoch, sink)
        # The target ends an older epoch of the session by itself; a cancel would hit this one.
        self._outbox.cancels.pop(spec.session_id, None)
        self._outbox.starts[spec.session_id] = spec
        self._has_mail.set()

    def cancel(self, session_id: str) -> None:
        """Stop a session; one that has ended already is no error."""
        if self._sinks.pop(session_id, None) is None:
            return
        self._outbox.acknowledged.pop(session_id, None)
        if self._outbox.starts.pop(session_id, None) is None:
            self._outbox.cancels[session_id] = None
        self._has_mail.set()

    def acknowledge(self, session_id: str, logged_length: int) -> None:
        """Tell the target how much of a session the log holds."""
        if session_id in self._sinks:
            self._outbox.acknowledged[session_id] = logged_length
            self._has_mail.set()

    async def run(self) -> None:
        """Serve the stream until it ends, then fail the sessions that are left."""
        error = self._lost("it ended the stream")
        try:
            stream = await self._open()
            try:
                await self._serve(stream)
            finally:
                await stream.close()
            self._on_failure("STREAM_ENDED")
        except TreedraftError as cause:
            is_silent = cause.reason == TARGET_SILENT
            error = self._lost(cause.message, TARGET_SILENT if is_silent else TARGET_LOST)
            self._on_failure(cause.reason)
        finally:
            await self.close(error)

    async def close(self, error: UnavailableError | None = None) -> None:
        """Fail the sessions that are left and close the channel; safe to repeat."""
        self._is_open = False
        self._fail_all(error or self._lost("its stream was closed"))
        await self._connection.close()

    async def _open(self) -> SessionStream:
        try:
            async with asyncio.timeout(self._silence_seconds):
                return await self._connection.run_sessions(self._coordinator_id)
        except TimeoutError:
            raise self._silent() from None

    async def _serve(self, stream: SessionStream) -> None:
        tasks = [
            asyncio.create_task(self._send(stream)),
            asyncio.create_task(self._receive(stream)),
            asyncio.create_task(self._watch()),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _send(self, stream: SessionStream) -> None:
        while True:
            await self._has_mail.wait()
            await asyncio.sleep(0)  # let the others of this turn add to the frame
            self._has_mail.clear()
            if self._outbox:
                await self._send_frame(stream, self._outbox.take_frame())

    async def _send_frame(self, stream: SessionStream, frame: CoordinatorFrame) -> None:
        try:
            await stream.send(frame)
        except InvalidRequestError as error:
            # A session that no message can hold; the stream is unharmed, and
            # the others of the frame go out by themselves.
            if len(frame.starts) == 1:
                self._refuse(frame.starts[0].session_id, error)
            else:
                for spec in frame.starts:
                    await self._send_frame(stream, CoordinatorFrame(starts=(spec,)))
            if frame.cancels or frame.acknowledgements:
                await stream.send(replace(frame, starts=()))

    def _refuse(self, session_id: str, error: TreedraftError) -> None:
        _, sink = self._sinks.pop(session_id, (0, None))
        if sink is not None:
            sink.fail(error)

    async def _receive(self, stream: SessionStream) -> None:
        while (outputs := await stream.receive()) is not None:
            self._was_heard = True
            for output in outputs:
                epoch, sink = self._sinks.get(output.session_id, (0, None))
                if sink is None or output.epoch != epoch:
                    continue  # said before it heard that the session is cancelled or resumed
                if output.finish is not None or output.failure is not None:
                    del self._sinks[output.session_id]
                    self._outbox.acknowledged.pop(output.session_id, None)
                # A session that is cancelled here has no sink any more.
                sink.deliver(without_unasked_end(output))

    async def _watch(self) -> None:
        num_silent = 0
        while num_silent < _LOOKS:
            self._was_heard = False
            await asyncio.sleep(self._silence_seconds / _LOOKS)
            num_silent = 0 if self._was_heard else num_silent + 1
        raise self._silent()

    def _fail_all(self, error: UnavailableError) -> None:
        if self._sinks:
            self._log.warning(
                "target lost",
                worker_id=self.target.worker_id,
                num_sessions=len(self._sinks),
                error=error.message,
            )
        sinks, self._sinks = self._sinks, {}
        for _, sink in sinks.values():
            sink.fail(error)

    def _silent(self) -> UnavailableError:
        return UnavailableError(
            f"no sign of life for {self._silence_seconds:g} s", reason=TARGET_SILENT
        )

    def _lost(self, why: str, reason: str = TARGET_LOST) -> UnavailableError:
        return UnavailableError(f"target {self.target.worker_id} was lost: {why}", reason=reason)


class TargetLinks:
    """The streams to all targets in use."""

    def __init__(
        self,
        dial: Callable[[str], TargetConnection],
        coordinator_id: str,
        *,
        silence_seconds: float = 10.0,
        on_failure: Callable[[str], None] = lambda reason: None,
    ) -> None:
        """Open channels with `dial`, which takes an endpoint.

        A target that is silent for `silence_seconds` is given up; `on_failure` is
        told the reason of each stream that breaks.
        """
        self._dial = dial
        self._silence_seconds = silence_seconds
        self._on_failure = on_failure
        self._coordinator_id = coordinator_id
        self._log = structlog.get_logger("treedraft.coordinator.target_links")
        self._links: dict[tuple[str, str], TargetLink] = {}
        self._tasks: dict[TargetLink, asyncio.Task[None]] = {}

    def get(self, target: WorkerRegistration) -> TargetLink:
        """Return the stream to a target, a new one if there is none."""
        key = (target.worker_id, target.incarnation)
        link = self._links.get(key)
        if link is None or not link.is_open:
            link = TargetLink(
                target,
                self._dial(target.endpoint),
                self._coordinator_id,
                silence_seconds=self._silence_seconds,
                on_failure=self._on_failure,
            )
            self._links[key] = link
            task = asyncio.create_task(link.run(), name=f"link {target.worker_id}")
            self._tasks[link] = task
            task.add_done_callback(functools.partial(self._forget, link))
        return link

    async def retain(self, targets: Iterable[WorkerRegistration]) -> None:
        """Close the streams to other targets than these, once no session is on them."""
        keys = {(target.worker_id, target.incarnation) for target in targets}
        idle = [
            key
            for key, link in self._links.items()
            if not link.is_open or (key not in keys and not link.num_sessions)
        ]
        await self._close(idle)

    async def close(self) -> None:
        """Close all streams; their sessions fail."""
        await self._close(list(self._links))
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _close(self, keys: list[tuple[str, str]]) -> None:
        links = [self._links.pop(key) for key in keys]
        tasks = [self._tasks[link] for link in links if link in self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for link in links:
            await link.close()  # a task that had not begun yet has closed nothing

    def _forget(self, link: TargetLink, task: asyncio.Task[None]) -> None:
        del self._tasks[link]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("link failed", worker_id=link.target.worker_id, exc_info=error)
