import asyncio
import threading

import pytest
from tests.waiting import PATIENCE_SECONDS, on_virtual_time

from treedraft.core.watchdog import StepClock, until_stuck

# On virtual time; the interpreter's own timer, the last resort, is on real time.
LIMIT_SECONDS = 600.0


@pytest.fixture
def clock():
    return StepClock()


@on_virtual_time
async def test_a_step_that_does_not_end_is_found_out(clock):
    has_begun, is_over = threading.Event(), threading.Event()

    def hang():
        with clock.step():
            has_begun.set()
            is_over.wait()

    thread = threading.Thread(target=hang)
    thread.start()
    try:
        assert has_begun.wait(PATIENCE_SECONDS)
        await until_stuck(clock, LIMIT_SECONDS)
    finally:
        is_over.set()
        thread.join()
    assert clock.current is None


@on_virtual_time
async def test_many_short_steps_and_a_long_pause_are_no_hang(clock):
    watching = asyncio.create_task(until_stuck(clock, LIMIT_SECONDS))
    for _ in range(40):
        with clock.step():
            await asyncio.sleep(LIMIT_SECONDS / 16)
    await asyncio.sleep(3 * LIMIT_SECONDS)  # idle
    assert not watching.done()
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching


async def test_a_step_that_fails_has_ended(clock):
    with pytest.raises(ValueError, match="no"), clock.step():
        raise ValueError("no")
    assert clock.current is None
