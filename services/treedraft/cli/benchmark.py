"""`treedraft bench`: the engine without and with speculation, and transformers.

`treedraft bench peers` is a command below it, see `cli.peers`.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.markdown import Markdown

from treedraft.bench import report
from treedraft.bench.plan import BenchPlan
from treedraft.bench.run import run_bench
from treedraft.cli import options, terminal
from treedraft.inference.drafters import AUTO, choose_drafter
from treedraft.local_cluster.plan import synchronous_settings


def bench(
    context: typer.Context,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="File that gets every number.")
    ] = None,
    update_readme: Annotated[
        Path | None, typer.Option(help="Document whose table is replaced.", exists=True)
    ] = None,
    target: options.Target = "default",
    draft: options.Draft = AUTO,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    weights: options.Weights = "",
    device: options.Device = "",
    draft_device: options.DraftDevice = "",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0 takes all cores.")] = 0,
    tokens: Annotated[int, typer.Option(min=2, help="Length of every answer.")] = 64,
    repeats: Annotated[int, typer.Option(min=1, help="Measurements of each kind.")] = 3,
    without_transformers: Annotated[
        bool, typer.Option(help="Compare the engine with itself alone, in a fraction of the time.")
    ] = False,
    sync: Annotated[
        int,
        typer.Option(min=0, max=256, help="Wait in each step for a whole tree of so many nodes."),
    ] = 0,
    at_once: Annotated[
        list[int] | None, typer.Option(min=1, help="Requests at once; may be given repeatedly.")
    ] = None,
) -> None:
    """Measure speed, side by side with transformers' generate on the same weights."""
    if context.invoked_subcommand is not None:
        return
    plan = BenchPlan(
        target=target,
        draft=choose_drafter(draft, target),
        dtype=dtype,
        weights=weights,
        device=device,
        draft_device=draft_device,
        num_threads=threads,
        num_tokens=tokens,
        num_repeats=repeats,
        with_transformers=not without_transformers,
        settings={**BenchPlan().settings, **(synchronous_settings(sync) if sync else {})},
        concurrencies=tuple(at_once or BenchPlan().concurrencies),
    )
    with terminal.errors_shown():
        report.check_writable(json_file, update_readme)
    with terminal.errors_shown(), terminal.progress_shown(terminal.stderr()) as progress:
        from treedraft.inference.weights import resolve

        files = resolve(target, progress)
        plan = replace(plan, target=files.name)
        result = terminal.run(run_bench(plan, files.folder, progress))
    console = terminal.stdout()
    text = report.markdown(result)
    console.print(Markdown(text) if console.is_terminal else text, soft_wrap=True)
    if json_file is not None:
        json_file.write_text(report.to_json(result) + "\n", encoding="utf-8")
    if update_readme is not None:
        with terminal.errors_shown():
            report.update_document(update_readme, text)
