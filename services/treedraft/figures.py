"""Figures of reports, in one style.

matplotlib is wanted for nothing else, so it comes with the extra `report` and is
imported here only when something is drawn.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from treedraft.core.errors import UnavailableError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Told apart by people who see colours differently, and in grey.
COLOURS = ("#1b6ca8", "#d1751f", "#3a8f4d", "#8a5aa3", "#666666")
GRID: dict[str, Any] = {"color": "#dddddd", "linewidth": 0.6}
_SETTINGS: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "svg.fonttype": "none",  # letters stay letters: small, and to be searched
    "svg.hashsalt": "treedraft",  # equal contents give equal files
}


@contextmanager
def drawn(
    file: Path, *, size_inches: tuple[float, float], font_size: float = 8.5
) -> Iterator["Figure"]:
    """Yield an empty figure, and write it into a file: .svg, .png or .pdf by its name.

    Raises:
        UnavailableError: reason MATPLOTLIB_MISSING.
    """
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UnavailableError(
            "a picture needs matplotlib: pip install 'treedraft[report]'",
            reason="MATPLOTLIB_MISSING",
        ) from error
    with mpl.rc_context({**_SETTINGS, "font.size": font_size}):
        figure = Figure(figsize=size_inches, facecolor="white", layout="constrained")
        yield figure
        metadata = {"Date": None} if file.suffix == ".svg" else None
        figure.savefig(file, metadata=metadata, dpi=120)
