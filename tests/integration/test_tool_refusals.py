"""Requests with tools that cannot be served are refused, and what is wrong is named."""

import openai
import pytest
from tests.integration.test_tool_calls import ASK, TOOLS, WEATHER, a_toy, client, cluster
from tests.unit.coordinator.support import FakeTarget, says

__all__ = ["client", "cluster"]


REFUSED = [
    (
        {"tools": TOOLS, "extra_body": {"structured_outputs": {"regex": "a+"}}},
        "tools_conflict",
        "structured_outputs",
    ),
    (
        {"tools": TOOLS, "extra_body": {"structured_outputs": {"json": "[1"}}},
        "invalid_grammar",
        "structured_outputs",
    ),
    ({"tools": [WEATHER, WEATHER]}, "invalid_tools", "tools"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "invalid_tools", "tools"),
    (
        {
            "tools": [
                {"type": "function", "function": {"name": "a", "parameters": {"type": "array"}}}
            ]
        },
        "invalid_tools",
        "tools",
    ),
    ({"tools": [{"type": "custom", "custom": {"name": "a"}}]}, "invalid_value", "tools[0].type"),
    (
        {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "x"}}},
        "invalid_tools",
        "tool_choice",
    ),
    ({"tools": TOOLS, "tool_choice": "perhaps"}, "invalid_value", "tool_choice"),
    ({"tool_choice": "required"}, "invalid_value", "tool_choice"),
    (
        {"tools": [WEATHER | {"function": {"name": "a", "parameters": {"$ref": "#/x"}}}]},
        "invalid_grammar",
        "tools",
    ),
    ({"tools": TOOLS, "extra_body": {"ignore_eos": True}}, "grammar_conflict", "ignore_eos"),
]


@pytest.mark.parametrize(("asked", "code", "param"), REFUSED)
async def test_what_cannot_be_called_is_refused_by_name(cluster, client, asked, code, param):
    target = await a_toy(cluster, says("x"))
    if code == "grammar_conflict" or (code, param) == ("invalid_grammar", "tools"):
        asked = {**asked, "tool_choice": "required"}
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model="toy", messages=ASK, **asked)
    assert (caught.value.code, caught.value.param) == (code, param)
    assert not target.started


@pytest.mark.parametrize("is_streaming", [False, True])
async def test_a_model_that_knows_no_tools_says_so(cluster, client, is_streaming):
    await cluster.add_target(FakeTarget(script=says("x")))
    called = {"id": "c", "type": "function", "function": {"name": "a", "arguments": "{}"}}
    for asked, param in (
        ({"messages": ASK, "tools": TOOLS}, "tools"),
        ({"messages": [*ASK, {"role": "assistant", "tool_calls": [called]}]}, "messages"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            await client.chat.completions.create(model="toy", stream=is_streaming, **asked)
        assert (caught.value.code, caught.value.param) == ("tools_unsupported", param)


async def test_a_template_in_a_format_nobody_knows_is_refused(cluster, client):
    await a_toy(cluster, chat_template="{{ tools }}{{ messages }}")
    with pytest.raises(openai.BadRequestError, match="format") as caught:
        await client.chat.completions.create(model="toy", messages=ASK, tools=TOOLS)
    assert caught.value.code == "tools_unsupported"


CALLED = {"id": "c", "type": "function", "function": {"name": "clock", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("message", "code", "param"),
    [
        ({"role": "user", "content": "x", "tool_calls": [CALLED]}, "invalid_value", "tool_calls"),
        ({"role": "user", "content": "x", "tool_call_id": "c"}, "invalid_value", "tool_call_id"),
        ({"role": "assistant", "content": "x", "name": "c"}, "invalid_value", "name"),
        ({"role": "assistant", "content": None}, "missing_parameter", "content"),
        ({"role": "tool", "tool_call_id": "c"}, "missing_parameter", "content"),
        ({"role": "assistant", "content": "x", "refusal": "no"}, "unknown_parameter", "refusal"),
    ],
)
async def test_what_is_no_message_is_refused_by_name(cluster, client, message, code, param):
    await a_toy(cluster, says("x"))
    with pytest.raises(openai.BadRequestError) as caught:
        await client.chat.completions.create(model="toy", messages=[*ASK, message], tools=TOOLS)
    assert (caught.value.code, caught.value.param) == (code, f"messages[1].{param}")
