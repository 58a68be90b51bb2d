"""Every service is told to stop and started again, one after the other, under load."""

import asyncio

import pytest
from tests.chaos.faults import REDIS, STOP, Fault
from tests.chaos.fleet import Fleet, FleetPlan
from tests.chaos.load import Load, make_queries
from tests.chaos.storm import Storm
from tests.unit.coordinator.redis_server import find_redis_server

from treedraft.inference.toy import make_toy_model


@pytest.mark.timeout(420)
@pytest.mark.skipif(find_redis_server() is None, reason="no redis-server on this machine")
async def test_a_rolling_restart_loses_nothing(tmp_path):
    model = str(make_toy_model(tmp_path / "toy", layers=2, hidden=64))
    plan = FleetPlan(target_model=model, draft_model="", num_targets=2, num_drafters=1)
    async with Fleet(plan, tmp_path) as fleet:
        load = Load(fleet.endpoints, make_queries(16, seed=4))
        storm, is_over = Storm(fleet), asyncio.Event()
        try:
            await load.learn(at_once=4)
            async with asyncio.TaskGroup() as group:
                group.create_task(load.run(8, is_over, seed=4))
                for subject in fleet.subjects:
                    if subject.role != REDIS:
                        await storm.suffer(Fault(0.0, STOP, subject, seconds=0.2))
                        await fleet.until_served()
                is_over.set()
        finally:
            await load.close()
    assert load.outcome.num_sessions > 20
    assert set(load.outcome.verdicts) == {"right"}, load.outcome.examples
