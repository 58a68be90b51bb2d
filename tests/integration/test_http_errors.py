"""What the HTTP door refuses, and how it says so."""

import asyncio
from collections.abc import AsyncIterator

import httpx2
import pytest
import pytest_asyncio
from tests.unit.coordinator.cluster import Cluster, a_cluster
from tests.unit.coordinator.support import FakeTarget, encode, output, says

from treedraft.core.session import SessionFailure, SessionOutput

HI = [{"role": "user", "content": "hi"}]


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster() -> AsyncIterator[Cluster]:
    async with a_cluster(http={"max_body_mb": 1, "max_header_kb": 4}) as cluster:
        await cluster.add_target(FakeTarget(script=says("x")))
        yield cluster


@pytest_asyncio.fixture(loop_scope="module")
async def http(cluster) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=cluster.address) as client:
        yield client


def chat(**body) -> dict:
    return {"model": "toy", "messages": HI, **body}


def schema_format(kind: str) -> dict:
    schema = {"name": "it", "schema": {"type": kind}}
    return {"type": "json_schema", "json_schema": schema}


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        (chat(tempreature=1), "tempreature", "unknown_parameter"),
        (chat(audio={}), "audio", "unsupported_parameter"),
        (chat(temperature="hot"), "temperature", "invalid_value"),
        (chat(temperature=-1), "temperature", "invalid_value"),
        (chat(top_p=0), "top_p", "invalid_value"),
        (chat(max_tokens=0), "max_tokens", "invalid_value"),
        (chat(max_tokens=3, max_completion_tokens=4), "max_tokens", "invalid_value"),
        (chat(min_tokens=4, max_tokens=3), "min_tokens", "invalid_value"),
        (chat(logprobs=True, top_logprobs=21), "top_logprobs", "invalid_value"),
        (chat(top_logprobs=2), "top_logprobs", "invalid_value"),
        (chat(response_format={"type": "xml"}), "response_format.type", "invalid_value"),
        (
            chat(response_format={"type": "json_schema"}),
            "response_format.json_schema",
            "invalid_value",
        ),
        (chat(response_format=schema_format("unheard-of")), "response_format", "invalid_grammar"),
        (chat(structured_outputs={"regex": "("}), "structured_outputs", "invalid_grammar"),
        (
            chat(structured_outputs={"regex": "a", "choice": ["b"]}),
            "structured_outputs",
            "invalid_value",
        ),
        (
            chat(response_format={"type": "json_object"}, structured_outputs={"regex": "a"}),
            "structured_outputs",
            "invalid_value",
        ),
        (
            chat(response_format={"type": "json_object"}, ignore_eos=True),
            "ignore_eos",
            "grammar_conflict",
        ),
        (chat(n=0), "n", "invalid_value"),
        (chat(n=17), "n", "invalid_value"),
        (chat(stop=["x"] * 17), "stop", "invalid_value"),
        (chat(stop=[""]), "stop", "invalid_value"),
        (chat(logit_bias={"a": 1}), "logit_bias", "invalid_value"),
        (chat(logit_bias={"9999": 1}), "logit_bias", "token_out_of_range"),
        (chat(stop_token_ids=[9999]), "stop_token_ids", "token_out_of_range"),
        (chat(speculation={"max_nodes": -1}), "speculation.max_nodes", "invalid_value"),
        (chat(speculation={"nodes": 1}), "speculation.nodes", "unknown_parameter"),
        (chat(stream_options={"include_usage": True}), "stream_options", "invalid_value"),
        (chat(messages=[]), "messages", "invalid_value"),
        (chat(messages=[{"role": "user"}]), "messages[0].content", "missing_parameter"),
        (chat(messages=[{"role": "king", "content": ""}]), "messages[0].role", "invalid_value"),
        (chat(messages=HI * 100), "messages", "context_length_exceeded"),
        ({"model": "toy"}, "messages", "missing_parameter"),
        ([], None, "invalid_value"),
    ],
)
async def test_a_wrong_parameter_is_named(http, body, param, code):
    response = await http.post("/v1/chat/completions", json=body)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, param, code)
    assert error["type"] == "invalid_request_error"
    assert error["reason"].isupper()
    assert error["message"]


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"prompt": ""}, "prompt", "empty_prompt"),
        ({"prompt": []}, "prompt", "empty_prompt"),
        ({"prompt": ["a"] * 65}, "prompt", "invalid_value"),
        ({"prompt": [9999]}, "prompt", "token_out_of_range"),
        ({"prompt": "x", "best_of": 2}, "best_of", "unsupported_parameter"),
        ({"prompt": "x", "suffix": "y"}, "suffix", "unsupported_parameter"),
        ({"prompt": "x", "logprobs": 2, "echo": True}, "logprobs", "unsupported_parameter"),
        ({"prompt": "x", "messages": HI}, "messages", "unknown_parameter"),
    ],
)
async def test_a_wrong_prompt_is_named(http, body, param, code):
    response = await http.post("/v1/completions", json=body)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, param, code)


async def test_nulls_and_values_that_ask_for_nothing_are_let_in(http):
    nothing = {
        "tools": None,
        "response_format": {"type": "text"},
        "logprobs": False,
        "store": False,
    }
    response = await http.post("/v1/chat/completions", json=chat(temperature=None, **nothing))
    assert response.status_code == 200


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe", b"[" * 100_000])
async def test_what_is_no_json_is_refused(http, content):
    headers = {"content-type": "application/json"}
    response = await http.post("/v1/chat/completions", content=content, headers=headers)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


async def test_bodies_and_heads_have_limits(http):
    response = await http.post("/v1/completions", json={"prompt": "x" * 1_100_000})
    assert (response.status_code, response.json()["error"]["code"]) == (413, "body_too_large")

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b" " * 100_000

    response = await http.post("/v1/completions", content=chunks())
    assert response.status_code == 413
    response = await http.get("/v1/models", headers={"x-long": "y" * 5_000})
    assert (response.status_code, response.json()["error"]["code"]) == (431, "head_too_large")


async def test_paths_and_methods_that_are_none(http):
    response = await http.get("/v1/nothing")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "no_such_path")
    response = await http.get("/v1/chat/completions")
    assert (response.status_code, response.json()["error"]["code"]) == (405, "method_not_allowed")


async def test_a_request_id_goes_back(http):
    response = await http.get("/health", headers={"x-request-id": "mine-1"})
    assert response.headers["x-request-id"] == "mine-1"
    response = await http.get("/health", headers={"x-request-id": "not good"})
    assert response.headers["x-request-id"].startswith("req-")


async def test_operators_see_health_metrics_and_the_api(http):
    assert (await http.get("/health")).json() == {"status": "ok"}
    assert "treedraft_build" in (await http.get("/metrics")).text
    document = (await http.get("/openapi.json")).json()
    assert "/v1/chat/completions" in document["paths"]
    assert (await http.get("/docs")).status_code == 404


async def test_cors_is_off_unless_origins_are_named(http):
    response = await http.get("/health", headers={"origin": "http://elsewhere"})
    assert "access-control-allow-origin" not in response.headers
    async with (
        a_cluster(http={"cors_origins": "http://here"}) as other,
        httpx2.AsyncClient(base_url=other.address) as client,
    ):
        response = await client.get("/health", headers={"origin": "http://here"})
        assert response.headers["access-control-allow-origin"] == "http://here"
        response = await client.get("/health", headers={"origin": "http://elsewhere"})
        assert "access-control-allow-origin" not in response.headers


async def test_without_targets_it_is_503():
    async with a_cluster() as empty, httpx2.AsyncClient(base_url=empty.address) as client:
        response = await client.post("/v1/chat/completions", json=chat())
        assert (response.status_code, response.json()["error"]["code"]) == (503, "no_target")
        assert response.headers["retry-after"] == "1"


@pytest.mark.parametrize("is_streaming", [False, True])
async def test_a_full_house_is_429_and_says_when_to_come_back(is_streaming):
    limits = {"max_sessions": 1, "max_waiting": 0}
    async with (
        a_cluster(limits=limits) as cluster,
        httpx2.AsyncClient(base_url=cluster.address) as client,
    ):
        target = FakeTarget()
        await cluster.add_target(target)
        first = asyncio.create_task(client.post("/v1/chat/completions", json=chat()))
        await target.session()
        response = await client.post("/v1/chat/completions", json=chat(stream=is_streaming))
        assert (response.status_code, response.json()["error"]["code"]) == (429, "queue_full")
        assert response.headers["retry-after"] == "1"
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)


@pytest.mark.parametrize("is_streaming", [False, True])
async def test_a_session_that_the_target_refuses_has_a_status(is_streaming):
    async with (
        a_cluster() as cluster,
        httpx2.AsyncClient(base_url=cluster.address) as client,
    ):
        target = FakeTarget(script=_refuse)
        await cluster.add_target(target)
        response = await client.post("/v1/chat/completions", json=chat(stream=is_streaming))
        assert (response.status_code, response.json()["error"]["code"]) == (429, "queue_full")


async def test_an_error_after_the_first_token_ends_the_stream():
    async with (
        a_cluster() as cluster,
        httpx2.AsyncClient(base_url=cluster.address) as client,
    ):
        target = FakeTarget(script=lambda spec: [output(spec, 0, encode("a")), *_break(spec)])
        await cluster.add_target(target)
        response = await client.post("/v1/chat/completions", json=chat(stream=True))
        assert response.status_code == 200
        *_, error, done = [line for line in response.text.splitlines() if line]
        assert '"reason":"INTERNAL"' in error
        assert done == "data: [DONE]"


def _refuse(spec) -> list[SessionOutput]:
    failure = SessionFailure("QUEUE_FULL", "no room")
    return [SessionOutput(spec.session_id, spec.epoch, len(spec.token_ids), failure=failure)]


def _break(spec) -> list[SessionOutput]:
    failure = SessionFailure("INTERNAL", "something broke")
    return [SessionOutput(spec.session_id, spec.epoch, len(spec.token_ids) + 1, failure=failure)]
