"""`treedraft distill`: a drafter for a target, out of the target itself."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from treedraft.cli import options, terminal

_STAGES = "prompts, responses, train or evaluate"


def distill(
    out: Annotated[Path, typer.Option(help="Folder that gets the drafter, and `work` below it.")],
    target: options.Target = "default",
    layers: Annotated[int | None, typer.Option(min=1, help="Layers of the drafter.")] = None,
    vocab: Annotated[int | None, typer.Option(min=1, help="Columns of its head.")] = None,
    init: Annotated[
        str, typer.Option(help="Drafter to begin from: its folder, or a shipped one's name.")
    ] = "",
    prompts: Annotated[int | None, typer.Option(min=1, help="Prompts to make up.")] = None,
    prompt_file: Annotated[
        list[Path] | None, typer.Option(help="Prompts of your own, .txt or .jsonl; repeatable.")
    ] = None,
    responses: Annotated[int | None, typer.Option(min=1, help="Answers to each prompt.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of everything that is drawn.")] = None,
    device: options.Device = "",
    dtype: options.Dtype = "",
    stage: Annotated[
        list[str] | None, typer.Option(help=f"Do this stage alone: {_STAGES}; repeatable.")
    ] = None,
    redo: Annotated[
        list[str] | None,
        typer.Option(
            help="Do this stage, and all after it, afresh; repeatable. The same command goes on "
            "where it was broken off, and removes nothing a second time."
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Any setting, as train.epochs=2."),
    ] = None,
) -> None:
    """Make a drafter: prompts and answers by the target, training, a report.

    Go on with what was broken off by giving the same command again.
    """
    given: dict[str, Any] = {
        "out": out,
        "target": target,
        "train.layers": layers,
        "train.vocab_size": vocab,
        "train.init": init or None,
        "prompts.count": prompts,
        "prompts.files": tuple(str(path) for path in prompt_file) if prompt_file else None,
        "responses.per_prompt": responses,
        "seed": seed,
        "device": device or None,
        "dtype": dtype or None,
    }
    with terminal.errors_shown(), terminal.progress_shown(terminal.stderr()) as progress:
        from treedraft.training.pipeline import distill as run_stages
        from treedraft.training.pipeline import parse_stages
        from treedraft.training.settings import make_settings

        results = run_stages(
            make_settings(given, settings or ()),
            stages=parse_stages(stage or ()),
            redo=parse_stages(redo or ()),
            progress=progress,
        )
    terminal.stdout().print(_table(results))


def _table(results: dict[Any, Any]) -> Table:
    table = Table("stage", "figures", box=None, padding=(0, 2, 0, 0))
    for name, figures in results.items():
        table.add_row(str(name), ", ".join(f"{key} {value}" for key, value in figures.items()))
    return table
