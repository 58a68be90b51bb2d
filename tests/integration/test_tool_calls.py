"""Tool calls as OpenAI's own client sees them, before a coordinator and a scripted target."""

import json
from collections.abc import AsyncIterator

import pytest
from openai import AsyncOpenAI, pydantic_function_tool
from pydantic import BaseModel
from tests.unit.coordinator.cluster import Cluster, a_cluster, ask, failure_of, text_of
from tests.unit.coordinator.support import FakeTarget, describe_toy, encode, output, says, until
from tests.unit.text.tool_models import TEMPLATES, tokenizer_json
from tokenizers import Tokenizer

from treedraft.core.generation import ChatMessage, Delta, GenerateQuery
from treedraft.core.session import FinishReason
from treedraft.core.tools import Tool, ToolChoice, ToolOffer
from treedraft.telemetry import names

ASK = [{"role": "user", "content": "rain?"}]
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "Looks out.", "parameters": PARAMETERS},
}
CLOCK = {"type": "function", "function": {"name": "clock"}}
TOOLS = [WEATHER, CLOCK]
ROME = '{"city": "Röme"}'
CALL = f'<tool_call>\n{{"name": "weather", "arguments": {ROME}}}\n</tool_call>'
TWO_CALLS = f'{CALL}\n<tool_call>\n{{"name": "clock", "arguments": {{}}}}\n</tool_call>'
READ = [("weather", ROME), ("clock", "{}")]


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    async with a_cluster() as cluster:
        yield cluster


@pytest.fixture
async def client(cluster) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{cluster.address}/v1", api_key="x", max_retries=0) as client:
        yield client


async def a_toy(cluster, script=None, template="hermes", **changes) -> FakeTarget:
    """Add a target whose model calls tools."""
    room = {"context_length": 2048, "max_prompt_tokens": 2000}
    description = describe_toy(**{"chat_template": TEMPLATES[template], **room, **changes})
    target = FakeTarget(description=description, script=script)
    await cluster.add_target(target)
    return target


def calls_of(message) -> list[tuple[str, str]]:
    return [(call.function.name, call.function.arguments) for call in message.tool_calls or []]


async def test_calls_are_told_apart_from_the_text(cluster, client):
    target = await a_toy(cluster, says(f"Let me look.\n{TWO_CALLS}"))
    answer = await client.chat.completions.create(model="toy", messages=ASK, tools=TOOLS)
    (choice,) = answer.choices
    assert choice.message.content == "Let me look."
    assert calls_of(choice.message) == READ
    assert choice.finish_reason == "tool_calls"
    ids = [call.id for call in choice.message.tool_calls]
    assert len(set(ids)) == 2
    assert all(one.startswith("call_") for one in ids)
    assert counts_of(cluster) == (1, 2, 0)
    (spec,) = target.started.values()
    prompt = bytes_of(spec.token_ids)
    assert json.loads(prompt.splitlines()[0]) == WEATHER
    assert spec.sampling.grammar is None


def counts_of(cluster) -> tuple[float, ...]:
    """Return how many answers had tools, the calls in them, and the malformed ones."""
    counters = (names.METRIC_TOOL_ANSWERS, names.METRIC_TOOL_CALLS)
    return tuple(cluster.counted(name) for name in (*counters, names.METRIC_TOOL_CALLS_MALFORMED))


def bytes_of(token_ids) -> str:
    return Tokenizer.from_str(tokenizer_json(has_markers=False)).decode(list(token_ids))


@pytest.mark.parametrize("chunk", [1, 2, 7, 1000])
async def test_calls_stream_piece_by_piece(cluster, client, chunk):
    await a_toy(cluster, says(f"Hm. {TWO_CALLS}", chunk=chunk))
    stream = await client.chat.completions.create(
        model="toy", messages=ASK, tools=TOOLS, stream=True
    )
    content, calls, reasons, num_pieces = "", {}, [], 0
    async for chunk_ in stream:
        (choice,) = chunk_.choices
        content += choice.delta.content or ""
        reasons.append(choice.finish_reason)
        for piece in choice.delta.tool_calls or []:
            num_pieces += 1
            if piece.id:
                assert piece.index == len(calls)
                calls[piece.index] = [piece.function.name, ""]
            calls[piece.index][1] += piece.function.arguments
    assert content == "Hm."
    assert [tuple(call) for call in calls.values()] == READ
    assert reasons[-1] == "tool_calls"
    assert set(reasons[:-1]) == {None}
    assert num_pieces > 2 or chunk > 2


async def test_a_call_begins_to_stream_before_it_ends(cluster, client):
    begun = encode(CALL[: CALL.index("Röme")])
    target = await a_toy(cluster, lambda spec: [output(spec, 0, begun)])
    async with client.chat.completions.stream(model="toy", messages=ASK, tools=TOOLS) as events:
        spec = await target.session()
        seen = []
        async for event in events:
            seen.append(event)
            if event.type == "tool_calls.function.arguments.delta":
                break
        assert seen[-1].arguments_delta == '{"city": "'
        assert seen[-1].name == "weather"
        target.say(output(spec, len(begun), encode(CALL)[len(begun) :], FinishReason.STOP))
        whole = await events.get_final_completion()
    assert calls_of(whole.choices[0].message) == READ[:1]
    assert whole.choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>\n{"name": "bomb", "arguments": {}}\n</tool_call>',
        "<tool_call>\nnonsense",
        "no call at all",
    ],
)
@pytest.mark.parametrize("is_streaming", [False, True])
async def test_what_is_no_call_is_content(cluster, client, text, is_streaming):
    await a_toy(cluster, says(text))
    answer = await client.chat.completions.create(
        model="toy", messages=ASK, tools=TOOLS, stream=is_streaming
    )
    if is_streaming:
        chunks = [chunk async for chunk in answer]
        content = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        reason = chunks[-1].choices[0].finish_reason
    else:
        (choice,) = answer.choices
        content, reason = choice.message.content, choice.finish_reason
        assert choice.message.tool_calls is None
    assert (content, reason) == (text, "stop")
    assert counts_of(cluster) == (1, 0, "<tool_call>" in text)


async def test_a_call_that_is_cut_off_ends_by_length(cluster, client):
    await a_toy(cluster, says(CALL[:50], reason=FinishReason.LENGTH))
    answer = await client.chat.completions.create(model="toy", messages=ASK, tools=TOOLS)
    (choice,) = answer.choices
    assert choice.finish_reason == "length"
    assert ROME.startswith(calls_of(choice.message)[0][1])
    assert counts_of(cluster) == (1, 1, 1)


async def test_what_was_called_goes_back_into_the_conversation(cluster, client):
    target = await a_toy(
        cluster, lambda spec: says(CALL if spec.prompt_length < 400 else "Wet.")(spec)
    )
    first = await client.chat.completions.create(model="toy", messages=ASK, tools=TOOLS)
    message = first.choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "rain " * 20}
    for sent in (message, message.model_dump()):
        answer = await client.chat.completions.create(
            model="toy", messages=[*ASK, sent, result], tools=TOOLS
        )
        assert answer.choices[0].message.content == "Wet."
        assert answer.choices[0].finish_reason == "stop"
    prompt = bytes_of(list(target.started.values())[-1].token_ids)
    assert f'assistant:<tool_call>{{"name": "weather", "arguments": {ROME}}}' in prompt
    assert "tool:rain rain" in prompt


class Weather(BaseModel):
    city: str


async def test_the_helpers_of_the_client_parse_what_was_called(cluster, client):
    await a_toy(cluster, says(CALL.replace("weather", "Weather")))
    answer = await client.chat.completions.parse(
        model="toy", messages=ASK, tools=[pydantic_function_tool(Weather)]
    )
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.parsed_arguments == Weather(city="Röme")


async def test_several_choices_call_each_for_itself(cluster, client):
    await a_toy(cluster, lambda spec: says(CALL if spec.choice else "no")(spec))
    answer = await client.chat.completions.create(model="toy", messages=ASK, tools=TOOLS, n=3)
    assert [choice.finish_reason for choice in answer.choices] == [
        "stop",
        "tool_calls",
        "tool_calls",
    ]
    assert [choice.message.content for choice in answer.choices] == ["no", None, None]
    assert len({calls.id for c in answer.choices for calls in c.message.tool_calls or []}) == 2


async def test_markers_that_are_special_tokens_are_seen(cluster, client):
    source = tokenizer_json(has_markers=True)
    tokenizer = Tokenizer.from_str(source)
    text = f"Well.[TOOL_CALLS]weather[ARGS]{ROME}"
    ids = tokenizer.encode(text, add_special_tokens=False).ids

    def script(spec):
        middle = len(ids) // 2
        return [
            output(spec, 0, ids[:middle]),
            output(spec, middle, ids[middle:], FinishReason.STOP),
        ]

    marked = {"tokenizer_json": source, "vocab_size": tokenizer.get_vocab_size()}
    await a_toy(cluster, script, "mistral_named", **marked)
    answer = await client.chat.completions.create(model="toy", messages=ASK, tools=TOOLS)
    (choice,) = answer.choices
    assert (choice.message.content, calls_of(choice.message)) == ("Well.", READ[:1])
    assert len(choice.message.tool_calls[0].id) == 9


async def test_a_format_that_the_template_does_not_show_can_be_named():
    async with (
        a_cluster(tool_formats=["other=mistral", "toy=hermes"]) as cluster,
        AsyncOpenAI(base_url=f"{cluster.address}/v1", api_key="x", max_retries=0) as client,
    ):
        await a_toy(cluster, says(CALL), chat_template="{{ tools }}{{ messages }}")
        answer = await client.chat.completions.create(model="toy", messages=ASK, tools=TOOLS)
        assert calls_of(answer.choices[0].message) == READ[:1]


async def test_a_reader_that_leaves_amid_a_call_cancels(cluster, client):
    target = await a_toy(cluster, lambda spec: [output(spec, 0, encode(CALL[:60]))])
    async with client.chat.completions.stream(model="toy", messages=ASK, tools=TOOLS) as events:
        spec = await target.session()
        async for event in events:
            if event.type == "tool_calls.function.arguments.delta":
                break
    await until(lambda: target.cancelled == [spec.session_id])


async def test_the_grpc_door_tells_calls_apart_too(cluster):
    target = await a_toy(cluster, says(f"Hm.\n{TWO_CALLS}"))
    tools = tuple(
        Tool(one["function"]["name"], "", json.dumps(one["function"].get("parameters", {})))
        for one in TOOLS
    )
    query = GenerateQuery(
        conversation=(ChatMessage("user", "rain?"),), tools=ToolOffer(tools, ToolChoice.REQUIRED)
    )
    events = await ask(cluster.client, query)
    assert text_of(events) == "Hm."
    calls: dict[int, list[str]] = {}
    for piece in (piece for e in events if isinstance(e, Delta) for piece in e.tool_calls):
        calls.setdefault(piece.index, [piece.name, ""])[1] += piece.arguments
    assert [tuple(call) for call in calls.values()] == READ
    assert events[-1].has_tool_calls
    (spec,) = target.started.values()
    assert spec.sampling.grammar is not None
    plain = GenerateQuery(text="x", tools=query.tools)
    assert (await failure_of(cluster.client, plain)).reason == "TOOLS_CONFLICT"
