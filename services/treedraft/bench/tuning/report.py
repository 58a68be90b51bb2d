"""A tuning run in tables and words: what to use, why, and how to say so."""

import shlex

from treedraft.bench.tuning.result import Confirmation, DrafterFigures, TuneResult
from treedraft.inference.drafters import LOOKUP
from treedraft.training.evaluation.tree_length import TreeShape

_SHOWN_PREDICTIONS = 3
# A gain below that is within what a machine wavers by.
_LEAST_GAIN = 1.03


def markdown(result: TuneResult) -> str:
    """Return everything that a person wants to read."""
    parts = [_drafters(result), _predictions(result), _confirmations(result), advice(result)]
    return "\n\n".join(part for part in [*parts, _conditions(result)] if part)


def advice(result: TuneResult) -> str:
    """Return which drafter and settings to use, and why."""
    best = result.best
    if best is None:
        return _advice_without_runs(result)
    if best.speed < _LEAST_GAIN:
        return (
            f"Use no drafter here: the best of them, {_name(result, best)}, gave S = "
            f"{best.speed:.2f}. A target that is told `--set budget.max_nodes=0` asks no drafter, "
            "so drafts cost it nothing; in one go, without a drafter's process:\n\n"
            f"    treedraft up {_model_options(result, '--target')} --num-drafters 0"
        )
    lines = [
        f"Use {_name(result, best)} {_words(best.shape)}: {best.tokens_per_second:.1f} tokens/s "
        f"instead of {best.plain_tokens_per_second:.1f} (S = {best.speed:.2f}, τ = "
        f"{best.tau:.2f}), the same text for {best.num_equal} of {best.num_texts} prompts.",
        *_comparisons(result, best),
        "",
        *_how_to(result, best),
    ]
    return "\n".join(lines)


def _advice_without_runs(result: TuneResult) -> str:
    known = [entry for entry in result.drafters if entry.predictions]
    best = max(known, key=lambda entry: entry.predictions[0].speed)
    if any(not entry.is_exact for entry in result.confirmations):
        return "No setting kept every text: that is an error of treedraft, or a tie; see docs."
    prediction = best.predictions[0]
    return (
        f"Nothing was run. The best prediction is {best.name} {_words(prediction.shape)}: "
        f"S = {prediction.speed:.2f}, τ = {prediction.tau:.2f}."
    )


def _comparisons(result: TuneResult, best: Confirmation) -> list[str]:
    """Say why not each of the others: acceptance against cost."""
    chosen = result.drafter(best.draft)
    lines = []
    for other in result.drafters:
        if other.draft == best.draft:
            continue
        if other.error:
            lines.append(f"- {other.name} cannot be used: {other.error}.")
            continue
        runs = [entry for entry in result.confirmations if entry.draft == other.draft]
        if not runs:
            continue
        fastest = max(runs, key=lambda entry: entry.speed)
        lines.append(
            f"- {other.name} reaches S = {fastest.speed:.2f} (τ = {fastest.tau:.2f}): "
            f"{_difference(chosen, other)}."
        )
    return lines


def _difference(chosen: DrafterFigures, other: DrafterFigures) -> str:
    if not chosen.acceptance or not other.acceptance:
        model, finder = (chosen, other) if chosen.acceptance else (other, chosen)
        return (
            f"{model.name} has a guess at every place, right {model.acceptance[0]:.0%} of the "
            f"time, for {model.ratio:.2f} of a pass a step; {finder.name} costs nothing and "
            "guesses only what the text has had before"
        )
    gain = other.acceptance[0] - chosen.acceptance[0]
    return (
        f"it is right {abs(gain) * 100:.0f} points {'more' if gain > 0 else 'less'} often "
        f"({other.acceptance[0]:.0%}), and a step costs {other.ratio:.2f} of a pass instead of "
        f"{chosen.ratio:.2f}"
    )


def _how_to(result: TuneResult, best: Confirmation) -> list[str]:
    draft = shlex.quote(best.draft or LOOKUP)
    target_options = _model_options(result, "--target")
    lines = [f"    treedraft up {target_options} --draft {draft}"]
    if best.environment:
        lines += ["", "with this in the environment:", ""]
        lines += [f"    export {name}={value}" for name, value in best.environment.items()]
        lines += ["", "or, where the services are started one by one:", ""]
        device = f" --device {result.device}" if result.device else ""
        models = {
            "target": _model_options(result, "--model"),
            "draft": f"--model {draft}{device}",
        }
        for service, options in models.items():
            prefix = f"TREEDRAFT_{service.upper()}__"
            own = {
                name.removeprefix(prefix).lower().replace("__", "."): value
                for name, value in best.environment.items()
                if name.startswith(prefix)
            }
            flags = " ".join(f"--set {name}={value}" for name, value in own.items())
            lines.append(f"    treedraft {service} … {options} {flags}")
    return lines


def _model_options(result: TuneResult, name: str) -> str:
    """Return the options that load the target as it was loaded here."""
    device = ("--device", result.device) if result.device else ()
    return shlex.join((name, result.source, "--dtype", result.dtype, *device))


def _drafters(result: TuneResult) -> str:
    rows = [
        [
            entry.name,
            f"{entry.num_parameters / 1e6:.1f} M" if entry.num_parameters else "-",
            f"{entry.acceptance[0]:.3f}" if entry.acceptance else "-",
            f"{entry.acceptance[-1]:.3f}" if entry.acceptance else "-",
            f"{entry.ratio:.3f}" if entry.ratio else "0",
            entry.error,
        ]
        for entry in result.drafters
    ]
    width = max((len(entry.acceptance) for entry in result.drafters), default=0)
    return _table(["drafter", "size", "top 1", f"top {width or 1}", "c", ""], rows)


def _predictions(result: TuneResult) -> str:
    rows = [
        [
            entry.name,
            *_cells(prediction.shape),
            f"{prediction.tau:.2f}",
            f"{prediction.speed:.2f}",
        ]
        for entry in result.drafters
        for prediction in entry.predictions[:_SHOWN_PREDICTIONS]
    ]
    columns = ["predicted", "nodes", "depth", "children", "τ", "S"]
    return _table(columns, rows) if rows else ""


def _confirmations(result: TuneResult) -> str:
    rows = [
        [
            result.drafter(entry.draft).name,
            *_cells(entry.shape),
            f"{entry.tau:.2f}",
            f"{entry.plain_tokens_per_second:.1f}",
            f"{entry.tokens_per_second:.1f}",
            f"{entry.speed:.2f}",
            f"{entry.num_equal}/{entry.num_texts}",
        ]
        for entry in sorted(result.confirmations, key=lambda entry: -entry.speed)
    ]
    columns = ["run", "nodes", "depth", "children", "τ", "plain tok/s", "tok/s", "S", "same text"]
    return _table(columns, rows) if rows else ""


def _cells(shape: TreeShape | None) -> list[str]:
    if shape is None:
        return ["default"] * 3
    return [str(shape.budget), str(shape.depth), str(shape.num_children)]


def _name(result: TuneResult, entry: Confirmation) -> str:
    return result.drafter(entry.draft).name


def _words(shape: TreeShape | None) -> str:
    if shape is None:
        return "with the settings it comes with"
    return (
        f"with at most {shape.budget} nodes in a pass, depth {shape.depth}, "
        f"{shape.num_children} {'child' if shape.num_children == 1 else 'children'} of a node"
    )


def _conditions(result: TuneResult) -> str:
    times = ", ".join(f"{rows}: {ms:.1f}" for rows, ms in result.target_ms)
    where = "in turns on the same cores" if result.is_sharing else "each on cores of its own"
    return (
        f"Target {result.target}, {result.num_prompts} prompts, T = {result.temperature:g}; ms of "
        f"a target pass by rows: {times}; {result.num_threads} threads, target and drafter "
        f"{where}. S counts decoding, prompts not included; no drafter saw a "
        f"prompt twice, and lookup saw no recent traffic. {result.stamp.machine}, load "
        f"{result.stamp.load_before:.1f} before the run; commit "
        f"{result.stamp.commit or 'unknown'}, {result.stamp.time[:10]}."
    )


def _table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---:"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
