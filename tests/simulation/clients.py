"""Clients: they ask, read slowly, go away, lose their coordinator and resume.

A client knows the true text of what it asks for, and holds every piece that it is
shown against it: in order, none missing, none twice, none changed.
"""

import asyncio
import contextlib
import random
from dataclasses import dataclass, field
from typing import Any

from tests.simulation.actor import Actor
from tests.simulation.network import Network
from tests.simulation.store import StoreServer

from treedraft.core.errors import OverloadedError, TreedraftError, UnavailableError
from treedraft.core.generation import (
    Delta,
    Finished,
    GenerateQuery,
    ResumeQuery,
    Started,
    hash_tokens,
)
from treedraft.core.session import FinishReason
from treedraft.rpc import convert
from treedraft.v1 import coordinator_service_pb2 as pb

_LOOK_SECONDS = 0.3
_COMES_AGAIN = {"LEASE_HELD", "STALE_EPOCH"}
# How long a session is looked for that was put back by an owner of before.
_LOST_SECONDS = 10.0


@dataclass
class Client:
    """One client with one question.

    `truth` is None where the text may depend on drafts (rejection sampling): then
    what was shown has to be what the store kept.
    """

    actor: Actor
    query: GenerateQuery
    truth: tuple[int, ...] | None
    true_finish: FinishReason | None
    network: Network
    store: StoreServer
    rng: random.Random
    coordinators: list[str]
    report: Any
    leaves_after: int | None = None
    cancels: bool = False  # … and says so
    break_share: float = 0.0  # how often its connection breaks at a message
    reads_slowly: bool = False
    may_lose: bool = False
    held: list[int] = field(default_factory=list)
    session_id: str = ""
    finish: FinishReason | None = None
    is_done: bool = False
    num_resumed: int = 0
    lost_since: float | None = None

    async def run(self) -> None:
        try:
            while not self.is_done:
                try:
                    await self._ask()
                except TreedraftError as error:
                    self._judge(error)
                await asyncio.sleep(self.rng.uniform(0.05, 0.4))
            if self.finish is None and self.cancels and self.session_id:
                await self._cancel()
        finally:
            self.is_done = True

    async def _cancel(self) -> None:
        with contextlib.suppress(TreedraftError):
            call = await self.network.dial(self.rng.choice(self.coordinators), "Cancel")
            await call.write(pb.CancelRequest(session_id=self.session_id))
            await call.read()
            call.close()

    async def _ask(self) -> None:
        endpoint = self.rng.choice(self.coordinators)
        if self.session_id:
            self.num_resumed += 1
            hashed = hash_tokens(self.held) if self.held else b""
            query = ResumeQuery(self.session_id, len(self.held), hashed)
            request: Any = convert.resume_query_to_proto(query)
            call = await self.network.dial(endpoint, "Resume")
        else:
            request = convert.generate_query_to_proto(self.query)
            call = await self.network.dial(endpoint, "Generate")
        try:
            await call.write(request)
            await self._read(call)
        finally:
            call.close()

    async def _read(self, call: Any) -> None:
        while not self.is_done:
            message = await self._hear(call)
            if message is None:
                return
            if self.rng.random() < self.break_share:
                call.break_off(within=0.5)
                return
            part = message.part if isinstance(message, pb.ResumeResponse) else message
            event = convert.generate_event_from_proto(part)
            match event:
                case Started():
                    self._start(event)
                case Delta():
                    self._take(event)
                case Finished(reason):
                    self._end(reason)
            if self.leaves_after is not None and len(self.held) >= self.leaves_after:
                self.is_done = True
            if self.reads_slowly:
                await asyncio.sleep(self.rng.uniform(0.0, 0.1))

    async def _hear(self, call: Any) -> Any:
        """Return the next message; give a coordinator up that is frozen."""
        reading = asyncio.ensure_future(call.read())
        while not reading.done():
            await asyncio.wait([reading], timeout=_LOOK_SECONDS)
            server = call.ends[1]
            left = server.frozen_until - self.network.loop.time()
            if left > _LOOK_SECONDS and self.session_id and not reading.done():
                reading.cancel()
                return None
        return reading.result()

    def _is_lost(self) -> bool:
        """Return whether the session was looked for in vain for long."""
        now = self.network.loop.time()
        if self.lost_since is None:
            self.lost_since = now
        return now - self.lost_since > _LOST_SECONDS

    def _start(self, started: Started) -> None:
        if self.session_id and self.session_id != started.session_id:
            self.report(f"{self.actor}: another session was resumed")
        if started.prompt_token_ids != self.query.token_ids:
            self.report(f"{self.actor}: the prompt changed")
        self.session_id = started.session_id
        if self.truth is not None:
            self.store.truth[self.session_id] = (*self.query.token_ids, *self.truth)

    def _take(self, delta: Delta) -> None:
        self.lost_since = None
        if delta.base_length != len(self.held):
            self.report(f"{self.actor}: {len(self.held)} tokens, then those at {delta.base_length}")
        self.held += delta.token_ids
        if self.truth is not None and tuple(self.held) != self.truth[: len(self.held)]:
            self.report(f"{self.actor} ({self.session_id}): the text changed at {len(self.held)}")
            self.is_done = True

    def _end(self, reason: FinishReason) -> None:
        self.finish, self.is_done = reason, True
        if self.truth is not None and (tuple(self.held), reason) != (self.truth, self.true_finish):
            self.report(
                f"{self.actor} ({self.session_id}): {len(self.held)} of {len(self.truth)} tokens, "
                f"{reason} instead of {self.true_finish}"
            )
        kept = self.store.inner._sessions.get(self.session_id)
        if self.truth is None and kept and kept.token_ids[len(self.query.token_ids) :] != self.held:
            self.report(f"{self.actor}: was shown another text than the log has")

    def _judge(self, error: TreedraftError) -> None:
        """Come again after what a client may meet; anything else is a lost answer."""
        comes_again = isinstance(error, UnavailableError | OverloadedError)
        if comes_again or error.reason in _COMES_AGAIN:
            return
        if self.may_lose and error.reason == "SESSION_NOT_FOUND":
            self.is_done = True
            return
        if self.may_lose and error.reason == "TOKENS_MISMATCH" and not self._is_lost():
            return
        self.report(f"{self.actor} ({self.session_id}): {error.reason}: {error.message}")
        self.is_done = True
