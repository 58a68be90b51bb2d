"""`treedraft bench links`: target and drafter some milliseconds apart."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.markdown import Markdown

from treedraft.bench.links.plan import ONE_PASS, LinksPlan
from treedraft.bench.report import check_writable
from treedraft.cli import options, terminal
from treedraft.inference.drafters import AUTO, choose_drafter


def links(
    json_file: Annotated[
        Path | None, typer.Option("--json", help="File that gets every number.")
    ] = None,
    target: options.Target = "default",
    draft: options.Draft = AUTO,
    sync: Annotated[
        bool, typer.Option("--sync", help="Measure the synchronous exchange alone.")
    ] = False,
    sync_nodes: Annotated[
        list[int] | None,
        typer.Option(min=1, max=256, help="Nodes of its trees; may be given repeatedly."),
    ] = None,
    round_trip: Annotated[
        list[float] | None,
        typer.Option(help="Added round trip in ms, below 0 that of a pass; repeatable."),
    ] = None,
    apart: Annotated[
        bool,
        typer.Option(
            "--apart", help="Half of the cores for each of the two, as on machines of their own."
        ),
    ] = False,
    prompts: Annotated[int, typer.Option(min=1, help="Prompts of each kind of link.")] = 3,
    tokens: Annotated[int, typer.Option(min=8, help="Length of every answer.")] = 48,
    repeats: Annotated[int, typer.Option(min=1, help="Measurements of each link.")] = 1,
) -> None:
    """Measure the exchange with delays between target and drafter, beside a synchronous one."""
    plan = LinksPlan(
        target=target,
        draft=choose_drafter(draft, target),
        sync_nodes=tuple(sync_nodes or LinksPlan().sync_nodes),
        is_sync_only=sync,
        is_apart=apart,
        num_prompts=prompts,
        num_tokens=tokens,
        num_repeats=repeats,
    )
    if round_trip:
        plan = replace(plan, round_trips_ms=tuple(ONE_PASS if ms < 0 else ms for ms in round_trip))
    with terminal.errors_shown():
        check_writable(json_file, None)
    with terminal.errors_shown(), terminal.progress_shown(terminal.stderr()) as progress:
        from treedraft.bench.links.result import markdown, to_json
        from treedraft.bench.links.run import run_links
        from treedraft.inference.weights import resolve

        files = resolve(target, progress)
        plan = replace(plan, target=files.name)
        result = terminal.run(run_links(plan, files.folder, progress))
    console, text = terminal.stdout(), markdown(result)
    console.print(Markdown(text) if console.is_terminal else text, soft_wrap=True)
    if json_file is not None:
        json_file.write_text(to_json(result) + "\n", encoding="utf-8")
