"""The coordinator as a client, a worker and a target see it: all over real gRPC."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace

import grpc
import pytest
from tests.unit.coordinator.cluster import (
    HELLO,
    Cluster,
    a_cluster,
    ask,
    failure_of,
    finish_task,
    text_of,
    tokens_of,
)
from tests.unit.coordinator.support import (
    FakeTarget,
    a_drafter,
    describe_toy,
    encode,
    output,
    says,
    until,
)

from treedraft.core.errors import (
    CancelledError,
    InvalidRequestError,
    OverloadedError,
    PromptTooLongError,
    TreedraftError,
    UnavailableError,
    UnknownFieldError,
    UnknownModelError,
)
from treedraft.core.generation import ChatMessage, Finished, GenerateQuery, Started
from treedraft.core.prefix import page_hashes, short_hash
from treedraft.core.sampling import SpeculationOptions, StoppingCriteria
from treedraft.core.session import FinishReason, SessionFailure, SessionOutput
from treedraft.core.worker import WorkerReport
from treedraft.rpc.errors import from_rpc_error
from treedraft.telemetry import names
from treedraft.v1 import coordinator_service_pb2 as pb2
from treedraft.v1.coordinator_service_pb2_grpc import CoordinatorServiceStub


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with a_cluster() as cluster:
        yield cluster


async def test_a_text_is_asked_for_and_comes(cluster):
    target = FakeTarget(script=says("wörld!"))
    await cluster.add_target(target)
    await cluster.announce(a_drafter("d1"))
    started, *deltas, finished = await ask(cluster.client, HELLO)
    assert isinstance(started, Started)
    assert (started.seed, started.model) == (3, "toy")
    assert list(started.prompt_token_ids) == encode("hello")
    assert text_of(deltas) == "wörld!"
    assert tokens_of(deltas) == encode("wörld!")
    assert isinstance(finished, Finished)
    assert finished.reason is FinishReason.STOP
    assert finished.statistics.emitted_tokens == len(encode("wörld!"))
    assert finished.time_to_first_token_ms > 0
    (spec,) = target.started.values()
    assert spec.session_id == started.session_id
    assert (spec.epoch, list(spec.token_ids), spec.prompt_length) == (1, encode("hello"), 5)
    assert spec.stopping.max_tokens == 128 - 5
    assert [drafter.worker_id for drafter in spec.drafters] == ["d1"]
    assert target.coordinator_ids == ["c1"]


async def test_a_seed_is_drawn_and_returned(cluster):
    target = FakeTarget(script=says("x"))
    await cluster.add_target(target)
    query = GenerateQuery(text="hello")
    seeds = [(await ask(cluster.client, query))[0].seed for _ in range(2)]
    assert seeds[0] != seeds[1]
    assert [spec.sampling.seed for spec in target.started.values()] == seeds


async def test_conversations_and_tokens_are_prompts_too(cluster):
    target = FakeTarget(script=says("x"))
    await cluster.add_target(target)
    started, *_ = await ask(
        cluster.client, GenerateQuery(conversation=(ChatMessage("user", "hi"),))
    )
    assert list(started.prompt_token_ids) == encode("user:hi\nassistant:")
    started, *_ = await ask(cluster.client, GenerateQuery(token_ids=(1, 256)))
    assert started.prompt_token_ids == (1, 256)


async def test_stop_strings_never_show(cluster):
    await cluster.add_target(FakeTarget(script=says("one two STOP", chunk=2)))
    query = replace(HELLO, stopping=StoppingCriteria(stop_strings=("STOP",)))
    events = await ask(cluster.client, query)
    assert text_of(events) == "one two "


async def test_sixty_four_sessions_share_one_stream(cluster):
    target = FakeTarget(script=says("abc", chunk=1))
    await cluster.add_target(target, max_sessions=64)
    answers = await asyncio.gather(
        *(ask(cluster.client, replace(HELLO, text=f"prompt {i}")) for i in range(64))
    )
    assert [text_of(answer) for answer in answers] == ["abc"] * 64
    assert target.num_streams == 1
    assert target.num_described == 1
    assert len({answer[0].session_id for answer in answers}) == 64


async def test_the_log_is_acknowledged_to_the_target(cluster):
    target = FakeTarget()
    await cluster.add_target(target)
    asking = asyncio.create_task(ask(cluster.client, HELLO))
    spec = await target.session()
    target.say(output(spec, 0, [1, 2]))
    await until(lambda: target.logged.get(spec.session_id) == 5 + 2)
    target.say(output(spec, 2, [3], FinishReason.STOP))
    assert tokens_of(await asking) == [1, 2, 3]


async def test_a_client_that_leaves_frees_its_session(cluster):
    target = FakeTarget()
    await cluster.add_target(target)
    async with aclosing(cluster.client.generate(HELLO)) as events:
        started = await anext(events)
        spec = await target.session()
        target.say(output(spec, 0, [1]))
        assert (await anext(events)).token_ids == (1,)
    await until(lambda: target.cancelled == [started.session_id])
    cluster_now = await cluster.client.describe_cluster()
    assert cluster_now.num_sessions == 0


async def test_a_deadline_ends_a_session_at_the_target_too(cluster):
    target = FakeTarget()
    await cluster.add_target(target)
    error = await failure_of(cluster.client, HELLO, timeout_seconds=1.0)
    assert isinstance(error, CancelledError)
    assert error.reason == "DEADLINE_EXCEEDED"
    (spec,) = target.started.values()
    assert 0 < spec.time_limit_seconds <= 1.01  # gRPC rounds
    await until(lambda: target.cancelled == [spec.session_id])


async def test_a_session_whose_only_target_is_lost_fails_clearly_and_others_dial_it_again():
    # A wait would let its next report make it a target to move to.
    async with a_cluster(failover={"wait_seconds": 0.0}) as cluster:
        target = FakeTarget()
        await cluster.add_target(target)
        asking = asyncio.create_task(failure_of(cluster.client, HELLO))
        await target.session()
        target.hang_up()
        error = await asking
        assert isinstance(error, UnavailableError)
        assert error.reason == "NO_TARGET_LEFT"
        target.script = says("again")
        assert text_of(await ask(cluster.client, HELLO)) == "again"
        assert target.num_streams == 2


async def test_a_session_goes_on_at_another_target(cluster):
    lost, survivor = FakeTarget(), FakeTarget()
    await cluster.add_target(lost, "t1")
    await cluster.add_target(survivor, "t2")
    query = replace(HELLO, stopping=StoppingCriteria(stop_strings=("STOP",)))
    asking = asyncio.create_task(ask(cluster.client, query))
    first = await lost.session()
    lost.say(output(first, 0, encode("one S")))
    await until(lambda: lost.logged.get(first.session_id) == 5 + 5)
    lost.hang_up()
    second = await survivor.session()
    assert second == replace(
        first, epoch=2, token_ids=(*first.token_ids, *encode("one S")), drafters=second.drafters
    )
    survivor.say(output(replace(second, epoch=1), 5, encode("late")))
    survivor.say(output(second, 5, encode("TOP"), FinishReason.STOP))
    events = await asking
    assert tokens_of(events) == encode("one STOP")
    assert text_of(events) == "one "
    counted = cluster.metrics.observed.get_sample_value(
        names.METRIC_FAILOVERS, {names.LABEL_REASON: "TARGET_LOST"}
    )
    assert counted == 1
    await until(lambda: cluster.num_spans() == 4)
    spans = {span.name: span for span in cluster.spans.get_finished_spans()}
    move = spans[names.SPAN_FAILOVER]
    assert move.parent.span_id == spans[names.SPAN_GENERATE].context.span_id
    assert move.attributes[names.ATTR_FAILOVER_CAUSE] == "TARGET_LOST"
    assert move.attributes[names.ATTR_FAILOVER_FROM] == "t1"
    assert move.attributes[names.ATTR_PLACE_TARGET] == "t2"
    assert move.attributes[names.ATTR_FAILOVER_TOKENS] == 5 + 5


async def test_a_target_that_gives_a_session_up_is_left_for_another(cluster):
    first, second = FakeTarget(), FakeTarget(script=says("one two"))
    await cluster.add_target(first, "t1")
    asking = asyncio.create_task(ask(cluster.client, HELLO))
    spec = await first.session()
    await cluster.add_target(second, "t2")
    first.say(output(spec, 0, encode("one")))
    first.say(output(spec, 3, [], FinishReason.CANCELLED))
    events = await asking
    assert text_of(events) == "one two"
    assert events[-1].reason is FinishReason.STOP


async def test_a_failed_session_touches_no_other(cluster):
    target = FakeTarget()
    await cluster.add_target(target)
    failing = asyncio.create_task(failure_of(cluster.client, HELLO))
    one = await target.session(0)
    going_on = asyncio.create_task(ask(cluster.client, HELLO))
    two = await target.session(1)
    failure = SessionFailure("KV_POOL_FULL", "no room")
    target.say(
        SessionOutput(one.session_id, 1, 5, failure=failure),
        output(two, 0, [9], FinishReason.LENGTH),
    )
    error = await failing
    assert isinstance(error, OverloadedError)
    assert error.reason == "KV_POOL_FULL"
    assert tokens_of(await going_on) == [9]


async def test_bad_requests_are_refused_by_name(cluster):
    await cluster.add_target(FakeTarget(script=says("fine")))
    client = cluster.client
    for query, kind, reason in (
        (GenerateQuery(text=""), InvalidRequestError, "EMPTY_PROMPT"),
        (GenerateQuery(token_ids=()), InvalidRequestError, "EMPTY_PROMPT"),
        (GenerateQuery(token_ids=(1, 257)), InvalidRequestError, "TOKEN_OUT_OF_RANGE"),
        (GenerateQuery(text="x" * 97), PromptTooLongError, "PROMPT_TOO_LONG"),
        (GenerateQuery(model="nope", text="x"), UnknownModelError, "UNKNOWN_MODEL"),
        (
            replace(HELLO, stopping=StoppingCriteria(stop_token_ids=frozenset({300}))),
            InvalidRequestError,
            "TOKEN_OUT_OF_RANGE",
        ),
    ):
        error = await failure_of(client, query)
        assert (type(error), error.reason) == (kind, reason)
    assert text_of(await ask(client, HELLO)) == "fine"


async def raw_failure(cluster, request: pb2.GenerateRequest) -> TreedraftError:
    async with grpc.aio.insecure_channel(cluster.endpoint) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            async for _ in CoordinatorServiceStub(channel).Generate(request):
                pass
    return from_rpc_error(caught.value)


async def test_what_no_client_of_ours_would_send_is_refused(cluster):
    await cluster.add_target(FakeTarget(script=says("fine")))
    unknown = pb2.GenerateRequest(text="x")
    unknown.MergeFromString(b"\xa2\x06\x03abc")  # field 100
    error = await raw_failure(cluster, unknown)
    assert isinstance(error, UnknownFieldError)
    cold = pb2.GenerateRequest(text="x")
    cold.sampling.temperature = -1.0
    error = await raw_failure(cluster, cold)
    assert isinstance(error, InvalidRequestError)
    assert error.field == "temperature"
    assert isinstance(await raw_failure(cluster, pb2.GenerateRequest()), InvalidRequestError)
    huge = pb2.GenerateRequest(text="x" * (6 << 20))
    assert (await raw_failure(cluster, huge)).reason == "MESSAGE_TOO_LARGE"
    assert text_of(await ask(cluster.client, HELLO)) == "fine"


async def test_without_a_target_nothing_can_be_asked(cluster):
    error = await failure_of(cluster.client, HELLO)
    assert isinstance(error, UnavailableError)
    assert error.reason == "NO_TARGET"
    assert await cluster.client.list_models() == []


async def test_several_models_are_served_side_by_side(cluster):
    await cluster.add_target(FakeTarget(script=says("small")), "t1")
    big = describe_toy(model="big", context_length=256, tokenizer_hash="big-hash")
    await cluster.add_target(
        FakeTarget(script=says("large"), description=big),
        "t2",
        model="big",
        tokenizer_hash="big-hash",
    )
    await cluster.announce(a_drafter("d1"))
    models = {model.model: model for model in await cluster.client.list_models()}
    assert {name: model.num_drafters for name, model in models.items()} == {"toy": 1, "big": 0}
    assert models["big"].context_length == 256
    assert text_of(await ask(cluster.client, replace(HELLO, model="big"))) == "large"
    assert text_of(await ask(cluster.client, replace(HELLO, model="toy"))) == "small"
    assert (await failure_of(cluster.client, HELLO)).reason == "MODEL_REQUIRED"


async def test_prompts_go_where_their_prefix_is(cluster):
    prompt = encode("a prompt of some length")
    hashes = page_hashes(prompt, block_size=4, fingerprint="fingerprint", tenant_salt=b"")
    held = WorkerReport(
        free_kv_blocks=64,
        total_kv_blocks=64,
        added_prefixes=tuple(short_hash(item) for item in hashes),
    )
    await cluster.add_target(FakeTarget(script=says("cold")), "t1")
    await cluster.add_target(FakeTarget(script=says("warm")), "t2", held)
    query = GenerateQuery(token_ids=tuple(prompt))
    assert text_of(await ask(cluster.client, query)) == "warm"
    assert text_of(await ask(cluster.client, replace(HELLO, text="other text"))) == "cold"


async def test_speculation_switched_off_names_no_drafters(cluster):
    target = FakeTarget(script=says("x"))
    await cluster.add_target(target)
    await cluster.announce(a_drafter("d1"))
    await ask(cluster.client, replace(HELLO, speculation=SpeculationOptions(enabled=False)))
    (spec,) = target.started.values()
    assert spec.drafters == ()
    assert not spec.speculation.enabled


async def test_a_worker_that_leaves_is_signed_off(cluster):
    task = await cluster.add_target(FakeTarget())
    await finish_task(task)
    await cluster.until_known("t1", is_known=False)


async def test_overload_is_refused_with_a_time_to_come_back():
    limits = {"max_sessions": 1, "max_waiting": 1}
    async with a_cluster(limits=limits) as cluster:
        target = FakeTarget()
        await cluster.add_target(target)
        first = asyncio.create_task(ask(cluster.client, HELLO))
        spec = await target.session(0)
        second = asyncio.create_task(ask(cluster.client, HELLO))
        await until(lambda: cluster.counted(names.METRIC_SESSIONS_WAITING) == 1)
        error = await failure_of(cluster.client, HELLO)
        assert isinstance(error, OverloadedError)
        assert error.reason == "QUEUE_FULL"
        assert error.retry_after_ms > 0
        target.say(output(spec, 0, [1], FinishReason.STOP))
        assert tokens_of(await first) == [1]
        spec = await target.session(1)
        target.say(output(spec, 0, [2], FinishReason.STOP))
        assert tokens_of(await second) == [2]


async def test_a_request_is_one_trace_that_goes_on_at_the_target(cluster):
    target = FakeTarget(script=says("x"))
    await cluster.add_target(target)
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    started, *_ = await ask(cluster.client, HELLO, traceparent=parent)
    assert started.trace_id == "0af7651916cd43dd8448eb211c80319c"
    await until(
        lambda: bool(cluster.tracing.flush() or len(cluster.spans.get_finished_spans()) == 3)
    )
    spans = {span.name: span for span in cluster.spans.get_finished_spans()}
    root = spans[names.SPAN_GENERATE]
    assert f"{root.parent.span_id:016x}" == "b7ad6b7169203331"
    for child in (names.SPAN_ADMIT, names.SPAN_PLACE):
        assert spans[child].parent.span_id == root.context.span_id
    assert spans[names.SPAN_PLACE].attributes[names.ATTR_PLACE_TARGET] == "t1"
    (spec,) = target.started.values()
    assert spec.traceparent == f"00-{root.context.trace_id:032x}-{root.context.span_id:016x}-01"
    assert list(root.attributes[names.ATTR_FINISH_REASONS]) == ["stop"]


async def test_a_request_that_is_not_sampled_has_no_trace(cluster):
    target = FakeTarget(script=says("x"))
    await cluster.add_target(target)
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
    started, *_ = await ask(cluster.client, HELLO, traceparent=parent)
    assert started.trace_id == ""
    (spec,) = target.started.values()
    assert spec.traceparent == ""
