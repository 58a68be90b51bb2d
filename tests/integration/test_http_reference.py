"""The API reference: what it says of answers is what is answered."""

import json
from dataclasses import replace

import httpx2
import pytest
from tests.integration.test_tool_calls import CALL, TOOLS, a_toy
from tests.unit.coordinator.cluster import a_cluster
from tests.unit.coordinator.support import says

from treedraft.coordinator.http.answer_bodies import (
    ChatAnswer,
    ChatChunk,
    CompletionAnswer,
    CompletionChunk,
    ErrorAnswer,
    ModelList,
    ModelObject,
)
from treedraft.core.logprobs import TokenLogprobs

HI = [{"role": "user", "content": "hi"}]
BODIES = [
    ("/v1/chat/completions", {"messages": HI, "n": 2}),
    ("/v1/chat/completions", {"messages": HI, "return_token_ids": True}),
    ("/v1/chat/completions", {"messages": HI, "tools": TOOLS}),
    ("/v1/chat/completions", {"messages": HI, "logprobs": True}),
    ("/v1/completions", {"prompt": "x", "return_token_ids": True, "logprobs": 1}),
]
WITH_COUNTS = {"stream": True, "stream_options": {"include_usage": True}}


def answers(spec):
    """Look and call, with log-probabilities if they are wanted."""
    told = says(f"Look: {CALL}")(spec)
    if spec.num_logprobs is None:
        return told
    return [
        replace(one, logprobs=tuple(TokenLogprobs(-0.5, ((i, -0.5),)) for i in one.token_ids))
        for one in told
    ]


@pytest.mark.parametrize(("path", "body"), BODIES)
async def test_answers_are_what_the_reference_says(path, body):
    whole, chunk = (
        (ChatAnswer, ChatChunk) if "chat" in path else (CompletionAnswer, CompletionChunk)
    )
    async with (
        a_cluster() as cluster,
        httpx2.AsyncClient(base_url=cluster.address, timeout=30) as http,
    ):
        await a_toy(cluster, answers)
        answer = await http.post(path, json=body)
        whole.model_validate(answer.json(), strict=True)
        stream = await http.post(path, json={**body, **WITH_COUNTS})
        told = [line[6:] for line in stream.text.splitlines() if line.startswith("data: {")]
        assert len(told) > 2
        for line in told:
            chunk.model_validate_json(line, strict=True)


async def test_models_and_errors_are_too():
    async with (
        a_cluster() as cluster,
        httpx2.AsyncClient(base_url=cluster.address, timeout=30) as http,
    ):
        await a_toy(cluster, says("x"))
        ModelList.model_validate((await http.get("/v1/models")).json(), strict=True)
        ModelObject.model_validate((await http.get("/v1/models/toy")).json(), strict=True)
        for path in ("/v1/models/none", "/nowhere"):
            ErrorAnswer.model_validate((await http.get(path)).json(), strict=True)
        refused = await http.post("/v1/completions", json={"prompt": 5})
        ErrorAnswer.model_validate(refused.json(), strict=True)


async def test_the_document_is_whole():
    async with (
        a_cluster() as cluster,
        httpx2.AsyncClient(base_url=cluster.address, timeout=30) as http,
    ):
        text = (await http.get("/openapi.json")).text
    document = json.loads(text)
    schemas = document["components"]["schemas"]
    named = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert named <= set(schemas)
    assert {"ChatAnswer", "ChatChunk", "CompletionChunk", "ErrorAnswer"} <= named
    for path, methods in document["paths"].items():
        if path.startswith("/v1/"):
            for told in methods.values():
                assert {"4XX", "5XX"} <= set(told["responses"])
                assert "422" not in told["responses"]
