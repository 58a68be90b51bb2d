"""A comparison in words, figures and a picture."""

from pathlib import Path
from typing import Any

from rich.table import Table

from treedraft.simulation.comparison import Comparison
from treedraft.simulation.run import Outcome


def as_table(comparison: Comparison) -> Table:
    """Return a table of all strategies."""
    table = Table(box=None, pad_edge=False)
    columns = ("strategy", "met", "refused", "target hours", "drafter hours", "cost", "of oracle")
    for name in columns:
        table.add_column(name, justify="left" if name == "strategy" else "right")
    oracle = comparison.cost(comparison.of("oracle"))
    for one in comparison.outcomes:
        cost = comparison.cost(one)
        table.add_row(
            one.strategy,
            f"{one.attainment:.2%}",
            f"{one.num_refused}",
            f"{one.target_hours:.0f}",
            f"{one.drafter_hours:.0f}",
            f"{cost:.0f}",
            f"{cost / oracle:.2f}",
        )
    return table


def as_json(comparison: Comparison, **about: Any) -> dict[str, Any]:
    """Return everything that was found, and what it was found with."""
    return {
        **about,
        "draft_cost": comparison.draft_cost,
        "decision_ms": comparison.decision_ms,
        "strategies": [
            {
                "strategy": one.strategy,
                "attainment": one.attainment,
                "num_requests": one.num_requests,
                "num_refused": one.num_refused,
                "target_hours": one.target_hours,
                "drafter_hours": one.drafter_hours,
                "cost": comparison.cost(one),
            }
            for one in comparison.outcomes
        ],
    }


def draw(comparison: Comparison, path: Path) -> None:
    """Draw the sizes over the day into an SVG or PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 5.5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    for one in comparison.outcomes:
        hours = [point[0] / 3600.0 for point in one.history]
        above.step(hours, [point[2] for point in one.history], where="post", label=_label(one))
        if one.strategy in {"treedraft", "one pool"}:
            below.step(hours, [point[3] for point in one.history], where="post", label=one.strategy)
    above.set_ylabel("targets")
    below.set_ylabel("drafters")
    below.set_xlabel("hour of the day")
    above.legend(fontsize="small")
    below.legend(fontsize="small")
    figure.savefig(path)


def _label(one: Outcome) -> str:
    return f"{one.strategy}: {one.attainment:.1%} met"
