"""All four stages on a toy, from nothing to a report, broken off on the way."""

import json

import pytest
from training_support import make_target

from treedraft.inference.drafter_folder import WEIGHTS_FILE
from treedraft.inference.models import load_model
from treedraft.training.checkpoint import CHECKPOINT_FILE
from treedraft.training.evaluation import evaluate as evaluation
from treedraft.training.evaluation.held_out import HeldOutPrompt
from treedraft.training.pipeline import Stage, distill
from treedraft.training.settings import make_settings
from treedraft.training.workspace import Workspace

HELD_OUT = (HeldOutPrompt("prose", "What is rain?"), HeldOutPrompt("code", "Add two numbers."))
EVALUATION = {
    "temperatures": (0.0, 0.7),
    "max_tokens": 16,
    "budgets": (1, 4),
    "depths": (2,),
    "cost_rows": (1, 4),
    "cost_repeats": 3,
    "cost_context": 16,
    "rehearsed_prompts": 1,
    "rehearsed_steps": 2,
}


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "held_out_prompts", lambda: HELD_OUT)
    make_target(tmp_path / "toy")
    file = tmp_path / "own.txt"
    file.write_text("Tell me about the sea.\nHow do tides work?\n")
    return make_settings(
        {
            "target": str(tmp_path / "toy"),
            "out": tmp_path / "drafter",
            "device": "cpu",
            "prompts.files": (str(file),),
            "prompts.count": 12,
            "prompts.shares": {"complete": 1, "opening": 0, "free": 0, "pasted": 0},
            "responses.per_prompt": 2,
            "responses.max_new_tokens": 12,
            "train.layers": 1,
            "train.vocab_size": 200,
            "train.epochs": 4,
            "train.batch_tokens": 512,
            "train.validation_prompts": 2,
            "train.log_steps": 1,
            **{f"evaluation.{name}": value for name, value in EVALUATION.items()},
        }
    )


def test_a_drafter_comes_out_of_a_target_alone_however_often_it_is_broken_off(
    settings, monkeypatch
):
    train_folder = settings.work / Stage.TRAIN

    def break_off_at(words):
        said = []

        def progress(text):
            said.append(text)
            if words in text:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            distill(settings, progress=progress)
        return " / ".join(said)

    break_off_at("step 2 ")
    assert (train_folder / CHECKPOINT_FILE).is_file()
    # A run that was broken off goes on with another limit of time.
    unhurried = settings.train.model_copy(update={"max_seconds": 1e6})
    settings = settings.model_copy(update={"train": unhurried})
    with monkeypatch.context() as patch:
        patch.setattr(Workspace, "finish", break_at_once)
        with pytest.raises(KeyboardInterrupt):
            distill(settings)
    weights = (settings.out / WEIGHTS_FILE).read_bytes()
    assert "100% done" in break_off_at("timing passes")  # trained, but not noted as finished
    assert (settings.out / WEIGHTS_FILE).read_bytes() == weights
    assert not (train_folder / CHECKPOINT_FILE).exists()

    said = []
    results = distill(settings, progress=said.append)

    assert [text for text in said if text.endswith(("done already", "goes on", "begins"))] == [
        "prompts is done already",
        "responses is done already",
        "train is done already",
        "evaluate goes on",
    ]
    assert results[Stage.PROMPTS]["kept"] == 12
    assert results[Stage.RESPONSES]["answers"] > 12
    assert results[Stage.TRAIN]["num_steps"] > 2
    assert 1.0 <= results[Stage.EVALUATE]["T=0"]["tau_4"] <= 5.0
    report = json.loads((settings.out / "report.json").read_text())
    drafter = load_model(settings.out)
    assert report["drafter"]["num_layers"] == drafter.num_layers == 1
    assert report["num_prompts"] == 2


def break_at_once(*_args):
    raise KeyboardInterrupt
