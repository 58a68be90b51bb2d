"""Pools and observations for the tests of the policy."""

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from treedraft.autoscaler.observation import ClusterView
from treedraft.autoscaler.policy import Memory, Policy, decide
from treedraft.autoscaler.settings import PaceSettings, PoolSettings, WorkloadSettings
from treedraft.autoscaler.signals import Observation, PoolLoad
from treedraft.core.worker import LoadSignals, WorkerRegistration, WorkerReport, WorkerRole

EAGER = PaceSettings(
    smoothing_seconds=0,
    up_seconds=0,
    down_seconds=0,
    up_cooldown_seconds=0,
    down_cooldown_seconds=0,
    max_down_share=1,
)


def a_policy(*, target=(1, 10), draft=(0, 10), pace=EAGER):
    return Policy(
        PoolSettings(
            target=WorkloadSettings(name="t", min_replicas=target[0], max_replicas=target[1]),
            draft=draft
            and WorkloadSettings(name="d", min_replicas=draft[0], max_replicas=draft[1]),
        ),
        pace=pace,
    )


def signals(**values):
    return LoadSignals(**{"tokens_per_second": 100.0, "tokens_per_round": 2.5, **values})


def load(num_ready=1, num_sessions=0, *, of=None, **values):
    """A pool of workers that hold ten sessions each."""
    return PoolLoad(
        num_ready=num_ready,
        num_sessions=num_sessions,
        max_sessions=10 * num_ready,
        signals=of or signals(),
        **values,
    )


def seen(now=0.0, *, target=None, draft=None, replicas=None, drafters=None, unserved=0):
    target = target or load()
    draft = draft or PoolLoad()
    return Observation(
        now=now,
        target_replicas=target.num_ready if replicas is None else replicas,
        draft_replicas=draft.num_ready if drafters is None else drafters,
        target=target,
        draft=draft,
        num_unserved=unserved,
    )


class Run:
    """Decisions one after the other, with the memory in between."""

    def __init__(self, policy):
        self.policy, self.memory = policy, Memory()

    def __call__(self, observation):
        decision, self.memory = decide(self.policy, self.memory, observation)
        return decision

    def every(self, seconds, until, observation):
        """Decide again and again on the same load; return the last decision."""
        now, decision = observation.now, None
        while now <= until:
            decision = self(replace(observation, now=now))
            now += seconds
        return decision


def a_worker(worker_id="t-0", role=WorkerRole.TARGET, max_sessions=10, **report):
    registration = WorkerRegistration(
        worker_id, "one", role, "127.0.0.1:1", "model", max_sessions=max_sessions
    )
    return registration, WorkerReport(**report)


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class FakeObserver:
    """Shows the same cluster at every look; None is no answer."""

    def __init__(self, workers, unserved=None):
        self.view = None if workers is None else ClusterView(tuple(workers), unserved or {})

    async def observe(self):
        return self.view


def stamp():
    """Wall-clock times, one second apart."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    return (
        (start + timedelta(seconds=second)).isoformat() for second in itertools.count()
    ).__next__
