"""Where the host's time falls, at a glance: microseconds a session and step, by load."""

from pathlib import Path
from typing import TYPE_CHECKING

from treedraft.bench.host.result import HostResult
from treedraft.figures import COLOURS, GRID, drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIZE_INCHES = (9.0, 3.4)
_MORE_COLOURS = (*COLOURS, "#c2a83e", "#5fa8a8", "#b5616b")


def draw(result: HostResult, file: Path) -> Path:
    """Draw a run into a file, whose name tells the format.

    Raises:
        UnavailableError: reason MATPLOTLIB_MISSING.
    """
    with drawn(file, size_inches=_SIZE_INCHES, font_size=8.0) as figure:
        steps, frames = figure.subplots(1, 2, width_ratios=(3, 2))
        _draw_steps(steps, result)
        _draw_frames(frames, result)
    return file


def _draw_steps(axes: "Axes", result: HostResult) -> None:
    places = range(len(result.points))
    ends = [0.0] * len(result.points)
    kinds = result.points[-1].falls
    for number, kind in enumerate(sorted(kinds, key=lambda kind: -kinds[kind])):
        widths = [1e3 * p.falls.get(kind, 0.0) / p.num_sessions for p in result.points]
        colour = _MORE_COLOURS[number % len(_MORE_COLOURS)]
        axes.barh(places, widths, left=ends, color=colour, label=kind)
        ends = [end + width for end, width in zip(ends, widths, strict=True)]
    for place, (end, point) in enumerate(zip(ends, result.points, strict=True)):
        axes.text(end, place, f" {point.share:.1%} of a step", va="center")
    axes.set_yticks(places, [f"{point.num_sessions}" for point in result.points])
    axes.set_ylabel("sessions")
    axes.set_title("Engine: µs a session and step, beside the pass")
    axes.margins(x=0.25)
    axes.grid(axis="x", **GRID)
    axes.set_axisbelow(True)
    axes.legend(loc="center right")


def _draw_frames(axes: "Axes", result: HostResult) -> None:
    for colour, by in zip(COLOURS, dict.fromkeys(p.by for p in result.frames), strict=False):
        points = [point for point in result.frames if point.by == by]
        numbers = [point.num_sessions for point in points]
        both = [point.said_ms + point.understood_ms for point in points]
        axes.plot(numbers, both, color=colour, marker="o", label=f"told by {by}")
    axes.set_xlabel("sessions")
    axes.set_title("A step's frame: ms to write and to read")
    axes.grid(axis="y", **GRID)
    axes.legend()
