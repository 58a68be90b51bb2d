"""What holds a connection to the HTTP door, and what comes after it broke."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx2
import pytest
from openai import AsyncOpenAI
from tests.integration.test_tool_calls import CALL, READ, TOOLS, a_toy
from tests.unit.coordinator.cluster import a_cluster
from tests.unit.coordinator.support import FakeTarget, encode, output, says, until
from tests.waiting import patience

from treedraft.core.session import FinishReason, SessionFailure, SessionOutput

HI = [{"role": "user", "content": "hi"}]
CHAT = "/v1/chat/completions"
KEY = {"idempotency-key": "a key that is hard to guess"}


async def until_line(lines: AsyncIterator[str], wanted: str) -> list[str]:
    """Read lines up to the first that begins as wanted."""
    seen = []
    async with patience():
        async for line in lines:
            seen.append(line)
            if line.startswith(wanted):
                return seen
    raise AssertionError(f"no {wanted} in {seen}")


@pytest.mark.parametrize("is_refused", [False, True])
async def test_a_silent_stream_shows_signs_of_life(is_refused):
    body = {"messages": HI, "stream": True}
    async with (
        a_cluster(http={"heartbeat_seconds": 0.05}) as cluster,
        httpx2.AsyncClient(base_url=cluster.address, timeout=30) as http,
    ):
        target = FakeTarget()
        await cluster.add_target(target)
        # The status does not wait for the first token for ever.
        async with http.stream("POST", CHAT, json=body) as response:
            assert response.status_code == 200
            spec = await target.session()
            lines = response.aiter_lines()
            await until_line(lines, ": ")
            if is_refused:
                failure = SessionFailure("INTERNAL", "something broke")
                target.say(
                    SessionOutput(spec.session_id, spec.epoch, spec.prompt_length, failure=failure)
                )
                (*_, told) = await until_line(lines, "data: ")
                assert json.loads(told[6:])["error"]["reason"] == "INTERNAL"
            else:
                target.say(output(spec, 0, encode("one ")))
                await until_line(lines, 'data: {"id"')
                await until_line(lines, ": ")
                target.say(output(spec, 4, encode("two"), FinishReason.STOP))
            await until_line(lines, "data: [DONE]")


async def test_the_package_reads_past_signs_of_life():
    async with a_cluster(http={"heartbeat_seconds": 0.02}) as cluster:
        target = FakeTarget()
        await cluster.add_target(target)
        async with AsyncOpenAI(base_url=f"{cluster.address}/v1", api_key="x") as client:
            stream = await client.chat.completions.create(model="toy", messages=HI, stream=True)
            spec = await target.session()
            reading = asyncio.create_task(_content(stream))
            for base, text in enumerate("abc"):
                await asyncio.sleep(0.05)  # a few signs of life, or none: either way it reads on
                reason = FinishReason.STOP if text == "c" else None
                target.say(output(spec, base, encode(text), reason))
            assert await reading == "abc"


async def _content(stream) -> str:
    return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


async def test_who_leaves_before_the_first_token_cancels_whatever_was_sent():
    async with (
        a_cluster(http={"heartbeat_seconds": 0.05}) as cluster,
        httpx2.AsyncClient(base_url=cluster.address, timeout=30) as http,
    ):
        target = FakeTarget()
        await cluster.add_target(target)
        body = {"messages": HI, "stream": True}
        async with http.stream("POST", CHAT, json=body) as response:
            spec = await target.session()
            await until_line(response.aiter_lines(), ": ")
        await until(lambda: target.cancelled == [spec.session_id])


@pytest.mark.parametrize("num_choices", [1, 3])
async def test_a_request_made_twice_under_a_key_is_one(num_choices):
    async with (
        a_cluster(disconnect_grace_seconds=30.0) as cluster,
        httpx2.AsyncClient(base_url=cluster.address, timeout=30, headers=KEY) as http,
    ):
        target = FakeTarget(script=says("once"))
        await cluster.add_target(target)
        body = {"messages": HI, "n": num_choices}
        first, second = [(await http.post(CHAT, json=body)).json() for _ in range(2)]
        assert first["choices"] == second["choices"]
        assert first["id"] == second["id"]
        assert len(target.started) == num_choices
        other = await http.post(CHAT, json={**body, "max_tokens": 3})
        assert other.status_code == 400
        assert other.json()["error"]["code"] == "idempotency_key_reused"
        assert other.json()["error"]["param"] == "idempotency-key"
        too_long = await http.post(CHAT, json=body, headers={"idempotency-key": "x" * 129})
        assert too_long.json()["error"]["code"] == "idempotency_key_too_long"


async def test_a_request_whose_connection_broke_is_made_again_under_its_key():
    async with (
        a_cluster(disconnect_grace_seconds=30.0) as cluster,
        httpx2.AsyncClient(base_url=cluster.address, timeout=30, headers=KEY) as http,
    ):
        target = FakeTarget()
        await cluster.add_target(target)
        asking = asyncio.create_task(http.post(CHAT, json={"messages": HI}))
        spec = await target.session()
        target.say(output(spec, 0, encode("one ")))
        asking.cancel()
        await asyncio.wait([asking])
        again = asyncio.create_task(http.post(CHAT, json={"messages": HI}))
        # It goes on from where it had come, for its new reader.
        await until(lambda: target.started[spec.session_id].epoch > spec.epoch)
        spec = target.started[spec.session_id]
        done = len(spec.token_ids) - spec.prompt_length
        target.say(output(spec, done, encode("one two")[done:], FinishReason.STOP))
        answer = (await again).json()
        assert answer["choices"][0]["message"]["content"] == "one two"
        assert answer["choices"][0]["finish_reason"] == "stop"
        assert set(target.started) == {spec.session_id}


async def test_calls_survive_a_stream_that_broke():
    async with (
        a_cluster(disconnect_grace_seconds=30.0) as cluster,
        httpx2.AsyncClient(base_url=cluster.address, timeout=30) as http,
    ):
        await a_toy(cluster, says(CALL, chunk=4))
        body = {"messages": HI, "tools": TOOLS, "stream": True, "resumable": True}
        whole = await _events(await http.post(CHAT, json=body))
        assert _calls(whole) == READ[:1]
        path = f"{CHAT}/{whole[0][1]['id']}/stream"
        for seen in range(1, len(whole)):
            last_id = [event_id for event_id, _ in whole[:seen] if event_id][-1:]
            headers = {"last-event-id": last_id[0]} if last_id else {}
            rest = await _events(await http.get(path, headers=headers))
            held = [event for event in whole[:seen] if event[0]] if last_id else []
            assert _calls([*held, *rest]) == READ[:1]
            assert rest[-1][1]["choices"][0]["finish_reason"] == "tool_calls"


async def _events(response: httpx2.Response) -> list[tuple[str, dict]]:
    """Return the events with their ids."""
    assert response.status_code == 200
    events, event_id = [], ""
    for line in response.text.splitlines():
        if line.startswith("id: "):
            event_id = line[4:]
        elif line.startswith("data: {"):
            events.append((event_id, json.loads(line[6:])))
            event_id = ""
    return events


def _calls(events: list[tuple[str, dict]]) -> list[tuple[str, str]]:
    calls: dict[int, list[str]] = {}
    for _, chunk in events:
        for piece in chunk["choices"][0]["delta"].get("tool_calls", []):
            if "id" in piece:
                assert piece["index"] not in calls
                calls[piece["index"]] = [piece["function"]["name"], ""]
            calls[piece["index"]][1] += piece["function"]["arguments"]
    return [(name, arguments) for name, arguments in calls.values()]


async def test_a_page_that_rebinds_its_name_is_turned_away():
    async with (
        a_cluster() as cluster,
        httpx2.AsyncClient(base_url=cluster.address, timeout=30) as http,
    ):
        await cluster.add_target(FakeTarget(script=says("x")))
        for path in ("/v1/models", "/health", "/console"):
            refused = await http.get(path, headers={"host": "evil.example"})
            assert refused.status_code == 403
            assert refused.json()["error"]["code"] == "host_not_allowed"
        assert (await http.get("/v1/models", headers={"host": "localhost"})).status_code == 200


async def test_hosts_are_those_of_the_settings():
    async with (
        a_cluster(http={"allowed_hosts": ["door.example"]}) as cluster,
        httpx2.AsyncClient(base_url=cluster.address, timeout=30) as http,
    ):
        assert (await http.get("/health", headers={"host": "door.example:80"})).status_code == 200
        assert (await http.get("/health")).status_code == 403
