"""Services as processes with certificates on every connection, and strangers at their door."""

import asyncio
import json
import ssl
from pathlib import Path

import httpx2
import pytest
from tests.certificates import Authority, an_authority
from tests.waiting import patience
from typer.testing import CliRunner

from treedraft.bench.answer import ask
from treedraft.cli.app import make_app
from treedraft.coordinator.api_keys import key_line, new_key
from treedraft.core.errors import TreedraftError, UnavailableError
from treedraft.core.generation import GenerateQuery
from treedraft.core.sampling import SamplingParameters, StoppingCriteria
from treedraft.inference.toy import make_toy_model
from treedraft.local_cluster.cluster import LocalCluster
from treedraft.local_cluster.plan import ClusterPlan
from treedraft.rpc.coordinator_client import CoordinatorClient
from treedraft.settings import TlsSettings

THREADS = {"target_threads": 1, "draft_threads": 1}
QUERY = GenerateQuery(
    text="one two three one two three one two",
    sampling=SamplingParameters(temperature=0.7, seed=11),
    stopping=StoppingCriteria(max_tokens=48, ignore_eos=True),
)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return str(make_toy_model(tmp_path_factory.mktemp("toy") / "model", seed=3))


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    return an_authority(tmp_path_factory.mktemp("authority"))


async def refusal_of(endpoint: str, tls: TlsSettings | None) -> TreedraftError:
    client = CoordinatorClient(endpoint, tls=tls)
    try:
        with pytest.raises(TreedraftError) as caught:
            await client.list_models(timeout_seconds=5)
    finally:
        await client.close()
    return caught.value


def run_cli(*arguments: str):
    return CliRunner().invoke(make_app(), list(arguments))


async def check_http_door(address: str, authority: Authority, tls: TlsSettings) -> None:
    assert address.startswith("https://")
    context = ssl.create_default_context(cafile=authority.ca)
    async with httpx2.AsyncClient(base_url=address, verify=context) as stranger:
        with pytest.raises(httpx2.TransportError):
            await stranger.get("/v1/models")
    context.load_cert_chain(tls.certificate, tls.key)
    async with httpx2.AsyncClient(base_url=address, verify=context) as client:
        assert (await client.get("/v1/models")).status_code == 200


async def until_drafts_come(cluster: LocalCluster) -> None:
    """Ask until target and drafter spoke TLS with each other, too; a toy may outrun its drafter."""
    client = cluster.connect()
    try:
        async with patience():
            while (await ask(client, QUERY)).finished.statistics.drafted_nodes == 0:
                pass
    finally:
        await client.close()


async def test_a_cluster_with_certificates_serves_and_lets_no_stranger_in(toy, authority):
    tls = authority.settings(
        "service", require_client_certificate=True, service_names=("service", "localhost")
    )
    plan = ClusterPlan(target=toy, draft=toy, tls=tls, **THREADS)
    async with LocalCluster(plan) as cluster:
        await until_drafts_come(cluster)
        workers = [cluster.processes[name].endpoint for name in ("target-0", "draft-0")]
        for endpoint in (cluster.endpoint, *workers):
            for stranger in (None, TlsSettings(ca=authority.ca)):
                error = await refusal_of(endpoint, stranger)
                assert (type(error), error.reason) == (UnavailableError, "TLS_HANDSHAKE_FAILED")
        files = ("--ca", tls.ca, "--cert", tls.certificate, "--key", tls.key)
        prompt = ("generate", "one two three", "--endpoint", cluster.endpoint, "--json")
        limits = ("--max-tokens", "8", "--ignore-eos", "--temperature", "0")
        told = await asyncio.to_thread(run_cli, *prompt, *limits, *files)
        assert told.exit_code == 0, told.stderr
        assert len(json.loads(told.stdout)["token_ids"]) == 8
        await check_http_door(cluster.address, authority, tls)
        listed = await asyncio.to_thread(run_cli, "models", "--endpoint", cluster.endpoint, *files)
        assert "target-0" in listed.stdout
        refused = await asyncio.to_thread(run_cli, *prompt)
    assert refused.exit_code == 1
    assert "TLS_HANDSHAKE_FAILED" in refused.stderr


async def test_a_service_says_which_file_keeps_it_from_starting(toy, authority):
    certificate, key = authority.issue("one")[0], authority.issue("two")[1]
    tls = TlsSettings(ca=authority.ca, certificate=certificate, key=key)
    with pytest.raises(UnavailableError, match="TLS_KEY_MISMATCH") as caught:
        async with LocalCluster(ClusterPlan(target=toy, tls=tls, **THREADS)):
            pass
    assert "Traceback" not in caught.value.message


def keys_for(folder: Path, tenant: str) -> tuple[str, dict[str, str]]:
    """Return a key of a tenant and the settings of a coordinator that takes it."""
    key, keys, secret = new_key(), folder / "keys.toml", folder / "secret"
    keys.write_text(f"[keys]\n{key_line(key, tenant)}\n")
    secret.write_text("0123456789abcdef" * 2)
    prefix = "TREEDRAFT_COORDINATOR__DOOR__"
    files = {"KEYS_FILE": str(keys), "TENANT_SECRET_FILE": str(secret)}
    return key, {prefix + name: path for name, path in files.items()}


async def test_the_command_line_says_its_key(toy, tmp_path):
    key, settings = keys_for(tmp_path, "acme")
    plan = ClusterPlan(target=toy, settings=settings, api_key=key, **THREADS)
    assert key not in repr(plan)
    async with LocalCluster(plan) as cluster:
        models = ("models", "--endpoint", cluster.endpoint)
        told = await asyncio.to_thread(run_cli, *models, "--api-key", key)
        refused = await asyncio.to_thread(run_cli, *models)
    assert told.exit_code == 0, told.stderr
    assert "target-0" in told.stdout
    assert refused.exit_code == 1
    assert "API_KEY_REQUIRED" in refused.stderr
