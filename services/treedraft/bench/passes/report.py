"""Times of passes as JSON and as tables in Markdown."""

import json
from dataclasses import asdict

from treedraft.bench.passes.result import PASS, PREPACKED, READING, STEP, PassesResult, Timing


def to_json(result: PassesResult) -> str:
    """Return all of it: stamp, plan, every time, and the tables."""
    return json.dumps({**asdict(result), "table": markdown(result)}, indent=1, ensure_ascii=False)


def markdown(result: PassesResult) -> str:
    """Return the tables with the conditions that they were made under."""
    return "\n\n".join([_times(result), _ratios(result), _conditions(result)])


def _times(result: PassesResult) -> str:
    head = [f"ms at {result.plan.rows[0]} row(s)", *map(str, result.plan.rows[1:])]
    lines = [_line(["weights", "", *head]), _line(["---", "---", *["---:"] * len(head)])]
    kinds = dict.fromkeys((one.weights, one.what) for one in result.timings if one.what != STEP)
    for weights, what in kinds:
        found = [result.find(what, weights, rows) for rows in result.plan.rows]
        lines.append(_line([weights, what, *map(_cell, found)]))
    return "\n".join(lines)


def _cell(timing: Timing | None) -> str:
    return f"{timing.median_ms:.1f}" if timing else ""


def _ratios(result: PassesResult) -> str:
    lines = [
        _line(["weights", "GB", "read at GB/s", "plain step ms", "× reading", "× prepacked"]),
        _line(["---", *["---:"] * 5]),
    ]
    for weights, gigabytes in result.gigabytes.items():
        step, reading = (result.find(what, weights, 1) for what in (STEP, READING))
        assert step
        assert reading
        ratios = [result.ratio(weights, what) for what in (READING, PREPACKED)]
        lines.append(
            _line(
                [
                    weights,
                    f"{gigabytes:.3f}",
                    f"{gigabytes / reading.median_ms * 1e3:.1f}",
                    f"{step.median_ms:.1f}",
                    *("" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
                ]
            )
        )
    return "\n".join(lines)


def _conditions(result: PassesResult) -> str:
    stamp, plan = result.stamp, result.plan
    versions = ", ".join(f"{name} {version}" for name, version in stamp.packages.items())
    return (
        f"Median of {plan.num_repeats}, in turns; {plan.num_context} tokens of context, "
        f"{result.num_threads} threads, model {plan.target}. A {PASS} is one call of the runner, a "
        f"step that and the draw of the token; {PREPACKED}: the same layers through oneDNN and "
        f"nothing else. {stamp.machine}, load {stamp.load_before:.1f} before the run; Python "
        f"{stamp.python}, {versions}; commit {stamp.commit or 'unknown'}, {stamp.time[:10]}."
    )


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
