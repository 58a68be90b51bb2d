"""Waiting for what other processes do."""

import time
from collections.abc import Callable


def until(is_so: Callable[[], object], seconds: float = 60.0) -> None:
    """Ask again and again until something is so; fail after a generous time."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.05)
