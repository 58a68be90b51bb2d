import json

import pytest
from training_support import make_target
from typer.testing import CliRunner

from treedraft.cli.app import make_app
from treedraft.core.errors import TreedraftError
from treedraft.training import __main__ as command
from treedraft.training.corpus import Corpus
from treedraft.training.pipeline import Stage, distill
from treedraft.training.settings import make_settings

PROMPTS = ["Tell me about the sea.", "How do tides work?", "What is a harbour good for?"]
MADE = (Stage.PROMPTS, Stage.RESPONSES)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    make_target(folder)
    return folder


@pytest.fixture
def given(toy, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(PROMPTS))
    return {
        "target": str(toy),
        "out": tmp_path / "drafter",
        "device": "cpu",
        "prompts.files": (str(file),),
        "prompts.count": 3,
        "responses.per_prompt": 1,
        "responses.max_length": 80,
        "responses.max_new_tokens": 4,
        "generator.num_slots": 2,
    }


def run(given, **options):
    said = []
    results = distill(make_settings(given), progress=said.append, **options)
    return results, " / ".join(said)


def reason_of(given, **options):
    with pytest.raises(TreedraftError) as caught:
        run(given, **options)
    return caught.value.reason


def test_stages_run_alone_and_what_is_done_is_passed_over(given, tmp_path):
    assert reason_of(given, stages=[Stage.RESPONSES]) == "STAGE_MISSING"
    results, _ = run(given, stages=[Stage.PROMPTS])
    assert results == {Stage.PROMPTS: {"kept": 3}}
    results, said = run(given, stages=MADE)
    assert results[Stage.RESPONSES]["answers"] == 3
    assert "prompts is done already / responses begins" in said
    assert Corpus.open(tmp_path / "drafter" / "work" / "responses").num_documents == 3
    again, said = run(given, stages=MADE)
    assert again == results
    assert "loading" not in said


def test_other_settings_are_refused_until_the_stage_is_done_again(given):
    run(given, stages=MADE)
    hotter = {**given, "responses.temperatures": {1.0: 1.0}}
    assert reason_of(hotter, stages=MADE) == "STAGE_CHANGED"
    results, said = run(hotter, stages=MADE, redo=[Stage.RESPONSES])
    assert "prompts is done already / responses begins" in said.replace("loading", "/ loading")
    assert results[Stage.RESPONSES]["answers"] == 3


def broken_off_at(words):
    def progress(text):
        if words in text:
            raise KeyboardInterrupt

    return progress


def test_a_redo_that_was_broken_off_removes_nothing_again(given):
    run(given, stages=[Stage.PROMPTS])
    redo = {"stages": MADE, "redo": [Stage.PROMPTS]}
    with pytest.raises(KeyboardInterrupt):
        distill(make_settings(given), progress=broken_off_at("responses begins"), **redo)
    _, said = run(given, **redo)
    assert "prompts is done already / responses begins" in said
    _, said = run(given, **redo)  # that one came to its end: this is a new one
    assert "prompts begins" in said


def test_a_redo_that_was_broken_off_does_what_has_changed_since(given):
    redo = {"stages": MADE, "redo": [Stage.PROMPTS]}
    with pytest.raises(KeyboardInterrupt):
        distill(make_settings(given), progress=broken_off_at("responses begins"), **redo)
    _, said = run({**given, "seed": 5}, **{**redo, "stages": [Stage.PROMPTS]})
    assert "prompts begins" in said


def test_another_redo_than_the_one_broken_off_removes_what_it_says(given):
    run(given, stages=[Stage.PROMPTS])
    with pytest.raises(KeyboardInterrupt):
        distill(
            make_settings(given),
            progress=broken_off_at("responses begins"),
            stages=MADE,
            redo=[Stage.RESPONSES],
        )
    _, said = run(given, stages=[Stage.PROMPTS], redo=[Stage.PROMPTS])
    assert "prompts begins" in said


def test_what_only_sets_the_pace_changes_no_stage(given):
    run(given, stages=MADE)
    _, said = run({**given, "generator.num_slots": 1}, stages=MADE)
    assert "responses is done already" in said


def test_other_prompts_in_the_same_file_are_other_prompts(given, tmp_path):
    run(given, stages=[Stage.PROMPTS])
    (tmp_path / "prompts.txt").write_text("\n".join(reversed(PROMPTS)))
    assert reason_of(given, stages=[Stage.PROMPTS]) == "STAGE_CHANGED"


def test_a_stage_that_was_broken_off_goes_on(given, monkeypatch, tmp_path):
    from treedraft.training.corpus import CorpusWriter

    run(given, stages=[Stage.PROMPTS])
    monkeypatch.setattr("treedraft.training.responses._TOKENS_PER_PART", 1)
    flush = CorpusWriter.flush_part

    def flush_and_break(self):
        flush(self)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(CorpusWriter, "flush_part", flush_and_break)
        with pytest.raises(KeyboardInterrupt):
            run(given, stages=[Stage.RESPONSES])
    results, said = run(given, stages=[Stage.RESPONSES])
    assert "responses goes on" in said
    assert results[Stage.RESPONSES]["answers"] == 2
    corpus = Corpus.open(tmp_path / "drafter" / "work" / "responses")
    assert sorted(corpus.jobs.tolist()) == [0, 1, 2]


def test_values_are_json_or_text_and_wrong_names_are_refused():
    settings = make_settings(
        {"out": "x", "train.layers": None},
        ["train.epochs=0.5", "target=some/model", 'prompts.files=["a.txt"]', "seed=3"],
    )
    assert (settings.train.layers, settings.train.epochs, settings.seed) == (0, 0.5, 3)
    assert (settings.target, settings.prompts.files) == ("some/model", ("a.txt",))
    with pytest.raises(TreedraftError, match="NAME=VALUE"):
        make_settings({"out": "x"}, ["train.epochs"])
    with pytest.raises(ValueError, match="epoch_count"):
        make_settings({"out": "x"}, ["train.epoch_count=3"])


def test_the_command_runs_stages_and_says_what_is_wrong(given):
    flags = ["distill", "--target", given["target"], "--out", str(given["out"]), "--device", "cpu"]
    flags += ["--prompts", "3", "--prompt-file", given["prompts.files"][0], "--stage", "prompts"]
    result = CliRunner().invoke(make_app(), flags)
    assert result.exit_code == 0
    assert "kept 3" in result.stdout
    result = CliRunner().invoke(make_app(), [*flags, "--stage", "dance"])
    assert result.exit_code == 1
    assert "UNKNOWN_STAGE" in result.stderr
    result = CliRunner().invoke(make_app(), [*flags, "--set", "train.dance=1"])
    assert result.exit_code == 1
    assert "train.dance" in result.stderr


def test_the_module_prints_figures_as_json(given, capsys):
    names = [f"{name}={json.dumps(value, default=str)}" for name, value in given.items()]
    assert command.main([*names, "--stage", "prompts"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"prompts": {"kept": 3}}
    assert "prompts begins" in captured.err
    assert command.main([*names, "--stage", "train"]) == 1
    assert "STAGE_MISSING" in capsys.readouterr().err
