"""`treedraft judge`: how good a drafter is, and what it costs on this machine."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markdown import Markdown

from treedraft.cli import options, terminal
from treedraft.core.errors import InvalidRequestError
from treedraft.inference.drafters import AUTO, choose_drafter


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
        drafter = _drafter_model(draft, target)

        from treedraft.training.evaluation.held_out import held_out_prompts, read_prompts
        from treedraft.training.evaluation.judgement import judge_and_write
        from treedraft.training.evaluation.summary import markdown

        report = judge_and_write(
            target,
            drafter,
            device=device,
            prompts=read_prompts(prompts) if prompts else held_out_prompts(),
            out=out,
            cache=cache,
            progress=progress,
        )
    console = terminal.stdout()
    text = markdown(report)
    console.print(Markdown(text) if console.is_terminal else text, soft_wrap=True)


def _drafter_model(draft: str, target: str) -> str:
    """Return the source of a draft model; lookup alone has none to judge."""
    if source := choose_drafter(draft, target):
        return source
    why = (
        f"no drafter is shipped for {target}: name one with --draft"
        if draft.lower() == AUTO
        else "lookup alone has no model to judge"
    )
    raise InvalidRequestError(
        f"{why}; what lookup reaches is told by `treedraft tune --draft lookup`",
        field="draft",
        reason="NO_DRAFTER",
    )
