"""Shows prepared data: what each step dropped, the parts, and what the split leaks."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from benchmark.experiment import Experiment
from benchmark.runs.execute import PreparedData


def show_data(experiment: Experiment, data: PreparedData, console: Console) -> None:
    """Print the preparation of one experiment's data."""
    steps = Table(title=f"{experiment.name}: {data.dataset.name}", title_justify="left", box=None, header_style="bold")
    for head in ("step", "interactions", "dropped", "users", "items", ""):
        steps.add_column(head, justify="left" if head in ("step", "") else "right")
    before: int | None = None
    for step in data.dataset.steps:
        dropped = "" if before is None else f"{before - step.interactions:,}"
        steps.add_row(step.name, f"{step.interactions:,}", dropped, f"{step.users:,}", f"{step.items:,}", step.note)
        before = step.interactions
    console.print(steps, highlight=False)
    report = Table(title=f"split: {experiment.task.split.kind}", title_justify="left", box=None, show_header=False)
    for name, value in data.split.report.items():
        report.add_row(name.replace("_", " "), f"{value:,.4g}" if value % 1 else f"{int(value):,}")
    console.print(report, highlight=False)
    console.print(f"data {data.fingerprint}\nsplit {data.split_fingerprint}", highlight=False)
