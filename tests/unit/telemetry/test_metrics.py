import threading
import urllib.error
import urllib.request

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from treedraft.core.growth import TokenSource
from treedraft.core.session import FinishReason, RoundTimes
from treedraft.core.worker import WorkerReport, WorkerRole
from treedraft.telemetry import names
from treedraft.telemetry.aliases import ALIASES
from treedraft.telemetry.catalogue import ROLES, metrics_of
from treedraft.telemetry.metrics import Metrics, serve_metrics
from treedraft.telemetry.metrics_endpoint import MetricsEndpoint
from treedraft.telemetry.round_metrics import FinishedRound

MODEL, LOOKUP = TokenSource.DRAFT_MODEL, TokenSource.LOOKUP


@pytest.fixture
def metrics():
    return Metrics("target")


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, {"role": "target", **labels})


def alias(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, {"model_name": "m", "engine": "0", **labels})


def test_a_round_counts_nodes_by_source_and_time_by_part(metrics):
    times = RoundTimes(draft=1, wire=2, queue=3, forward=4, walk=5, commit=6)
    metrics.rounds_finished(
        [FinishedRound(times, (MODEL, MODEL, LOOKUP), (MODEL, LOOKUP), is_hit=True)]
    )
    sums = {
        part: value(metrics, names.METRIC_ROUND_PART_SECONDS + "_sum", part=part)
        for part in names.ROUND_PARTS
    }
    assert sums == pytest.approx(
        {"draft": 1e-3, "wire": 2e-3, "queue": 3e-3, "forward": 4e-3, "walk": 5e-3, "commit": 6e-3}
    )
    assert value(metrics, names.METRIC_NODES_ADMITTED, source="draft_model") == 2
    assert value(metrics, names.METRIC_NODES_ADMITTED, source="lookup") == 1
    assert value(metrics, names.METRIC_NODES_ACCEPTED, source="draft_model") == 1
    assert value(metrics, names.METRIC_TREE_NODES + "_sum") == 3
    assert value(metrics, names.METRIC_ACCEPTED_LENGTH + "_sum") == 2
    assert value(metrics, names.METRIC_ROUNDS, outcome="hit") == 1
    assert value(metrics, names.METRIC_ROUNDS, outcome="miss") == 0


def test_rounds_that_are_one_object_count_as_often_as_they_are_told(metrics):
    plain = FinishedRound(RoundTimes(forward=4), (), (), is_hit=None)
    drafted = FinishedRound(RoundTimes(forward=4), (MODEL,) * 2, (MODEL,), is_hit=False)
    metrics.rounds_finished([plain, drafted, plain, drafted, plain])
    assert value(metrics, names.METRIC_ROUNDS, outcome="plain") == 3
    assert value(metrics, names.METRIC_ROUNDS, outcome="miss") == 2
    assert value(metrics, names.METRIC_NODES_ADMITTED, source="draft_model") == 4
    assert value(metrics, names.METRIC_NODES_ACCEPTED, source="draft_model") == 2
    forward = names.METRIC_ROUND_PART_SECONDS
    assert value(metrics, forward + "_sum", part="forward") == pytest.approx(20e-3)
    assert value(metrics, forward + "_count", part="forward") == 5
    assert value(metrics, forward + "_count", part="wire") == 2
    assert value(metrics, names.METRIC_TREE_NODES + "_sum") == 4


def test_a_plain_round_says_nothing_about_drafting(metrics):
    metrics.rounds_finished([FinishedRound(RoundTimes(forward=4), (), (), is_hit=None)])
    assert value(metrics, names.METRIC_ROUNDS, outcome="plain") == 1
    assert value(metrics, names.METRIC_ROUND_PART_SECONDS + "_count", part="wire") == 0
    assert value(metrics, names.METRIC_ROUND_PART_SECONDS + "_count", part="forward") == 1
    assert value(metrics, names.METRIC_TREE_NODES + "_bucket", le="0.0") == 1


def test_events_are_counted_by_reason(metrics):
    metrics.nodes_drafted([LOOKUP, LOOKUP])
    metrics.nodes_dropped("SESSION_CLOSED", 5)
    metrics.growth_refused("INVALID_GROWTH")
    metrics.link_failed("draft", "UNAVAILABLE")
    metrics.session_preempted()
    metrics.session_finished(FinishReason.STOP, 2.0)
    metrics.session_finished(FinishReason.CANCELLED, 9.0)
    metrics.session_failed("KV_POOL_FULL")
    assert value(metrics, names.METRIC_NODES_DRAFTED, source="lookup") == 2
    assert value(metrics, names.METRIC_NODES_DROPPED, reason="SESSION_CLOSED") == 5
    assert value(metrics, names.METRIC_GROWTHS_REFUSED, reason="INVALID_GROWTH") == 1
    assert value(metrics, names.METRIC_LINK_FAILURES, peer="draft", reason="UNAVAILABLE") == 1
    assert value(metrics, names.METRIC_PREEMPTIONS) == 1
    assert value(metrics, names.METRIC_SESSIONS_FINISHED, reason="stop") == 1
    assert value(metrics, names.METRIC_SESSIONS_FINISHED, reason="length") == 0
    assert value(metrics, names.METRIC_SESSIONS_FINISHED, reason="cancelled") == 1
    # How long an answer would have taken that nobody waited for says nothing.
    assert value(metrics, names.METRIC_SESSION_SECONDS + "_sum") == 2.0
    assert value(metrics, names.METRIC_SESSIONS_FAILED, reason="KV_POOL_FULL") == 1


def test_tokens_of_one_round_share_its_time(metrics):
    metrics.first_token(0.25)
    metrics.tokens_emitted(1)
    metrics.tokens_emitted(4, 0.2)
    assert value(metrics, names.METRIC_TOKENS_EMITTED) == 5
    assert value(metrics, names.METRIC_INTER_TOKEN_SECONDS + "_count") == 4
    assert value(metrics, names.METRIC_INTER_TOKEN_SECONDS + "_sum") == pytest.approx(0.2)
    assert value(metrics, names.METRIC_FIRST_TOKEN_SECONDS + "_sum") == 0.25


def test_passes_prompts_and_waits_are_observed(metrics):
    metrics.pass_finished(0.05, num_rows=17)
    metrics.prompt_prefilled(num_computed=10, num_cached=32)
    metrics.session_started(1.5)
    assert value(metrics, names.METRIC_FORWARD_SECONDS + "_sum") == 0.05
    assert value(metrics, names.METRIC_FORWARD_ROWS + "_sum") == 17
    assert value(metrics, names.METRIC_TOKENS_PREFILLED) == 10
    assert value(metrics, names.METRIC_TOKENS_CACHED) == 32
    assert value(metrics, names.METRIC_QUEUE_WAIT_SECONDS + "_sum") == 1.5


def test_gauges_follow_the_report(metrics):
    metrics.load_reported(
        WorkerReport(num_sessions=3, num_waiting=1, free_kv_blocks=7, total_kv_blocks=9)
    )
    metrics.load_reported(WorkerReport(num_sessions=2, free_kv_blocks=8, total_kv_blocks=9))
    assert value(metrics, names.METRIC_SESSIONS) == 2
    assert value(metrics, names.METRIC_SESSIONS_WAITING) == 0
    assert value(metrics, names.METRIC_KV_BLOCKS_FREE) == 8
    assert value(metrics, names.METRIC_KV_BLOCKS) == 9


def test_two_services_in_one_process_share_nothing(metrics):
    other = Metrics("target")
    metrics.session_preempted()
    other.session_preempted()
    assert value(metrics, names.METRIC_PREEMPTIONS) == 1


def test_threads_lose_no_count(metrics):
    def work():
        for _ in range(500):
            metrics.nodes_dropped("X", 1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert value(metrics, names.METRIC_NODES_DROPPED, reason="X") == 2000


def test_prometheus_scrapes_over_http(metrics):
    metrics.session_preempted()
    endpoint = MetricsEndpoint(metrics.registry, port=0)
    try:
        request = urllib.request.Request(
            f"http://127.0.0.1:{endpoint.port}/metrics",
            headers={"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"},
        )
        with urllib.request.urlopen(request) as response:
            text = response.read().decode()
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{endpoint.port}/other")
    finally:
        endpoint.close()
    families = {family.name for family in text_string_to_metric_families(text)}
    # The format that Prometheus prefers would lose the colon.
    assert "\n" + names.ALIAS_NUM_DRAFTS + "{" in text
    assert names.METRIC_PREEMPTIONS.removesuffix("_total") in families
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{endpoint.port}/metrics")


def test_port_0_serves_nothing(metrics):
    assert serve_metrics(metrics, port=0) is None


def test_what_never_happened_is_there_as_zero(metrics):
    text = generate_latest(metrics.registry).decode()
    assert f'{names.METRIC_ROUNDS}{{outcome="miss",role="target"}} 0.0' in text
    assert f'{names.METRIC_NODES_ACCEPTED}{{role="target",source="lookup"}} 0.0' in text


def accepted_lengths(metrics, *lengths):
    metrics.rounds_finished(
        [
            FinishedRound(RoundTimes(), (MODEL,) * (length + 1), (MODEL,) * length, is_hit=True)
            for length in lengths
        ]
    )


def test_acceptance_by_position_follows_from_the_lengths(metrics):
    accepted_lengths(metrics, 0, 1, 3, 3, 20)
    by_position = [
        value(metrics, names.METRIC_ACCEPTED_AT_POSITION, position=str(position))
        for position in range(16)
    ]
    assert by_position == [4, 3, 3, *([1] * 13)]


def test_vllms_names_say_the_same(metrics):
    metrics.serves("m")
    accepted_lengths(metrics, 0, 2)
    metrics.rounds_finished([FinishedRound(RoundTimes(), (), (), is_hit=None)])
    metrics.prompt_prefilled(num_computed=10, num_cached=6)
    metrics.tokens_emitted(3)
    metrics.first_token(0.25)
    metrics.tokens_emitted(2, 0.1)
    metrics.session_finished(FinishReason.LENGTH, 1.5)
    metrics.load_reported(
        WorkerReport(num_sessions=3, num_waiting=1, free_kv_blocks=6, total_kv_blocks=8)
    )
    assert alias(metrics, names.ALIAS_NUM_DRAFTS) == 2
    assert alias(metrics, names.ALIAS_DRAFT_TOKENS) == 1 + 3
    assert alias(metrics, names.ALIAS_ACCEPTED_TOKENS) == 2
    assert alias(metrics, names.ALIAS_ACCEPTED_PER_POS, position="1") == 1
    assert alias(metrics, names.ALIAS_ACCEPTED_PER_POS, position="2") == 0
    assert alias(metrics, names.ALIAS_PROMPT_TOKENS) == 16
    assert alias(metrics, names.ALIAS_PREFIX_HITS) == 6
    assert alias(metrics, names.ALIAS_GENERATION_TOKENS) == 5
    assert alias(metrics, names.ALIAS_FIRST_TOKEN_SECONDS + "_sum") == 0.25
    assert alias(metrics, names.ALIAS_FIRST_TOKEN_SECONDS + "_bucket", le="+Inf") == 1
    assert alias(metrics, names.ALIAS_INTER_TOKEN_SECONDS + "_count") == 2
    assert alias(metrics, names.ALIAS_REQUEST_SECONDS + "_sum") == 1.5
    assert alias(metrics, names.ALIAS_REQUEST_SUCCESS, finished_reason="length") == 1
    assert alias(metrics, names.ALIAS_REQUESTS_RUNNING) == 3
    assert alias(metrics, names.ALIAS_REQUESTS_WAITING) == 1
    assert alias(metrics, names.ALIAS_KV_USE) == 0.25


def test_busy_time_and_lateness_add_up(metrics):
    metrics.pass_finished(0.5, num_rows=3)
    metrics.looked_up(0.25)
    metrics.drafts_arrived(0)
    metrics.drafts_arrived(2)
    assert value(metrics, names.METRIC_BUSY_SECONDS) == 0.75
    assert value(metrics, names.METRIC_DRAFT_LATENESS + "_bucket", le="0.0") == 1
    assert value(metrics, names.METRIC_DRAFT_LATENESS + "_sum") == 2


def test_kv_use_is_observed_where_there_is_kv(metrics):
    metrics.load_reported(WorkerReport(free_kv_blocks=1, total_kv_blocks=4))
    metrics.load_reported(WorkerReport())
    assert value(metrics, names.METRIC_KV_USE + "_count") == 1
    assert value(metrics, names.METRIC_KV_USE + "_sum") == 0.75


def test_a_drafter_is_asked_at_each_scrape():
    drafter, reports = Metrics("draft"), [WorkerReport(num_sessions=1)]
    drafter.load_watched(lambda: reports[-1])
    reports.append(WorkerReport(num_sessions=5, free_kv_blocks=2, total_kv_blocks=3))
    sample = drafter.registry.get_sample_value
    assert sample(names.METRIC_SESSIONS, {"role": "draft"}) == 5
    assert sample(names.METRIC_KV_BLOCKS_FREE, {"role": "draft"}) == 2


def test_workers_are_counted_by_role_and_state():
    coordinator = Metrics("coordinator")
    coordinator.workers_known([(WorkerRole.DRAFT, False), (WorkerRole.TARGET, True)])
    coordinator.workers_known([(WorkerRole.DRAFT, False), (WorkerRole.DRAFT, False)])

    def number(role, state):
        labels = {"role": "coordinator", "worker_role": role, "state": state}
        return coordinator.registry.get_sample_value(names.METRIC_WORKERS, labels)

    assert number("draft", "ready") == 2
    assert number("target", "ready") == number("target", "draining") == 0


@pytest.mark.parametrize("role", ROLES)
def test_a_service_exports_what_the_catalogue_says(role):
    metrics = Metrics(role)
    families = {
        family.name + ("_total" if family.type == "counter" else ""): family
        for family in metrics.registry.collect()
    }
    ours = {name for name in families if name.startswith("treedraft_")}
    assert ours == {spec.name for spec in metrics_of(role)}
    aliases = {name for name in families if name.startswith("vllm:")}
    assert aliases == ({spec.name for spec in ALIASES} if role == "target" else set())
    for name in ours:
        assert all(sample.labels["role"] == role for sample in families[name].samples)
