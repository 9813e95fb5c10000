"""The comparison table as HTML: a part of the report with its controls, and table.html by itself without a script."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from benchmark.reports.names import GROUP_TITLES
from benchmark.reports.page import Section, filled, shell
from benchmark.reports.render import interval, marked, shown
from benchmark.reports.table import Cell, Column, ComparisonTable, Row

PLACES = {1: "best of the column", 2: "second of the column"}
AGAINST = {
    1: "better than the best baseline",
    -1: "worse than the best baseline",
    0: "no difference to the best baseline told",
}
FEW_NOTES = 8  # more are folded away


def leaderboard(table: ComparisonTable, controls: bool) -> str:
    """Return the table, protocol, legend and notes; ``controls`` adds what page()'s script sorts and filters by."""
    groups = [(group, GROUP_TITLES[group], list(rows)) for group, rows in groupby(table.rows, key=lambda r: r.group)]
    datasets = [(name, len(list(columns))) for name, columns in groupby(column.dataset for column in table.columns)]
    names: dict[str, str] = {}
    for column in table.columns:  # what is published of a metric comes and goes with it
        names.setdefault(column.name, column.title)
    filters = [("Groups", "group", {group: title for group, title, _ in groups}), ("Columns", "name", names)]
    if len(datasets) > 1:
        filters.append(("Data sets", "dataset", {name: name for name, _ in datasets}))
    return filled(
        "leaderboard.html",
        table=table,
        caption=f"{table.name}: {len(table.rows)} models compared",
        columns=_columns(table),
        datasets=datasets,
        groups=[(group, title, [(row, _cells(table, row)) for row in rows]) for group, title, rows in groups],
        filters=filters if controls else [],
        intervals=any(cell.low is not None for row in table.rows for cell in row.cells),
        few_notes=FEW_NOTES,
    )


def document(table: ComparisonTable) -> str:
    """Return table.html: a whole page that needs no script."""
    return shell(table.name, [Section("table", "", leaderboard(table, controls=False))])


def _columns(table: ComparisonTable) -> list[tuple[Column, str]]:
    """Return the columns, each with the class that draws a line where a data set begins."""
    before = [column.dataset for column in table.columns[:1] + table.columns]
    return [(c, "first" if c.dataset != last else "") for c, last in zip(table.columns, before, strict=False)]


def _cells(table: ComparisonTable, row: Row) -> list[dict[str, Any]]:
    return [_cell(column, edge, cell) for (column, edge), cell in zip(_columns(table), row.cells, strict=True)]


def _cell(column: Column, edge: str, cell: Cell) -> dict[str, Any]:
    mean, _, sd = shown(column, cell).partition(" ± ")
    p = "" if cell.p is None else f", p {'< 0.001' if cell.p < 0.001 else f'= {cell.p:.3f}'}"
    return {
        "value": cell.mean,
        "mean": mean,
        "sd": sd,
        "interval": interval(cell, column.kind) if column.kind in ("metric", "beyond", "measured") else "",
        "rank": cell.rank or 0,
        "place": PLACES.get(cell.rank or 0, ""),
        "mark": marked(cell),
        "test": AGAINST[cell.mark] + p if p or cell.mark else "",
        "reason": cell.reason if cell.mean is None else "",
        "edge": edge,
    }
