"""A comparison of the doors in words and numbers."""

import json
from dataclasses import asdict

from treedraft.bench.door.result import CrowdSummary, DoorResult
from treedraft.bench.door.skins import GRPC, HTTP, SKINS
from treedraft.bench.estimate import Estimate

BAR_MS = 1.0
"""What HTTP may cost over gRPC, for a piece at the median."""


def markdown(result: DoorResult) -> str:
    """Return the tables, and what they were made on."""
    plan, stamp = result.plan, result.stamp
    same = "identical texts" if result.is_identical else "TEXTS DIFFER"
    place = (
        f"{plan.target}; {stamp.machine}; commit {stamp.commit}, load before {stamp.load_before}"
    )
    words = (
        f"{len(result.pairs)} prompts of {plan.num_tokens} tokens, one at a time, over both doors "
        f"in turns; {same}; medians, and where 95 % of resampled ones lie. {place}."
    )
    return "\n".join([*_one_stream(result), "", words, *_many_streams(result)])


def _one_stream(result: DoorResult) -> list[str]:
    return [
        "| one stream | gRPC | HTTP | HTTP is later by |",
        "|:---|---:|---:|---:|",
        f"| first piece, ms | {result.first_ms(GRPC):.2f} | {result.first_ms(HTTP):.2f} "
        f"| {_interval(result.first_overhead_ms())} |",
        f"| any text since its request, ms | | | {_interval(result.overhead_ms())} |",
        f"| between two pieces, ms | {result.gap_ms(GRPC):.3f} | {result.gap_ms(HTTP):.3f} | |",
        f"| growth from piece to piece, µs | | | {_interval(result.growth_us())} |",
    ]


def _many_streams(result: DoorResult) -> list[str]:
    crowds = result.crowds_by_skin()
    if not crowds:
        return []
    plan = result.plan
    return [
        "",
        f"| {plan.num_streams} streams at once | gRPC | HTTP |",
        "|:---|---:|---:|",
        *(
            f"| {name} | {_value(crowds[GRPC], key)} | {_value(crowds[HTTP], key)} |"
            for name, key in _ROWS.items()
        ),
        "",
        f"{plan.num_repeats} times over each door, in turns; pieces of all of them.",
    ]


_ROWS = {
    "streams that failed": "errors",
    "pieces a second": "pieces_per_second",
    "first piece, ms": "first_ms",
    "between two pieces, ms": "gap_ms",
    "99 % are below, ms": "gap_99_ms",
    "the coordinator computes for a piece, µs": "cpu_us",
}


def _value(summary: CrowdSummary, key: str) -> str:
    value = getattr(summary, key)
    if key == "errors":
        reasons = ", ".join(sorted(set(value)))
        return f"{len(value)} of {summary.num_streams}" + (f" ({reasons})" if reasons else "")
    return "" if value is None else f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _interval(value: Estimate) -> str:
    middle, low, high = value
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def to_json(result: DoorResult) -> str:
    """Return the numbers and the tables; of each answer, when its pieces came, in µs."""
    document = {
        "stamp": asdict(result.stamp),
        "plan": asdict(result.plan),
        "bar_ms": BAR_MS,
        "is_identical": result.is_identical,
        "overhead_ms": result.overhead_ms(),
        "first_overhead_ms": result.first_overhead_ms(),
        "growth_us": result.growth_us(),
        "first_ms": {skin: result.first_ms(skin) for skin in SKINS},
        "gap_ms": {skin: result.gap_ms(skin) for skin in SKINS},
        "crowds": {name: asdict(crowd) for name, crowd in result.crowds_by_skin().items()},
        "arrivals_us": [
            {skin: [round(at * 1e6) for at in pair[skin].arrivals] for skin in SKINS}
            for pair in result.pairs
        ],
        "table": markdown(result),
    }
    return json.dumps(document, ensure_ascii=False)
