"""A real target whose step hangs on purpose: it is left, ends, and is started again."""

import asyncio
import os
from contextlib import aclosing
from dataclasses import replace

from treedraft.client import Client, RetryPolicy
from treedraft.core.generation import Delta, GenerateQuery
from treedraft.core.sampling import SamplingParameters, StoppingCriteria
from treedraft.inference.toy import make_toy_model
from treedraft.local_cluster.cluster import LocalCluster
from treedraft.local_cluster.plan import ClusterPlan

# Run by the interpreter of every process at its start: a pass of the target hangs for as long
# as a file is there.
_HANG = """
import os, sys, threading, time

def patch():
    while not hasattr(sys.modules.get("treedraft.target.step"), "PassRunner"):
        time.sleep(0.005)
    runner = sys.modules["treedraft.target.step"].PassRunner
    run = runner.run

    def hang_and_run(*arguments):
        while os.path.exists({flag!r}):
            time.sleep(0.02)
        return run(*arguments)

    runner.run = hang_and_run

if "treedraft.local_cluster.supervised" in sys.argv or "target" in sys.argv:
    threading.Thread(target=patch, daemon=True).start()
"""
QUERY = GenerateQuery(
    text="once upon a time",
    sampling=SamplingParameters(temperature=1.0, seed=5),
    stopping=StoppingCriteria(max_tokens=400, ignore_eos=True),
)


async def tokens_of(client, query, on_token=lambda count: None):
    found = []
    async with aclosing(client.generate(query)) as events:
        async for event in events:
            if isinstance(event, Delta):
                found.extend(event.token_ids)
                on_token(len(found))
    return found


async def test_a_step_that_hangs_costs_its_sessions_nothing(tmp_path):
    flag = tmp_path / "hang"
    (tmp_path / "sitecustomize.py").write_text(_HANG.format(flag=str(flag)))
    model = make_toy_model(tmp_path / "toy", layers=2, hidden=64)
    plan = ClusterPlan(
        target=str(model),
        num_drafters=0,
        settings={
            "PYTHONPATH": os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", ""))),
            "TREEDRAFT_TARGET__WATCHDOG_SECONDS": "1.0",
            "TREEDRAFT_TARGET__WORKER__REPORT_INTERVAL_SECONDS": "0.2",
        },
    )
    async with LocalCluster(plan) as cluster:
        keeping = asyncio.create_task(cluster.keep_up())
        policy = RetryPolicy(patience_seconds=120.0)
        async with Client([cluster.endpoint], policy=policy) as client, asyncio.timeout(200):
            undisturbed = await tokens_of(client, QUERY)
            first = cluster.processes["target-0"]

            def hang(count):
                if count >= 20 and first.is_running and not flag.exists():
                    flag.touch()

            reading = asyncio.create_task(tokens_of(client, replace(QUERY), hang))
            await first.wait()
            flag.unlink()
            assert "ENGINE_STUCK" in first.log_tail()
            assert await reading == undisturbed
            assert cluster.processes["target-0"].process_id != first.process_id
        keeping.cancel()
