"""`treedraft bench passes`: how long a pass takes, beside what it cannot be faster than."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markdown import Markdown

from treedraft.cli import options, terminal


def passes(
    json_file: Annotated[
        Path | None, typer.Option("--json", help="File that gets every number.")
    ] = None,
    target: options.Target = "default",
    rows: Annotated[
        list[int] | None,
        typer.Option(min=1, max=1024, help="Rows of a pass; may be given repeatedly."),
    ] = None,
    context: Annotated[int, typer.Option(min=1, help="Tokens of context.")] = 200,
    repeats: Annotated[int, typer.Option(min=1, help="Times that each is timed.")] = 15,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 takes all cores.")] = 0,
) -> None:
    """Time passes on the CPU, with weights held in every way, beside reading the weights."""
    from treedraft.bench.passes import report
    from treedraft.bench.passes.result import PassesPlan
    from treedraft.bench.passes.run import run_passes
    from treedraft.bench.report import check_writable

    plan = PassesPlan(
        target=target,
        rows=tuple(sorted({1, *(rows or PassesPlan().rows)})),
        num_context=context,
        num_repeats=repeats,
        num_threads=threads,
    )
    with terminal.errors_shown(), terminal.progress_shown(terminal.stderr()) as progress:
        check_writable(json_file, None)
        result = run_passes(plan, progress)
    console = terminal.stdout()
    text = report.markdown(result)
    console.print(Markdown(text) if console.is_terminal else text, soft_wrap=True)
    if json_file is not None:
        json_file.write_text(report.to_json(result) + "\n", encoding="utf-8")
