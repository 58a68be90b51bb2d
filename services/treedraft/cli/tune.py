"""`treedraft tune`: which drafter, how many nodes, how deep, on this machine."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markdown import Markdown

from treedraft.cli import options, terminal
from treedraft.inference.drafters import AUTO, LOOKUP, choose_drafter

_DEFAULT_DRAFTERS = (AUTO, LOOKUP)


def tune(
    target: options.Target = "default",
    draft: Annotated[
        list[str] | None,
        typer.Option(
            help="A drafter to try: folder, hub id, .gguf file, `auto` or `lookup`; repeatable. By "
            "default the shipped one and lookup.",
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help='Your prompts: .txt, one a line, or .jsonl with {"prompt": …}; by default those '
            "that no drafter of ours was trained on."
        ),
    ] = None,
    num_prompts: Annotated[
        int, typer.Option(min=1, help="Prompts that are tried, kinds in turns.")
    ] = 24,
    tokens: Annotated[int, typer.Option(min=8, help="Length of a text, at most.")] = 96,
    temperature: Annotated[float, typer.Option(min=0.0, help="Of the texts.")] = 0.0,
    confirm: Annotated[
        int,
        typer.Option(
            min=0,
            help="Settings of each drafter that are run for real, besides its defaults; 0 only "
            "predicts.",
        ),
    ] = 2,
    dtype: Annotated[
        str, typer.Option(help="Of the target: float32, bfloat16 or float16.")
    ] = "float32",
    device: options.Device = "",
    json_file: Annotated[
        Path | None, typer.Option("--json", help="File that gets every number.")
    ] = None,
) -> None:
    """Try drafters and settings on your prompts and machine; say which to use and why."""
    with terminal.errors_shown(), terminal.progress_shown(terminal.stderr()) as progress:
        from treedraft.bench.report import check_writable
        from treedraft.bench.tuning import report
        from treedraft.bench.tuning.plan import TunePlan, spread
        from treedraft.bench.tuning.result import to_json
        from treedraft.bench.tuning.run import tune as run_tuning
        from treedraft.training.evaluation.held_out import held_out_prompts, read_prompts

        check_writable(json_file, None)
        known = read_prompts(prompts) if prompts else held_out_prompts()
        chosen = (choose_drafter(name, target) for name in draft or _DEFAULT_DRAFTERS)
        plan = TunePlan(
            target=target,
            drafters=tuple(dict.fromkeys(chosen)),
            prompts=spread(known, num_prompts),
            temperature=temperature,
            dtype=dtype,
            device=device,
            num_tokens=tokens,
            num_confirmed=confirm,
        )
        result = terminal.run(run_tuning(plan, progress))
    console = terminal.stdout()
    text = report.markdown(result)
    console.print(Markdown(text) if console.is_terminal else text, soft_wrap=True)
    if json_file is not None:
        json_file.write_text(to_json(result), encoding="utf-8")
