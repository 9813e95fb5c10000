"""Still figures: Matplotlib drawings as SVG text, the same bytes whenever they are drawn."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from benchmark.errors import missing_extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT = "#1f2328", "#e3e6ea"


@contextmanager
def canvas(width: float, height: float) -> Iterator[Figure]:
    """Give an empty figure of so many inches; draw it and turn it into text inside.

    Raises:
        InputError: Matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise missing_extra("matplotlib", "report") from None
    # text stays text, and ids come from a fixed salt
    with rc_context({"svg.hashsalt": "levelfield", "svg.fonttype": "none", "font.family": "sans-serif"}):
        yield Figure(figsize=(width, height), layout="constrained")


def dress(axes: Axes, head: str) -> None:
    """Give axes their title, a faint grid behind what is drawn, and no frame."""
    axes.set_title(head, loc="left", fontsize=11)
    axes.grid(color=FAINT, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def svg(figure: Figure) -> str:
    """Return a figure as the text of an SVG file."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"
