import asyncio
import json

import pytest
from tests.waiting import PATIENCE_SECONDS
from typer.testing import CliRunner

from treedraft.bench.answer import ask
from treedraft.cli.app import make_app
from treedraft.core.errors import IncompatiblePeerError, UnavailableError
from treedraft.core.generation import GenerateQuery
from treedraft.core.sampling import SamplingParameters, SpeculationOptions, StoppingCriteria
from treedraft.inference.toy import make_toy_model
from treedraft.local_cluster.cluster import LocalCluster
from treedraft.local_cluster.plan import ClusterPlan

THREADS = {"target_threads": 1, "draft_threads": 1}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    return str(make_toy_model(tmp_path_factory.mktemp("toy") / "model", seed=3))


@pytest.fixture(scope="module")
def other_tokenizer(tmp_path_factory):
    return str(make_toy_model(tmp_path_factory.mktemp("toy") / "other", seed=3, vocab=400))


def query(*, speculation=True):
    return GenerateQuery(
        text="one two three one two three one two",
        sampling=SamplingParameters(temperature=0.7, seed=11),
        stopping=StoppingCriteria(max_tokens=48, ignore_eos=True),
        speculation=SpeculationOptions(enabled=speculation),
    )


async def test_processes_serve_together_and_a_dead_drafter_harms_nobody(toy):
    plan = ClusterPlan(target=toy, draft=toy, **THREADS)
    words = []
    async with LocalCluster(plan, progress=words.append) as cluster:
        folder = cluster.log_folder
        client = cluster.connect()
        plain = await ask(client, query(speculation=False))
        assert plain.finished.statistics.admitted_nodes == 0
        # A toy is done before its drafter has been dialled: it is asked until it hears of it.
        num_drafted, num_asked = 0, 0
        while num_drafted == 0:
            speculative = await ask(client, query())
            assert speculative.token_ids == plain.token_ids
            num_drafted, num_asked = speculative.finished.statistics.drafted_nodes, num_asked + 1
            assert num_asked < 500

        await cluster.kill("draft-0")
        alone = await asyncio.wait_for(ask(client, query()), PATIENCE_SECONDS)
        assert alone.token_ids == plain.token_ids
        await client.close()
    assert any("target" in word for word in words)
    assert not folder.exists()


async def test_a_model_that_is_not_there_ends_the_start_with_a_reason(tmp_path):
    plan = ClusterPlan(target=str(tmp_path / "none"), num_drafters=0, **THREADS)
    with pytest.raises(UnavailableError) as caught:
        async with LocalCluster(plan):
            pass
    assert caught.value.reason == "SERVICE_DIED"
    assert "MODEL_NOT_FOUND" in caught.value.message


async def test_a_drafter_of_another_tokenizer_is_refused(toy, other_tokenizer):
    plan = ClusterPlan(target=toy, draft=other_tokenizer, **THREADS)
    with pytest.raises(IncompatiblePeerError) as caught:
        async with LocalCluster(plan):
            pass
    assert caught.value.reason == "TOKENIZER_MISMATCH"


def test_generate_with_a_cluster_of_its_own_prints_one_object(toy):
    arguments = ("generate", "one two three", "--target", toy, "--json", "--max-tokens", "8")
    result = CliRunner().invoke(make_app(), [*arguments, "--temperature", "0", "--ignore-eos"])
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert result.stdout.count("\n") == 1
    assert len(document["token_ids"]) == 8
    assert document["finish_reason"] == "length"
