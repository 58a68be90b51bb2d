"""`treedraft simulate`: what the autoscaler would have done with a day of traffic."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from treedraft.cli import terminal


def simulate(
    trace: Annotated[
        Path | None,
        typer.Option(
            help="CSV of arrival_seconds,prompt_tokens,output_tokens instead of made-up traffic."
        ),
    ] = None,
    hours: Annotated[float, typer.Option(min=0.1, help="Length of made-up traffic.")] = 24.0,
    peak_rate: Annotated[
        float, typer.Option(min=0.01, help="Requests a second at the top of the day.")
    ] = 6.0,
    bursts: Annotated[float, typer.Option(min=0, help="Bursts a day, on average.")] = 4.0,
    seed: Annotated[int, typer.Option(help="Of the made-up traffic.")] = 1,
    measured: Annotated[
        str, typer.Option(help="Report of `treedraft judge` to take service times from.")
    ] = "",
    draft_cost: Annotated[
        float, typer.Option(min=0, help="What a drafter costs, in targets.")
    ] = 0.25,
    drafters_per_target: Annotated[
        float, typer.Option(min=0, help="Ratio where the pools are scaled as one.")
    ] = 1.0,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all figures here.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw the sizes into this SVG or PNG.")] = None,
    curve: Annotated[
        Path | None,
        typer.Option(help="Run the policy at other goals too; draw what attainment costs."),
    ] = None,
) -> None:
    """Compare the autoscaler with static sizes, an HPA on CPU, one pool, and an oracle."""
    with terminal.errors_shown():
        from treedraft.simulation.comparison import compare
        from treedraft.simulation.report import (
            as_json,
            as_table,
            draw,
            draw_curve,
            limit_table,
        )
        from treedraft.simulation.service_times import SHIPPED, load_service_times
        from treedraft.simulation.traffic import TrafficPlan, make_traffic, read_traffic

        times = load_service_times(measured or SHIPPED)
        plan = TrafficPlan(hours=hours, peak_rate=peak_rate, bursts_per_day=bursts)
        traffic = read_traffic(trace) if trace else make_traffic(plan, seed)
        notes, console = Console(stderr=True), Console()
        notes.print(f"{len(traffic.arrivals)} requests; service times of {times.source}")
        if traffic.bursts:
            console.print(limit_table(traffic, plan))
        comparison = compare(
            traffic,
            times,
            draft_cost=draft_cost,
            drafters_per_target=drafters_per_target,
            with_curve=curve is not None,
            progress=lambda name: notes.print(f"  running {name}"),
        )
        console.print(as_table(comparison))
        if json_file:
            source = str(trace) if trace else {"seed": seed, "peak_rate": peak_rate}
            about = {"traffic": source, "hours": traffic.seconds / 3600.0, "times": times.source}
            found = as_json(comparison, bursts=len(traffic.bursts), **about)
            json_file.write_text(json.dumps(found, indent=2) + "\n")
        if plot:
            draw(comparison, plot)
        if curve:
            draw_curve(comparison, curve)
