"""The live view of a sweep: trials of each model, best so far, pruned and failed ones, rate and time left."""

from __future__ import annotations

import time
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from benchmark.runs.progress import RunProgress, clock
from benchmark.sweeps.study import OUTCOME, ModelStudy, short

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


class SweepView:
    """Shows the studies of one experiment while they are searched, by this process or by others.

    Args:
        console: where to write; one line a finished trial is printed in any case.
        trials: budget of each model, by label.
    """

    def __init__(self, console: Console, trials: dict[str, int]) -> None:
        self.console = console
        self.fraction = 0.0  # of the trial under way, kept by RunProgress
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.budget = dict(trials)
        self.total: TaskID = self.progress.add_task("[bold]all trials", total=sum(trials.values()), note="")
        self.tasks = {label: self.progress.add_task(label, total=n, note="to do") for label, n in trials.items()}
        self.current: TaskID = self.progress.add_task("", total=None, note="", visible=False)
        self._shown: dict[str, set[int]] = {label: set() for label in trials}
        self._done: dict[str, int] = dict.fromkeys(trials, 0)
        self._begun, self._first = time.monotonic(), True

    def __enter__(self) -> SweepView:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def begin(self, study: ModelStudy, number: int, epochs: int) -> RunProgress:
        """Show a trial of this process; the callback shows its epochs."""
        self.progress.update(self.current, description=f"{study.label} trial {number}", visible=True, note="")
        self.progress.reset(self.current, total=epochs)
        return RunProgress(self, study.objectives[0])

    def refresh(self, studies: Iterable[ModelStudy]) -> None:
        """Show what the storage holds now; trials that were finished before this view began are only counted."""
        for study in studies:
            trials = study.trials()
            finished = [t for t in trials if t.state.is_finished()]
            counts, best = study.counts(), study.best()
            for trial in sorted(finished, key=lambda t: t.datetime_complete or t.number):
                if trial.number in self._shown[study.label]:
                    continue
                self._shown[study.label].add(trial.number)
                if self._first:
                    continue
                self._print(study, trial, best)
                self._done[study.label] += 1
            note = "" if best is None else f"best {study.objectives[0]} {best.values[0]:.4f}"
            extra = [f"{counts[name]} {name}" for name in ("running", "pruned", "failed") if counts[name]]
            self.budget[study.label] = len(trials)
            self.progress.update(
                self.tasks[study.label],
                completed=len(finished),
                total=len(trials),
                note=", ".join(filter(None, [note, *extra])),
            )
        self._first = False
        done = sum(len(shown) for shown in self._shown.values())
        self.progress.update(self.total, completed=done, total=sum(self.budget.values()))
        self.note_time()

    def seconds_left(self) -> float | None:
        """Return the time the rest is expected to take, by the rate so far."""
        done = sum(self._done.values())
        left = sum(self.budget.values()) - sum(len(shown) for shown in self._shown.values())
        return None if not done else (time.monotonic() - self._begun) / done * left

    def note_time(self) -> None:
        left, done = self.seconds_left(), sum(self._done.values())
        if left is not None:
            rate = 60 * done / (time.monotonic() - self._begun)
            self.progress.update(self.total, note=f"{rate:.1f} a minute, about {clock(left)} left")

    def _print(self, study: ModelStudy, trial: FrozenTrial, best: FrozenTrial | None) -> None:
        outcome = trial.user_attrs.get(OUTCOME, {})
        error = outcome.get("error") or trial.user_attrs.get("error")
        done = sum(len(shown) for shown in self._shown.values())
        values = " ".join(f"{k}={short(v)}" for k, v in (outcome.get("values") or {}).items())
        who = f"{done}/{sum(self.budget.values())} {study.label} trial {trial.user_attrs['slot']}"
        if error:
            word = "[red]failed[/]  " if trial.state.name == "FAIL" else "[yellow]diverged[/]"
            line = f"{word} {who:<30} {escape(f'{values}: {error}')}"
            self.console.print(line, highlight=False, soft_wrap=True)
            return
        value = f"{study.objectives[0]} {trial.values[0]:.4f}" if trial.values else ""
        state = "[yellow]pruned[/]  " if trial.state.name == "PRUNED" else "[green]done[/]    "
        star = " [bold]best[/]" if best is not None and best.number == trial.number else ""
        cost = f"{outcome.get('epochs', 0)} ep. {clock(outcome.get('seconds') or 0)}"
        line = f"{state} {who:<30} {value:<18} {cost:<16} {escape(values)}{star}"
        self.console.print(line, highlight=False, soft_wrap=True)
