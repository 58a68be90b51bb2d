"""Forms and log-probabilities of an answer, in the words of OpenAI's API."""

import json
from dataclasses import replace

import pytest
from pydantic import BaseModel
from tests.integration.test_http_door import HI, client, cluster
from tests.unit.coordinator.support import FakeTarget, says

from treedraft.core.grammar import ANY_JSON_OBJECT, Grammar, GrammarKind
from treedraft.core.logprobs import TokenLogprobs

__all__ = ["client", "cluster"]


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
