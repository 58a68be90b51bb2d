"""The coordinator's door with keys: who is let in, how often, and what is written down."""

import asyncio
import json
from pathlib import Path

import grpc
import httpx2
import pytest
from tests.unit.coordinator.cluster import Cluster, a_cluster, ask, failure_of
from tests.unit.coordinator.redis_server import redis_server
from tests.unit.coordinator.support import FakeTarget, a_drafter, encode, output, says, until
from tests.waiting import PATIENCE_SECONDS, patience

from treedraft.coordinator.api_keys import TenantRoll, key_line, new_key
from treedraft.coordinator.session_store.tenant_ledger import EmbeddedTenantLedger
from treedraft.core.errors import (
    OverloadedError,
    PermissionDeniedError,
    TreedraftError,
    UnauthenticatedError,
)
from treedraft.core.generation import Finished, GenerateQuery
from treedraft.core.prefix import page_hashes, short_hash
from treedraft.core.sampling import SamplingParameters
from treedraft.core.session import FinishReason
from treedraft.core.worker import WorkerReport
from treedraft.rpc.coordinator_client import CoordinatorClient
from treedraft.v1 import coordinator_service_pb2 as pb
from treedraft.v1 import coordinator_service_pb2_grpc as pb_grpc

HELLO = GenerateQuery(text="hello", sampling=SamplingParameters(seed=3))
KEYS = {name: new_key() for name in ("acme", "other", "slow", "gone")}


@pytest.fixture
def door(tmp_path):
    """Settings of a door with a key for each of the tenants; `slow` has limits."""
    secret, keys = tmp_path / "secret", tmp_path / "keys.toml"
    secret.write_text("0123456789abcdef" * 2)
    write_keys(keys, "requests_at_once = 1")
    return {
        "keys_file": str(keys),
        "tenant_secret_file": str(secret),
        "audit_file": str(tmp_path / "audit.jsonl"),
    }


def write_keys(path, limits):
    lines = [key_line(key, name) for name, key in KEYS.items()]
    tenants = f"[tenants.slow]\n{limits}\n[tenants.gone]\nsuspended = true\n"
    new = path.with_suffix(".new")
    new.write_text("\n".join(["[keys]", *lines, tenants]))
    new.replace(path)


async def start(cluster: Cluster, target: FakeTarget, **registration) -> None:
    """Give the cluster a target; its own client asks for acme."""
    cluster.client = client_of(cluster, "acme")
    await cluster.add_target(target, **registration)


def client_of(cluster: Cluster, tenant: str) -> CoordinatorClient:
    client = CoordinatorClient(cluster.endpoint, api_key=KEYS.get(tenant, tenant))
    cluster.stack.push_async_callback(client.close)
    return client


async def test_who_has_no_key_gets_nothing_but_workers_need_none(door):
    async with a_cluster(door=door) as cluster:
        await start(cluster, FakeTarget(script=says("hi")))  # it announced itself without a key
        for key, error_class, reason in (
            ("", UnauthenticatedError, "API_KEY_REQUIRED"),
            (new_key(), UnauthenticatedError, "API_KEY_INVALID"),
            ("gone", PermissionDeniedError, "TENANT_SUSPENDED"),
        ):
            client = client_of(cluster, key)
            calls = (ask(client, HELLO), client.list_models(), client.describe_cluster())
            for call in calls:
                with pytest.raises(TreedraftError) as caught:
                    await call
                assert (type(caught.value), caught.value.reason) == (error_class, reason)
        assert isinstance((await ask(client_of(cluster, "acme"), HELLO))[-1], Finished)


async def test_refusals_have_the_codes_of_grpc(door):
    async with a_cluster(door=door) as cluster:
        channel = grpc.aio.insecure_channel(cluster.endpoint)
        async with channel:
            stub = pb_grpc.CoordinatorServiceStub(channel)
            for metadata, code in (
                ((), grpc.StatusCode.UNAUTHENTICATED),
                ((("authorization", KEYS["acme"]),), grpc.StatusCode.UNAUTHENTICATED),
                ((("authorization", "Basic eDp5"),), grpc.StatusCode.UNAUTHENTICATED),
                ((("authorization", f"Bearer {KEYS['gone']}"),), grpc.StatusCode.PERMISSION_DENIED),
            ):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await stub.ListModels(
                        pb.ListModelsRequest(), metadata=metadata, timeout=PATIENCE_SECONDS
                    )
                assert caught.value.code() is code
                assert KEYS["acme"] not in str(caught.value.details())
            good = (("authorization", f"bearer {KEYS['acme']}"),)
            await stub.ListModels(pb.ListModelsRequest(), metadata=good, timeout=PATIENCE_SECONDS)


async def test_the_tenants_salt_reaches_the_target_and_placement(door):
    prompt, pages = "a prompt of some pages", {}
    roll = TenantRoll(door["keys_file"], door["tenant_secret_file"])
    for name in ("acme", "other"):
        hashes = page_hashes(
            encode(prompt),
            block_size=4,
            fingerprint="fingerprint",
            tenant_salt=roll.tenant_named(name).salt,
        )
        pages[name] = tuple(short_hash(page) for page in hashes)
    targets = {name: FakeTarget(script=says("hi")) for name in ("acme", "other")}
    async with a_cluster(door=door) as cluster:
        cluster.client = client_of(cluster, "acme")
        for name, target in targets.items():
            held = WorkerReport(free_kv_blocks=64, total_kv_blocks=64, added_prefixes=pages[name])
            await cluster.add_target(target, worker_id=name, report=held)
        query = GenerateQuery(text=prompt, sampling=SamplingParameters(seed=3))
        for name in ("other", "acme", "other"):
            await ask(client_of(cluster, name), query)
    # Each went where the pages of its own tenant are, and with its own salt.
    assert {name: len(target.started) for name, target in targets.items()} == {
        "acme": 1,
        "other": 2,
    }
    for name, target in targets.items():
        salts = {spec.tenant_salt for spec in target.started.values()}
        assert salts == {roll.tenant_named(name).salt}


async def test_without_keys_there_is_no_salt():
    async with a_cluster() as cluster:
        target = FakeTarget(script=says("hi"))
        await cluster.add_target(target)
        await ask(cluster.client, HELLO)
    assert [spec.tenant_salt for spec in target.started.values()] == [b""]


async def test_a_place_is_taken_until_the_request_ends_or_its_client_leaves(door):
    async with a_cluster(door=door) as cluster:
        target = FakeTarget()
        await start(cluster, target)
        slow = client_of(cluster, "slow")
        for leaves in (True, False):
            target.script, number = None, len(target.started)
            running = asyncio.create_task(ask(slow, HELLO))
            spec = await target.session(number)
            error = await failure_of(slow, HELLO)
            assert isinstance(error, OverloadedError)
            assert (error.reason, error.retry_after_ms) == ("TENANT_REQUESTS_AT_ONCE", 1000)
            if leaves:
                running.cancel()
                await until(lambda spec=spec: spec.session_id in target.cancelled)
            else:
                target.say(output(spec, 0, encode("hi"), FinishReason.STOP))
                await running
            target.script = says("hi")
            await until_let_in(slow)


async def until_let_in(client: CoordinatorClient) -> None:
    """Ask until the place that became free, which the ledger learns behind the end, is there."""
    async with patience():
        while True:
            try:
                await ask(client, HELLO)
            except OverloadedError:
                await asyncio.sleep(0.01)
            else:
                return


@pytest.mark.parametrize("is_shared", [False, True])
async def test_tokens_are_charged_and_limits_are_those_of_the_file_by_now(
    door, tmp_path, is_shared
):
    if is_shared:
        with redis_server(tmp_path) as url:
            await _run_out_of_tokens(door, tmp_path, redis=url)
    else:
        await _run_out_of_tokens(door, tmp_path)


async def _run_out_of_tokens(door, tmp_path, **settings):
    used = len(encode("hello")) + len(encode("an answer"))
    write_keys(tmp_path / "keys.toml", f"tokens_per_day = {used + 1}")
    async with a_cluster(door=door, **settings) as cluster:
        await start(cluster, FakeTarget(script=says("an answer")))
        slow = client_of(cluster, "slow")
        assert isinstance((await ask(slow, HELLO))[-1], Finished)
        await ask(slow, HELLO)  # one token was left
        error = await until_refused(slow)
        assert error.reason == "TENANT_TOKENS_PER_DAY"
        assert error.retry_after_ms > 1000
        assert isinstance((await ask(client_of(cluster, "acme"), HELLO))[-1], Finished)
        write_keys(tmp_path / "keys.toml", "requests_per_minute = 1")
        await ask(slow, HELLO)
        assert (await failure_of(slow, HELLO)).reason == "TENANT_REQUESTS_PER_MINUTE"


async def until_refused(client: CoordinatorClient) -> OverloadedError:
    """Ask until the charge for the last answer, which comes behind it, has arrived."""
    async with patience():
        while True:
            try:
                await ask(client, HELLO)
            except OverloadedError as error:
                return error
            await asyncio.sleep(0.01)


async def test_a_long_answer_is_charged_while_it_runs(door, tmp_path):
    write_keys(tmp_path / "keys.toml", "tokens_per_minute = 8")
    async with a_cluster(door=door) as cluster:
        target = FakeTarget()
        await start(cluster, target)
        slow = client_of(cluster, "slow")
        running = asyncio.create_task(ask(slow, HELLO))
        spec = await target.session()
        target.say(output(spec, 0, encode("much of it")))
        target.script = says("hi")
        assert (await until_refused(slow)).reason == "TENANT_TOKENS_PER_MINUTE"
        assert not running.done()
        target.say(output(spec, 10, encode("!"), FinishReason.STOP))
        await running


async def test_with_the_store_away_a_tenant_with_limits_is_refused_clearly(door, tmp_path):
    with redis_server(tmp_path) as url:
        async with a_cluster(door=door, redis=url) as cluster:
            await start(cluster, FakeTarget(script=says("hi")))
            await ask(client_of(cluster, "slow"), HELLO)
            await asyncio.to_thread(shut_down, url)
            error = await failure_of(client_of(cluster, "slow"), HELLO)
            assert error.reason == "STORE_UNAVAILABLE"


def shut_down(url: str) -> None:
    from redis import Redis

    Redis(unix_socket_path=url.removeprefix("unix://")).shutdown(nosave=True)


def audit_text(door) -> str:
    return Path(door["audit_file"]).read_text()


def audit_lines(door) -> list[dict]:
    return [json.loads(line) for line in audit_text(door).splitlines()]


async def test_each_request_leaves_a_line_without_its_text(door):
    async with a_cluster(door=door) as cluster:
        target = FakeTarget(script=says("an answer"))
        await start(cluster, target)
        await cluster.announce(a_drafter("d1", endpoint="nowhere:1"))
        await ask(client_of(cluster, "acme"), HELLO)
        await failure_of(client_of(cluster, "other"), GenerateQuery(text="hello", model="none"))
        target.script = None
        leaving = asyncio.create_task(ask(client_of(cluster, "other"), HELLO))
        spec = await target.session(1)
        leaving.cancel()
        await until(lambda: spec.session_id in target.cancelled)
        await until(lambda: len(audit_lines(door)) == 3)
    finished, failed, cancelled = audit_lines(door)
    assert finished["tenant"] == "acme"
    assert finished["model"] == "toy"
    assert finished["drafters"] == ["d1"]
    assert finished["outcome"] == "stop"
    assert (finished["prompt_tokens"], finished["output_tokens"]) == (5, 9)
    counts = ("drafted_tokens", "accepted_tokens", "rejected_tokens")
    assert [finished[name] for name in counts] == [0, 0, 0]
    assert finished["session_id"] == next(iter(target.started))
    assert (failed["tenant"], failed["outcome"]) == ("other", "UNKNOWN_MODEL")
    assert (cancelled["tenant"], cancelled["outcome"]) == ("other", "cancelled")
    assert cancelled["drafted_tokens"] is None
    text = audit_text(door)
    for secret in ("hello", "an answer", KEYS["acme"]):
        assert secret not in text


async def test_the_http_door_has_the_same_keys(door):
    async with (
        a_cluster(door=door) as cluster,
        httpx2.AsyncClient(base_url=cluster.address) as http,
    ):
        await start(cluster, FakeTarget(script=says("hi")))
        for key, status, code in (
            ("", 401, "api_key_required"),
            (new_key(), 401, "invalid_api_key"),
            (KEYS["gone"], 403, "tenant_suspended"),
            (KEYS["acme"], 200, None),
        ):
            headers = {"authorization": f"Bearer {key}"} if key else {}
            asked = await http.post("/v1/completions", json={"prompt": "x"}, headers=headers)
            listed = await http.get("/v1/models", headers=headers)
            for response in (asked, listed):
                error = response.json().get("error", {})
                assert (response.status_code, error.get("code")) == (status, code)


async def test_a_prompt_is_charged_as_its_session_begins(door, tmp_path, monkeypatch):
    write_keys(tmp_path / "keys.toml", "tokens_per_minute = 4")
    charged = []
    charge = EmbeddedTenantLedger.charge

    async def noted(self, tenant, limits, charges):
        await charge(self, tenant, limits, charges)
        charged.extend(one.total for one in charges)

    monkeypatch.setattr(EmbeddedTenantLedger, "charge", noted)
    rarely = {"refresh_seconds": 60.0, "log_interval_seconds": 0.0}
    async with a_cluster(door=door, store=rarely) as cluster:
        await start(cluster, FakeTarget())
        slow = client_of(cluster, "slow")
        events = slow.generate(HELLO)
        prompt = (await anext(events)).prompt_token_ids  # and no word of output yet
        await until(lambda: charged == [len(prompt)])
        assert (await failure_of(slow, HELLO)).reason == "TENANT_TOKENS_PER_MINUTE"
        await events.aclose()
