"""Learning curves over training size where they are shown: a section of a page, learning_curve.html, .md and .svg."""

from __future__ import annotations

import html
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from benchmark.evaluation.metrics import higher_is_better, parse_metric
from benchmark.reports import page as shell
from benchmark.reports.budget_figures import interactive, still
from benchmark.reports.budget_text import gap_rows, grid, markdown, note, sentences
from benchmark.reports.budgets import against_best, contests, families, has_curves
from benchmark.reports.files import write_texts
from benchmark.reports.names import title
from benchmark.reports.page import Section, switch
from benchmark.reports.page import table as html_table
from benchmark.reports.part import Part
from benchmark.reports.table import ComparisonTable

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

HEADING = "Learning curves over training size"


def contents(p: Part, table: ComparisonTable) -> dict[str, str]:
    """Return what the records of a part give, by name of file: learning_curve.md; nothing without curves."""
    return {"learning_curve.md": markdown(p, table)} if has_curves(p) else {}


def write(p: Part, table: ComparisonTable, folder: Path) -> list[Path]:
    """Write learning_curve.md, and learning_curve.svg where Matplotlib is installed; return their paths.

    Nothing is written for a part without curves. The picture is of the first metric.
    """
    files = contents(p, table)
    if files and find_spec("matplotlib"):
        metric = p.outcomes.metrics[0]
        curves = families(p, table, metric)
        source = p.experiment.dataset.source.source
        head = f"{title(metric)} by training size, {source}; band: 95 % interval over users"
        files["learning_curve.svg"] = still(curves, contests(p, curves, metric), title(metric), head)
    return write_texts(folder, files)


def write_page(p: Part, table: ComparisonTable, folder: Path) -> list[Path]:
    """Write learning_curve.html where there are curves and Plotly is installed; return its path, or none."""
    if not has_curves(p) or not find_spec("plotly"):
        return []
    body, figures = section(p, table)
    sections = [Section("budgets", HEADING, body)]
    page = shell.page(f"Learning curves: {table.name}", sections, figures)
    return write_texts(folder, {"learning_curve.html": page})


def first_figure(p: Part, table: ComparisonTable) -> Figure:
    """Return the figure of the first metric of a part with curves; raises as ``section`` does."""
    metric = p.outcomes.metrics[0]
    curves = families(p, table, metric)
    return interactive(curves, contests(p, curves, metric), title(metric))


def section(p: Part, table: ComparisonTable, prefix: str = "") -> tuple[str, dict[str, Figure]]:
    """Return the body of a section with all metrics, and its figures by id; ids begin with ``prefix``.

    Args:
        p: a part with curves.
        table: of this part alone.
        prefix: of the ids.

    Raises:
        InputError: Plotly is not installed.
    """
    figures: dict[str, Figure] = {}
    ids, told = {}, []
    for i, metric in enumerate(p.outcomes.metrics):
        curves = families(p, table, metric)
        pairs = contests(p, curves, metric)
        ids[title(metric)] = id = f"{prefix}budgets-{i}"
        figures[id] = interactive(curves, pairs, title(metric))
        said = sentences(curves, pairs, higher_is_better(parse_metric(metric).name))
        lines = "".join(f"<li>{html.escape(line)}</li>" for line in said)
        heads, groups = grid(curves)
        shown = [html_table(heads, [row for _, rows in groups for row in rows], f"{title(metric)} by budget")]
        for contest in against_best(pairs):
            caption = f"{title(metric)}: {contest.name} against the best classical model of each budget"
            shown.append(html_table(*gap_rows(contest), caption, [0, 1]))
        opened = "" if i else " open"
        tables = "\n".join(shown)
        told.append(
            f"<details{opened}><summary>{title(metric)} in words and numbers</summary>\n"
            f"<ul>{lines}</ul>\n{tables}\n</details>"
        )
    height = max(int(figure.layout.height) for figure in figures.values())
    place = switch(f"{prefix}budgets-figure", "A metric by training interactions", ids, height=height)
    bands = (
        "<p>Bands are 95 % intervals over users of the language models; those of the others are in the tables. "
        "Circles: a language model and a classical one cross; a star: it crosses the best classical one, filled where "
        "the two are told apart on both sides. A dotted level is a model with one budget.</p>"
    )
    return "\n".join([place, bands, *told, f"<p>{html.escape(note(p))}</p>"]), figures
