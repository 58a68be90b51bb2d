"""Where the time of a session went: its rounds follow each other, and their parts fill them."""

import itertools
import random

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests.engine_harness import EngineHarness, spec
from tests.scripted_drafters import GuessingDrafter

from treedraft.core.session import RoundTimes
from treedraft.settings import TelemetrySettings
from treedraft.target.settings import BudgetSettings, GateSettings, KVSettings, TargetSettings
from treedraft.telemetry import names
from treedraft.telemetry.tracing import Tracing

PROMPT = list(range(3, 43))
SETTINGS = TargetSettings(
    kv=KVSettings(tokens=4096, block_size=8),
    budget=BudgetSettings(mode="fixed", max_nodes=8),
    gate=GateSettings(enabled=False),
    prefill_chunk=16,
)
INSIDE = (names.SPAN_QUEUE, names.SPAN_FORWARD, names.SPAN_WALK, names.SPAN_COMMIT)


def test_rounds_fill_the_time_of_a_session_and_parts_fill_the_rounds(llama, tmp_path):
    exporter = InMemorySpanExporter()
    telemetry = TelemetrySettings(sample_ratio=1.0, store_path=str(tmp_path / "spans.sqlite"))
    tracing = Tracing("target", telemetry, exporter=exporter)
    drafter = GuessingDrafter({}, random.Random(1), vocab_size=512)
    harness = EngineHarness(llama, SETTINGS, drafter, tracing=tracing)
    with harness:
        [result] = harness.run(spec(PROMPT, max_tokens=40))
    spans = exporter.get_finished_spans()
    rounds = sorted((s for s in spans if s.name == names.SPAN_ROUND), key=lambda s: s.start_time)
    statistics = result.finish.statistics
    assert len(rounds) == statistics.rounds > 1
    for before, after in itertools.pairwise(rounds):
        assert after.start_time == before.end_time
    for one in rounds:
        parts = sorted(
            (s for s in spans if s.parent and s.parent.span_id == one.context.span_id),
            key=lambda s: s.start_time,
        )
        assert tuple(part.name for part in parts) == INSIDE
        moments = [one.start_time, *(part.end_time for part in parts)]
        assert [part.start_time for part in parts] == moments[:-1]
        assert moments[-1] == one.end_time
    # What the client is told adds up to the same: means over the rounds, in milliseconds.
    told = statistics.round_ms
    assert isinstance(told, RoundTimes)
    total_ms = sum(one.end_time - one.start_time for one in rounds) / 1e6
    inside_ms = told.queue + told.forward + told.walk + told.commit
    assert inside_ms * statistics.rounds == pytest.approx(total_ms, rel=0.01)
