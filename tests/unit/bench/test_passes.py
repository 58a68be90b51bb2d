"""`treedraft bench passes` times what it says, in turns, and works its ratios out."""

import itertools
import json

import pytest
import torch
from typer.testing import CliRunner

from treedraft.bench.passes import report, run
from treedraft.bench.passes.result import PASS, PREPACKED, READING, STEP, PassesPlan
from treedraft.bench.passes.run import Subject, run_passes
from treedraft.cli.app import make_app
from treedraft.core.errors import UnsupportedModelError
from treedraft.inference import forward_path
from treedraft.inference.native.compiler import find_compiler
from treedraft.inference.toy import make_toy_model

needs_compiler = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler")


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def toy(tmp_path):
    return str(make_toy_model(tmp_path / "toy"))


@needs_compiler
def test_every_kind_is_timed_at_every_size(toy):
    ticks = itertools.count()
    plan = PassesPlan(toy, rows=(1, 3), num_context=5, num_repeats=2, num_threads=1)
    pauses = []
    result = run_passes(plan, print, clock=lambda: next(ticks) / 1e3, pause=pauses.append)
    assert list(result.gigabytes) == ["float32", "bfloat16", "int8"]
    for weights in result.gigabytes:
        assert all(result.find(PASS, weights, rows).milliseconds for rows in (1, 3))
        assert result.find(READING, weights, 1)
        assert result.find(STEP, weights, 1)
    assert result.find(PREPACKED, "float32", 3)
    assert {len(one.milliseconds) for one in result.timings} == {2}
    assert result.ratio("float32", PREPACKED) == pytest.approx(1.0)  # each took one tick
    assert result.ratio("int8", PREPACKED) is None
    assert pauses  # until threads of others have come to rest
    text = report.markdown(result)
    assert "| float32 | pass | 1.0 | 1.0 |" in text
    assert json.loads(report.to_json(result))["plan"]["rows"] == [1, 3]


def test_subjects_take_turns_and_the_first_turn_does_not_count():
    calls = []
    subjects = [Subject(PASS, name, 1, lambda name=name: calls.append(name)) for name in "ab"]
    times = run._time(subjects, 2, iter(range(100)).__next__, lambda _: None)
    assert calls == list("ababab")
    assert times == [[1e3, 1e3], [1e3, 1e3]]


def test_a_model_whose_passes_go_through_torch_is_refused(toy, monkeypatch):
    monkeypatch.setattr(run, "load_model", lambda source, **_: forward_without_library(source))
    with pytest.raises(UnsupportedModelError) as caught:
        run_passes(PassesPlan(toy, num_threads=1), print)
    assert caught.value.reason == "NO_NATIVE_DECODER"


def forward_without_library(source):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forward_path, "native_library", lambda: None)
        from treedraft.inference.models import load_model

        return load_model(source)


@needs_compiler
def test_the_command_writes_what_it_found(toy, tmp_path):
    file = tmp_path / "passes.json"
    options = ["--target", toy, "--rows", "2", "--context", "4", "--repeats", "1", "--threads", "1"]
    result = CliRunner().invoke(make_app(), ["bench", "passes", *options, "--json", str(file)])
    assert result.exit_code == 0, result.output
    found = json.loads(file.read_text())
    assert found["plan"]["rows"] == [1, 2]
    assert found["stamp"]["num_cores"] >= 1
