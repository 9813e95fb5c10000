"""The figures of a report: quality against cost, seeds and intervals, training curves, user segments."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmark.errors import missing_extra
from benchmark.evaluation.metrics import higher_is_better, parse_metric
from benchmark.reports.names import COSTS_IN_WORDS, GROUP_TITLES, title
from benchmark.reports.part import Part
from benchmark.reports.render import number
from benchmark.reports.search_figures import BLUE, GREY, LIGHT, ORANGE, SKY, VERMILLION
from benchmark.reports.segments import Segmentation
from benchmark.reports.table import ComparisonTable, Row

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

PURPLE, GREEN = "#CC79A7", "#009E73"  # Okabe and Ito, as the others
# a group has a colour and a shape: one of them is enough to tell it
LOOKS = {
    "trivial": (GREY, "x"),
    "collaborative": (BLUE, "circle"),
    "sequential": (SKY, "square"),
    "content": (ORANGE, "triangle-up"),
    "llm-zero-shot": (PURPLE, "diamond-open"),
    "llm": (VERMILLION, "diamond"),
    "ensemble": (GREEN, "star"),
}
LINES = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, GREY)
DASHES = ("solid", "dash", "dot", "dashdot")
PALE_TO_BETTER = [[0.0, "#f4f7fa"], [1.0, SKY]]
ENOUGH = 10  # users or items of a segment whose numbers count for the scale of the colours


def bare_figure(height: int) -> Figure:
    try:
        from plotly.graph_objects import Figure
    except ImportError:
        raise missing_extra("plotly", "report") from None
    return Figure(layout={"template": LIGHT, "height": height})


def plain(label: str) -> str:
    return html.escape(label, quote=False)  # Plotly reads tags in its texts


def _rows(table: ComparisonTable, *names: str) -> dict[str, list[tuple[Row, list[Any]]]]:
    """Return, by group, the rows that have a number in all the columns called ``names``, with those cells."""
    places = [
        next(j for j, c in enumerate(table.columns) if c.name == n and c.kind in ("metric", "cost")) for n in names
    ]
    out: dict[str, list[tuple[Row, list[Any]]]] = {}
    for row in table.rows:
        cells = [row.cells[j] for j in places]
        if all(cell.mean is not None for cell in cells):
            out.setdefault(row.group, []).append((row, cells))
    return out


def pareto(points: Sequence[tuple[float, float]], higher: bool) -> list[int]:
    """Return the indices of the (cost, quality) points that none beats in both, by rising cost."""
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1] if higher else points[i][1]))
    out: list[int] = []
    for i in order:
        best = points[out[-1]][1] if out else None
        if best is None or (points[i][1] > best if higher else points[i][1] < best):
            out.append(i)
    return out


def quality_against_cost(table: ComparisonTable, metric: str, cost: str) -> Figure:
    """Return points (cost, quality) with intervals over users, and the Pareto front; ``table`` has one data set."""
    figure = bare_figure(480)
    groups = _rows(table, metric, cost)
    every = [(row, cells) for rows in groups.values() for row, cells in rows]
    told, x_title = title(metric), COSTS_IN_WORDS[cost]
    front = pareto([(cells[1].mean, cells[0].mean) for _, cells in every], higher_is_better(parse_metric(metric).name))
    line = [every[i][1] for i in front]
    figure.add_scatter(
        x=[_visible(cells[1].mean) for cells in line],
        y=[cells[0].mean for cells in line],
        mode="lines",
        line={"color": GREY, "width": 2, "dash": "dot", "shape": "hv"},
        name="Pareto front",
        hoverinfo="skip",
    )
    for group, rows in groups.items():
        color, symbol = LOOKS[group]
        low, high = _errors([cells[0] for _, cells in rows])
        figure.add_scatter(
            x=[_visible(cells[1].mean) for _, cells in rows],
            y=[cells[0].mean for _, cells in rows],
            error_y={"type": "data", "array": high, "arrayminus": low, "thickness": 1, "width": 0},
            text=[plain(row.label) for row, _ in rows],
            mode="markers+text",
            cliponaxis=False,
            textposition="top center",
            textfont={"size": 11},
            marker={"color": color, "symbol": symbol, "size": 11, "line": {"width": 1, "color": color}},
            name=GROUP_TITLES[group],
            hovertemplate=f"%{{text}}<br>{told} %{{y:.4f}}<br>%{{x:.3g}} {x_title}<extra></extra>",
        )
    figure.update_xaxes(title_text=f"{x_title[0].upper()}{x_title[1:]} (log scale)", type="log", dtick=1)
    return figure.update_yaxes(title_text=told)


def _visible(cost: float) -> float:
    return max(cost, 1e-4)  # a logarithm has no 0: a model without parameters, or faster than the clock


def _errors(cells: Sequence[Any]) -> tuple[list[float], list[float]]:
    low = [cell.mean - cell.low if cell.low is not None else 0.0 for cell in cells]
    high = [cell.high - cell.mean if cell.high is not None else 0.0 for cell in cells]
    return low, high


def seeds(p: Part, table: ComparisonTable, metric: str) -> Figure:
    """Return, a line a model, its seeds as points and its mean with the interval over users; best on top."""
    groups = _rows(table, metric)
    higher = higher_is_better(parse_metric(metric).name)
    every = [row.label for rows in groups.values() for row, cells in rows]
    means = {row.label: cells[0].mean for rows in groups.values() for row, cells in rows}
    figure = bare_figure(120 + 26 * len(every))
    for group, rows in groups.items():
        color, symbol = LOOKS[group]
        low, high = _errors([cells[0] for _, cells in rows])
        figure.add_scatter(
            x=[cells[0].mean for _, cells in rows],
            y=[plain(row.label) for row, _ in rows],
            error_x={"type": "data", "array": high, "arrayminus": low, "thickness": 1.5, "width": 4},
            mode="markers",
            marker={"color": color, "symbol": symbol, "size": 10},
            name=GROUP_TITLES[group],
            hovertemplate="%{y}: mean %{x:.4f}<extra></extra>",
        )
    points = [(label, value) for label in every for value in p.outcomes.seeds.get((label, metric), [])]
    figure.add_scatter(
        x=[value for _, value in points],
        y=[plain(label) for label, _ in points],
        mode="markers",
        marker={"color": "rgba(0,0,0,0)", "symbol": "circle", "size": 8, "line": {"width": 1.5, "color": GREY}},
        name="one seed",
        hovertemplate="%{y}: one seed %{x:.4f}<extra></extra>",
    )
    order = sorted(every, key=lambda label: means[label] if higher else -means[label])
    figure.update_yaxes(categoryorder="array", categoryarray=[plain(label) for label in order])
    return figure.update_xaxes(title_text=f"{title(metric)}, 95 % interval over users")


def curves(p: Part, metric: str) -> Figure | None:
    """Return the validation metric by epoch, a line a model (its first seed strong, the others faint); None of none."""
    figure = bare_figure(480)
    drawn = 0
    for label in p.experiment.models:
        records = [r for r in p.finished(label) if len(r.curve) > 1]
        look = {"color": LINES[drawn % len(LINES)], "dash": DASHES[drawn // len(LINES) % len(DASHES)]}
        for i, record in enumerate(records):
            known = [(row["epoch"], row.get(metric)) for row in record.curve if row.get(metric) is not None]
            figure.add_scatter(
                x=[(epoch or 0) + 1 for epoch, _ in known],
                y=[value for _, value in known],
                mode="lines+markers",
                line={**look, "width": 1 if i else 2.5},
                marker={"size": 4},
                opacity=0.6 if i else 1,
                name=plain(label),
                legendgroup=label,
                showlegend=not i,
                hovertemplate=f"%{{fullData.name}}, seed {record.seed}, epoch %{{x}}: %{{y:.4f}}<extra></extra>",
            )
        drawn += bool(records)
    if not drawn:
        return None
    longest = max(len(r.curve) for label in p.experiment.models for r in p.finished(label))
    figure.update_xaxes(title_text="Epoch", dtick=1 if longest <= 12 else None)
    return figure.update_yaxes(title_text=f"{title(metric)} (validation)").update_layout(showlegend=True)


def segments(found: Segmentation) -> Figure:
    """Return a map, models by segments, of the metric; darker is better, the number stands in it."""
    values = np.array(found.values)
    figure = bare_figure(90 + 26 * len(found.labels))
    enough = [j for j, n in enumerate(found.sizes) if n >= ENOUGH] or range(len(found.sizes))
    seen = values[:, list(enough)]
    told = [[number(v, 3) if np.isfinite(v) else "–" for v in row] for row in values]
    bounds = zip(found.low, found.high, strict=True)
    spans = [[f"[{number(a, 3)}, {number(b, 3)}]" for a, b in zip(low, high, strict=True)] for low, high in bounds]
    hover = [
        [
            f"{plain(label)}, {plain(name)}: {number(values[i, j], 4)} {spans[i][j]}"
            for j, name in enumerate(found.names)
        ]
        for i, label in enumerate(found.labels)
    ]
    figure.add_heatmap(
        z=values.tolist(),  # nan becomes a gap
        x=[
            f"{plain(name)}<br>{n:,} {found.of if n > 1 else found.of[:-1]}"
            for name, n in zip(found.names, found.sizes, strict=True)
        ],
        y=[plain(label) for label in found.labels],
        text=told,
        texttemplate="%{text}",
        customdata=hover,
        hovertemplate="%{customdata}<extra></extra>",
        # light enough for dark numbers on it; a segment of few users, whose numbers are wild, does not set the scale
        colorscale=PALE_TO_BETTER,
        reversescale=not found.higher,
        zmin=float(np.nanmin(seen)) if np.isfinite(seen).any() else None,
        zmax=float(np.nanmax(seen)) if np.isfinite(seen).any() else None,
        textfont={"color": "#1f2328"},
        xgap=1,
        ygap=1,
        colorbar={"title": {"text": found.metric_title}, "thickness": 12},
    )
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_layout(margin={"t": 56, "b": 16})
    return figure.update_xaxes(side="top", showgrid=False, tickangle=0)
