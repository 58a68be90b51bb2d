"""Finds out that an engine's step hangs.

The engine thread says when it begins a step and when it ends it; whoever watches,
on another thread, looks several times over whether it is still the same step.
A process that was frozen as a whole counts for one look only, so it does not
take its own sleep for a hanging device. Should the interpreter itself be held by
what hangs, so that nobody here can look any more, a timer of the interpreter's
own ends the process, after twice the time.
"""

import asyncio
import faulthandler
from collections.abc import Iterator
from contextlib import contextmanager

from treedraft.core.errors import UnavailableError

_LOOKS = 8
# A step that holds the interpreter leaves nobody to look.
_LAST_RESORT_FACTOR = 2.0
_END_SECONDS = 10.0


class StepClock:
    """Which step is under way; written by one thread, read by others."""

    def __init__(self) -> None:
        """Start between two steps."""
        self._number = 0
        self._is_in_step = False

    @contextmanager
    def step(self) -> Iterator[None]:
        """Be in a step for the time of the context."""
        self._number += 1
        self._is_in_step = True
        try:
            yield
        finally:
            self._is_in_step = False

    @property
    def current(self) -> int | None:
        """The number of the step under way; None between two of them."""
        return self._number if self._is_in_step else None


async def until_stuck(clock: StepClock, seconds: float) -> None:
    """Return once a single step has taken longer than it may."""
    step, num_looks = clock.current, 0
    try:
        while num_looks < _LOOKS:
            faulthandler.dump_traceback_later(_LAST_RESORT_FACTOR * seconds, exit=True)
            await asyncio.sleep(seconds / _LOOKS)
            is_same = clock.current is not None and clock.current == step
            num_looks = num_looks + 1 if is_same else 0
            step = clock.current
    finally:
        faulthandler.cancel_dump_traceback_later()


def stuck_error(who: str, seconds: float) -> UnavailableError:
    """Return what a process ends with whose step hangs; from now on it ends for certain.

    The thread that hangs may keep the interpreter from ending by itself.
    """
    faulthandler.dump_traceback_later(_END_SECONDS, exit=True)
    return UnavailableError(
        f"a step of the {who} has not ended within {seconds:g} s", reason=f"{who.upper()}_STUCK"
    )
