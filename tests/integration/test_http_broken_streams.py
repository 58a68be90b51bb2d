"""HTTP answers whose connection breaks: what is told again, and what is cancelled."""

import asyncio
import json

import httpx2
import pytest
from tests.integration.test_http_door import HI
from tests.unit.coordinator.cluster import a_cluster
from tests.unit.coordinator.support import FakeTarget, encode, output, says, until

from treedraft.core.session import FinishReason, SessionFailure, SessionOutput


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
