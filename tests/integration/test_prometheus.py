"""A real Prometheus scrapes a real cluster of toys and is asked every query that we ship."""

import asyncio
import json
import shutil
import socket
import subprocess
import urllib.parse
import urllib.request
from contextlib import contextmanager, suppress

import pytest
import yaml
from tests.observability import RULES, alerts, dashboard_queries, names_in, rules

from treedraft.bench.answer import ask
from treedraft.core.errors import TreedraftError
from treedraft.core.generation import GenerateQuery
from treedraft.core.sampling import SamplingParameters, StoppingCriteria
from treedraft.inference.toy import make_toy_model
from treedraft.local_cluster.cluster import LocalCluster
from treedraft.local_cluster.plan import ClusterPlan
from treedraft.telemetry import names
from treedraft.telemetry.aliases import ALIASES
from treedraft.telemetry.catalogue import METRICS
from treedraft.telemetry.scaling import SCALING_METRICS

pytestmark = pytest.mark.skipif(
    not shutil.which("prometheus"), reason="needs prometheus (Debian: prometheus)"
)

# Nothing breaks in this test and nothing is scaled, so these have no series.
_EMPTY_UNTIL_IT_HAPPENS = {names.METRIC_LINK_FAILURES, *(spec.name for spec in SCALING_METRICS)}
_PATIENCE_SECONDS = 90.0


def free_ports(number):
    sockets = [socket.socket() for _ in range(number)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@contextmanager
def prometheus(folder, ports, own_port):
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {
                "job_name": "treedraft",
                "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in ports]}],
            }
        ],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
    command = ["prometheus", "--config.file", str(folder / "prometheus.yaml")]
    options = ["--storage.tsdb.path", str(folder / "data")]
    options += ["--web.listen-address", f"127.0.0.1:{own_port}"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*command, *options], stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait(30)


def query(port, text):
    address = f"http://127.0.0.1:{port}/api/v1/query?"
    with urllib.request.urlopen(address + urllib.parse.urlencode({"query": text})) as response:
        return json.load(response)["data"]["result"]


def shipped_queries():
    for place, text in dashboard_queries():
        yield place, text.replace("$__rate_interval", "1m")
    for rule in rules():
        yield rule.get("alert") or rule["record"], rule["expr"]


def is_answered(port, place, text):
    found = query(port, text)
    may_be_empty = place in alerts() or names_in(text) & _EMPTY_UNTIL_IT_HAPPENS
    return bool(found or may_be_empty)


def unanswered(port):
    return [place for place, text in shipped_queries() if not is_answered(port, place, text)]


def asked(number):
    return GenerateQuery(
        text="one two three one two three one two",
        sampling=SamplingParameters(temperature=0.7, seed=number),
        stopping=StoppingCriteria(max_tokens=32, ignore_eos=True),
    )


async def wait_until_answered(port, client):
    """Keep the cluster busy until Prometheus has an answer to everything."""
    left, number = ["not asked yet"], 0
    async with asyncio.timeout(_PATIENCE_SECONDS):
        while left:
            number += 1
            await ask(client, asked(number))
            with suppress(TreedraftError):
                await ask(client, GenerateQuery(model="none", text="x"))
            with suppress(OSError):  # not up yet
                left = await asyncio.to_thread(unanswered, port)
    return left


async def test_every_query_is_answered_by_what_the_services_export(tmp_path):
    toy = str(make_toy_model(tmp_path / "model", seed=3))
    *ports, own_port = free_ports(4)
    settings = {
        f"TREEDRAFT_{role}__TELEMETRY__METRICS_PORT": str(port)
        for role, port in zip(("COORDINATOR", "TARGET", "DRAFT"), ports, strict=True)
    }
    plan = ClusterPlan(target=toy, draft=toy, target_threads=1, draft_threads=1, settings=settings)
    async with LocalCluster(plan) as cluster:
        client = cluster.connect()
        with prometheus(tmp_path, ports, own_port):
            try:
                await wait_until_answered(own_port, client)
            except TimeoutError:
                pytest.fail(f"no answer to {unanswered(own_port)}")
            samples = query(own_port, 'count by (__name__) ({__name__=~"(treedraft|vllm).+"})')
            firing = query(own_port, 'ALERTS{alertstate="firing"}')
        await client.close()
    scraped = {sample["metric"]["__name__"] for sample in samples}
    assert firing == []
    for spec in (*METRICS, *ALIASES):
        is_histogram = spec.name.endswith("_seconds") or getattr(spec, "buckets", ())
        name = spec.name + ("_bucket" if is_histogram else "")
        assert name in scraped | _EMPTY_UNTIL_IT_HAPPENS
