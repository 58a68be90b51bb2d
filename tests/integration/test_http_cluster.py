"""The HTTP door before real services with a toy: many streams, forms, calls, cancellation."""

import asyncio
import json

import httpx2
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from tests.engine_harness import EngineHarness, load_toy, spec
from tests.unit.text.tool_models import TEMPLATES
from tests.waiting import patience

from treedraft.inference.toy import make_toy_model
from treedraft.local_cluster.cluster import LocalCluster
from treedraft.local_cluster.plan import ClusterPlan
from treedraft.target.settings import TargetSettings

NUM_STREAMS = 200
SCHEMA = {
    "type": "object",
    "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 150}},
    "required": ["age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = make_toy_model(tmp_path_factory.mktemp("toy") / "model", seed=3)
    (folder / "chat_template.jinja").write_text(TEMPLATES["hermes"])
    return str(folder)


async def read_stream(http: httpx2.AsyncClient, number: int) -> str:
    body = {"prompt": f"prompt {number}", "max_tokens": 8, "ignore_eos": True, "stream": True}
    async with http.stream("POST", "/v1/completions", json=body) as response:
        assert response.status_code == 200, await response.aread()
        lines = [line async for line in response.aiter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    assert not any('"error"' in line for line in lines)
    return json.loads(lines[-2][6:])["choices"][0]["finish_reason"]


def ask_in_turn(address: str) -> str:
    """Ask as a program without an event loop does."""
    with OpenAI(base_url=f"{address}/v1", api_key="x", max_retries=0) as client:
        wanted = {"type": "json_schema", "json_schema": {"name": "it", "schema": SCHEMA}}
        answer = client.chat.completions.create(
            model="model",
            messages=[{"role": "user", "content": "How old?"}],
            response_format=wanted,
            max_tokens=40,
            seed=4,
        )
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("nothing")
    return answer.choices[0].message.content


def call_in_turn(address: str) -> list[dict]:
    """Have a model call tools that never learnt it; return what it gave to each call."""
    tool = {"type": "function", "function": {"name": "remember", "parameters": SCHEMA}}
    asked = {
        "model": "model",
        "messages": [{"role": "user", "content": "How old?"}],
        "tools": [tool],
        "tool_choice": {"type": "function", "function": {"name": "remember"}},
        "max_tokens": 120,
        "seed": 4,
    }
    told = []
    with OpenAI(base_url=f"{address}/v1", api_key="x", max_retries=0) as client:
        for enabled in (True, False):
            extra = {"speculation": {"enabled": enabled}}
            answer = client.chat.completions.create(**asked, extra_body=extra)
            assert answer.choices[0].finish_reason == "tool_calls"
            told.append(answer.choices[0].message.tool_calls[0].function.arguments)
            with client.chat.completions.stream(**asked, extra_body=extra) as stream:
                whole = stream.get_final_completion().choices[0]
            told.append(whole.message.tool_calls[0].function.arguments)
    assert len(set(told)) == 1  # however it is asked for and drafted
    return [json.loads(arguments) for arguments in told]


async def num_sessions(cluster: LocalCluster) -> int:
    client = cluster.connect()
    try:
        described = await client.describe_cluster()
    finally:
        await client.close()
    return sum(report.num_sessions for _, report in described.workers)


async def until_idle(cluster: LocalCluster) -> None:
    async with patience():
        while await num_sessions(cluster):  # noqa: ASYNC110 - behind a socket
            await asyncio.sleep(0.05)


async def test_many_streams_a_form_a_call_and_a_client_that_leaves(toy):
    plan = ClusterPlan(target=toy, draft="", target_threads=1)
    async with (
        LocalCluster(plan) as cluster,
        httpx2.AsyncClient(
            base_url=cluster.address,
            timeout=240,
            limits=httpx2.Limits(max_connections=NUM_STREAMS),
        ) as http,
    ):
        reasons = await asyncio.gather(*(read_stream(http, i) for i in range(NUM_STREAMS)))
        assert reasons == ["length"] * NUM_STREAMS
        text = await asyncio.to_thread(ask_in_turn, cluster.address)
        assert 0 <= json.loads(text)["age"] <= 150
        for arguments in await asyncio.to_thread(call_in_turn, cluster.address):
            assert 0 <= arguments["age"] <= 150
        async with AsyncOpenAI(base_url=f"{cluster.address}/v1", api_key="x") as client:
            stream = await client.completions.create(
                model="model",
                prompt="x",
                max_tokens=400,
                stream=True,
                extra_body={"ignore_eos": True},
            )
            await anext(aiter(stream))
            await stream.close()
        await until_idle(cluster)  # far sooner than the text would have ended by itself


PROMPT = [5, 9, 17, 3]


def test_a_cancelled_session_frees_its_memory_within_two_steps(toy):
    with EngineHarness(load_toy(toy), TargetSettings()) as harness:
        free = harness.pool.num_free

        def cancel_at_the_third(session_id, num_tokens):
            if num_tokens == len(PROMPT) + 3:
                harness.cancel(session_id)

        harness.on_published = cancel_at_the_third
        (result,) = harness.run(spec(PROMPT, max_tokens=1500))
        # The step under way when the word came, and the one that takes it in.
        assert result.finish.statistics.rounds <= 3 + 2
        assert harness.pool.num_free == free
