"""`treedraft bench hits`: what nodes beyond the verified ones are worth."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.markdown import Markdown

from treedraft.bench.hits import HitsPlan
from treedraft.bench.report import check_writable
from treedraft.cli import options, terminal
from treedraft.inference.drafters import AUTO, choose_drafter


def hits(
    json_file: Annotated[
        Path | None, typer.Option("--json", help="File that gets every number.")
    ] = None,
    target: options.Target = "default",
    draft: options.Draft = AUTO,
    verified: Annotated[int, typer.Option(min=1, help="Nodes that a pass verifies.")] = 8,
    least_score: Annotated[
        list[float] | None,
        typer.Option(max=0.0, help="Log-survival down to which nodes are kept; repeatable."),
    ] = None,
    children: Annotated[
        list[int] | None, typer.Option(min=1, max=16, help="Children of a node; repeatable.")
    ] = None,
    temperature: Annotated[
        list[float] | None, typer.Option(min=0.0, max=2.0, help="Repeatable; 0 by default.")
    ] = None,
    prompts: Annotated[int, typer.Option(min=1, help="Prompts for each kind of tree.")] = 4,
    tokens: Annotated[int, typer.Option(min=8, help="Length of every answer.")] = 48,
) -> None:
    """Measure how often the outcome of a pass is foreseen, by the kind of tree; speed apart."""
    known = HitsPlan()
    plan = HitsPlan(
        target=target,
        draft=choose_drafter(draft, target),
        num_verified=verified,
        least_scores=tuple(least_score or known.least_scores),
        num_children=tuple(children or known.num_children),
        temperatures=tuple(temperature or known.temperatures),
        num_prompts=prompts,
        num_tokens=tokens,
    )
    with terminal.errors_shown():
        check_writable(json_file, None)
    with terminal.errors_shown(), terminal.progress_shown(terminal.stderr()) as progress:
        from treedraft.bench.hits import markdown, run_hits, to_json
        from treedraft.inference.weights import resolve

        files = resolve(target, progress)
        plan = replace(plan, target=files.name)
        result = terminal.run(run_hits(plan, files.folder, progress))
    console, text = terminal.stdout(), markdown(result)
    console.print(Markdown(text) if console.is_terminal else text, soft_wrap=True)
    if json_file is not None:
        json_file.write_text(to_json(result) + "\n", encoding="utf-8")
