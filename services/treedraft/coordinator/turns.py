"""One at a time per name: who comes while another is in waits for its turn."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """Locks by name, which exist only while somebody holds or wants them."""

    def __init__(self) -> None:
        """Start with nobody in."""
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def of(self, name: str) -> AsyncIterator[None]:
        """Be the only one of that name for the time of the context."""
        lock, num_users = self._locks.get(name, (asyncio.Lock(), 0))
        self._locks[name] = (lock, num_users + 1)
        try:
            async with lock:
                yield
        finally:
            _, num_users = self._locks[name]
            if num_users == 1:
                del self._locks[name]
            else:
                self._locks[name] = (lock, num_users - 1)
