"""What a person types: with history and several lines at a terminal, line by line from a pipe."""

import asyncio
import sys
from pathlib import Path
from typing import Protocol, TextIO

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import Output

from treedraft.cli.chat_state import COMMANDS

_MAX_HISTORY_BYTES = 1_000_000


class Reader(Protocol):
    """Where messages come from."""

    async def read(self) -> str | None:
        """Return the next message, None at the end; KeyboardInterrupt for one given up."""


class PromptReader:
    """A prompt at a terminal."""

    def __init__(
        self,
        history_file: Path | None,
        *,
        source: Input | None = None,
        output: Output | None = None,
    ) -> None:
        """Remember what is typed in a file, or only for now without one.

        Args:
            history_file: readable for its owner alone.
            source: instead of the terminal; for tests.
            output: likewise.
        """
        self._session: PromptSession[str] = PromptSession(
            history=_open_history(history_file),
            multiline=True,
            key_bindings=_key_bindings(),
            completer=WordCompleter([f"/{name}" for name in COMMANDS], sentence=True),
            complete_while_typing=False,
            prompt_continuation="… ",
            input=source,
            output=output,
        )

    async def read(self) -> str | None:
        """Ask for a message."""
        try:
            return (await self._session.prompt_async("› ")).strip()
        except EOFError:
            return None


class LineReader:
    """Lines of a file or a pipe; a backslash at the end of one joins the next to it."""

    def __init__(self, source: TextIO = sys.stdin) -> None:
        """Read to the end of `source`."""
        self._source = source

    async def read(self) -> str | None:
        """Return the next message."""
        lines: list[str] = []
        while line := await asyncio.to_thread(self._source.readline):
            lines.append(line.rstrip("\n"))
            if not lines[-1].endswith("\\"):
                break
            lines[-1] = lines[-1][:-1]
        return "\n".join(lines).strip() if lines else None


def _open_history(path: Path | None) -> History:
    if path is None:
        return InMemoryHistory()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        if path.stat().st_size > _MAX_HISTORY_BYTES:
            path.write_bytes(b"")
    except OSError:  # a cache that cannot be written is no reason not to talk
        return InMemoryHistory()
    return FileHistory(str(path))


def _key_bindings() -> KeyBindings:
    bindings = KeyBindings()

    @bindings.add("enter")
    def send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.document.current_line_before_cursor.endswith("\\"):
            buffer.delete_before_cursor()
            buffer.newline(copy_margin=False)
        else:
            buffer.validate_and_handle()

    @bindings.add("escape", "enter")
    def new_line(event: KeyPressEvent) -> None:
        event.current_buffer.newline(copy_margin=False)

    return bindings
