import itertools
import time
from dataclasses import replace

import pytest
from tests.unit.coordinator.cluster import HELLO
from tests.unit.coordinator.support import a_target, describe_toy, toy_tokenizer_json

from treedraft.coordinator.caretaker import Caretaker
from treedraft.coordinator.catalog import KnownModel
from treedraft.coordinator.failover import Failover
from treedraft.coordinator.opening import Opening
from treedraft.coordinator.placement import Placement
from treedraft.coordinator.request import GenerationRequest
from treedraft.coordinator.resumption import Resumption
from treedraft.coordinator.running_session import RelayLimits, SessionServices
from treedraft.coordinator.session_log import LogPace
from treedraft.coordinator.session_store.embedded import EmbeddedSessionStore
from treedraft.coordinator.session_store.protocol import unknown_session
from treedraft.coordinator.session_store.records import WorkerRecord
from treedraft.coordinator.settings import FailoverSettings, LimitSettings
from treedraft.coordinator.unserved import UnservedModels
from treedraft.core.errors import InvalidRequestError
from treedraft.core.worker import WorkerReport
from treedraft.settings import TelemetrySettings
from treedraft.telemetry import names
from treedraft.telemetry.metrics import Metrics
from treedraft.telemetry.tracing import Tracing
from treedraft.text.tokenizer import Tokenizer

KEYED = replace(HELLO, idempotency_key="a key")
MODEL = KnownModel(describe_toy(), Tokenizer.from_json(toy_tokenizer_json()))
SEEDS = itertools.count()


class OneTarget:
    """A registry, a placer and the link to the only target there is."""

    def __init__(self):
        self.target = a_target("t1")
        self.started = []

    def targets(self):
        return [(WorkerRecord(self.target, WorkerReport()), MODEL)]

    async def place(self, targets, prompt, **_):
        return Placement(self.target, (), "the only one")

    def get(self, target):
        return self

    def start(self, spec, sink):
        self.started.append(spec)

    def cancel(self, session_id):
        pass


class LateView:
    """A store that shows a session only when it was asked for once before."""

    def __init__(self, store):
        self._store = store
        self._is_late = True

    def __getattr__(self, name):
        return getattr(self._store, name)

    async def load(self, session_id):
        if self._is_late:
            self._is_late = False
            raise unknown_session(session_id)
        return await self._store.load(session_id)


class Door:
    """What a coordinator opens sessions with."""

    def __init__(self, coordinator_id, store):
        self.metrics = Metrics("coordinator")
        self.tracing = Tracing("coordinator", TelemetrySettings(sample_ratio=0.0))
        world = OneTarget()
        failover = Failover(world, world, FailoverSettings())
        limits = RelayLimits(LogPace(0.0, 30.0, 5.0), max_unread_tokens=100)
        services = SessionServices(world, store, failover, limits, self.tracing, self.metrics)
        self.caretaker = Caretaker(services.running, grace_seconds=60.0, max_kept=9)
        resumption = Resumption(world, services, self.caretaker, coordinator_id)
        self.opening = Opening(
            world,
            world,
            services,
            resumption,
            LimitSettings(),
            unserved=UnservedModels(),
            coordinator_id=coordinator_id,
            draw_seed=lambda: next(SEEDS),
            new_session_id=lambda: "unkeyed",
        )

    def a_request(self):
        span = self.tracing.start(names.SPAN_GENERATE)
        return GenerationRequest(span, self.metrics, time.monotonic, None)


@pytest.fixture
def store():
    return EmbeddedSessionStore(session_ttl_seconds=60, lease_seconds=30, worker_ttl_seconds=5)


async def test_who_was_slower_under_a_key_does_not_end_the_session_of_the_quicker_one(store):
    quick, slow = Door("c1", store), Door("c2", LateView(store))
    session = await quick.opening.open_once(quick.a_request(), KEYED)
    late = slow.a_request()
    with pytest.raises(InvalidRequestError) as caught:
        await slow.opening.open_once(late, replace(KEYED, text="goodbye"))
    assert caught.value.reason == "IDEMPOTENCY_KEY_REUSED"
    late.fail(caught.value)
    slow.caretaker.take(late)
    await slow.caretaker.close()
    assert late.num_tokens == 0
    assert (await store.load(session.spec.session_id)).finish_reason is None
    await session.close()


async def test_who_was_slower_with_the_same_query_is_told_that_it_can_be_resumed(store):
    quick, slow = Door("c1", store), Door("c2", LateView(store))
    session = await quick.opening.open_once(quick.a_request(), KEYED)
    late = slow.a_request()
    assert await slow.opening.open_once(late, KEYED) is None
    assert late.session is None  # nothing of it is to be ended if its client leaves now
    assert (await store.load(session.spec.session_id)).finish_reason is None
    await session.close()
