"""`treedraft bench peers`: other engines on the same weights, prompts and machine."""

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from treedraft.bench.peers import report
from treedraft.bench.peers.plan import SYSTEMS, PeersPlan, rows_of
from treedraft.bench.report import check_writable, update_document
from treedraft.cli import options, terminal
from treedraft.core.errors import InvalidRequestError
from treedraft.inference.drafters import AUTO, choose_drafter

if TYPE_CHECKING:
    from treedraft.bench.peers.result import PeersResult

_MARKS = (report.BEGIN_MARK, report.END_MARK)
_DEFAULT_PYTHON = Path(".venv-peers/bin/python")


def peers(
    json_file: Annotated[
        Path | None, typer.Option("--json", help="File that gets every number.")
    ] = None,
    update_document_file: Annotated[
        Path | None,
        typer.Option("--update", help="Document whose part is replaced.", exists=True),
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="File for a drawing: .svg or .png.")] = None,
    peers_python: Annotated[
        Path | None,
        typer.Option(
            help="Python of the environment with the peers; by default .venv-peers, if it is "
            "there, or else treedraft's own."
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help=f"Of {', '.join(SYSTEMS)}; repeatable. By default all."),
    ] = None,
    target: options.Target = "default",
    draft: options.Draft = AUTO,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 takes all cores.")] = 0,
    prompts: Annotated[int, typer.Option(min=1, help="Prompts of each repeat.")] = 3,
    tokens: Annotated[int, typer.Option(min=2, help="Length of every answer.")] = 64,
    repeats: Annotated[int, typer.Option(min=1, help="Measurements of each row.")] = 3,
    most_seconds: Annotated[
        float,
        typer.Option(min=0, help="No further repeat begins after so long; 0 sets no limit."),
    ] = 0.0,
) -> None:
    """Measure other engines beside treedraft, on the CPU: one stream, greedy, in turns."""
    with terminal.errors_shown(), terminal.progress_shown(terminal.stderr()) as progress:
        check_writable(json_file, update_document_file, marks=_MARKS)
        check_writable(picture, None)
        _check_systems(only or [])
        from treedraft.bench.peers.run import run_peers
        from treedraft.inference.weights import resolve

        files = resolve(target, progress)
        plan = PeersPlan(
            target=files.name,
            draft=choose_drafter(draft, target),
            num_threads=threads,
            num_prompts=prompts,
            num_tokens=tokens,
            num_repeats=repeats,
            max_seconds=most_seconds,
            rows=rows_of(only or []),
        )
        result = terminal.run(run_peers(plan, str(_python(peers_python)), target, files, progress))
    _show(result)
    if json_file is not None:
        json_file.write_text(report.to_json(result) + "\n", encoding="utf-8")
    with terminal.errors_shown():
        _write(result, update_document_file, picture)


def _check_systems(names: list[str]) -> None:
    for name in names:
        if name not in SYSTEMS:
            raise InvalidRequestError(
                f"{name!r} is none of {', '.join(SYSTEMS)}", field="only", reason="UNKNOWN_SYSTEM"
            )


def _python(given: Path | None) -> Path:
    # Not resolved: the link is what tells Python which environment it is in.
    python = given or (_DEFAULT_PYTHON if _DEFAULT_PYTHON.exists() else Path(sys.executable))
    return python.absolute()


def _show(result: "PeersResult") -> None:
    shown = Table(*report.COLUMNS, title=None)
    for cells in report.rows(result):
        shown.add_row(*cells)
    console = terminal.stdout()
    console.print(shown)
    console.print(report.best(result), markup=False)
    console.print(report.conditions(result), markup=False, soft_wrap=True)


def _write(result: "PeersResult", document: Path | None, picture: Path | None) -> None:
    if picture is not None:
        from treedraft.bench.peers.picture import draw

        draw(result, picture)
    if document is not None:
        shown = os.path.relpath(picture, document.parent) if picture else ""
        text = report.page(result, _command(), shown)
        update_document(document, text, marks=_MARKS)


def _command() -> str:
    """Return what was typed, without the place of an environment, which is each machine's own."""
    words = [word for word in sys.argv[1:] if not word.startswith("--peers-python=")]
    if "--peers-python" in words:
        place = words.index("--peers-python")
        del words[place : place + 2]
    return shlex.join(["treedraft", *words])
