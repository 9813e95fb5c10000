"""The figure of recommendation quality against retention: tradeoff.svg, and a section of the report."""

from __future__ import annotations

import html
import statistics
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.reports.budget_figures import LINE_STYLES, MARKERS, SHAPES, spread
from benchmark.reports.files import write_texts
from benchmark.reports.names import GROUP_TITLES, measured_title, title
from benchmark.reports.page import switch
from benchmark.reports.page import table as html_table
from benchmark.reports.part import Part
from benchmark.reports.render import number
from benchmark.reports.report_figures import DASHES, LINES, LOOKS, bare_figure, plain
from benchmark.reports.stills import INK, canvas, dress, svg
from benchmark.reports.table import Cell, ComparisonTable

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

HEADING = "Recommendation quality against retention"
FILE = "tradeoff.svg"
# what an axis says of the numbers of `benchmark.llm.retention`; others are named as in the table
TOLD = {
    "base_kl": "KL(base ‖ tuned) on the base's own text, nats a token; 0: nothing changed",
    "tuned_perplexity": "perplexity of the tuned model on the base's own text",
    "next_token_agreement": "share of tokens for which base and tuned say the same; 1: nothing changed",
    "corpus_perplexity": "perplexity of the tuned model on the held-out corpus",
    "base_cka": "centred kernel alignment with the base's embeddings; 1: nothing changed",
    "neighbour_overlap": "share of the 10 nearest texts kept from the base; 1: nothing changed",
}
WIDE = 20  # an axis whose largest number is so many times its smallest one is logarithmic
SMALL, LARGE = 6.0, 11.0  # size of the marks of a line, from its first row to its last
LEGEND_WIDTH = 36


@dataclass(frozen=True)
class Point:
    """One row: what it says of itself (mean over seeds), and the metric with its interval."""

    label: str
    x: float
    cell: Cell

    @property
    def y(self) -> float:
        assert self.cell.mean is not None
        return self.cell.mean


@dataclass(frozen=True)
class Line:
    """The rows of a kind of protection in the order of their strength, or one row by itself."""

    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Level:
    """A row that has no such number: a baseline, at every place of the axis."""

    label: str
    group: str
    cell: Cell

    @property
    def y(self) -> float:
        assert self.cell.mean is not None
        return self.cell.mean


@dataclass(frozen=True)
class Axis:
    """How numbers are laid out: ``floor`` is the left end of a logarithmic axis, where a 0 stands if there is one."""

    log: bool
    floor: float
    zero: bool = False

    def place(self, x: float) -> float:
        return max(x, self.floor) if self.log else x


def has_points(p: Part) -> bool:
    """Return whether the figure is asked for and a row has the number."""
    wanted = p.experiment.report.tradeoff
    return wanted is not None and any(_number(p, label, wanted.measured) is not None for label in p.outcomes.labels)


def write(p: Part, table: ComparisonTable, folder: Path) -> list[Path]:
    """Write tradeoff.svg where it is asked for and Matplotlib is installed; return its path, or none."""
    if not has_points(p) or not find_spec("matplotlib"):
        return []
    wanted = p.experiment.report.tradeoff
    assert wanted is not None
    metric = wanted.metric or p.outcomes.metrics[0]
    lines, levels = gathered(p, table, metric)
    head = f"{title(metric)} against retention, {p.experiment.dataset.source.source}"
    return write_texts(folder, {FILE: still(lines, levels, axis_title(wanted.measured), title(metric), head)})


def first_figure(p: Part, table: ComparisonTable) -> Figure:
    """Return the figure of the metric that is asked for; raises as ``section`` does."""
    return next(iter(section(p, table)[1].values()))


def section(p: Part, table: ComparisonTable, prefix: str = "") -> tuple[str, dict[str, Figure]]:
    """Return the body of a section with all metrics, the one that is asked for first, and its figures by id.

    Raises:
        InputError: Plotly is not installed.
    """
    wanted = p.experiment.report.tradeoff
    assert wanted is not None
    first = wanted.metric or p.outcomes.metrics[0]
    figures, ids, rows = {}, {}, []
    metrics = [first, *(m for m in p.outcomes.metrics if m != first)]
    for i, metric in enumerate(metrics):
        lines, levels = gathered(p, table, metric)
        if not lines:
            continue
        ids[title(metric)] = id = f"{prefix}tradeoff-{i}"
        figures[id] = interactive(lines, levels, axis_title(wanted.measured), title(metric))
        if metric == first:
            rows = [[line.name, q.label, number(q.x, 4), _told(q.cell)] for line in lines for q in line.points]
    height = max(int(figure.layout.height) for figure in figures.values())
    place = switch(f"{prefix}tradeoff-figure", "A metric against retention", ids, height=height)
    note = (
        "A line is one kind of protection; its marks grow with the order in which its rows are named. Bars are 95 % "
        "intervals over users. Dashed levels are rows without such a number."
    )
    heads = ["Line", "Row", measured_title(wanted.measured), title(first)]
    shown = html_table(heads, rows, f"{title(first)} and {measured_title(wanted.measured)} of every row")
    body = f"{place}\n<p>{html.escape(note)}</p>\n<details><summary>As a table</summary>{shown}</details>"
    return body, figures


def axis_title(measured: str) -> str:
    return TOLD.get(measured, measured_title(measured))


def gathered(p: Part, table: ComparisonTable, metric: str) -> tuple[list[Line], list[Level]]:
    """Return the lines as they are asked for, the rows of no line that have the number, and the levels."""
    wanted = p.experiment.report.tradeoff
    assert wanted is not None
    cells = dict(zip((row.label for row in table.rows), table.column(metric), strict=True))
    groups = {row.label: row.group for row in table.rows}
    points, levels = {}, []
    for label in p.experiment.models:
        cell = cells[label]
        if cell.mean is None:
            continue
        x = _number(p, label, wanted.measured)
        if x is not None:
            points[label] = Point(label, x, cell)
        else:
            levels.append(Level(label, groups[label], cell))
    lines = [Line(name, tuple(points[q] for q in labels if q in points)) for name, labels in wanted.curves.items()]
    named = {label for labels in wanted.curves.values() for label in labels}
    lines += [Line(label, (point,)) for label, point in points.items() if label not in named]
    return [line for line in lines if line.points], levels


def axis_of(lines: Sequence[Line]) -> Axis:
    """Return a logarithmic axis where the numbers span much, and none is negative."""
    values = [q.x for line in lines for q in line.points]
    real = [x for x in values if x > 0]
    # what is nearly 0 stands with 0: rounding alone must not stretch the axis
    real = [x for x in real if x > 1e-6 * max(real)]
    if not real or min(values) < 0 or max(real) / min(real) < WIDE:
        return Axis(False, 0.0)
    lower = [x for x in values if x < min(real)]
    return Axis(True, min(real) / 4, True) if lower else Axis(True, min(real))


def interactive(lines: Sequence[Line], levels: Sequence[Level], x_title: str, y_title: str) -> Figure:
    """Return the figure for pages.

    Raises:
        InputError: Plotly is not installed.
    """
    figure, axis = bare_figure(560), axis_of(lines)
    for line, color, shape in zip(lines, cycle(LINES), cycle(SHAPES), strict=False):
        low, high = zip(*map(_bars, line.points), strict=True)
        figure.add_scatter(
            x=[axis.place(q.x) for q in line.points],
            y=[q.y for q in line.points],
            error_y={"type": "data", "array": high, "arrayminus": low, "thickness": 1, "width": 0},
            text=[f"{plain(q.label)}: {number(q.x, 4)}" for q in line.points],
            mode="lines+markers" if len(line.points) > 1 else "markers",
            line={"color": color, "width": 2},
            marker={"symbol": shape, "size": [1.4 * s for s in _sizes(len(line.points))], "color": color},
            name=plain(line.name),
            cliponaxis=False,
            hovertemplate=f"%{{text}}<br>{y_title} %{{y:.4f}}<extra>{plain(line.name)}</extra>",
        )
    left, right = _ends(lines, axis)
    for level, dash in zip(levels, cycle(DASHES[1:]), strict=False):
        figure.add_scatter(
            x=[left, right],
            y=[level.y] * 2,
            mode="lines",
            line={"color": LOOKS[level.group][0], "dash": dash, "width": 1.5},
            name=plain(level.label),
            hovertemplate=f"{plain(level.label)}, {GROUP_TITLES[level.group]}<br>{y_title} %{{y:.4f}}<extra></extra>",
        )
    figure.update_xaxes(title_text=x_title + (" (log scale)" if axis.log else ""), type="log" if axis.log else "linear")
    if axis.log:
        ticks = _ticks(axis, right)
        figure.update_xaxes(tickvals=list(ticks), ticktext=list(ticks.values()))
    return figure.update_yaxes(title_text=y_title).update_layout(showlegend=True)


def still(lines: Sequence[Line], levels: Sequence[Level], x_title: str, y_title: str, head: str) -> str:
    """Return the same figure as an SVG, with the rows of each line in its legend; the same bytes whenever it is drawn.

    Raises:
        InputError: Matplotlib is not installed.
    """
    axis = axis_of(lines)
    with canvas(11, 5.8) as figure:
        axes = figure.add_subplot()
        for line, color, shape in zip(lines, cycle(LINES), cycle(SHAPES), strict=False):
            x, y = [axis.place(q.x) for q in line.points], [q.y for q in line.points]
            low, high = zip(*map(_bars, line.points), strict=True)
            axes.errorbar(x, y, yerr=[low, high], fmt="none", ecolor=color, alpha=0.35, elinewidth=1)
            style = "-" if len(x) > 1 else ""
            axes.plot(x, y, style, color=color, linewidth=1.8, zorder=3)
            for at, value, size in zip(x, y, _sizes(len(x)), strict=True):
                edge = color if MARKERS[shape] == "x" else "white"  # a cross is nothing but its edge
                axes.plot(at, value, MARKERS[shape], color=color, markersize=size, markeredgecolor=edge, zorder=4)
            axes.plot([], [], f"{style}{MARKERS[shape]}", color=color, markersize=7, label=_legend(line))
        for level, dash in zip(levels, cycle(DASHES[1:]), strict=False):
            axes.axhline(level.y, linestyle=LINE_STYLES[dash], color=LOOKS[level.group][0], linewidth=1.4, zorder=1)
        bottom, top = axes.get_ylim()
        for name, place in spread({level.label: level.y for level in levels}, (top - bottom) / 30).items():
            axes.text(1.01, place, name, transform=axes.get_yaxis_transform(), va="center", fontsize=9, color=INK)
        right = _ends(lines, axis)[1]
        if axis.log:
            ticks = _ticks(axis, right)
            axes.set_xscale("log")
            axes.set_xticks(list(ticks), list(ticks.values()))
            axes.minorticks_off()
        axes.set_xlabel(x_title + (" (log scale)" if axis.log else ""))
        axes.set_ylabel(y_title)
        dress(axes, f"{head}; bars: 95 % interval over users")
        figure.legend(loc="outside right upper", frameon=False, fontsize=9, labelspacing=0.8)
        return svg(figure)


def _legend(line: Line) -> str:
    """Return a line's name, and behind it its rows in their order, wrapped."""
    if len(line.points) == 1:
        return line.points[0].label
    rows = textwrap.wrap(" → ".join(q.label for q in line.points), LEGEND_WIDTH, break_on_hyphens=False)
    return "\n".join([line.name, *(f"   {row}" for row in rows)])


def _sizes(n: int) -> list[float]:
    """Return the sizes of n marks, the last the largest; one by itself is large."""
    return [SMALL + (LARGE - SMALL) * i / (n - 1) for i in range(n)] if n > 1 else [LARGE]


def _bars(q: Point) -> tuple[float, float]:
    """Return how far the interval reaches below and above."""
    low, high = q.cell.low, q.cell.high
    return (q.y - low if low is not None else 0.0), (high - q.y if high is not None else 0.0)


def _ends(lines: Sequence[Line], axis: Axis) -> tuple[float, float]:
    places = [axis.place(q.x) for line in lines for q in line.points]
    low, high = min(places), max(places)
    if axis.log:
        return low, high
    room = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room


def _ticks(axis: Axis, right: float) -> dict[float, str]:
    """Return the ticks of a logarithmic axis: ones, twos and fives, few enough to be read, and the 0 at its floor."""
    every = {float(f"{m}e{e}"): f"{float(f'{m}e{e}'):g}" for e in range(-9, 10) for m in (1, 2, 5)}
    left = 2 * axis.floor if axis.zero else axis.floor
    inside = {x: text for x, text in every.items() if left <= x <= 1.02 * right}
    if len(inside) > 10:
        inside = {x: text for x, text in inside.items() if text.lstrip("0.")[0] == "1"}
    zero = {axis.floor: "0"} if axis.zero else {}
    return zero | inside


def _number(p: Part, label: str, name: str) -> float | None:
    """Return what all finished runs of a row say of themselves, mean over seeds; None where one does not say it."""
    done = p.finished(label)
    found = [r.model_report[name] for r in done if name in r.model_report]
    return statistics.fmean(found) if found and len(found) == len(done) else None


def _told(cell: Cell) -> str:
    span = f" [{number(cell.low, 3)}, {number(cell.high, 3)}]" if cell.low is not None and cell.high is not None else ""
    return f"{number(cell.mean or 0.0, 4)}{span}"
