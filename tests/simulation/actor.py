"""A process of the simulation: what dies with it, and what it can do no more."""

import asyncio
from collections.abc import Callable
from typing import Any


class Actor:
    """One start of one process.

    A kill is sudden: from that moment nothing that the process still does on its
    way down (a `finally` that sends, a lock that is released) reaches anybody.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_alive = True
        self.frozen_until = 0.0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._last_rites: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        return self.name

    def adopt(self, task: asyncio.Task[Any]) -> None:
        """Take a task down with the process."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def at_death(self, rite: Callable[[], None]) -> None:
        """Call this when the process is killed."""
        self._last_rites.append(rite)

    def kill(self) -> None:
        """End the process at once."""
        if self.is_alive:
            self.is_alive = False
            for rite in self._last_rites:
                rite()
            for task in sorted(self._tasks, key=lambda task: task.number):
                task.cancel()
