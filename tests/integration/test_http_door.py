"""OpenAI's API as its own client sees it, before a coordinator and a scripted target."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace

import httpx2
import openai
import pytest
from openai import AsyncOpenAI
from pydantic import BaseModel
from tests.unit.coordinator.cluster import Cluster, a_cluster
from tests.unit.coordinator.support import FakeTarget, describe_toy, encode, output, says, until

from treedraft.core.grammar import ANY_JSON_OBJECT, Grammar, GrammarKind
from treedraft.core.logprobs import TokenLogprobs
from treedraft.core.session import FinishReason, SessionFailure, SessionOutput

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


def _with_logprobs(spec):
    (first, second) = says("a€", chunk=2)(spec)
    told = tuple(TokenLogprobs(-0.5, ((i, -0.5), (98, -1.0))) for i in first.token_ids)
    return [replace(first, logprobs=told), replace(second, logprobs=told)]


async def test_log_probabilities_of_a_message(cluster, client):
    target = FakeTarget(script=_with_logprobs)
    await cluster.add_target(target)
    answer = await client.chat.completions.create(
        model="toy", messages=HI, logprobs=True, top_logprobs=2
    )
    content = answer.choices[0].logprobs.content
    assert [entry.bytes for entry in content] == [[97], [0xE2], [0x82], [0xAC]]
    assert content[0].token == "a"
    assert content[0].logprob == -0.5
    assert [top.token for top in content[0].top_logprobs] == ["a", content[0].top_logprobs[1].token]
    (spec,) = target.started.values()
    assert spec.num_logprobs == 2
    stream = await client.chat.completions.create(
        model="toy", messages=HI, logprobs=True, stream=True
    )
    entries = [
        entry
        async for chunk in stream
        if chunk.choices[0].logprobs
        for entry in chunk.choices[0].logprobs.content
    ]
    assert [entry.bytes for entry in entries] == [[97], [0xE2], [0x82], [0xAC]]


async def test_log_probabilities_of_plain_text(cluster, client):
    await cluster.add_target(FakeTarget(script=_with_logprobs))
    answer = await client.completions.create(model="toy", prompt="x", logprobs=1)
    told = answer.choices[0].logprobs
    assert told.tokens[0] == "a"
    assert told.token_logprobs == [-0.5] * 4
    assert told.text_offset == [0, 1, 2, 3]
    assert told.top_logprobs[0]["a"] == -0.5
    stream = await client.completions.create(model="toy", prompt="x", logprobs=1, stream=True)
    offsets = [
        offset
        async for chunk in stream
        if chunk.choices[0].logprobs
        for offset in chunk.choices[0].logprobs.text_offset
    ]
    assert offsets == [0, 1, 2, 3]


class Person(BaseModel):
    name: str
    age: int


async def test_structured_output_becomes_a_grammar(cluster, client):
    target = FakeTarget(script=says('{"name": "Bo", "age": 7}'))
    await cluster.add_target(target)
    answer = await client.chat.completions.parse(
        model="toy", messages=HI, response_format=Person, max_tokens=64
    )
    assert answer.choices[0].message.parsed == Person(name="Bo", age=7)
    (spec,) = target.started.values()
    grammar = spec.sampling.grammar
    assert grammar.kind is GrammarKind.JSON_SCHEMA
    assert set(json.loads(grammar.source)["properties"]) == {"name", "age"}


@pytest.mark.parametrize(
    ("body", "grammar"),
    [
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, ANY_JSON_OBJECT),
        ({"structured_outputs": {"regex": "a+"}}, Grammar(GrammarKind.REGEX, "a+")),
        ({"structured_outputs": {"choice": ["a b", "c."]}}, Grammar(GrammarKind.REGEX, r"a b|c\.")),
        (
            {"structured_outputs": {"grammar": 'start: "a"'}},
            Grammar(GrammarKind.LARK, 'start: "a"'),
        ),
        (
            {"structured_outputs": {"json": {"type": "array"}}},
            Grammar(GrammarKind.JSON_SCHEMA, '{"type": "array"}'),
        ),
    ],
)
async def test_grammars_come_in_the_words_of_two_apis(cluster, client, body, grammar):
    target = FakeTarget(script=says("x"))
    await cluster.add_target(target)
    await client.chat.completions.create(model="toy", messages=HI, extra_body=body)
    (spec,) = target.started.values()
    assert spec.sampling.grammar == grammar


async def read_some(response: httpx2.Response, num_events: int) -> list[str]:
    lines, num_seen = [], 0
    async for line in response.aiter_lines():
        lines.append(line)
        num_seen += line.startswith("data:")
        if num_seen == num_events:
            return lines
    return lines


def content_of(lines: list[str]) -> str:
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)


async def test_a_stream_that_broke_is_resumed_after_the_last_event_seen():
    async with (
        a_cluster(disconnect_grace_seconds=30.0) as cluster,
        httpx2.AsyncClient(base_url=cluster.address) as http,
    ):
        target = FakeTarget(script=says("a longer text", chunk=2))
        await cluster.add_target(target)
        body = {"messages": HI, "stream": True, "resumable": True}
        async with http.stream("POST", "/v1/chat/completions", json=body) as response:
            lines = await read_some(response, 4)
            # Were it resumed before the target has said all, it would be begun there anew.
            num_emitted = cluster.metrics.observed.get_sample_value
            num_all = len(encode("a longer text"))
            await until(lambda: num_emitted("treedraft_tokens_emitted_total") == num_all)
        name = json.loads(next(line for line in lines if line.startswith("data:"))[6:])["id"]
        for attempt in range(3):
            last = [line[4:] for line in lines if line.startswith("id: ")][-1]
            headers = {"last-event-id": last}
            path = f"/v1/chat/completions/{name}/stream"
            async with http.stream("GET", path, headers=headers) as response:
                assert response.status_code == 200
                lines += await read_some(response, 1 if attempt < 2 else 99)
        assert content_of(lines) == "a longer text"
        assert '"finish_reason":"stop"' in "".join(lines)
        assert target.cancelled == []
        whole = await http.get(path)
        assert content_of(whole.text.splitlines()) == "a longer text"
        for event_id, status, code in (
            ("nonsense", 400, "invalid_event_id"),
            (f"3-{'A' * 43}", 409, "tokens_mismatch"),
        ):
            refused = await http.get(path, headers={"last-event-id": event_id})
            assert (refused.status_code, refused.json()["error"]["code"]) == (status, code)
        gone = await http.get("/v1/chat/completions/chatcmpl-none/stream")
        assert gone.status_code == 404


async def test_text_kept_back_until_the_end_is_told_once():
    async with (
        a_cluster(disconnect_grace_seconds=30.0) as cluster,
        httpx2.AsyncClient(base_url=cluster.address) as http,
    ):
        script = says("one EN", chunk=6, reason=FinishReason.LENGTH)
        await cluster.add_target(FakeTarget(script=script))
        body = {"messages": HI, "stream": True, "resumable": True, "stop": ["END"]}
        async with http.stream("POST", "/v1/chat/completions", json=body) as response:
            lines = await read_some(response, 3)
        assert content_of(lines) == "one EN"
        name = json.loads(next(line for line in lines if line.startswith("data:"))[6:])["id"]
        path = f"/v1/chat/completions/{name}/stream"
        first, last = [line[4:] for line in lines if line.startswith("id: ")]
        rest = await http.get(path, headers={"last-event-id": first})
        assert content_of(rest.text.splitlines()) == "EN"
        rest = await http.get(path, headers={"last-event-id": last})
        assert content_of(rest.text.splitlines()) == ""
        assert '"finish_reason":"length"' in rest.text


@pytest.mark.parametrize("is_resumable", [False, True])
async def test_a_broken_stream_leaves_its_session_only_if_it_is_to_be_resumed(is_resumable):
    async with (
        a_cluster(disconnect_grace_seconds=30.0) as cluster,
        httpx2.AsyncClient(base_url=cluster.address) as http,
    ):
        target = FakeTarget()
        await cluster.add_target(target)
        body = {"prompt": "x", "stream": True, "resumable": is_resumable}
        asking = asyncio.create_task(
            http.send(http.build_request("POST", "/v1/completions", json=body), stream=True)
        )
        spec = await target.session()
        target.say(output(spec, 0, encode("one ")))
        response = await asking
        await read_some(response, 1)
        await response.aclose()
        if is_resumable:
            deleted = await http.delete(f"/v1/sessions/cmpl-{spec.session_id}")
            assert deleted.status_code == 204
        await until(lambda: target.cancelled == [spec.session_id])


async def test_choices_of_a_broken_answer_are_all_cancelled():
    async with a_cluster(disconnect_grace_seconds=30.0) as cluster:
        target = FakeTarget(script=_breaks_the_second)
        await cluster.add_target(target)
        async with httpx2.AsyncClient(base_url=cluster.address) as http:
            response = await http.post("/v1/completions", json={"prompt": "x", "n": 3})
        assert response.status_code == 500
        others = {s.session_id for s in target.started.values() if s.choice != 1}
        await until(lambda: others <= set(target.cancelled))


def _breaks_the_second(spec):
    if spec.choice != 1:
        return []
    failure = SessionFailure("INTERNAL", "something broke")
    return [SessionOutput(spec.session_id, spec.epoch, len(spec.token_ids), failure=failure)]
