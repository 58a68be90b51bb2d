"""Waiting: for what other processes do, for what should be there at once, and in no time at all."""

import asyncio
import functools
import time
from collections.abc import Callable, Coroutine
from typing import Any

from tests.simulation.virtual_time import VirtualLoop

# Far more than anything takes, also where ten others want the same core.
PATIENCE_SECONDS = 60.0


def until(is_so: Callable[[], object], seconds: float = PATIENCE_SECONDS) -> None:
    """Ask again and again until something is so; fail after a generous time."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.05)


def patience() -> asyncio.Timeout:
    """Return a bound for what happens at once where nothing is wrong."""
    return asyncio.timeout(PATIENCE_SECONDS)


def on_virtual_time(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Let a test that knows neither sockets nor other threads pass its time at once.

    What it waits for with a timer takes no time, and a busy machine changes nothing.
    """

    @functools.wraps(test)
    def run(*args: object, **options: object) -> None:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(test(*args, **options))

    return run
