"""Sections of a run on a GPU: whatever ends one, what it found by then is there."""

import argparse
import json
import os
import select
import signal
import subprocess
import sys
import time
from subprocess import DEVNULL

import pytest
import torch
from scripts.gpu import prove, section
from scripts.gpu.exchange import summary_of
from scripts.gpu.loads import LOADS, loads_of, settings_of
from scripts.gpu.section import END_SECONDS, Call, file_name, keep, run_bounded
from scripts.gpu.sweep import mixed

from treedraft.bench.result import Sample


@pytest.fixture
def call(tmp_path, monkeypatch):
    monkeypatch.setattr(section, "stamp", lambda device: {"of": str(device)})
    return Call(argparse.Namespace(tiny=True), torch.device("cpu"), tmp_path)


def found_by(call, name):
    return json.loads((call.out / f"{name}.json").read_text())


def test_what_is_found_is_written_as_it_is_found(call):
    seen = []

    def steps(_call):
        yield "first", 1
        seen.append(found_by(call, "steps")["found"])
        yield "second", 2.5

    assert keep(call, "steps", steps)
    assert seen == [{"first": 1}]
    assert found_by(call, "steps") == {
        "found": {"first": 1, "second": 2.5},
        "stamp": {"of": "cpu"},
    }


def test_an_error_leaves_what_was_found_before(call):
    def steps(_call):
        yield "first", 1
        raise ValueError("no more")

    assert not keep(call, "steps", steps)
    assert found_by(call, "steps")["found"] == {"first": 1}
    assert found_by(call, "steps")["failed"] == "ValueError: no more"


def test_a_section_out_of_time_ends_with_what_is_there(call):
    late = Call(call.options, call.device, call.out, time.monotonic())
    assert not late.has_time(1.0)
    assert keep(late, "steps", lambda _call: iter([("first", 1), ("second", 2)]))
    assert found_by(late, "steps")["found"] == {"first": 1}
    assert "out of time" in found_by(late, "steps")["ended"]


def test_names_of_files_have_letters_digits_dots_and_dashes_alone():
    assert file_name("same GPU, always") == "same-gpu-always"
    assert file_name("passes-1.5b") == "passes-1.5b"
    assert file_name('"über", all') == "ber-all"
    assert all(file_name(load.name) == load.name for load in LOADS)
    assert all(file_name(name) == name for name in prove.SECTIONS)


def test_a_process_out_of_time_ends_with_all_that_it_started(tmp_path):
    told = tmp_path / "told"
    child = f"echo $$ > {told}; exec sleep 600"
    assert run_bounded(["sh", "-c", f"sh -c '{child}'; true"], 3.0) is None
    assert _ends(int(told.read_text()))


@pytest.mark.parametrize("seconds", [3.0, 60.0])
def test_what_does_not_listen_is_gone_when_who_started_it_is(tmp_path, seconds):
    told = tmp_path / "told"
    last = "kill $$" if seconds > 3.0 else "wait"
    command = f"{_deaf(told)} & while ! test -s {told}; do sleep 0.1; done; {last}"
    done = run_bounded(["sh", "-c", command], seconds, stdout=DEVNULL, stderr=DEVNULL)
    assert (done is None) == (seconds == 3.0)
    assert _ends(int(told.read_text()))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_process_that_is_interrupted_leaves_nothing_of_what_it_bounds(tmp_path, number):
    told = tmp_path / "told"
    os.mkfifo(told)
    command = ["sh", "-c", _deaf(told)]
    code = "from scripts.gpu.section import be_interrupted, run_bounded; be_interrupted(); "
    code += f"run_bounded({command!r}, 600.0)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen([sys.executable, "-c", code], env=environment) as process:
        deaf = int(told.read_text())  # once there is one to read
        process.send_signal(number)
        assert process.wait(timeout=60.0)
    assert _ends(deaf)


def _deaf(told):
    """Return a command that tells its number and cannot be asked to end."""
    return f"sh -c 'trap \"\" INT TERM; echo $$ > {told}; exec sleep 600'"


def _ends(process_id):
    """Return whether a process is gone, or so within half a minute; to be buried is as good."""
    try:
        handle = os.pidfd_open(process_id)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([handle], [], [], 30.0)[0])
    finally:
        os.close(handle)


def test_a_section_has_time_to_end_what_it_started(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(prove, "run_bounded", lambda *how, **_own: asked.append(how))
    monkeypatch.setattr(sys, "argv", ["prove", "--out", str(tmp_path), "--limit", "100"])
    before = time.monotonic()
    prove._run_apart("exchange", prove._parse(), tmp_path, before + 1000.0)
    command, seconds = asked[0]
    monkeypatch.setattr(sys, "argv", command[2:])
    options = prove._parse()
    assert options.here == "exchange"
    assert before + 100.0 <= options.ends_at <= time.monotonic() + 100.0
    assert options.ends_at + END_SECONDS < before + seconds


def test_a_process_in_time_is_heard():
    done = run_bounded([sys.executable, "-c", "print('here')"], 60.0)
    assert (done.returncode, done.stdout) == (0, "here\n")


def test_loads_are_known_by_their_words_too():
    options = argparse.Namespace(loads=["same GPU, always", "same-gpu-at-will"])
    assert [load.name for load in loads_of(options)] == ["same-gpu-always", "same-gpu-at-will"]
    options = argparse.Namespace(how="same-gpu-always", set=["A=b=c"], tiny=False)
    told = settings_of(options, is_many=True)
    assert (told["A"], told["TREEDRAFT_TARGET__GATE__ENABLED"]) == ("b=c", "false")
    assert "TREEDRAFT_TARGET__MAX_SESSIONS" in told


@pytest.mark.parametrize(
    ("option", "given"),
    [
        ("--how", "same-gpu-somehow"),
        ("--loads", "same-gpu-somehow"),
        ("--only", "somehow"),
        ("--skip", "somehow"),
        ("--set", "somehow"),
    ],
)
def test_names_that_nothing_has_are_told_at_once(option, given, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["prove", "--out", str(out), option, given])
    with pytest.raises(SystemExit) as ended:
        prove.main()
    assert ended.value.code == 2
    assert not out.exists()
    said = capsys.readouterr().err
    assert f"argument {option}: " in said
    assert given in said


def test_samples_are_summed_up_in_a_line():
    plain = Sample("plain", 4, 100.0, 1.0, 100, tokens_per_round=1.0, admitted_nodes=0)
    fast = Sample(
        "speculative", 4, 150.0, 1.0, 100, tokens_per_round=2.0, hit_rate=0.5, admitted_nodes=200
    )
    told = summary_of({"plain": [plain], "speculative": [fast]})
    assert "S 1.50, tau 2.00, S/tau 0.75, hits 0.50, nodes a round 4.0, 1 repeats" in told


def test_prompts_of_a_sweep_are_mixed_and_begin_apart():
    prompts = mixed(64, "a ", (0, 60, 250))
    assert len({system.content for system, _ in prompts}) == 64
    lengths = {len(user.content.split()) // 50 for _, user in prompts}
    assert len(lengths) >= 3
    assert mixed(2, "a ", (0, 60)) == mixed(64, "a ", (0, 60))[:2]


def test_a_section_that_fails_ends_no_other_and_all_are_in_the_bundle(
    tmp_path, monkeypatch, capsys
):
    out, bundle = tmp_path / "out", tmp_path / "found.json"

    def apart(name, _options, folder, _ends_at):
        if name == "kernels":
            (folder / "kernels.log").write_text("it broke")
            return "exit 1"
        (folder / f"{name}.json").write_text(json.dumps({"found": {"rows": list(range(40))}}))
        return "exit 0"

    monkeypatch.setattr(prove, "_run_apart", apart)
    command = ["prove", "--out", str(out), "--bundle", str(bundle), "--only", "kernels", "host"]
    monkeypatch.setattr(sys, "argv", command)
    assert prove.main() == 0
    held = json.loads(bundle.read_text())
    assert held["kernels"]["log"] == "it broke"
    assert held["host"]["found"]["rows"][-1] == 39
    said = capsys.readouterr().out
    assert "it broke" in said
    assert "lines more in host.json" in said
    assert len(said.splitlines()) < 30


def test_a_call_leaves_sections_out_that_would_not_end_in_time(tmp_path):
    options = argparse.Namespace(limit=0)
    said = prove._run_apart("kernels", options, tmp_path, time.monotonic() + 30.0)
    assert said == "left out, for want of time"
