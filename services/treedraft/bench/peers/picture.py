"""A comparison at a glance: tokens a second of every row, and S against its limit τ."""

from pathlib import Path
from typing import TYPE_CHECKING

from treedraft.bench.peers.plan import BFLOAT16, FLOAT32, TREEDRAFT
from treedraft.bench.peers.result import Outcome, PeersResult
from treedraft.figures import COLOURS, GRID, drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIZE_INCHES = (11.0, 6.4)
_COLOURS = dict(zip((FLOAT32, BFLOAT16), COLOURS, strict=False))
_OTHER_COLOUR = "#8a8a8a"


def draw(result: PeersResult, file: Path) -> Path:
    """Draw a comparison into a file, whose name tells the format.

    Raises:
        UnavailableError: reason MATPLOTLIB_MISSING.
    """
    with drawn(file, size_inches=_SIZE_INCHES, font_size=8.0) as figure:
        speeds, limits = figure.subplots(1, 2, width_ratios=(3, 2))
        _draw_speeds(speeds, result)
        _draw_limits(limits, result)
    return file


def _draw_speeds(axes: "Axes", result: PeersResult) -> None:
    measured = sorted((one for one in result.outcomes if one.replies), key=lambda one: one.speed)
    for place, outcome in enumerate(measured):
        low, high = min(outcome.speeds), max(outcome.speeds)
        axes.barh(
            place,
            outcome.speed,
            xerr=[[outcome.speed - low], [high - outcome.speed]],
            color=_colour(outcome),
            error_kw={"elinewidth": 0.8},
        )
        axes.annotate(
            f"{outcome.speed:.0f}",
            (high, place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_yticks(range(len(measured)), [_label(outcome) for outcome in measured])
    for label, outcome in zip(axes.get_yticklabels(), measured, strict=True):
        label.set_fontweight("bold" if outcome.row.system == TREEDRAFT else "normal")
    axes.set_title("Tokens a second, and the spread of the repeats")
    axes.grid(axis="x", **GRID)
    axes.set_axisbelow(True)
    axes.margins(y=0.01)


def _draw_limits(axes: "Axes", result: PeersResult) -> None:
    limit = 1.0
    for outcome in result.outcomes:
        speed_up, rounds = result.speed_up(outcome), outcome.tokens_per_pass
        if speed_up is None or rounds is None:
            continue
        limit = max(limit, rounds)
        axes.plot(rounds, speed_up, "o", color=_colour(outcome), markersize=5)
        axes.annotate(
            f"{outcome.row.system}, {outcome.row.mode}",
            (rounds, speed_up),
            xytext=(5, 3),
            textcoords="offset points",
            fontsize=6.5,
        )
    axes.plot([1.0, limit], [1.0, limit], "--", color="#444444", linewidth=1, label="limit: S = τ")
    axes.axhline(1.0, color="#888888", linewidth=0.8, label="no faster than plain")
    for precision, colour in _COLOURS.items():
        axes.plot([], [], "o", color=colour, label=precision)
    axes.set_title("S, speed over plain decoding")
    axes.set_xlabel("τ: tokens per pass of the target")
    axes.set_ylim(bottom=0.0)
    axes.margins(x=0.35)
    axes.grid(**GRID)
    axes.legend(loc="upper left")


def _colour(outcome: Outcome) -> str:
    return _COLOURS.get(outcome.row.precision, _OTHER_COLOUR)


def _label(outcome: Outcome) -> str:
    row = outcome.row
    return f"{row.system}, {row.mode} ({row.precision})"
