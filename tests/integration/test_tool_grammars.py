"""Calls that must be made, or have a form beside them, are a grammar at the target."""

import pytest
from openai import pydantic_function_tool
from pydantic import BaseModel
from tests.integration.test_tool_calls import ASK, CALL, TOOLS, Weather, a_toy, client, cluster
from tests.unit.coordinator.support import encode, says

from treedraft.core.grammar import GrammarKind

__all__ = ["client", "cluster"]


FORCED = [
    ({"tool_choice": "required"}, ["weather", "clock"]),
    ({"tool_choice": "required", "parallel_tool_calls": False}, ["weather", "clock"]),
    ({"tool_choice": {"type": "function", "function": {"name": "clock"}}}, ["clock"]),
    ({"parallel_tool_calls": False}, ["weather", "clock"]),
]


@pytest.mark.parametrize(("asked", "names"), FORCED)
async def test_calls_that_must_be_made_are_a_grammar(cluster, client, asked, names):
    target = await a_toy(cluster, says(CALL))
    await client.chat.completions.create(model="toy", messages=ASK, tools=TOOLS, **asked)
    (spec,) = target.started.values()
    grammar = spec.sampling.grammar
    assert grammar.kind is GrammarKind.LARK
    for name in ("weather", "clock"):
        assert (f'\\"{name}\\"' in grammar.source) == (name in names)
    assert ("FREE" in grammar.source) == ("tool_choice" not in asked)


async def test_no_tools_are_shown_where_none_may_be_called(cluster, client):
    target = await a_toy(cluster, says(CALL))
    answer = await client.chat.completions.create(
        model="toy", messages=ASK, tools=TOOLS, tool_choice="none"
    )
    assert answer.choices[0].message.content == CALL
    assert answer.choices[0].message.tool_calls is None
    (spec,) = target.started.values()
    assert list(spec.token_ids) == encode("user:rain?\nassistant:")


class Answer(BaseModel):
    is_wet: bool


@pytest.mark.parametrize(
    ("text", "is_call"), [(CALL.replace("weather", "Weather"), True), ('{"is_wet": true}', False)]
)
async def test_an_answer_is_calls_or_the_form_that_was_asked_for(cluster, client, text, is_call):
    target = await a_toy(cluster, says(text))
    answer = await client.chat.completions.parse(
        model="toy",
        messages=ASK,
        tools=[pydantic_function_tool(Weather)],
        response_format=Answer,
    )
    message = answer.choices[0].message
    assert message.parsed == (None if is_call else Answer(is_wet=True))
    assert bool(message.tool_calls) == is_call
    (spec,) = target.started.values()
    assert "is_wet" in spec.sampling.grammar.source
