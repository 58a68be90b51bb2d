"""The exchange on a GPU: a load that goes wrong costs that load alone."""

import argparse

import pytest
import torch
from scripts.gpu import exchange
from scripts.gpu.section import Call

CONTROL = """#!/bin/sh
if test "$1" = -d; then
    {start}
else
    cat >> {told}
    kill $(cat {daemon})
fi
"""
# A daemon keeps what its parent wrote to; or the command that should start one never ends.
KEEPS = "sleep 600 & echo $! > {daemon}"
HANGS = "echo $$ > {daemon}; exec sleep 600"


@pytest.mark.parametrize(
    ("start", "seconds", "found"),
    [(KEEPS, 60.0, "measured beside MPS"), (HANGS, 3.0, "TimeoutExpired")],
)
def test_whatever_mps_does_it_is_told_to_quit_and_the_next_load_has_its_turn(
    start, seconds, found, tmp_path, monkeypatch
):
    told, daemon = tmp_path / "told", tmp_path / "daemon"
    control = tmp_path / "nvidia-cuda-mps-control"
    control.write_text(CONTROL.format(start=start.format(daemon=daemon), told=told, daemon=daemon))
    control.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(exchange, "_MPS_SECONDS", seconds)
    monkeypatch.setattr(exchange, "_bench", bench)
    loads = ["same-gpu-mps-always", "same-gpu-always"]
    options = argparse.Namespace(loads=loads, tiny=True)
    measured = dict(exchange.exchange(Call(options, torch.device("cpu"), tmp_path)))
    assert list(measured) == loads
    assert found in measured[loads[0]]
    assert measured[loads[1]] == "measured"
    assert told.read_text() == "quit\n"


def bench(_load, _call, environment):
    """Say what services would be told."""
    return "measured beside MPS" if "CUDA_MPS_PIPE_DIRECTORY" in environment else "measured"
