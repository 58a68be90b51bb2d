"""A comparison in words, figures and a picture."""

from pathlib import Path
from typing import Any

from rich.table import Table

from treedraft.simulation.comparison import ATTAINMENT, Comparison
from treedraft.simulation.limit import attainment_limit
from treedraft.simulation.run import Outcome
from treedraft.simulation.traffic import Traffic, TrafficPlan

_ROOMS = (1.0, 1.2, 1.5, 2.0, 2.5)
_COLUMNS = (
    *("strategy", "met", "refused", "target hours", "drafter hours"),
    *("pod hours", "cost", "of oracle"),
)


def as_table(comparison: Comparison) -> Table:
    """Return a table of all strategies."""
    table = Table(box=None, pad_edge=False)
    for name in _COLUMNS:
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
            f"{one.pod_hours:.0f}",
            f"{cost:.0f}",
            f"{cost / oracle:.2f}",
        )
    return table


def limit_table(traffic: Traffic, plan: TrafficPlan) -> Table:
    """Return what can be met at best, by the room that stands there when a burst begins."""
    table = Table(box=None, pad_edge=False, title="at best, bursts unforeseen")
    for name in ("room", "first come", "longest refused"):
        table.add_column(name, justify="right")
    for room in _ROOMS:
        limits = (
            attainment_limit(traffic, plan, room, is_first_come=is_first_come)
            for is_first_come in (True, False)
        )
        table.add_row(f"{room:.1f}", *(f"{limit:.2%}" for limit in limits))
    return table


def as_json(comparison: Comparison, **about: Any) -> dict[str, Any]:
    """Return everything that was found, and what it was found with."""
    return {
        **about,
        "draft_cost": comparison.draft_cost,
        "decision_ms": comparison.decision_ms,
        "strategies": [_figures(comparison, one) for one in comparison.outcomes],
        "curve": [
            {"goal_prompt_share": goal, **_figures(comparison, one)}
            for goal, one in comparison.curve
        ],
    }


def _figures(comparison: Comparison, one: Outcome) -> dict[str, Any]:
    return {
        "strategy": one.strategy,
        "attainment": one.attainment,
        "num_requests": one.num_requests,
        "num_refused": one.num_refused,
        "target_hours": one.target_hours,
        "drafter_hours": one.drafter_hours,
        "pod_hours": one.pod_hours,
        "cost": comparison.cost(one),
    }


def draw_curve(comparison: Comparison, path: Path) -> None:
    """Draw what attainment costs, in costs of the oracle, into an SVG or PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 4.0), layout="constrained")
    axes = figure.subplots()
    oracle = comparison.cost(comparison.of("oracle"))
    along = [(comparison.cost(one) / oracle, 100 * one.attainment) for _, one in comparison.curve]
    axes.plot(*zip(*along, strict=True), marker="o", label="the policy at other goals")
    for one in comparison.outcomes:
        axes.plot(comparison.cost(one) / oracle, 100 * one.attainment, "s", label=one.strategy)
    axes.axhline(100 * ATTAINMENT, color="grey", linewidth=0.8)
    axes.axvline(1.25, color="grey", linewidth=0.8, linestyle="--")
    axes.set_xlabel("cost, in costs of the oracle")
    axes.set_ylabel("requests met, %")
    axes.legend(fontsize="small")
    figure.savefig(path)


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
