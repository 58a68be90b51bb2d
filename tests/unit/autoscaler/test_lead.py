import asyncio

from tests.waiting import PATIENCE_SECONDS

from treedraft.autoscaler.controller import Controller


class BrokenOnce:
    """An election whose first step fails in a way that nobody foresaw."""

    is_leader = False

    def __init__(self):
        self.num_steps = 0

    def step(self):
        self.num_steps += 1
        if self.num_steps == 1:
            raise ValueError("a lease that cannot be read")
        return True

    def resign(self):
        pass


class Report:
    def __init__(self):
        self.failures = []
        self.has_led = asyncio.Event()

    def failed(self, reason):
        self.failures.append(reason)

    def led(self, *, is_leader):
        self.has_led.set()


async def test_an_error_that_nobody_foresaw_does_not_end_the_election():
    report = Report()
    controller = Controller((), observer=None, workloads=None, election=BrokenOnce(), report=report)
    leading = asyncio.create_task(controller.lead(0.001))
    try:
        await asyncio.wait_for(report.has_led.wait(), PATIENCE_SECONDS)
    finally:
        leading.cancel()
        await asyncio.gather(leading, return_exceptions=True)
    assert report.failures == ["UNEXPECTED"]
