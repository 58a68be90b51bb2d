"""`treedraft bench host`: what serving costs a step beside the model."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markdown import Markdown

from treedraft.bench.report import check_writable
from treedraft.cli import options, terminal

_LOADS = (1, 16, 32, 64, 256)


def host(
    json_file: Annotated[
        Path | None, typer.Option("--json", help="File that gets every number.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Picture of where the time falls, .svg, .png or .pdf.")
    ] = None,
    target: options.Target = "default",
    at_once: Annotated[
        list[int] | None, typer.Option(min=1, help="Sessions at once; may be given repeatedly.")
    ] = None,
    tokens: Annotated[
        int, typer.Option(min=8, help="Tokens of every session while all of them decode.")
    ] = 64,
    nodes: Annotated[
        int, typer.Option(min=0, max=64, help="Nodes of a drafted tree; 0 leaves drafts out.")
    ] = 16,
) -> None:
    """Measure the engine's own time in a step, on the CPU, against a pass of the target."""
    with terminal.errors_shown():
        check_writable(json_file, None)
        check_writable(picture, None)
    with terminal.errors_shown(), terminal.progress_shown(terminal.stderr()) as progress:
        from treedraft.bench.host.picture import draw
        from treedraft.bench.host.result import markdown, to_json
        from treedraft.bench.host.run import run_host
        from treedraft.inference.weights import resolve

        files = resolve(target, progress)
        loads = at_once or _LOADS
        result = run_host(files.name, files.folder, loads, num_steps=tokens, num_nodes=nodes)
        if json_file is not None:
            json_file.write_text(to_json(result) + "\n", encoding="utf-8")
        if picture is not None:
            draw(result, picture)
    console, text = terminal.stdout(), markdown(result)
    console.print(Markdown(text) if console.is_terminal else text, soft_wrap=True)
