"""A report in words and tables, for terminals and documents."""

import math

from treedraft.training.evaluation.report import Report
from treedraft.training.evaluation.tree_length import TreeShape

_LOOKUP = (False, True)


def markdown(report: Report) -> str:
    """Return the report as tables for people."""
    parts = [
        _heading(report),
        _agreement_table(report),
        _length_table(report),
        _rehearsal_table(report),
        _costs(report),
    ]
    return "\n\n".join(part for part in parts if part)


def _heading(report: Report) -> str:
    drafter, target = report.drafter, report.target
    return (
        f"Drafter {drafter.name}: {drafter.num_layers} layers, {drafter.num_head_tokens} tokens, "
        f"{drafter.num_parameters / 1e6:.1f} M parameters in a pass, {drafter.dtype}; target "
        f"{target.name}, {target.dtype}. {report.num_prompts} prompts, up to "
        f"{report.settings.max_tokens} tokens each. {report.stamp.machine}, "
        f"commit {report.stamp.commit or 'unknown'}, {report.stamp.time[:10]}."
    )


def _agreement_table(report: Report) -> str:
    columns = [f"top {k + 1}" for k in range(report.settings.num_children)]
    rows = [
        [
            f"{entry.temperature:g}",
            entry.category or "all",
            *(f"{share:.3f}" for share in entry.acceptance),
            f"{entry.one_minus_tv:.3f}",
            f"{entry.coverage:.3f}",
        ]
        for entry in sorted(report.agreement, key=lambda entry: (entry.temperature, entry.category))
    ]
    return _table(["T", "texts", *columns, "1-TV", "in the head"], rows)


def _length_table(report: Report) -> str:
    rows = []
    for temperature in report.settings.temperatures:
        for name, shapes in (
            ("chain", [TreeShape.chain(budget) for budget in report.settings.budgets]),
            (
                "tree",
                [
                    TreeShape(budget, report.settings.max_depth, report.settings.num_children)
                    for budget in report.settings.budgets
                ],
            ),
        ):
            taus = [_tau(report, shape, temperature) for shape in shapes]
            rows.append([f"{temperature:g}", name, *(f"{tau:.2f}" for tau in taus)])
    return _table(["τ at T", "nodes", *map(str, report.settings.budgets)], rows)


def _tau(report: Report, shape: TreeShape, temperature: float) -> float:
    try:
        return report.length_of(shape, temperature).tau
    except KeyError:
        return math.nan


def _rehearsal_table(report: Report) -> str:
    """Return τ of the drafter's own loop, by temperature, with and without lookup."""
    if not report.rehearsed:
        return ""
    rows = []
    for temperature in dict.fromkeys(entry.temperature for entry in report.rehearsed):
        taus = {
            entry.has_lookup: f"{entry.tau:.2f}"
            for entry in report.rehearsed
            if entry.temperature == temperature
        }
        rows.append([f"{temperature:g}", *(taus.get(has_lookup, "-") for has_lookup in _LOOKUP)])
    first = report.rehearsed[0]
    words = (
        f"The drafter's own loop, over {first.num_texts} texts at each temperature, with "
        f"{first.budget} nodes in a pass and at most {first.max_steps} draft steps before it:"
    )
    return f"{words}\n\n{_table(['T', 'τ, model alone', 'τ, lookup too'], rows)}"


def _costs(report: Report) -> str:
    if report.cost is None:
        return "Times were not measured."
    cost = report.cost
    times = ", ".join(f"{rows}: {ms:.1f}" for rows, ms in cost.target_ms)
    parts = [
        f"c = {cost.ratio(1):.3f} for a draft step of 1 row, {cost.ratio(4):.3f} for one of 4; "
        f"ms of a target pass by rows: {times}; {cost.num_threads} threads, "
        f"{cost.num_context} tokens of context."
    ]
    for temperature in report.settings.temperatures:
        if best := report.best_speed(temperature):
            parts.append(
                f"T = {temperature:g}: predicted S {best.on_shared_cores:.2f} in turns on the "
                f"same cores, with {best.shape.budget} nodes of depth {best.shape.depth} at most "
                f"(τ {best.tau:.2f})."
            )
    return "\n".join(parts)


def _table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---:"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
