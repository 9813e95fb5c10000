"""What of an experiment is done, running, failed and to do: read from the records and the studies, running nothing."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmark.experiment import Experiment
from benchmark.runs.progress import clock
from benchmark.runs.record import RunStore
from benchmark.runs.run import expected_seconds, plan, prepare
from benchmark.sweeps.space import Space
from benchmark.sweeps.study import OUTCOME
from benchmark.sweeps.sweep import begun, trials_of, with_selections

STATES = ("done", "running", "failed", "to do")


def show_status(experiment: Experiment, runs: Path, storage: str | None, console: Console, file: Path) -> None:
    """Print one row a search and one a model's runs, each failure with its error, and the time left."""
    data, store = prepare(experiment, runs, write=False), RunStore(runs)
    table = Table(title=f"Status of {experiment.name}", title_justify="left", box=None, header_style="bold")
    table.add_column("model")
    table.add_column("what")
    for state in STATES:
        table.add_column(state, justify="right")
    table.add_column("best so far")
    table.add_column("time left", justify="right")
    failures: list[str] = []
    seconds: list[float | None] = []

    def row(label: str, what: str, counts: dict[str, int], best: str, left: float | None) -> None:
        shown = "" if not counts["to do"] + counts["running"] else "?" if left is None else clock(left)
        seconds.append(left if shown else 0.0)
        table.add_row(label, what, *(str(counts[state]) for state in STATES), best, shown)

    chosen, _ = with_selections(experiment, data, runs)  # by which the studies that stand on others are known
    for label, study in begun(chosen, data.fingerprint, runs, storage).items():
        if study is None:
            n = trials_of(experiment, Space(experiment, label))
            row(label, "trials", {**dict.fromkeys(STATES, 0), "to do": n}, "", None)
            continue
        trials = study.trials()
        found = study.counts()
        alive = sum(t.state.name == "RUNNING" and not study.watch.lost(t) for t in trials)
        counts = {
            "done": found["complete"] + found["pruned"],
            "running": alive,
            "failed": found["failed"],
            "to do": found["to do"] + found["running"] - alive,
        }
        spent = [t.user_attrs[OUTCOME]["seconds"] for t in trials if OUTCOME in t.user_attrs]
        left = sum(spent) / len(spent) * (counts["to do"] + counts["running"]) if spent else None
        best = study.best()
        row(label, "trials", counts, "" if best is None else f"{study.objectives[0]} {best.values[0]:.4f}", left)
        for trial in trials:
            outcome = trial.user_attrs.get(OUTCOME, {})
            error = outcome.get("error") or trial.user_attrs.get("error")
            if trial.state.name == "FAIL":
                values = " ".join(f"{k}={v}" for k, v in (outcome.get("values") or trial.params).items())
                failures.append(f"{label} trial {trial.user_attrs['slot']} ({values}): {error}")
    planned = plan(chosen, data, store)
    times = expected_seconds(store, planned, {})
    for label in experiment.models:
        mine = [p for p in planned if p.spec.label == label]
        counts = dict.fromkeys(STATES, 0)
        for item in mine:
            state = {"cached": "done", "failed": "failed"}.get(item.state, "to do")
            counts["running" if state != "done" and store.running(item.key) else state] += 1
            if item.record is not None and item.state == "failed":
                failures.append(f"{label} seed {item.spec.seed}: {item.record.error}")
        left = None if label not in times else times[label] * (counts["to do"] + counts["running"])
        row(label, "runs", counts, "", left)
    console.print(table, highlight=False)
    known = [s for s in seconds if s is not None]
    if len(known) < len(seconds):
        console.print(f"time left: at least {clock(sum(known))}; some of it has not been measured yet", highlight=False)
    elif sum(known):
        console.print(f"time left: about {clock(sum(known))} by one process", highlight=False)
    for failure in failures:
        console.print(f"[red]failed[/] {escape(failure)}", highlight=False, soft_wrap=True)
    if failures:
        command = "sweep" if any(entry.search for entry in experiment.models.values()) else "run"
        console.print(f"run the failed ones again: levelfield {command} {file} --retry-failed", highlight=False)
