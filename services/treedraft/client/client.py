"""A client of several coordinators, any one of which may die at any time.

Before the first token the client knows the session's name, and with each token
it counts and hashes. When a stream breaks or falls silent, it asks the next
coordinator for the rest (`Resume`), with pauses that grow while nothing comes
of it. Every query gets an idempotency key, so that one whose answer never began
is asked again without being run twice.
"""

import asyncio
import random
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import replace
from types import TracebackType
from typing import Self

from treedraft.client.answer import HeldAnswer
from treedraft.client.retries import Backoff, RetryPolicy, is_worth_a_retry
from treedraft.core.errors import (
    CancelledError,
    InvalidRequestError,
    SessionNotFoundError,
    TokensMismatchError,
    TreedraftError,
    UnavailableError,
)
from treedraft.core.generation import GenerateEvent, GenerateQuery, ServedModel
from treedraft.rpc.coordinator_client import CoordinatorClient
from treedraft.settings import TlsSettings

_CANCEL_SECONDS = 2.0


class Client:
    """Asks whichever coordinator answers. Construct it on the event loop that uses it."""

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        tls: TlsSettings | None = None,
        api_key: str = "",
        policy: RetryPolicy | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        """Prepare to dial these coordinators, `host:port` each; the first call connects.

        Args:
            endpoints: coordinators that share a store; one is enough.
            tls: certificates; None speaks plaintext.
            api_key: says for which tenant the client asks; empty says nothing.
            policy: how it goes on after failures.
            clock: monotonic time in seconds.
            rng: spreads pauses and the first choice of a coordinator.

        Raises:
            InvalidRequestError: there is no endpoint.
            UnavailableError: the files of `tls` cannot be used.
        """
        if not endpoints:
            raise InvalidRequestError("name a coordinator", field="endpoints")
        self._policy = policy or RetryPolicy()
        self._clock = clock
        self._rng = rng or random.Random()
        self._coordinators = [
            CoordinatorClient(
                endpoint, tls=tls, api_key=api_key, silence_seconds=self._policy.silence_seconds
            )
            for endpoint in endpoints
        ]
        self._current = self._rng.randrange(len(endpoints))
        self._farewells: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Use the client for the time of a context."""
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        await self.close()

    async def generate(
        self,
        query: GenerateQuery,
        *,
        timeout_seconds: float | None = None,
        traceparent: str = "",
    ) -> AsyncGenerator[GenerateEvent, None]:
        """Ask for text and yield one Started, the Deltas and one Finished.

        The generator must be run to its end or closed (`contextlib.aclosing`);
        closing it cancels the session. Statistics cover what was generated
        since the last time the answer was taken up.

        Args:
            query: what to continue, and how.
            timeout_seconds: time for the whole answer, all tries included.
            traceparent: W3C trace context that the request is part of.

        Raises:
            TreedraftError: the request was refused, its session failed for good, or
                nothing came for as long as the policy's patience.
        """
        if not query.idempotency_key:
            query = replace(query, idempotency_key=secrets.token_urlsafe(24))
        answer = HeldAnswer()
        ends_at = None if timeout_seconds is None else self._clock() + timeout_seconds
        try:
            async with aclosing(self._attempts(query, answer, ends_at, traceparent)) as events:
                async for event in events:
                    yield event
        finally:
            if answer.has_begun and not answer.is_finished:
                self._say_farewell(answer.session_id)

    async def _attempts(
        self, query: GenerateQuery, answer: HeldAnswer, ends_at: float | None, traceparent: str
    ) -> AsyncGenerator[GenerateEvent, None]:
        """Yield what is new from one stream after the other, until the answer is complete."""
        trial = _Trial(self._policy, self._rng, self._clock, ends_at)
        while not answer.is_finished:
            number = self._current
            try:
                stream = self._open(query, answer, trial.time_left(), traceparent)
                async with aclosing(stream) as events:
                    async for event in events:
                        new = answer.take(event)
                        if new is not None:
                            trial.progress()
                            yield new
                if not answer.is_finished:
                    raise UnavailableError("the stream ended before the text did")
            except TreedraftError as error:
                pause = trial.pause_after(error, has_begun=answer.has_begun)
                self._move_on(number)
                await asyncio.sleep(pause)

    def _open(
        self, query: GenerateQuery, answer: HeldAnswer, seconds: float | None, traceparent: str
    ) -> AsyncGenerator[GenerateEvent, None]:
        coordinator = self._coordinators[self._current]
        if answer.has_begun:
            return coordinator.resume(
                answer.rest(), timeout_seconds=seconds, traceparent=traceparent
            )
        return coordinator.generate(query, timeout_seconds=seconds, traceparent=traceparent)

    def _move_on(self, number: int) -> None:
        """Turn to the next coordinator, unless another request has done so already."""
        if self._current == number:
            self._current = (number + 1) % len(self._coordinators)

    async def list_models(self, *, timeout_seconds: float = 10.0) -> list[ServedModel]:
        """Return the models that can be asked for, from the first coordinator that answers.

        Raises:
            TreedraftError: no coordinator answers.
        """
        last: TreedraftError = UnavailableError("no coordinator was asked")
        for _ in self._coordinators:
            number = self._current
            try:
                return await self._coordinators[number].list_models(timeout_seconds=timeout_seconds)
            except TreedraftError as error:
                last = error
                self._move_on(number)
        raise last

    async def close(self) -> None:
        """Close all channels, and with them every answer that still runs."""
        if self._farewells:
            await asyncio.wait(self._farewells)
        for coordinator in self._coordinators:
            await coordinator.close()

    def _say_farewell(self, session_id: str) -> None:
        """Tell that nobody reads any more, on a task of its own: the caller's may be cancelled."""
        task = asyncio.create_task(self._cancel(session_id))
        self._farewells.add(task)
        task.add_done_callback(self._farewells.discard)

    async def _cancel(self, session_id: str) -> None:
        # Whatever fails here, the session ends by itself after its grace time.
        with suppress(TreedraftError):
            coordinator = self._coordinators[self._current]
            await coordinator.cancel(session_id, timeout_seconds=_CANCEL_SECONDS)


class _Trial:
    """The tries of one request: how long nothing came, and what that allows."""

    def __init__(
        self,
        policy: RetryPolicy,
        rng: random.Random,
        clock: Callable[[], float],
        ends_at: float | None,
    ) -> None:
        self._policy = policy
        self._backoff = Backoff(policy, rng)
        self._clock = clock
        self._ends_at = ends_at
        self._failing_since: float | None = None
        self._lost_since: float | None = None

    def progress(self) -> None:
        """Note that something came."""
        self._failing_since = self._lost_since = None
        self._backoff.reset()

    def time_left(self) -> float | None:
        """Return the seconds left.

        Raises:
            CancelledError: there are none (DEADLINE_EXCEEDED).
        """
        if self._ends_at is None:
            return None
        left = self._ends_at - self._clock()
        if left <= 0.0:
            raise CancelledError("the time for this answer is up", reason="DEADLINE_EXCEEDED")
        return left

    def pause_after(self, error: TreedraftError, *, has_begun: bool) -> float:
        """Return how long to wait before the next try, or raise the error."""
        now, policy = self._clock(), self._policy
        if self._failing_since is None:
            self._failing_since = now
        is_missing = isinstance(error, SessionNotFoundError | TokensMismatchError)
        if is_missing and self._lost_since is None:
            self._lost_since = now
        is_lost = self._lost_since is not None and now - self._lost_since > policy.lost_seconds
        patience = policy.patience_seconds if has_begun else policy.begin_seconds
        is_hopeless = now - self._failing_since > patience
        if is_lost or is_hopeless or not is_worth_a_retry(error, has_begun=has_begun):
            raise error
        pause = self._backoff.next_pause(error)
        return pause if self._ends_at is None else min(pause, max(0.0, self._ends_at - now))
