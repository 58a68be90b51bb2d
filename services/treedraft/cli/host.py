"""`treedraft bench host`: what the engine costs a step beside the model."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markdown import Markdown

from treedraft.bench.report import check_writable
from treedraft.cli import options, terminal


def host(
    json_file: Annotated[
        Path | None, typer.Option("--json", help="File that gets every number.")
    ] = None,
    target: options.Target = "default",
    at_once: Annotated[
        list[int] | None, typer.Option(min=1, help="Sessions at once; may be given repeatedly.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=8, help="Tokens of each session.")] = 64,
) -> None:
    """Measure the engine's own time in a step, on the CPU, against a pass of the target."""
    with terminal.errors_shown():
        check_writable(json_file, None)
    with terminal.errors_shown(), terminal.progress_shown(terminal.stderr()) as progress:
        from treedraft.bench.host import markdown, run_host, to_json
        from treedraft.inference.weights import resolve

        files = resolve(target, progress)
        result = run_host(files.name, files.folder, at_once or [1, 32, 64], num_tokens=tokens)
    console, text = terminal.stdout(), markdown(result)
    console.print(Markdown(text) if console.is_terminal else text, soft_wrap=True)
    if json_file is not None:
        json_file.write_text(to_json(result) + "\n", encoding="utf-8")
