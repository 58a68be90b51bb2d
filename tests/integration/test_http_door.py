"""OpenAI's API as its own client sees it, before a coordinator and a scripted target."""

import asyncio
from collections.abc import AsyncIterator

import openai
import pytest
from openai import AsyncOpenAI
from tests.unit.coordinator.cluster import Cluster, a_cluster
from tests.unit.coordinator.support import FakeTarget, describe_toy, encode, output, says, until

from treedraft.core.session import FinishReason

HI = [{"role": "user", "content": "hi"}]


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with a_cluster() as cluster:
        yield cluster


@pytest.fixture
async def client(cluster) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{cluster.address}/v1", api_key="x", max_retries=0) as client:
        yield client


async def test_a_conversation_is_answered(cluster, client):
    target = FakeTarget(script=says("wörld!"))
    await cluster.add_target(target)
    answer = await client.chat.completions.create(model="toy", messages=HI, seed=5, max_tokens=9)
    assert answer.object == "chat.completion"
    assert answer.model == "toy"
    (choice,) = answer.choices
    assert (choice.message.role, choice.message.content) == ("assistant", "wörld!")
    assert choice.finish_reason == "stop"
    (spec,) = target.started.values()
    assert list(spec.token_ids) == encode("user:hi\nassistant:")
    assert (spec.sampling.seed, spec.stopping.max_tokens) == (5, 9)
    assert answer.id == f"chatcmpl-{spec.session_id}"
    usage = (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens)
    assert usage == (18, 7, 25)


async def test_a_stream_brings_text_as_it_comes(cluster, client):
    target = FakeTarget()
    await cluster.add_target(target)
    stream_task = asyncio.create_task(
        client.chat.completions.create(
            model="toy", messages=HI, stream=True, stream_options={"include_usage": True}
        )
    )
    spec = await target.session()
    target.say(output(spec, 0, encode("one ")))
    stream = await stream_task
    opening, first = await anext(stream), await anext(stream)
    assert opening.choices[0].delta.role == "assistant"
    assert first.choices[0].delta.content == "one "
    target.say(output(spec, 4, encode("two"), FinishReason.LENGTH))
    second, ending, summary = [chunk async for chunk in stream]
    assert second.choices[0].delta.content == "two"
    assert ending.choices[0].finish_reason == "length"
    assert summary.choices == []
    assert summary.usage.completion_tokens == 7
    assert summary.metrics["speculative_decoding"]["num_spec_steps"] == 2
    assert len({chunk.id for chunk in (opening, first, second, ending, summary)}) == 1


async def test_a_stream_closed_by_its_reader_cancels_the_session(cluster, client):
    target = FakeTarget()
    await cluster.add_target(target)
    asking = asyncio.create_task(
        client.chat.completions.create(model="toy", messages=HI, stream=True)
    )
    spec = await target.session()
    target.say(output(spec, 0, encode("one ")))
    stream = await asking
    await anext(stream)
    await stream.close()
    await until(lambda: target.cancelled == [spec.session_id])


@pytest.mark.parametrize("is_streaming", [False, True])
async def test_a_client_that_hangs_up_before_the_first_token_cancels(cluster, client, is_streaming):
    target = FakeTarget()
    await cluster.add_target(target)
    asking = asyncio.create_task(
        client.chat.completions.create(model="toy", messages=HI, stream=is_streaming)
    )
    spec = await target.session()
    asking.cancel()
    await until(lambda: target.cancelled == [spec.session_id])


async def test_choices_share_a_seed_and_differ_by_number(cluster, client):
    target = FakeTarget(script=says("abc"))
    await cluster.add_target(target)
    answer = await client.chat.completions.create(model="toy", messages=HI, n=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert [choice.message.content for choice in answer.choices] == ["abc"] * 3
    assert sorted(spec.choice for spec in target.started.values()) == [0, 1, 2]
    assert len({spec.sampling.seed for spec in target.started.values()}) == 1
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (18, 9)


async def test_choices_stream_side_by_side(cluster, client):
    await cluster.add_target(FakeTarget(script=says("abc", chunk=1)))
    texts, reasons = {0: "", 1: ""}, {}
    stream = await client.completions.create(model="toy", prompt="x", n=2, stream=True)
    async for chunk in stream:
        (choice,) = chunk.choices
        texts[choice.index] += choice.text
        if choice.finish_reason:
            reasons[choice.index] = choice.finish_reason
    assert texts == {0: "abc", 1: "abc"}
    assert reasons == {0: "stop", 1: "stop"}


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("ab", [encode("ab")]),
        ([5, 6], [[5, 6]]),
        (["a", "b"], [encode("a"), encode("b")]),
        ([[1], [2, 3]], [[1], [2, 3]]),
    ],
)
async def test_a_prompt_comes_in_four_forms(cluster, client, prompt, expected):
    target = FakeTarget(script=says("x"))
    await cluster.add_target(target)
    answer = await client.completions.create(model="toy", prompt=prompt, max_tokens=4)
    assert answer.object == "text_completion"
    assert [choice.text for choice in answer.choices] == ["x"] * len(expected)
    assert sorted(list(spec.token_ids) for spec in target.started.values()) == expected


@pytest.mark.parametrize("is_streaming", [False, True])
async def test_echo_repeats_text_and_tokens(cluster, client, is_streaming):
    await cluster.add_target(FakeTarget(script=says("!")))
    for prompt in ("hello", encode("hello")):
        answer = await client.completions.create(
            model="toy", prompt=prompt, echo=True, stream=is_streaming
        )
        if is_streaming:
            text = "".join([chunk.choices[0].text async for chunk in answer])
        else:
            text = answer.choices[0].text
        assert text == "hello!"


async def test_parameters_reach_the_target(cluster, client):
    target = FakeTarget(script=says("x"))
    await cluster.add_target(target)
    await client.chat.completions.create(
        model="toy",
        messages=[{"role": "developer", "content": [{"type": "text", "text": "be brief"}]}],
        temperature=0.5,
        top_p=0.9,
        presence_penalty=0.1,
        frequency_penalty=-0.2,
        logit_bias={"7": -3},
        stop=["END", "\n\n"],
        max_completion_tokens=12,
        seed=-1,
        user="somebody",
        extra_body={
            "top_k": 5,
            "min_p": 0.05,
            "repetition_penalty": 1.1,
            "stop_token_ids": [9],
            "ignore_eos": True,
            "min_tokens": 3,
            "speculation": {"enabled": False, "max_nodes": 4, "max_depth": 2},
            "verification": "rejection",
        },
    )
    (spec,) = target.started.values()
    sampling, stopping, speculation = spec.sampling, spec.stopping, spec.speculation
    assert list(spec.token_ids) == encode("system:be brief\nassistant:")
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.5, 0.9, 5)
    assert (sampling.min_p, sampling.repetition_penalty) == (0.05, 1.1)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.1, -0.2)
    assert sampling.logit_bias == ((7, -3.0),)
    assert sampling.seed == 2**64 - 1
    assert sampling.verification.value == "rejection"
    assert stopping.stop_strings == ("END", "\n\n")
    assert (stopping.max_tokens, stopping.min_tokens, stopping.ignore_eos) == (12, 3, True)
    assert stopping.stop_token_ids == {9}
    assert (speculation.enabled, speculation.max_nodes, speculation.max_depth) == (False, 4, 2)


async def test_tokens_and_their_sources_are_given_on_request(cluster, client):
    await cluster.add_target(FakeTarget(script=says("ab", chunk=1)))
    extra = {"return_token_ids": True}
    answer = await client.completions.create(model="toy", prompt="x", extra_body=extra)
    (choice,) = answer.choices
    assert choice.token_ids == encode("ab")
    assert choice.prompt_token_ids == encode("x")
    assert choice.token_sources == ["target", "target"]


async def test_usage_goes_with_every_chunk_if_wanted(cluster, client):
    await cluster.add_target(FakeTarget(script=says("abcd", chunk=2)))
    stream = await client.completions.create(
        model="toy",
        prompt="x",
        stream=True,
        stream_options={"include_usage": True, "continuous_usage_stats": True},
    )
    counts = [chunk.usage.completion_tokens async for chunk in stream]
    assert counts == [2, 4, 4, 4]


async def test_a_model_is_chosen_by_name(cluster, client):
    await cluster.add_target(FakeTarget(script=says("one")))
    other = FakeTarget(description=describe_toy(model="org/other"), script=says("two"))
    await cluster.add_target(other, worker_id="t2", model="org/other")
    for model, text in (("toy", "one"), ("org/other", "two")):
        answer = await client.chat.completions.create(model=model, messages=HI)
        assert answer.choices[0].message.content == text
    models = await client.models.list()
    assert [model.id for model in models.data] == ["org/other", "toy"]
    assert (await client.models.retrieve("org/other")).max_model_len == 128
    for asking in (
        client.models.retrieve("none"),
        client.chat.completions.create(model="none", messages=HI),
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            await asking
        assert caught.value.code == "model_not_found"
        assert caught.value.param == "model"
