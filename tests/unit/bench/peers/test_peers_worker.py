import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import treedraft
from treedraft.bench.peers.protocol import Generation, UnsupportedModeError
from treedraft.bench.peers.worker import reason_of, serve


class FakePeer:
    packages = ("numpy",)

    def generate(self, mode, prompt_ids, num_tokens):
        if mode != "plain":
            raise UnsupportedModeError(f"no {mode} here")
        return Generation([prompt_ids[-1]] * num_tokens, num_tokens)


def answers(load, *requests):
    output = io.StringIO()
    serve(load, [json.dumps(request) for request in requests], output)
    return [json.loads(line) for line in output.getvalue().splitlines()]


def request(mode):
    return {"mode": mode, "prompt_ids": [4, 7], "num_tokens": 2}


def test_versions_come_first_and_then_an_answer_per_request():
    loaded, answer = answers(FakePeer, request("plain"))
    assert list(loaded["packages"]) == ["numpy"]
    assert (answer["token_ids"], answer["num_passes"]) == ([7, 7], 2)
    assert answer["seconds"] >= 0


def test_a_mode_that_fails_leaves_the_others():
    _, failed, answer = answers(FakePeer, request("assisted"), request("plain"))
    assert failed == {"error": "no assisted here"}
    assert answer["token_ids"] == [7, 7]


def test_a_peer_that_cannot_be_loaded_says_why_and_ends():
    def load():
        raise ModuleNotFoundError("No module named 'an_engine'", name="an_engine")

    (answer,) = answers(load, request("plain"))
    assert answer == {"error": "not installed: no module named an_engine"}


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("two\n  lines", "ValueError: two lines"),
        ("Exception from /src/a.cpp:7:\nUnsupported type\n", "ValueError: Unsupported type"),
        ("x" * 900, "ValueError: " + "x" * 188),
    ],
)
def test_reasons_are_one_line_of_bounded_length(message, reason):
    assert reason_of(ValueError(message)) == reason


def test_a_foreign_python_needs_nothing_that_treedraft_needs():
    command = "import treedraft.bench.peers.worker, treedraft.bench.peers.protocol"
    subprocess.run(
        [sys.executable, "-S", "-c", command],  # -S: without anything that is installed
        env={**os.environ, "PYTHONPATH": str(Path(treedraft.__file__).parents[1])},
        check=True,
    )
