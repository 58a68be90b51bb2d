"""What people see: progress on stderr, errors in one line, exit codes.

0 done, 1 failed, 2 wrong usage, 130 interrupted.
"""

import asyncio
import signal
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.markup import escape

from treedraft.cli.hints import HINTS
from treedraft.core.errors import TreedraftError
from treedraft.local_cluster.cluster import Progress

_Result = TypeVar("_Result")

INTERRUPTED = 128 + signal.SIGINT


# Where there is no terminal, lines are as long as a table needs them.
_WIDTH_OF_FILES = 160


def stdout() -> Console:
    """Return the console for results."""
    return _console(is_stderr=False)


def stderr() -> Console:
    """Return the console for everything that is not the result."""
    return _console(is_stderr=True)


def _console(*, is_stderr: bool) -> Console:
    console = Console(stderr=is_stderr, highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH_OF_FILES
    return console


@contextmanager
def progress_shown(console: Console) -> Iterator[Progress]:
    """Show one line of progress that changes; without a terminal, one line each.

    What changes only in its numbers is not printed again where lines stay.
    """
    if console.is_terminal:
        with console.status("starting") as status:
            yield lambda text: status.update(escape(_first_line(text, console.width)))
        return
    shown = ""

    def show(text: str) -> None:
        nonlocal shown
        kind = "".join(character for character in text if not character.isdigit())
        if kind != shown:
            shown = kind
            console.print(_first_line(text, 1000), markup=False)

    yield show


def run(work: Coroutine[Any, Any, _Result]) -> _Result:
    """Run a command's work; turn domain errors into one line and exit status 1."""
    with errors_shown():
        return asyncio.run(work)


@contextmanager
def errors_shown() -> Iterator[None]:
    """Turn domain errors and wrong settings into a line and a hint, and exit status 1."""
    try:
        yield
    except TreedraftError as error:
        say_error(error)
        raise typer.Exit(1) from error
    except ValidationError as error:
        for problem in error.errors():
            place = ".".join(str(part) for part in problem["loc"])
            stderr().print(f"error: setting {place}: {problem['msg']}", markup=False)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def say_error(error: TreedraftError) -> None:
    """Print what went wrong and, where that is known, what to do next."""
    console = stderr()
    console.print(f"error: {error.message} ({error.reason})", markup=False, soft_wrap=True)
    if hint := HINTS.get(error.reason):
        console.print(f"hint: {hint}", markup=False, soft_wrap=True)


def failure(message: str) -> typer.Exit:
    """Print an error; return what ends the command with status 1 when raised."""
    stderr().print(f"error: {message}", markup=False, soft_wrap=True)
    return typer.Exit(1)


def _first_line(text: str, width: int) -> str:
    line = text.splitlines()[0] if text else ""
    return line[: max(20, width - 4)]
