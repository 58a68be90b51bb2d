"""A report at a glance: agreement, τ by budget, τ by category, predicted speed."""

from pathlib import Path
from typing import TYPE_CHECKING

from treedraft.figures import COLOURS, GRID, drawn
from treedraft.training.evaluation.report import Report
from treedraft.training.evaluation.tree_length import TreeShape

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FILE_NAME = "report.svg"

_SIZE_INCHES = (10.0, 6.4)


def draw(report: Report, file: Path) -> Path:
    """Draw a report into a file, whose name tells the format: .svg, .png or .pdf.

    Raises:
        UnavailableError: reason MATPLOTLIB_MISSING.
    """
    with drawn(file, size_inches=_SIZE_INCHES) as figure:
        parts = figure.subplots(2, 2)
        _draw_agreement(parts[0, 0], report)
        _draw_lengths(parts[0, 1], report)
        _draw_categories(parts[1, 0], report)
        _draw_speeds(parts[1, 1], report)
        figure.suptitle(_title(report), fontsize=10, x=0.01, ha="left")
    return file


def _title(report: Report) -> str:
    drafter = report.drafter
    return (
        f"{drafter.name}, drafter of {report.target.name}: {drafter.num_layers} layers, "
        f"{drafter.num_head_tokens:,} tokens, {drafter.num_parameters / 1e6:.1f} M parameters; "
        f"{report.num_prompts} prompts, {report.stamp.time[:10]}"
    )


def _draw_agreement(axes: "Axes", report: Report) -> None:
    ranks = range(1, report.settings.num_children + 1)
    for colour, temperature in zip(COLOURS, report.settings.temperatures, strict=False):
        shares = report.agreement_at(temperature).acceptance
        axes.plot(ranks, shares, "o-", color=colour, label=f"T = {temperature:g}", markersize=4)
        for rank, share in zip(ranks, shares, strict=True):
            axes.annotate(
                f"{share:.2f}",
                (rank, share),
                xytext=(0, 5),
                textcoords="offset points",
                ha="center",
                color=colour,
                fontsize=7,
            )
    axes.set_title("Share of the target's tokens among the best k guesses")
    axes.set_xlabel("k (T = 0: top-k agreement; T > 0: coupled acceptance)")
    axes.set_xticks(list(ranks))
    axes.margins(y=0.15)
    axes.grid(axis="y", **GRID)
    axes.legend(loc="lower right")


def _draw_lengths(axes: "Axes", report: Report) -> None:
    settings = report.settings
    for colour, temperature in zip(COLOURS, settings.temperatures, strict=False):
        trees = [report.tree(budget, temperature).tau for budget in settings.budgets]
        chains = [
            report.length_of(TreeShape.chain(budget), temperature).tau
            for budget in settings.budgets
        ]
        axes.plot(
            settings.budgets, trees, "o-", color=colour, label=f"T = {temperature:g}", markersize=4
        )
        axes.plot(settings.budgets, chains, "--", color=colour, linewidth=1)
    axes.set_title("τ: tokens per target pass, by nodes in the pass")
    axes.set_xlabel("nodes (solid: best tree, dashed: chain)")
    axes.set_xscale("log", base=2)
    axes.set_xticks(settings.budgets, [str(budget) for budget in settings.budgets])
    axes.minorticks_off()
    axes.grid(**GRID)
    axes.legend(loc="upper left")


def _draw_categories(axes: "Axes", report: Report) -> None:
    by_category = [entry for entry in report.lengths if entry.category]
    categories = list(dict.fromkeys(entry.category for entry in by_category))
    temperatures = report.settings.temperatures
    width = 0.8 / max(1, len(temperatures))
    for index, (colour, temperature) in enumerate(zip(COLOURS, temperatures, strict=False)):
        taus = [
            next(
                entry.tau
                for entry in by_category
                if (entry.category, entry.temperature) == (category, temperature)
            )
            for category in categories
        ]
        places = [
            place + (index - (len(temperatures) - 1) / 2) * width for place in range(len(taus))
        ]
        axes.bar(places, taus, width * 0.92, color=colour, label=f"T = {temperature:g}")
    nodes = by_category[0].shape.budget if by_category else 0
    axes.set_title(f"τ by kind of text, best tree of {nodes} nodes")
    axes.set_xticks(range(len(categories)), categories)
    axes.axhline(1.0, color="#888888", linewidth=0.8)
    axes.grid(axis="y", **GRID)
    axes.set_axisbelow(True)


def _draw_speeds(axes: "Axes", report: Report) -> None:
    axes.set_title("Predicted S by depth, taking turns on the same cores")
    if report.cost is None:
        axes.text(0.5, 0.5, "times were not measured", ha="center", transform=axes.transAxes)
        axes.set_axis_off()
        return
    temperature = report.settings.temperatures[0]
    shallow = [
        speed
        for speed in report.speeds
        if speed.temperature == temperature
        and speed.shape.num_children > 1
        and speed.shape.depth in report.settings.depths
    ]
    budgets = sorted({speed.shape.budget for speed in shallow if speed.shape.budget >= 4})
    for colour, budget in zip(COLOURS, budgets, strict=False):
        line = sorted(
            (speed.shape.depth, speed.on_shared_cores)
            for speed in shallow
            if speed.shape.budget == budget
        )
        axes.plot(
            *zip(*line, strict=True), "o-", color=colour, label=f"{budget} nodes", markersize=4
        )
    axes.axhline(1.0, color="#888888", linewidth=0.8)
    axes.set_xlabel(
        f"depth = draft steps in a round; T = {temperature:g}, c = {report.cost.ratio(1):.3f} "
        f"(1 row), {report.cost.ratio(4):.3f} (4 rows)"
    )
    axes.grid(axis="y", **GRID)
    axes.legend(loc="best", ncols=2)
