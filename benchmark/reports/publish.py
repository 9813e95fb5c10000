"""Writes all that stands in the folder of a table, shows it, and mirrors it to Weights & Biases."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from benchmark.experiment import grids
from benchmark.reports import learning_curve, manifest, render, slices, tradeoff, transfer
from benchmark.reports.part import Part
from benchmark.reports.table import ComparisonTable, build
from benchmark.runs.mirror import log_summary, mirrors
from benchmark.runs.record import RECORD, RunStore

if TYPE_CHECKING:
    import optuna


def publish(
    parts: Sequence[Part],
    store: RunStore,
    results: Path,
    console: Console,
    studies: Sequence[optuna.Study] = (),
    built: ComparisonTable | None = None,
) -> Path:
    """Write and show the table of some parts, its manifest, and what a sweep found; mirror them; return their folder.

    Args:
        parts: of one table.
        store: of their runs.
        results: the folder in which the table gets one of its own.
        console: where it is shown.
        studies: what a sweep found.
        built: the table, where the caller has it already.
    """
    table = built or build(parts)
    render.show(table, console)
    folder = results / table.name
    paths = render.write(table, folder)
    paths += learning_curve.write(parts[0], table, folder) if len(parts) == 1 else []
    paths += [*transfer.write(parts, folder), *slices.write(parts, folder)]
    paths += tradeoff.write(parts[0], table, folder) if len(parts) == 1 else []
    paths.append(manifest.write(manifest.build(table, parts, store, paths), folder))
    paths += learning_curve.write_page(parts[0], table, folder) if len(parts) == 1 else []
    figures: dict[str, Any] = {}
    wandb = parts[0].experiment.tracking.wandb
    if mirrors(wandb) and find_spec("plotly"):  # without it the mirror has no figures
        from benchmark.reports.report import figures_of

        figures = figures_of(parts)
    if studies:
        from benchmark.reports import sweep

        sweep.show(studies, console)
        paths += sweep.write(studies, folder)
        figures |= sweep.named_figures(studies)
    records = {f"{r.key}.json": store.folder(r.key) / RECORD for p in parts for r in p.records if r is not None}
    log_summary(wandb, store.root / "wandb", table.name, render.shown_cells(table), figures, paths, records)
    console.print(f"written: {', '.join(map(str, paths))}", highlight=False)
    return folder


def publish_grids(parts: Sequence[Part], store: RunStore, results: Path, console: Console) -> None:
    """Publish the tables in which several of the parts stand together."""
    by_name = {part.experiment.name: part for part in parts}
    for group in grids([part.experiment for part in parts]):
        publish([by_name[e.name] for e in group], store, results, console)
