"""Virtual time: an event loop, and threads that take turns with it.

Nothing here waits for the real clock. When no callback is ready the loop's time
jumps to the next timer; a thread that would sleep or wait for its inbox parks,
and the loop goes on. One of them runs at any moment, so a run is a function of
its seed and of nothing else: that is what lets a failing seed be replayed.

The ready queue stays first in, first out, as asyncio promises it; what a real
cluster leaves open (how long a message takes, which of two streams is quicker,
when a process dies) is drawn by the network and the fault plan.
"""

import asyncio
import contextlib
import itertools
import queue
import random
import secrets
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextvars import ContextVar
from typing import Any
from unittest import mock

from tests.simulation.actor import Actor

CURRENT: ContextVar[Actor] = ContextVar("actor")


class DeadlockError(Exception):
    """Nothing is left to happen, and yet somebody waits."""


class _VirtualSelector(selectors.SelectSelector):
    """Lets the time pass instead of waiting for sockets, of which there are none."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise DeadlockError("no callback and no timer is left")
        self.now += max(0.0, timeout)
        return []


class _NumberedTask(asyncio.Task):
    """A task whose place in a set does not depend on where it lies in memory."""

    numbers = itertools.count()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.number = next(self.numbers)
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self.number


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on virtual time; `after_turn` is called after each of its turns."""

    def __init__(self) -> None:
        self._virtual = _VirtualSelector()
        super().__init__(self._virtual)
        self._clock_resolution = 1e-9
        self.after_turn: Callable[[], None] = lambda: None
        self.num_turns = 0
        self.set_task_factory(self._make_task)

    def time(self) -> float:
        return self._virtual.now

    def time_ns(self) -> int:
        return int(self._virtual.now * 1e9)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        future = self.create_future()
        future.set_result(func(*args))
        return future

    def _run_once(self) -> None:
        super()._run_once()
        self.num_turns += 1
        self.after_turn()

    def _write_to_self(self) -> None:
        """Nobody sleeps, so nobody is to be woken."""

    @staticmethod
    def _make_task(loop: "VirtualLoop", coro: Coroutine, context: Any = None) -> asyncio.Task:
        task = _NumberedTask(coro, loop=loop, context=context)
        actor = (context or {}).get(CURRENT) or CURRENT.get(None)
        if actor is not None:
            actor.adopt(task)
        return task


class Killed(BaseException):
    """Unwinds a thread whose process is dead."""


class VirtualThread:
    """A body of blocking code that runs in turns with the loop."""

    def __init__(self, loop: VirtualLoop, body: Callable[[], None], name: str) -> None:
        self._loop = loop
        self._body = body
        self._turn = threading.Semaphore(0)
        self._yielded = threading.Semaphore(0)
        self._is_killed = False
        self._is_over = False
        self._ticket = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._loop.call_soon(self._wake, self._ticket)

    def sleep(self, seconds: float) -> None:
        """Let virtual time pass; for the thread itself."""
        self._loop.call_later(seconds, self._wake, self.ticket())
        self.park()

    def ticket(self) -> int:
        """Return what wakes the thread from its next park, and from no later one."""
        return self._ticket

    def wake(self, ticket: int) -> None:
        """Go on soon, if still parked on this ticket."""
        self._loop.call_soon(self._wake, ticket)

    def wake_at(self, when: float, ticket: int) -> None:
        self._loop.call_at(when, self._wake, ticket)

    def park(self) -> None:
        """Let the loop go on; returns once woken."""
        self._yielded.release()
        self._turn.acquire()
        if self._is_killed:
            raise Killed

    def kill(self) -> None:
        """Unwind the thread, wherever it is parked."""
        if self._thread.ident is not None and not self._is_over:
            self._is_killed = True
            self._hand_over()
            self._thread.join()

    def _wake(self, ticket: int) -> None:
        if ticket == self._ticket and not self._is_over:
            self._ticket += 1
            self._hand_over()

    def _hand_over(self) -> None:
        self._turn.release()
        self._yielded.acquire()

    def _run(self) -> None:
        self._turn.acquire()
        try:
            if not self._is_killed:
                self._body()
        except Killed:
            pass
        finally:
            self._is_over = True
            self._yielded.release()


class VirtualInbox:
    """A `queue.SimpleQueue` for one thread on virtual time."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._items: deque[Any] = deque()
        self._waiting: int | None = None
        self.thread: VirtualThread | None = None

    def put(self, item: Any) -> None:
        self._items.append(item)
        if self._waiting is not None:
            self.thread.wake(self._waiting)
            self._waiting = None

    def get(self, timeout: float | None = None) -> Any:
        if not self._items:
            ticket = self._waiting = self.thread.ticket()
            if timeout is not None:
                self.thread.wake_at(self._loop.time() + timeout, ticket)
            self.thread.park()
            self._waiting = None
        return self.get_nowait()

    def get_nowait(self) -> Any:
        if not self._items:
            raise queue.Empty
        return self._items.popleft()

    def qsize(self) -> int:
        return len(self._items)

    def empty(self) -> bool:
        return not self._items


@contextlib.contextmanager
def virtual_world(loop: VirtualLoop, rng: random.Random) -> Iterator[None]:
    """Let the monotonic clocks tell the loop's time, and secrets come from the seed."""

    def draw(size: int = 16) -> str:
        return f"{rng.getrandbits(64):016x}"

    with (
        mock.patch.object(time, "monotonic", loop.time),
        mock.patch.object(time, "monotonic_ns", loop.time_ns),
        mock.patch.object(secrets, "token_urlsafe", draw),
        mock.patch.object(secrets, "randbits", rng.getrandbits),
    ):
        yield
