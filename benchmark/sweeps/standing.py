"""Standing: an experiment as it stands in a folder of runs, with what its sweeps selected and what is stored of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from benchmark.experiment import Experiment
from benchmark.runs.execute import PreparedData
from benchmark.runs.record import RunRecord, RunStore
from benchmark.runs.run import prepare, stored
from benchmark.sweeps.study import Selection
from benchmark.sweeps.sweep import begun, with_selections

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class Standing:
    """An experiment in a folder of runs.

    Attributes:
        experiment: with what finished sweeps selected in the place of the file's own values.
        data: prepared data of it.
        runs: the folder.
        selections: what the sweeps selected; none where the file's own values are asked for.
        tuned: whether sweeps count.
    """

    experiment: Experiment
    data: PreparedData
    runs: Path
    selections: Sequence[Selection] = ()
    tuned: bool = True

    @property
    def notes(self) -> dict[str, str]:
        """By label, what stands under the table about how a model's parameters came about."""
        return {s.label: s.note() for s in self.selections}

    @property
    def values(self) -> dict[str, dict[str, Any]]:
        """By label, the selected hyper-parameters."""
        return {s.label: s.values for s in self.selections}

    def records(self) -> list[RunRecord | None]:
        """Return what is stored of every run, in the order of ``experiment.specs()``."""
        return stored(self.experiment, self.data, RunStore(self.runs))

    def studies(self, storage: str | None) -> list[optuna.Study]:
        """Return what the finished studies found; none where nothing was selected."""
        if not self.selections:
            return []
        found = begun(self.experiment, self.data.fingerprint, self.runs, storage).values()
        return [study.snapshot() for study in found if study is not None and study.finished]

    def trials(self, storage: str | None) -> dict[str, int] | None:
        """Return how many trials of each model's search are finished, by label; None where sweeps do not count."""
        if not self.tuned:
            return None
        if not any(entry.search for entry in self.experiment.models.values()):
            return {}
        found = begun(self.experiment, self.data.fingerprint, self.runs, storage)
        counts = {label: study.counts() for label, study in found.items() if study is not None}
        return {label: n["complete"] + n["pruned"] for label, n in counts.items()}


def standing(experiment: Experiment, runs: Path, defaults: bool, console: Console, write: bool = False) -> Standing:
    """Return how an experiment stands in ``runs``, and print which of its models are tuned.

    Args:
        experiment: as the file says it.
        runs: folder of the runs.
        defaults: the file's own parameters, whatever a sweep selected.
        console: where to print.
        write: texts of the data that are not kept yet are written, which may cost.

    Raises:
        InputError: the data cannot be used.
    """
    data = prepare(experiment, runs, console, write)
    searched = [label for label, entry in experiment.models.items() if entry.search]
    if defaults or not searched:
        return Standing(experiment, data, runs, tuned=not defaults)
    chosen, found = with_selections(experiment, data, runs)
    tuned = [s.label for s in found]
    if tuned:
        console.print(f"as selected by the sweep: {', '.join(tuned)} (--defaults for the file's own)")
    if missing := [label for label in searched if label not in tuned]:
        console.print(f"not tuned yet, the file's own parameters: {', '.join(missing)} (levelfield sweep tunes them)")
    return Standing(chosen, data, runs, found)
