"""The figure of learning curves over training size: interactive (Plotly) for pages, still (SVG) for a README."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import isotonic_regression

from benchmark.reports.budget_text import rounded
from benchmark.reports.budgets import Contest, Family, against_best
from benchmark.reports.names import GROUP_TITLES
from benchmark.reports.render import number
from benchmark.reports.report_figures import DASHES, GREEN, LOOKS, PURPLE, bare_figure, plain
from benchmark.reports.search_figures import GREY, VERMILLION
from benchmark.reports.stills import INK, canvas, dress, svg

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

STRONG = (VERMILLION, PURPLE, GREEN)  # the language models, each a colour of its own
SHAPES = ("circle", "square", "triangle-up", "triangle-down", "diamond", "x", "cross")
# the same signs in Matplotlib
MARKERS = dict(zip(SHAPES, "os^vDxP", strict=True))
LINE_STYLES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}


@dataclass(frozen=True)
class Look:
    """How a model's line is drawn."""

    color: str
    dash: str
    shape: str
    width: float


@dataclass(frozen=True)
class Mark:
    """Where a language model and a classical one cross; ``best``: the best classical model of the budgets around."""

    n: float
    value: float
    certain: bool
    best: bool
    said: str


def looks(curves: Sequence[Family]) -> dict[str, Look]:
    """Return how each model is drawn: language models solid and strong, trivial ones thin and grey, others dashed."""
    out: dict[str, Look] = {}
    for family in curves:
        nth = sum(other.group == family.group for other in curves[: len(out)])
        if family.kind == "llm":
            strong = sum(look.width > 3 for look in out.values())
            out[family.name] = Look(STRONG[strong % len(STRONG)], "solid", "diamond", 3.5)
        elif family.kind == "trivial":
            out[family.name] = Look(GREY, "solid", SHAPES[nth % len(SHAPES)], 1)
        else:
            dashes = DASHES[1:]
            color = LOOKS[family.group][0]
            out[family.name] = Look(color, dashes[nth % len(dashes)], SHAPES[nth % len(SHAPES)], 1.75)
    return out


def marks(curves: Sequence[Family], pairs: Sequence[Contest]) -> list[Mark]:
    """Return where curves cross, those with the best classical model last, so that they lie on top."""
    by_name = {family.name: family for family in curves}
    out = []
    for contest in [*pairs, *against_best(pairs)]:
        for c in contest.crossings:
            other = contest.other or (c.after if not c.up else c.before).other
            verb = "overtakes" if c.up else "falls behind"
            best = "" if contest.other else ", the best classical model"
            sure = "told apart on both sides" if c.certain else "uncertain"
            said = f"{contest.name} {verb} {other}{best} near {rounded(c.n)} ({sure})"
            out.append(Mark(c.n, by_name[contest.name].at(c.n), c.certain, not contest.other, said))
    return out


def sizes(curves: Sequence[Family]) -> list[int]:
    """Return the budgets, ascending."""
    return sorted({q.n for family in curves for q in family.points})


def _span(family: Family, every: Sequence[int]) -> tuple[list[float], list[float]]:
    """Return the (x, y) of a line: a model of one budget is a level from end to end."""
    if family.is_curve:
        return [q.n for q in family.points], [q.mean for q in family.points]
    return [every[0], every[-1]], [family.points[0].mean] * 2


def _bounds(family: Family) -> Iterator[tuple[float, float, float]]:
    """Yield (n, low, high) of the points that have an interval."""
    for q in family.points:
        if q.cell.low is not None and q.cell.high is not None:
            yield q.n, q.cell.low, q.cell.high


def interactive(curves: Sequence[Family], pairs: Sequence[Contest], metric_title: str) -> Figure:
    """Return the metric by training interactions, a line a model, and a mark where two cross.

    Raises:
        InputError: Plotly is not installed.
    """
    figure, every = bare_figure(560), sizes(curves)
    for name, look in looks(curves).items():
        family = next(f for f in curves if f.name == name)
        bounds = list(_bounds(family))
        if family.kind == "llm" and len(bounds) > 1:
            n, low, high = (list(column) for column in zip(*bounds, strict=True))
            figure.add_scatter(
                x=[*n, *n[::-1]], y=[*high, *low[::-1]], fill="toself", fillcolor=_faint(look.color),
                line={"width": 0}, mode="lines", hoverinfo="skip", showlegend=False, legendgroup=name,
            )  # fmt: skip
        x, y = _span(family, every)
        spans = {n: f"[{number(low, 3)}, {number(high, 3)}]" for n, low, high in bounds}
        told = [spans.get(int(n), "") if family.is_curve else f"one budget, {every[-1]:,}" for n in x]
        figure.add_scatter(
            x=x,
            y=y,
            customdata=told,
            mode="lines+markers" if family.is_curve else "lines",
            line={"color": look.color, "dash": look.dash if family.is_curve else "dot", "width": look.width},
            marker={"symbol": look.shape, "size": 10 if family.kind == "llm" else 7, "color": look.color},
            name=plain(name),
            legendgroup=name,
            hovertemplate=f"%{{fullData.name}}, {GROUP_TITLES[family.group]}<br>%{{x:,}} interactions<br>"
            f"{metric_title} %{{y:.4f}} %{{customdata}}<extra></extra>",
        )
    found = marks(curves, pairs)
    if found:
        figure.add_scatter(
            x=[mark.n for mark in found],
            y=[mark.value for mark in found],
            text=[plain(mark.said) for mark in found],
            mode="markers",
            marker={
                "symbol": [f"star{'' if mark.certain else '-open'}" if mark.best else "circle-open" for mark in found],
                "size": [17 if mark.best else 11 for mark in found],
                "color": VERMILLION,
                "line": {"width": 2, "color": VERMILLION},
            },
            name="curves cross",
            hovertemplate="%{text}<extra></extra>",
        )
    ends = [float(np.log10(every[0])) - 0.06, float(np.log10(every[-1])) + 0.06]
    figure.update_xaxes(title_text="Training interactions (log scale)", type="log", range=ends, minor={"ticks": ""})
    figure.update_xaxes(tickvals=every, ticktext=[f"{n:,}" for n in every])
    return figure.update_yaxes(title_text=metric_title).update_layout(showlegend=True)


def _faint(color: str) -> str:
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.13)"


def still(curves: Sequence[Family], pairs: Sequence[Contest], metric_title: str, title: str) -> str:
    """Return the same figure as an SVG, each line named at its end; the same bytes whenever it is drawn.

    Raises:
        InputError: Matplotlib is not installed.
    """
    every = sizes(curves)
    with canvas(9, 5.4) as figure:
        axes = figure.add_subplot()
        drawn = looks(curves)
        ends = {}
        for family in curves:
            look, (x, y) = drawn[family.name], _span(family, every)
            strong = family.kind == "llm"
            bounds = list(_bounds(family))
            if strong and len(bounds) > 1:
                n, low, high = (list(column) for column in zip(*bounds, strict=True))
                axes.fill_between(n, low, high, color=look.color, alpha=0.12, linewidth=0)
            axes.plot(
                x, y, color=look.color, linewidth=look.width * 0.8, zorder=3 if strong else 2,
                markersize=7 if strong else 4, linestyle=LINE_STYLES[look.dash if family.is_curve else "dot"],
                marker=MARKERS[look.shape] if family.is_curve else "",
            )  # fmt: skip
            ends[family.name] = x[-1], y[-1]
        for mark in marks(curves, pairs):
            axes.plot(
                mark.n, mark.value, "*" if mark.best else "o", markersize=15 if mark.best else 8, color=VERMILLION,
                markerfacecolor=VERMILLION if mark.best and mark.certain else "white", zorder=4,
            )  # fmt: skip
        axes.set_xscale("log")
        axes.set_xticks(every, [f"{n:,}" for n in every])
        axes.minorticks_off()
        bottom, top = axes.get_ylim()
        places = spread({name: y_end for name, (_, y_end) in ends.items()}, (top - bottom) / 27)
        room = every[-1] / every[0]
        for name, end in ends.items():
            axes.annotate(
                name, end, (every[-1] * room**0.05, places[name]), color=INK, va="center",
                fontweight="bold" if drawn[name].width > 3 else "normal", fontsize=9.5, annotation_clip=False,
                arrowprops={"arrowstyle": "-", "color": drawn[name].color, "linewidth": 0.7, "shrinkB": 4},
            )  # fmt: skip
        axes.set_xlim(every[0] / room**0.03, every[-1] * room**0.03)
        axes.set_xlabel("training interactions (log scale)")
        axes.set_ylabel(metric_title)
        dress(axes, title)
        return svg(figure)


def spread(wanted: dict[str, float], gap: float) -> dict[str, float]:
    """Return places near the ``wanted`` ones that are at least ``gap`` apart, in the same order."""
    order = sorted(wanted, key=lambda name: wanted[name])
    turns = gap * np.arange(len(order))
    # the nearest places that stay in order once each has left room for those below it
    flat = isotonic_regression(np.array([wanted[name] for name in order]) - turns).x
    return dict(zip(order, (flat + turns).tolist(), strict=True))
