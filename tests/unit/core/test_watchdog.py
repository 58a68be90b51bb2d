import asyncio
import threading

import pytest

from treedraft.core.watchdog import StepClock, until_stuck


@pytest.fixture
def clock():
    return StepClock()


async def test_a_step_that_does_not_end_is_found_out(clock):
    is_over = threading.Event()

    def hang():
        with clock.step():
            is_over.wait()

    thread = threading.Thread(target=hang)
    thread.start()
    try:
        async with asyncio.timeout(20):
            await until_stuck(clock, 0.1)
    finally:
        is_over.set()
        thread.join()
    assert clock.current is None


async def test_many_short_steps_and_a_long_pause_are_no_hang(clock):
    watching = asyncio.create_task(until_stuck(clock, 0.08))
    for _ in range(40):
        with clock.step():
            await asyncio.sleep(0.005)
    await asyncio.sleep(0.2)  # idle
    assert not watching.done()
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching


async def test_a_step_that_fails_has_ended(clock):
    with pytest.raises(ValueError, match="no"), clock.step():
        raise ValueError("no")
    assert clock.current is None
