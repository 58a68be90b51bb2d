"""`treedraft bench door`: what the HTTP door costs beside the gRPC door."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markdown import Markdown

from treedraft.bench.door.report import markdown, to_json
from treedraft.bench.door.result import TOY, DoorPlan
from treedraft.bench.report import check_writable
from treedraft.cli import options, terminal


def door(
    json_file: Annotated[
        Path | None, typer.Option("--json", help="File that gets every number.")
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            help="Target model, as everywhere; `toy` has random weights and takes next to no "
            "time, so that the doors are what is seen.",
        ),
    ] = TOY,
    device: options.Device = "",
    tokens: Annotated[int, typer.Option(min=2, help="Length of every answer.")] = 64,
    prompts: Annotated[
        int, typer.Option(min=1, help="Prompts that both doors answer, one at a time.")
    ] = 100,
    streams: Annotated[
        int, typer.Option(min=0, help="Streams at once over each door, after that; 0: none.")
    ] = 200,
    repeats: Annotated[int, typer.Option(min=1, help="How often that is done.")] = 2,
) -> None:
    """Measure the HTTP door beside the gRPC door: the same answers, piece by piece."""
    # Its toy model needs torch, which other commands do without.
    from treedraft.bench.door.run import measure_door

    plan = DoorPlan(
        target=target,
        device=device,
        num_tokens=tokens,
        num_prompts=prompts,
        num_streams=streams,
        num_repeats=repeats,
    )
    with terminal.errors_shown():
        check_writable(json_file, None)
    with terminal.errors_shown(), terminal.progress_shown(terminal.stderr()) as progress:
        result = terminal.run(measure_door(plan, progress))
    console, text = terminal.stdout(), markdown(result)
    console.print(Markdown(text) if console.is_terminal else text, soft_wrap=True)
    if json_file is not None:
        json_file.write_text(to_json(result) + "\n", encoding="utf-8")
