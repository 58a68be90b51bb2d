"""What the page asks of a coordinator, and what it never gets to know."""

import json
from collections.abc import AsyncIterator

import httpx2
import pytest
from tests.integration.test_watched_rounds import tells_rounds
from tests.unit.coordinator.cluster import Cluster, a_cluster
from tests.unit.coordinator.support import FakeTarget, a_drafter, encode, output, says, until

from treedraft.coordinator.api_keys import key_line, new_key
from treedraft.core.worker import LoadSignals, WorkerReport
from treedraft.rpc.coordinator_client import CoordinatorClient
from treedraft.settings import TelemetrySettings
from treedraft.telemetry.tracing import Tracing

HI = [{"role": "user", "content": "hi"}]
KEYS = {name: new_key() for name in ("acme", "other")}
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
async def cluster(tmp_path) -> AsyncIterator[Cluster]:
    store = {"store_path": str(tmp_path / "spans.sqlite")}
    # The page cannot resume: who leaves it gets no grace, however long others get.
    async with a_cluster(telemetry=store, disconnect_grace_seconds=3600.0) as cluster:
        yield cluster


@pytest.fixture
async def locked(tmp_path) -> AsyncIterator[Cluster]:
    """A cluster that wants keys."""
    (tmp_path / "secret").write_text("0123456789abcdef" * 2)
    lines = [key_line(key, name) for name, key in KEYS.items()]
    (tmp_path / "keys.toml").write_text("\n".join(["[keys]", *lines, ""]))
    door = {
        "keys_file": str(tmp_path / "keys.toml"),
        "tenant_secret_file": str(tmp_path / "secret"),
    }
    async with a_cluster(
        door=door, telemetry={"store_path": str(tmp_path / "spans.sqlite")}
    ) as cluster:
        cluster.client = CoordinatorClient(cluster.endpoint, api_key=KEYS["acme"])
        cluster.stack.push_async_callback(cluster.client.close)
        yield cluster


def http(cluster: Cluster, tenant: str = "") -> httpx2.AsyncClient:
    headers = {"authorization": f"Bearer {KEYS[tenant]}"} if tenant else {}
    return httpx2.AsyncClient(base_url=f"{cluster.address}/console", headers=headers)


async def watch(client: httpx2.AsyncClient, path: str = "chat", **body) -> list[dict]:
    answer = await client.post(f"/api/{path}", json=body, headers={"traceparent": TRACEPARENT})
    assert answer.status_code == 200, answer.text
    lines = [line for line in answer.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    return [json.loads(line.removeprefix("data: ")) for line in lines]


async def first_text(answer: httpx2.Response) -> None:
    """Read a stream until text has come."""
    async for line in answer.aiter_lines():
        if '"type":"delta"' in line:
            return


async def test_a_watched_answer_tells_text_by_token_and_rounds(cluster):
    await cluster.add_target(FakeTarget(script=tells_rounds("wörld!")))
    async with http(cluster) as client:
        started, *deltas, finished = await watch(client, messages=HI, seed=2**63 + 1)
    assert started["type"] == "started"
    assert started["seed"] == str(2**63 + 1)
    assert started["prompt_tokens"] == len(encode("user:hi\nassistant:"))
    assert started["trace_id"] == TRACEPARENT.split("-")[1]
    pieces = [piece for delta in deltas for piece in delta["pieces"]]
    assert "".join(text for _, _, text in pieces) == "wörld!"
    assert [index for index, _, _ in pieces] == [0, 2, 3, 4, 5, 6]  # ö has two tokens
    rounds = [one for delta in deltas for one in delta["rounds"]]
    assert [one["base"] for one in rounds] == [0, 3, 6]
    assert rounds[1]["texts"] == ["r", "l"]
    assert (rounds[1]["accepted"], rounds[1]["bonus"]) == ([0, 1], "d")
    assert rounds[1]["parents"] == [-1, 0]
    assert set(rounds[1]["ms"]) == {"draft", "wire", "queue", "forward", "walk", "commit"}
    assert finished["reason"] == "stop"
    assert finished["statistics"]["emitted_tokens"] == 7
    assert "tokens_per_round" in finished["statistics"]


async def test_plain_text_is_continued(cluster):
    target = FakeTarget(script=says("x"))
    await cluster.add_target(target)
    async with http(cluster) as client:
        events = await watch(client, "complete", prompt="once")
    assert events[-1]["type"] == "finished"
    (spec,) = target.started.values()
    assert list(spec.token_ids) == encode("once")
    assert spec.watch_rounds


async def test_what_is_wrong_is_said_in_the_shape_of_the_api(cluster):
    await cluster.add_target(FakeTarget(script=says("x")))
    async with http(cluster) as client:
        for body in ({"messages": HI, "temperature": -1}, {"messages": HI, "n": 2}, {}):
            answer = await client.post("/api/chat", json=body)
            assert answer.status_code == 400
            assert answer.json()["error"]["reason"]
        (error,) = await watch(client, messages=HI, model="nobody")
    assert (error["type"], error["reason"]) == ("error", "UNKNOWN_MODEL")


async def test_who_leaves_stops_the_session(cluster):
    target = FakeTarget()
    await cluster.add_target(target)
    async with http(cluster) as client:
        async with client.stream("POST", "/api/chat", json={"messages": HI}) as answer:
            spec = await target.session()
            target.say(output(spec, 0, encode("one")))
            await first_text(answer)
        await until(lambda: target.cancelled == [spec.session_id])
        seen = (await client.get("/api/overview")).json()
    assert seen["running"] == []
    assert [view["outcome"] for view in seen["recent"]] == ["cancelled"]


async def test_the_overview_shows_workers_and_running_sessions(cluster):
    target = FakeTarget()
    signals = LoadSignals(tokens_per_second=12.5, tokens_per_round=2.5)
    report = WorkerReport(free_kv_blocks=16, total_kv_blocks=64, signals=signals)
    await cluster.add_target(target, report=report)
    await cluster.announce(a_drafter("d1"))
    async with (
        http(cluster) as client,
        http(cluster) as other,
        client.stream("POST", "/api/chat", json={"messages": HI}) as answer,
    ):
        spec = await target.session()
        target.say(output(spec, 0, encode("one")))
        await first_text(answer)
        seen = (await other.get("/api/overview")).json()
    (view,) = seen["running"]
    assert view["session"] == spec.session_id[:8]
    assert spec.session_id not in json.dumps(seen)
    assert (view["target"], view["drafters"], view["output_tokens"]) == ("t1", ["d1"], 3)
    workers = {worker["worker_id"]: worker for worker in seen["workers"]}
    assert workers["t1"]["signals"]["tokens_per_second"] == 12.5
    assert (workers["t1"]["free_kv_blocks"], workers["d1"]["role"]) == (16, "draft")
    assert seen["models"][0]["model"] == "toy"
    assert len(seen["history"]["time"]) >= 1
    assert set(map(len, seen["history"].values())) == {len(seen["history"]["time"])}


async def test_every_question_wants_a_key_where_there_are_keys(locked):
    await locked.add_target(FakeTarget(script=says("x")))
    async with http(locked) as client:
        for path in ("overview", "traces", "traces/abc"):
            answer = await client.get(f"/api/{path}")
            assert answer.status_code == 401
            assert answer.json()["error"]["reason"] == "API_KEY_REQUIRED"
        refused = await client.post("/api/chat", json={"messages": HI})
        assert refused.status_code == 401
        assert (await client.get("/")).status_code == 200


async def test_no_tenant_sees_another_ones_sessions_and_traces(locked):
    target = FakeTarget()
    await locked.add_target(target)
    async with http(locked, "acme") as acme, http(locked, "other") as other:
        async with acme.stream(
            "POST", "/api/chat", json={"messages": HI}, headers={"traceparent": TRACEPARENT}
        ) as answer:
            spec = await target.session()
            target.say(output(spec, 0, encode("secret")))
            await first_text(answer)
            mine = (await acme.get("/api/overview")).json()
            theirs = (await other.get("/api/overview")).json()
        await until(lambda: bool(target.cancelled))
        trace_id = TRACEPARENT.split("-")[1]
        lists = [(await one.get("/api/traces")).json() for one in (acme, other)]
        refused = await other.get(f"/api/traces/{trace_id}")
        refused_too = await acme.get("/api/traces/ffffffffffffffffffffffffffffffff")
    assert len(mine["running"]) == 1
    assert (theirs["running"], theirs["recent"]) == ([], [])
    assert [view["trace_id"] for view in lists[0]["requests"]] == [trace_id]
    assert lists[1] == {"requests": [], "stored": []}
    assert refused.status_code == refused_too.status_code == 404
    assert refused.json()["error"]["reason"] == "TRACE_NOT_FOUND"


async def test_who_knows_a_trace_id_of_another_tenant_sees_only_what_is_its_own(locked, tmp_path):
    store = tmp_path / "spans.sqlite"
    await locked.add_target(FakeTarget(script=says("abc")))
    async with http(locked, "acme") as acme, http(locked, "other") as other:
        for client in (acme, other):
            await client.post(
                "/api/chat", json={"messages": HI}, headers={"traceparent": TRACEPARENT}
            )
        trace_id = TRACEPARENT.split("-")[1]
        # The spans of both requests, as targets write them below those of the coordinator.
        (mine,), (theirs,) = [
            (await one.get("/api/traces")).json()["requests"] for one in (acme, other)
        ]
        tracing = Tracing("target", TelemetrySettings(store_path=str(store)))
        for name, view in (("mine", mine), ("theirs", theirs)):
            parent = f"00-{trace_id}-{view['span_id']}-01"
            with tracing.start(name, parent) as span:
                tracing.start(f"round of {name}", span.traceparent).end()
        tracing.start("the caller's", TRACEPARENT).end()
        tracing.shutdown()
        seen = [(await one.get(f"/api/traces/{trace_id}")).json()["spans"] for one in (acme, other)]
    assert {span["name"] for span in seen[0]} - {"generate"} == {"mine", "round of mine"}
    assert {span["name"] for span in seen[1]} - {"generate"} == {"theirs", "round of theirs"}


def store_spans(path) -> None:
    """Write spans of the trace that TRACEPARENT names, as services do."""
    tracing = Tracing("coordinator", TelemetrySettings(store_path=str(path)))
    with tracing.start("generate", TRACEPARENT) as span:
        tracing.start("admit", span.traceparent).end()
        tracing.start("place", span.traceparent, {"specdec.place.target": "t1"}).end()
    tracing.shutdown()


async def test_a_trace_is_told_span_by_span(cluster, tmp_path):
    store_spans(tmp_path / "spans.sqlite")
    await cluster.add_target(FakeTarget(script=says("abc")))
    async with http(cluster) as client:
        await watch(client, messages=HI)
        trace_id = TRACEPARENT.split("-")[1]
        trace = (await client.get(f"/api/traces/{trace_id}")).json()
        listed = (await client.get("/api/traces")).json()
        odd = await client.get("/api/traces/xyz")
    assert [span["name"] for span in trace["spans"]] == ["generate", "admit", "place"]
    generate, _, place = trace["spans"]
    assert (generate["start"], place["parent"]) == (0, generate["id"])
    assert place["attributes"] == {"specdec.place.target": "t1"}
    assert generate["end"] >= place["end"]
    assert [view["trace_id"] for view in listed["requests"]] == [trace_id]
    assert [summary["trace_id"] for summary in listed["stored"]] == [trace_id]
    assert odd.status_code == 400


async def test_the_page_comes_with_a_strict_policy(cluster):
    async with http(cluster) as client:
        moved = await client.get(f"{cluster.address}/console")
        assert moved.status_code in (302, 307)
        page = await client.get("/")
        assert page.status_code == 200
        for path in ("/", "/js/main.js", "/css/theme.css", "/vendor/uplot/LICENSE"):
            headers = (await client.get(path)).headers
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert headers["x-content-type-options"] == "nosniff"
        unchanged = await client.get(
            "/js/main.js",
            headers={"if-none-match": (await client.get("/js/main.js")).headers["etag"]},
        )
        assert unchanged.status_code == 304
        assert (await client.get("/nothing.js")).status_code == 404
        assert (await client.get("/../routes.py")).status_code == 404
        assert (await client.get("/%2e%2e/routes.py")).status_code == 404
    assert "<script>" not in page.text
    assert " style=" not in page.text
    assert "onclick=" not in page.text


async def test_the_page_can_be_left_out():
    async with a_cluster(http={"console": False}) as cluster, http(cluster) as client:
        assert (await client.get("/")).status_code == 404
        assert (await client.get("/api/overview")).status_code == 404
