"""What a section is: it yields what it finds as it finds it, and knows how long it may take.

So whatever ends it, its time, an error or a kill, what was found by then is in its file.
"""

import argparse
import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

Found = Iterator[tuple[str, Any]]

_ASKED = {signal.SIGINT: 10.0, signal.SIGTERM: 4.0}  # to end, and how long that is waited for
END_SECONDS = sum(_ASKED.values()) + 1.0  # that it takes to end a process, at most


@dataclass(frozen=True)
class Call:
    """What a section is asked to do: where, over a toy or not, and until when."""

    options: argparse.Namespace
    device: torch.device
    out: Path
    ends_at: float = math.inf

    @property
    def is_tiny(self) -> bool:
        """Whether all is done over a toy, to see that the script is right."""
        return bool(self.options.tiny)

    @property
    def seconds_left(self) -> float:
        """Time until the section has to have ended."""
        return max(0.0, self.ends_at - time.monotonic())

    def has_time(self, seconds: float) -> bool:
        """Return whether something that takes so long would end in time."""
        return self.seconds_left >= seconds


Section = Callable[[Call], Found]


def keep(call: Call, name: str, section: Section) -> bool:
    """Run a section and write down what it yields, each time; return whether it ended well."""
    file = call.out / f"{name}.json"
    found: dict[str, Any] = {}
    held: dict[str, Any] = {"found": found, "stamp": stamp(call.device)}
    try:
        for key, value in section(call):
            found[key] = value
            _write(file, held)
            if not call.seconds_left:
                held["ended"] = "out of time, with what is there"
                break
    except Exception as error:
        traceback.print_exc()
        held["failed"] = f"{type(error).__name__}: {error}"[:600]
    _write(file, held)
    return "failed" not in held


def tried(run: Callable[[], Any]) -> Any:
    """Return what `run` does, or in words why it did not: a peer's failure is a finding."""
    try:
        return run()
    except Exception as error:
        traceback.print_exc()
        return f"{type(error).__name__}: {str(error)[:200]}"


def file_name(name: str) -> str:
    """Return a name for a file: of letters, digits, dots and dashes alone."""
    kept = "".join(one if one.isalnum() or one == "." else " " for one in name.lower())
    return "-".join(kept.encode("ascii", "ignore").decode().split())


def run_bounded(
    command: list[str], seconds: float, **how: Any
) -> subprocess.CompletedProcess[str] | None:
    """Run a process with all that it starts, in a group of its own; None if time was up.

    It is asked to end first, so that what it started can end as well. However this ends, by an
    interruption too, nothing of the group outlives it: who is interrupted may be such a process
    itself, whose own group no signal from outside reaches.
    """
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | how
    with subprocess.Popen(command, text=True, start_new_session=True, **pipes) as process:
        try:
            said, warned = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            _ask_to_end(process)
            return None
        finally:
            _signal(process, signal.SIGKILL)
        return subprocess.CompletedProcess(command, process.returncode, said, warned)


def _ask_to_end(process: "subprocess.Popen[str]") -> None:
    for number, patience in _ASKED.items():
        _signal(process, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=patience)
            return


def _signal(process: "subprocess.Popen[str]", number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def be_interrupted() -> None:
    """Let whoever asks this process to end interrupt it, so that it ends what it started.

    A shell has what it starts in the background ignore the first of these signals.
    """
    for number in _ASKED:
        signal.signal(number, signal.default_int_handler)


def stamp(device: torch.device) -> dict[str, str]:
    """Return what was measured on, and of which commit."""
    from treedraft.inference.stamp import take_stamp

    taken = {"inference": str(take_stamp()), "python": sys.version.split()[0]}
    if device.type == "cuda":
        driver = "nvidia-smi --query-gpu=name,driver_version --format=csv,noheader"
        said = subprocess.run(driver.split(), capture_output=True, text=True, check=False)
        taken |= {"device": said.stdout.strip(), "cuda": str(torch.version.cuda)}
    return taken


def _write(file: Path, held: dict[str, Any]) -> None:
    part = file.with_suffix(".part")
    part.write_text(json.dumps(held, indent=1, default=str))
    part.replace(file)  # whole, whenever the process is killed
