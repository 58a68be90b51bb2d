"""A session that runs, and moves, among scripted targets."""

import asyncio

from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.unit.coordinator.support import (
    a_spec,
    a_target,
    describe_toy,
    encode,
    output,
    toy_tokenizer_json,
    until,
)

from treedraft.coordinator.catalog import KnownModel
from treedraft.coordinator.failover import Failover
from treedraft.coordinator.log_entries import first_entry
from treedraft.coordinator.placement import Placement
from treedraft.coordinator.running_session import RelayLimits, RunningSession, SessionServices
from treedraft.coordinator.session_log import LogPace
from treedraft.coordinator.session_store.embedded import EmbeddedSessionStore
from treedraft.coordinator.session_store.records import WorkerRecord
from treedraft.coordinator.settings import FailoverSettings
from treedraft.core.errors import UnavailableError
from treedraft.core.generation import Delta
from treedraft.core.sampling import SamplingParameters, Verification
from treedraft.core.worker import WorkerReport
from treedraft.settings import TelemetrySettings
from treedraft.telemetry import names
from treedraft.telemetry.metrics import Metrics
from treedraft.telemetry.tracing import Tracing
from treedraft.text.tokenizer import Tokenizer

REJECTION = SamplingParameters(seed=7, verification=Verification.REJECTION)
LOST = UnavailableError("gone", reason="TARGET_LOST")
MODEL = KnownModel(describe_toy(), Tokenizer.from_json(toy_tokenizer_json()))


class FakeLink:
    """A stream to a target: keeps what it was told, and the sink of its session."""

    def __init__(self, target):
        self.target = target
        self.specs = []
        self.cancelled = []
        self.acknowledged = []
        self.sink = None
        self.num_said = 0

    def start(self, spec, sink):
        self.specs.append(spec)
        self.sink = sink

    def cancel(self, session_id):
        self.cancelled.append(session_id)

    def acknowledge(self, session_id, length):
        self.acknowledged.append(length)

    def say(self, text, reason=None):
        """Continue the session from where this target was given it."""
        spec = self.specs[-1]
        base = len(spec.token_ids) - spec.prompt_length + self.num_said
        self.sink.deliver(output(spec, base, encode(text), reason))
        self.num_said += len(encode(text))


class FakeLinks:
    def __init__(self):
        self.links = {}

    def get(self, target):
        return self.links.setdefault(target.worker_id, FakeLink(target))

    def __getitem__(self, worker_id):
        return self.links[worker_id]


class FakeRegistry:
    """Targets that are simply there."""

    def __init__(self, *worker_ids):
        self.ids = list(worker_ids)
        self.doubted = []

    def targets(self):
        return [(WorkerRecord(a_target(name), WorkerReport()), MODEL) for name in self.ids]

    def doubt(self, worker_id, incarnation):
        self.doubted.append(worker_id)

    def is_doubted(self, worker):
        return worker.worker_id in self.doubted

    async def change(self):
        await asyncio.Event().wait()


class FakePlacer:
    """Takes the first that is left."""

    async def place(self, targets, prompt, **_):
        if not targets:
            raise UnavailableError("none", reason="NO_TARGET")
        return Placement(targets[0][0].registration, (), "the first one")


class World:
    def __init__(self, *, spec=None, targets=("t1", "t2", "t3"), **settings):
        self.spec = spec or a_spec()
        self.now = 0.0
        self.store = EmbeddedSessionStore(
            session_ttl_seconds=60,
            lease_seconds=30,
            worker_ttl_seconds=5,
            clock=lambda: self.now,
        )
        self.links = FakeLinks()
        self.metrics = Metrics("coordinator")
        self.tracing = Tracing(
            "coordinator", TelemetrySettings(sample_ratio=1.0), exporter=InMemorySpanExporter()
        )
        self.registry = FakeRegistry(*targets)
        self.failover = Failover(self.registry, FakePlacer(), FailoverSettings(**settings))
        services = SessionServices(
            self.links,
            self.store,
            self.failover,
            RelayLimits(LogPace(0.0, 30.0, 5.0), max_unread_tokens=100),
            self.tracing,
            self.metrics,
        )
        self.entry = first_entry(self.spec, Placement(a_target("t1"), (), ""), MODEL, "c1")
        self.session = RunningSession(
            self.spec,
            self.entry,
            MODEL,
            services,
            span=self.tracing.start(names.SPAN_GENERATE),
            on_tokens=lambda _: None,
        )
        self.events = []
        self.time_left = None

    async def start(self):
        await self.store.create(self.entry.request, owner="c1")
        self.session.start(a_target("t1"))
        self.reading = asyncio.create_task(self._read())

    async def _read(self):
        async for event in self.session.events(lambda: self.time_left):
            self.events.append(event)

    async def until_at(self, worker_id, times=1):
        await until(
            lambda: worker_id in self.links.links and len(self.links[worker_id].specs) == times
        )
        return self.links[worker_id]

    async def until_shown(self, text):
        await until(lambda: self.text == text)

    @property
    def text(self):
        return "".join(event.text for event in self.events if isinstance(event, Delta))

    @property
    def token_ids(self):
        return [t for event in self.events if isinstance(event, Delta) for t in event.token_ids]

    def num_moves(self, cause):
        return self.metrics.observed.get_sample_value(
            names.METRIC_FAILOVERS, {names.LABEL_REASON: cause}
        )
