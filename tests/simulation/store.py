"""The session store behind a network: slow, away, emptied, or deaf after it has acted.

The state is that of the real embedded store, on virtual time (the contract suite
holds Redis to the same behaviour). After each call the books are checked: epochs
only grow, no write of an older one is taken, and the log of a session is a beginning
of its true text.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any

from tests.simulation.actor import Actor
from tests.simulation.network import Latency
from tests.simulation.virtual_time import CURRENT, VirtualLoop

from treedraft.coordinator.session_store.embedded import EmbeddedSessionStore
from treedraft.coordinator.session_store.protocol import STORE_UNAVAILABLE
from treedraft.core.errors import UnavailableError

_TIMEOUT_SECONDS = 0.2
_FENCED = {"renew", "place", "append_tokens", "finish"}


class StoreServer:
    """The one store that all coordinators share."""

    def __init__(
        self,
        loop: VirtualLoop,
        rng: random.Random,
        make: Callable[[], EmbeddedSessionStore],
        on_bug: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._rng = rng
        self._make = make
        self._on_bug = on_bug
        self._latency = Latency(rng)
        self._epochs: dict[str, int] = {}
        self.inner = make()
        self.away_until = 0.0
        self.loss = 0.0  # share of calls whose request or answer is lost
        self.truth: dict[str, Sequence[int] | None] = {}
        self.num_calls = 0

    def empty(self) -> None:
        """Lose everything, as a Redis without persistence does at a restart."""
        self.inner = self._make()
        self._epochs.clear()

    async def call(self, name: str, *args: Any, **options: Any) -> Any:
        actor = CURRENT.get()
        await self._travel(actor)
        self._lose()
        self.num_calls += 1
        try:
            result = await getattr(self.inner, name)(*args, **options)
            if name in _FENCED:
                self._check_fence(name, *args[:2], options["owner"])
            return result
        finally:
            self._check()
            await self._travel(actor)
            self._lose()

    async def _travel(self, actor: Actor) -> None:
        await asyncio.sleep(self._latency.draw())
        while actor.frozen_until > self._loop.time():  # noqa: ASYNC110 - it may freeze again
            await asyncio.sleep(actor.frozen_until - self._loop.time())
        if not actor.is_alive:
            await asyncio.Event().wait()  # nothing of a dead process reaches anybody
        if self.away_until > self._loop.time():
            await asyncio.sleep(_TIMEOUT_SECONDS)
            raise UnavailableError("the store is away", reason=STORE_UNAVAILABLE)

    def _lose(self) -> None:
        if self._rng.random() < self.loss:
            raise UnavailableError("an answer was lost", reason=STORE_UNAVAILABLE)

    def _check_fence(self, name: str, session_id: str, epoch: int, owner: str) -> None:
        session = self.inner._sessions[session_id]
        if owner != session.owner:
            self._on_bug(f"{name} of {session_id} was taken from {owner}, not its owner")
        if epoch != session.epoch:
            self._on_bug(f"{name} of {session_id} was taken under epoch {epoch}, which is over")

    def _check(self) -> None:
        for session_id, session in self.inner._sessions.items():
            if session.epoch < self._epochs.get(session_id, 0):
                self._on_bug(f"the epoch of {session_id} went back to {session.epoch}")
            self._epochs[session_id] = session.epoch
            text = self.truth.get(session_id)
            if text is not None and list(text[: len(session.token_ids)]) != session.token_ids:
                self._on_bug(f"the log of {session_id} is not its text")


class StoreClient:
    """The store as a coordinator calls it."""

    def __init__(self, server: StoreServer) -> None:
        self._server = server

    def __getattr__(self, name: str) -> Any:
        async def call(*args: Any, **options: Any) -> Any:
            return await self._server.call(name, *args, **options)

        return call

    async def close(self) -> None:
        """Nothing is open."""
