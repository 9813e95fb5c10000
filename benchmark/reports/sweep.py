"""What a sweep found, written beside the table and shown: sweep.md, trials.csv, sweep.html, the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmark.reports import render
from benchmark.reports.files import write_texts
from benchmark.reports.search import importance
from benchmark.reports.search_figures import figures
from benchmark.reports.search_page import page
from benchmark.reports.search_tables import caveat, comma_separated, left, markdown, summary

if TYPE_CHECKING:
    import optuna
    from plotly.graph_objects import Figure


def write(studies: Sequence[optuna.Study], folder: Path) -> list[Path]:
    """Write sweep.md, trials.csv and sweep.html under ``folder``; return their paths."""
    contents = {"sweep.md": markdown(studies), "trials.csv": comma_separated(studies), "sweep.html": page(studies)}
    return write_texts(folder, contents)


def named_figures(studies: Sequence[optuna.Study]) -> dict[str, Figure]:
    """Return all figures, by "model: title"."""
    return {
        f"{study.user_attrs['label']}: {name}": figure for study in studies for name, figure in figures(study).items()
    }


def show(studies: Sequence[optuna.Study], console: Console) -> None:
    """Print the summary and, a line a model, the best parameters and what mattered."""
    heads, rows = summary(studies)
    view = Table(title="What the search found", title_justify="left", header_style="bold", pad_edge=False)
    for head in heads[:-1]:
        view.add_column(head, justify="left" if left(head) else "right", overflow="fold")
    for row in rows:
        view.add_row(*map(Text, row[:-1]))
    console.print(view)
    for study, row in zip(studies, rows, strict=True):
        shares = ", ".join(f"{path} {render.number(share, 2)}" for path, share in importance(study).items())
        console.print(Text(f"{row[0]}: {row[-1]}; importance: {shares or 'not defined'}"), soft_wrap=True)
    console.print(Text(caveat(studies)))
