"""The live view: what runs, its metric climbing, how many are done, the time left; plain lines where no terminal is."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Protocol

from lightning import Callback, Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from benchmark.experiment import RunSpec
from benchmark.runs.record import RunRecord


def clock(seconds: float) -> str:
    """Return seconds for people: 4.2 s, 3 min 10 s, 2 h 05 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"
    return f"{int(seconds) // 3600} h {int(seconds) % 3600 // 60:02d} min"


class View(Protocol):
    """What shows the run under way: the live view of a grid, or of a sweep."""

    progress: Progress
    current: TaskID
    fraction: float

    def note_time(self) -> None: ...


class LiveView:
    """Shows the runs of one experiment while they happen.

    Args:
        console: where to write; without a terminal one line a finished run is printed.
        specs: the runs to do, in order.
        expected: seconds each run took the last time it (or one like it) ran here, by label; may be empty.
        workers: how many processes take runs.
    """

    def __init__(self, console: Console, specs: list[RunSpec], expected: dict[str, float], workers: int = 1) -> None:
        self.console, self.workers = console, workers
        self.todo = list(specs)
        self.expected = expected
        self.begun, self.fraction = time.monotonic(), 0.0  # of the run under way
        self.spent: list[float] = []
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
        self.total: TaskID = self.progress.add_task("[bold]all runs", total=len(specs), note="")
        self.current: TaskID = self.progress.add_task("", total=None, note="", visible=False)

    def __enter__(self) -> LiveView:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def seconds_left(self) -> float | None:
        """Return the time the rest is expected to take: from earlier runs of the same label, else the mean so far."""
        known = [self.expected.get(spec.label) for spec in self.todo]
        if self.fraction > 0.02 and known:
            # the run under way tells more than any earlier one; early stopping may end it sooner
            spent = time.monotonic() - self.begun
            known[0] = spent / self.fraction * (1 - self.fraction)
            same = [i for i, spec in enumerate(self.todo) if i and spec.label == self.todo[0].label]
            for i in same:
                known[i] = spent / self.fraction
        if any(k is None for k in known) and not self.spent:
            return None
        mean = sum(self.spent) / len(self.spent) if self.spent else 0.0
        return sum(mean if k is None else k for k in known) / self.workers

    def begin(self, spec: RunSpec) -> RunProgress:
        self.progress.update(self.current, description=f"{spec.label} seed {spec.seed}", visible=True, note="")
        self.progress.reset(self.current, total=spec.trainer.max_epochs)
        self.begun, self.fraction = time.monotonic(), 0.0
        self.note_time()
        return RunProgress(self, spec.trainer.early_stopping.monitor or "")

    def end(self, spec: RunSpec, record: RunRecord, seconds: float) -> None:
        self.todo.remove(spec)
        self.spent.append(seconds)
        self.expected[spec.label] = seconds
        self.fraction = 0.0
        self.progress.update(self.total, advance=1)
        self.note_time()
        who = f"{spec.label:<24} seed {spec.seed:<3}"
        if record.status == "failed":
            self.console.print(f"[red]failed[/]  {who} {record.error}", highlight=False, soft_wrap=True)
            return
        valid = record.metrics.get("valid", {}).get(spec.trainer.early_stopping.monitor or "")
        shown = "" if valid is None else f"{spec.trainer.early_stopping.monitor} {valid:.4f} (valid)"
        epochs = f"{record.epochs} epoch{'s' if record.epochs != 1 else ''}"
        self.console.print(f"[green]done[/]    {who} {shown:<26} {epochs:<10} {clock(seconds)}", highlight=False)

    def note_time(self) -> None:
        left = self.seconds_left()
        self.progress.update(self.total, note="" if left is None else f"about {clock(left)} left")


class RunProgress(Callback):
    """Feeds the live view from inside one run: batches of the first epochs, the metric after each validation."""

    def __init__(self, view: View, monitor: str) -> None:
        self.view, self.monitor = view, monitor
        self._shown = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        # the model has decided: closed forms take one epoch, pre-training comes on top
        self.view.progress.update(self.view.current, total=trainer.max_epochs)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        of = int(trainer.num_training_batches)
        self.view.fraction = (trainer.current_epoch + (batch_idx + 1) / of) / (trainer.max_epochs or 1)
        self._show(trainer, "batch", batch_idx + 1, of)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._show(trainer, "test batch", batch_idx + 1, int(trainer.num_test_batches[0]))

    def _show(self, trainer: Trainer, what: str, done: int, of: int) -> None:
        now = time.monotonic()
        if now - self._shown > 0.2 and of > 1:  # the terminal needs no more, and every update costs
            self._shown = now
            value = trainer.callback_metrics.get(f"valid/{self.monitor}")
            metric = "" if value is None else f"{self.monitor} {float(value):.4f}, "
            self.view.progress.update(self.view.current, note=f"{metric}{what} {done}/{of}")
            self.view.note_time()

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        value = trainer.callback_metrics.get(f"valid/{self.monitor}")
        note = "" if value is None else f"{self.monitor} {float(value):.4f}"
        self.view.progress.update(self.view.current, completed=trainer.current_epoch + 1, note=note)
