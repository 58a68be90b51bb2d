"""`treedraft judge`: how good a drafter is, and what it costs on this machine."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markdown import Markdown

from treedraft.cli import options, terminal
from treedraft.core.errors import UnavailableError
from treedraft.inference.drafters import AUTO, choose_drafter

_PICTURE_FILE = "report.svg"


def judge(
    draft: Annotated[
        str, typer.Option(help="Drafter: folder, hub id, .gguf file or `auto`.")
    ] = AUTO,
    target: options.Target = "default",
    prompts: Annotated[
        Path | None,
        typer.Option(
            help='Your prompts: .txt, one a line, or .jsonl with {"prompt": …}; by default those '
            "that no drafter of ours was trained on."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 or auto.")] = "cpu",
    out: Annotated[
        Path | None,
        typer.Option(help="Folder that gets report.json and report.svg, such as the drafter's."),
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Folder that keeps the target's texts for the next time.")
    ] = None,
) -> None:
    """Judge a drafter on held-out prompts: agreement, tokens per pass, cost.

    The target computes in float32. Times mean something on a quiet machine only.
    """
    with terminal.errors_shown(), terminal.progress_shown(terminal.stderr()) as progress:
        from treedraft.inference.models import drafting_dtype, load_model
        from treedraft.training.evaluation.evaluate import evaluate
        from treedraft.training.evaluation.held_out import held_out_prompts, read_prompts
        from treedraft.training.evaluation.picture import draw
        from treedraft.training.evaluation.report import write
        from treedraft.training.evaluation.summary import markdown

        known = read_prompts(prompts) if prompts else held_out_prompts()
        report = evaluate(
            load_model(target, dtype="float32", device=device, progress=progress),
            load_model(
                choose_drafter(draft, target),
                dtype=drafting_dtype("auto", device),
                device=device,
                progress=progress,
            ),
            known,
            progress=progress,
            cache=cache,
        )
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            write(report, out)
            try:
                draw(report, out / _PICTURE_FILE)
            except UnavailableError as error:  # matplotlib is an extra; the figures are there
                progress(error.message)
    console = terminal.stdout()
    text = markdown(report)
    console.print(Markdown(text) if console.is_terminal else text, soft_wrap=True)
