"""What commands say of drafters: judge and tune on toy models, up and generate on no model."""

import json
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from treedraft.bench.tuning import plan as tuning_plan
from treedraft.bench.tuning import run as tuning_run
from treedraft.cli import connection, up
from treedraft.cli.app import make_app
from treedraft.core.generation import Delta, Finished, Started
from treedraft.core.growth import TokenSource
from treedraft.core.session import FinishReason, SessionStatistics
from treedraft.inference.toy import make_toy_model
from treedraft.training.evaluation import evaluate as evaluate_module
from treedraft.training.evaluation import judgement
from treedraft.training.evaluation.report import from_json
from treedraft.training.evaluation.settings import EvaluationSettings

SMALL = EvaluationSettings(
    temperatures=(0.0,), max_tokens=8, budgets=(1, 16), depths=(1,), cost_rows=(1, 2),
    cost_repeats=3, cost_context=8,
)  # fmt: skip


@pytest.fixture
def run():
    runner = CliRunner()
    before = torch.get_num_threads()
    yield lambda *arguments: runner.invoke(make_app(), [str(one) for one in arguments])
    torch.set_num_threads(before)


@pytest.fixture
def models(tmp_path):
    """Return the options that name a toy target, a drafter, and prompts."""
    target = make_toy_model(tmp_path / "target", seed=1)
    drafter = make_toy_model(tmp_path / "drafter", seed=2, noise_of=target, noise=0.05)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("The quick brown fox\nIn the beginning\n")
    return SimpleNamespace(target=target, drafter=drafter, prompts=prompts)


# judge


def test_judge_prints_tables_and_leaves_a_report(run, models, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate_module, "EvaluationSettings", lambda: SMALL)
    monkeypatch.setattr(judgement.picture, "draw", lambda *_: None)
    result = run(
        "judge", "--target", models.target, "--draft", models.drafter,
        "--prompts", models.prompts, "--out", tmp_path / "out",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("Drafter drafter: ")
    assert "| T | τ, model alone | τ, lookup too |" in result.stdout
    report = from_json((tmp_path / "out" / "report.json").read_text())
    assert (report.num_prompts, report.drafter.name) == (2, "drafter")


@pytest.mark.parametrize(
    ("draft", "words"),
    [("lookup", "lookup alone has no model"), ("auto", "no drafter is shipped for /toy")],
)
def test_judge_refuses_where_there_is_no_model_to_judge(run, monkeypatch, draft, words):
    monkeypatch.setattr(judgement, "load_model", lambda *_, **__: pytest.fail("loaded"))
    result = run("judge", "--target", "/toy", "--draft", draft)
    assert result.exit_code == 1
    assert words in result.stderr
    assert "treedraft tune --draft lookup" in result.stderr
    assert "(NO_DRAFTER)" in result.stderr


# tune


def test_tune_predicts_and_writes_every_number(run, models, tmp_path, monkeypatch):
    few = partial(tuning_plan.TunePlan, budgets=(1, 2), depths=(1, 2), children=(1,))
    monkeypatch.setattr(tuning_plan, "TunePlan", few)
    monkeypatch.setattr(tuning_run, "num_usable_cores", lambda: 1)
    file = tmp_path / "tune.json"
    result = run(
        "tune", "--target", models.target, "--draft", models.drafter, "--draft", "lookup",
        "--prompts", models.prompts, "--tokens", "8", "--confirm", "0", "--num-prompts", "1",
        "--device", "cpu", "--json", file,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "Nothing was run. The best prediction is" in result.stdout
    document = json.loads(file.read_text())
    assert document["source"] == str(models.target)
    assert [entry["name"] for entry in document["drafters"]] == ["drafter", "lookup"]
    assert all(entry["predictions"] for entry in document["drafters"])
    assert (document["num_prompts"], document["confirmations"]) == (1, [])


def test_tune_says_at_once_that_its_file_has_no_folder(run, tmp_path):
    result = run("tune", "--json", tmp_path / "none" / "tune.json")
    assert result.exit_code == 1
    assert "NO_FOLDER" in result.stderr


# up and generate


class FakeCluster:
    endpoint = "127.0.0.1:1"

    def __init__(self, plan, *, progress):
        self.processes = {}

    async def __aenter__(self):
        return self

    async def stop(self, *, keeps_logs):
        pass


class FakeClient:
    def __init__(self, endpoints, **_options):
        pass

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_error):
        pass

    async def generate(self, query, *, timeout_seconds=None, traceparent=""):
        yield Started("s", 1, (1, 2), "", "toy")
        yield Delta(0, (5,), (TokenSource.TARGET,), "text")
        yield Finished(FinishReason.LENGTH, SessionStatistics(emitted_tokens=1), 10.0)


@pytest.fixture
def no_processes(monkeypatch):
    async def told(_cluster):
        pass

    monkeypatch.setattr(connection, "LocalCluster", FakeCluster)
    monkeypatch.setattr(connection, "Client", FakeClient)
    monkeypatch.setattr(up, "_until_told", told)


@pytest.mark.usefixtures("no_processes")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--target", "/toy"), "drafts by lookup"),
        (("--target", "/toy", "--draft", "/my/drafter"), "draft model /my/drafter"),
    ],
)
def test_up_and_generate_say_which_drafter_was_chosen(run, options, words):
    assert words in run("up", *options).stderr
    result = run("generate", "hello", "--json", *options)
    assert words in result.stderr
    assert json.loads(result.stdout)["text"] == "text"


@pytest.mark.usefixtures("no_processes")
def test_up_without_drafters_says_so(run):
    assert "no drafts" in run("up", "--num-drafters", "0").stderr
