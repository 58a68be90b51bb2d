"""`treedraft bench tracing`: what spans cost in tokens a second."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markdown import Markdown

from treedraft.bench.report import check_writable
from treedraft.bench.tracing import TracingPlan, markdown, measure_tracing, to_json
from treedraft.cli import options, terminal
from treedraft.inference.drafters import AUTO, choose_drafter


def tracing(
    json_file: Annotated[
        Path | None, typer.Option("--json", help="File that gets every number.")
    ] = None,
    target: options.Target = "default",
    draft: options.Draft = AUTO,
    device: options.Device = "",
    tokens: Annotated[int, typer.Option(min=2, help="Length of every answer.")] = 64,
    repeats: Annotated[int, typer.Option(min=1, help="Prompts; each is asked four times.")] = 20,
    plain: Annotated[
        bool,
        typer.Option(
            "--plain", help="Without drafts: a round for each token, at the steadiest pace."
        ),
    ] = False,
    most_seconds: Annotated[
        float,
        typer.Option(min=0, help="No further prompt begins after so long; 0 sets no limit."),
    ] = 0.0,
) -> None:
    """Measure what tracing costs: no request traced, the default, every request."""
    plan = TracingPlan(
        target=target,
        draft=choose_drafter(draft, target),
        device=device,
        num_tokens=tokens,
        num_repeats=repeats,
        most_seconds=most_seconds,
        is_plain=plain,
    )
    with terminal.errors_shown():
        check_writable(json_file, None)
    with terminal.errors_shown(), terminal.progress_shown(terminal.stderr()) as progress:
        result = terminal.run(measure_tracing(plan, progress))
    console = terminal.stdout()
    text = markdown(result)
    console.print(Markdown(text) if console.is_terminal else text, soft_wrap=True)
    if json_file is not None:
        json_file.write_text(to_json(result) + "\n", encoding="utf-8")
