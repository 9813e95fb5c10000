"""sweep.html: one page, whole in itself, with the tables and the interactive figures of a search."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from benchmark.reports import page as shell
from benchmark.reports.page import Section, placeholder, table
from benchmark.reports.search import Found, gain, title_of
from benchmark.reports.search_figures import figures
from benchmark.reports.search_tables import (
    caveat,
    failures,
    gain_text,
    left,
    number_of,
    parameters_of,
    summary,
    tables_of,
)

if TYPE_CHECKING:
    import optuna
    from plotly.graph_objects import Figure


def page(studies: Sequence[optuna.Study]) -> str:
    """Return sweep.html."""
    every = [Found(study) for study in studies]
    names = {str(found.attributes.get("name", "")).removesuffix(f"/{found.label}") for found in every} - {""}
    return shell.page(f"Sweep {', '.join(sorted(names))}".strip(), *sections(studies))


def sections(studies: Sequence[optuna.Study], prefix: str = "") -> tuple[list[Section], dict[str, Figure]]:
    """Return a summary and a section a model, and the figures by the ids that these show; ids begin with ``prefix``."""
    drawn: dict[str, Figure] = {}
    heads, rows = summary(studies)
    first = f"{_table(heads, rows, 'Summary')}\n<p>{html.escape(caveat(studies))}</p>"
    out = [Section(f"{prefix}summary", "Summary of the search", first)]
    for i, found in enumerate(map(Found, studies)):
        id = f"{prefix}m{i}"
        out.append(Section(id, found.label, "\n".join(_parts(found, id, drawn))))
    return out, drawn


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    return table(heads, rows, caption, [j for j, head in enumerate(heads) if left(head)])


def _parts(found: Found, id: str, drawn: dict[str, Figure]) -> Iterator[str]:
    """Yield a model's part of the page; its figures go into ``drawn``."""
    best, defaults = gain(found.study)
    if best is None:
        yield "<p>No trial is complete.</p>"
    else:
        first = found.objectives[0]
        told = f"{html.escape(title_of(first))} <strong>{number_of(first, best)}</strong> on the validation part"
        told += f"; defaults {number_of(first, defaults)}, gain <strong>{gain_text(found)}</strong>"
        yield f"<p>{told}.<br>Best parameters: <strong>{html.escape(parameters_of(found.best))}</strong></p>"
    for heading, heads, rows, note in tables_of(found):
        yield f"<h3>{heading}: table</h3>\n{_table(heads, rows, f'{heading} of {found.label}')}\n<p>{note}</p>"
    for j, (name, figure) in enumerate(figures(found.study).items()):
        drawn[f"{id}f{j}"] = figure
        axes = {"Slices": len(found.varied), "Parallel coordinates": len(found.varied) + 1}.get(name, 0)
        label = f"{name} of {found.label}"
        yield placeholder(f"{id}f{j}", name, figure.layout.height, 220 * axes, label)  # a phone scrolls many axes
    if failed := "".join(f"<li>{html.escape(failure)}</li>" for failure in failures(found)):
        yield f"<h3>Failures</h3>\n<ul>{failed}</ul>"
