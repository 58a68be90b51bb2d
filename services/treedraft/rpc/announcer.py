"""How a worker makes itself known to a coordinator, for as long as it lives.

One stream per coordinator: registration first, then a report at each interval.
The prefixes that a worker holds may be thousands, so a report carries only what
changed; the worker always hands over the complete set, and the difference is
taken here, against what this very stream was sent. A new stream therefore
begins with all of them, and coordinator and worker can never drift apart.
"""

import asyncio
import random
from collections.abc import Callable, Iterable
from dataclasses import replace

import grpc
import structlog

from treedraft.core.errors import TreedraftError
from treedraft.core.worker import WorkerRegistration, WorkerReport
from treedraft.rpc.channel import MEBIBYTE, open_channel
from treedraft.rpc.convert import announcement_to_proto, duration_from_proto
from treedraft.rpc.stream import STREAM_ENDED, MessageStream
from treedraft.settings import TlsSettings
from treedraft.v1 import coordinator_service_pb2, coordinator_service_pb2_grpc

_FIRST_BACKOFF_SECONDS = 0.2
_MAX_BACKOFF_SECONDS = 5.0
_MAX_MESSAGE_MB = 4
# Reports per time to live, so that one or two of them may be late.
_REPORTS_PER_LIFE = 3.0

_log = structlog.get_logger(__name__)

_Stream = MessageStream[
    coordinator_service_pb2.AnnounceWorkerRequest, coordinator_service_pb2.AnnounceWorkerResponse
]


class Announcer:
    """Announces one worker to one coordinator."""

    def __init__(
        self,
        endpoint: str,
        registration: WorkerRegistration,
        report: Callable[[], WorkerReport],
        interval_seconds: float,
        *,
        tls: TlsSettings | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """Prepare to announce; `run` does it.

        Args:
            endpoint: `host:port` of the coordinator.
            registration: who the worker is.
            report: says how the worker is now, with the complete set of its
                prefixes in `added_prefixes`. Called on the event loop.
            interval_seconds: time between reports; a coordinator that would
                drop the registration earlier gets them more often.
            tls: certificates, read anew for each stream; None speaks plaintext.
            rng: spreads reconnects, so that workers do not return in step.
        """
        self._endpoint = endpoint
        self._registration = registration
        self._report = report
        self._tls = tls
        self._configured_seconds = self._interval_seconds = interval_seconds
        self._rng = rng or random.Random()
        self._report_due = asyncio.Event()
        self._was_heard = False
        self._last_failure = ""

    def report_now(self) -> None:
        """Send the next report at once, for example because the worker is draining."""
        self._report_due.set()

    async def run(self) -> None:
        """Announce until cancelled, through every failure of the coordinator."""
        backoff = _FIRST_BACKOFF_SECONDS
        while True:
            await self._announce()
            if self._was_heard:
                backoff = _FIRST_BACKOFF_SECONDS
            await asyncio.sleep(backoff * self._rng.uniform(0.5, 1.0))
            backoff = min(2 * backoff, _MAX_BACKOFF_SECONDS)

    async def _announce(self) -> None:
        self._was_heard = False
        try:
            async with open_channel(
                self._endpoint, tls=self._tls, max_message_mb=_MAX_MESSAGE_MB
            ) as channel:
                await self._hold_stream(channel)
            self._log_failure(STREAM_ENDED, "the coordinator ended the stream")
        except TreedraftError as error:
            self._log_failure(error.reason, error.message)
        except Exception:
            # A worker that nobody hears of does no work: try again, whatever it was.
            _log.exception("announcing failed", coordinator=self._endpoint)

    async def _hold_stream(self, channel: grpc.aio.Channel) -> None:
        stub = coordinator_service_pb2_grpc.CoordinatorServiceStub(channel)
        stream: _Stream = MessageStream(
            stub.AnnounceWorker(), max_message_bytes=_MAX_MESSAGE_MB * MEBIBYTE
        )
        answers = asyncio.create_task(self._read_answers(stream))
        try:
            await self._send_reports(stream, answers)
            await answers
        finally:
            stream.close()
            answers.cancel()
            # Unlike `await answers`, this never takes a cancellation of our own
            # for the one of the task.
            await asyncio.wait([answers])
            if not answers.cancelled():
                answers.exception()  # the writer has met the same end

    def _log_failure(self, reason: str, message: str) -> None:
        # Once per outage, not once per attempt.
        if self._was_heard or reason != self._last_failure:
            _log.warning("not announced", coordinator=self._endpoint, reason=reason, why=message)
        self._last_failure = reason

    async def _send_reports(self, stream: _Stream, answers: asyncio.Task[None]) -> None:
        registration: WorkerRegistration | None = self._registration
        sent: frozenset[int] = frozenset()
        while not answers.done():
            self._report_due.clear()
            report = self._report()
            held = frozenset(report.added_prefixes)
            delta = replace(
                report,
                added_prefixes=_ordered(held - sent),
                removed_prefixes=_ordered(sent - held),
            )
            await stream.write(announcement_to_proto(registration, delta))
            registration, sent = None, held
            await self._pause(answers)

    async def _pause(self, answers: asyncio.Task[None]) -> None:
        due = asyncio.create_task(self._report_due.wait())
        try:
            await asyncio.wait(
                (due, answers), timeout=self._interval_seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            due.cancel()

    async def _read_answers(self, stream: _Stream) -> None:
        while (answer := await stream.read()) is not None:
            if not self._was_heard:
                _log.info("announced", coordinator=self._endpoint)
            self._was_heard = True
            if answer.HasField("time_to_live"):
                self._adapt_interval(duration_from_proto(answer.time_to_live))

    def _adapt_interval(self, time_to_live: float) -> None:
        seconds = min(self._configured_seconds, max(0.1, time_to_live) / _REPORTS_PER_LIFE)
        if seconds < self._interval_seconds:
            self.report_now()  # the pause under way may be too long
        self._interval_seconds = seconds


def _ordered(prefixes: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(prefixes))
