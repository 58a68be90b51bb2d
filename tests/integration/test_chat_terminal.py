"""`treedraft chat` at a real terminal, with a cluster of toys of its own."""

import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from treedraft.inference.toy import make_toy_model

_PATIENCE_SECONDS = 120.0


class Terminal:
    """A program behind a pseudo-terminal."""

    def __init__(self, arguments, environment):
        self._main, side = pty.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "treedraft.cli", *arguments],
            stdin=side,
            stdout=side,
            stderr=side,
            env=environment,
            start_new_session=True,
        )
        os.close(side)
        self.shown = ""

    def type(self, keys):
        os.write(self._main, keys.encode())

    def wait_for(self, words):
        """Read on until the words are shown; what stood before them is dropped."""
        end = time.monotonic() + _PATIENCE_SECONDS
        while words not in self.shown:
            ready, _, _ = select.select([self._main], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                pytest.fail(f"{words!r} was never shown, but: {self.shown!r}")
            data = os.read(self._main, 65536).decode(errors="replace")
            self._answer_the_cursor(data)
            self.shown += data
        self.shown = self.shown.partition(words)[2]

    def _answer_the_cursor(self, data):
        # A terminal says where its cursor is when it is asked.
        if "\x1b[6n" in data:
            self.type("\x1b[1;1R")

    def wait(self):
        try:
            while os.read(self._main, 65536):
                pass
        except OSError:  # the other side is closed
            pass
        return self._process.wait(_PATIENCE_SECONDS)

    def close(self):
        self._process.kill()
        self._process.wait()
        os.close(self._main)


@pytest.fixture
def terminal(tmp_path):
    toy = str(make_toy_model(tmp_path / "model", seed=3))
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
    arguments = ("chat", "--target", toy, "--draft", "lookup", "--max-tokens", "24")
    terminal = Terminal([*arguments, "--seed", "3"], environment)
    yield terminal
    terminal.close()


def test_a_conversation_at_a_terminal(terminal):
    terminal.wait_for("/help lists commands")
    terminal.wait_for("›")
    terminal.type("\x03")  # at the prompt it gives the line up, not the program
    terminal.wait_for("Ctrl-D leaves")
    terminal.wait_for("›")
    terminal.type("one two three\r")
    terminal.wait_for("tok/s")
    terminal.wait_for("›")
    terminal.type("/settings\r")
    terminal.wait_for("2 messages so far")
    terminal.wait_for("›")
    terminal.type("/quit\r")
    assert terminal.wait() == 0
    assert "one two three" in (Path(os.environ["TREEDRAFT_CACHE"]) / "chat_history").read_text()
