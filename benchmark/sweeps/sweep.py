"""Sweeps an experiment: every searched model under one budget; what is selected replaces the file's own values."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmark.experiment import Experiment
from benchmark.llm.loading import kept_backbone
from benchmark.runs.execute import PreparedData
from benchmark.runs.record import RunStore
from benchmark.runs.run import plan, run
from benchmark.sweeps.mirror import TrialMirror
from benchmark.sweeps.progress import SweepView
from benchmark.sweeps.samplers import points
from benchmark.sweeps.space import Space
from benchmark.sweeps.storage import exists, location, open_storage
from benchmark.sweeps.study import (
    ModelStudy,
    Selection,
    objectives_of,
    order,
    patient,
    stages,
    stored_selections,
    study_name,
)
from benchmark.sweeps.trial import carry_out

if TYPE_CHECKING:
    import optuna

_POLL = 0.5  # seconds between two looks at the trials of other processes


def spaces(experiment: Experiment) -> dict[str, Space]:
    """Return the checked search space of every searched model.

    Raises:
        InputError: anything about the search that cannot be; one line that says where and why.
    """
    out = {}
    for label in order(experiment):
        objectives_of(experiment, label)
        out[label] = Space(experiment, label)
        if experiment.sweep.sampler == "grid":
            out[label].grid()
    return out


def trials_of(experiment: Experiment, space: Space) -> int:
    """Return the number of trials of a model: its budget, or fewer where a grid has no more points."""
    return len(points(experiment.sweep, space))


def show_plan(experiment: Experiment, checked: dict[str, Space], console: Console) -> None:
    """Print what will be searched, with how many trials, and what is run afterwards."""
    sweep = experiment.sweep
    table = Table(title=f"Search of {experiment.name}", title_justify="left", box=None, header_style="bold")
    for column in ("model", "trials", "searched", "first trial"):
        table.add_column(column, overflow="fold", justify="right" if column == "trials" else "left")
    total = 0
    for label, space in checked.items():
        n = trials_of(experiment, space)
        total += n
        ranges = escape("\n".join(f"{path}: {space.shown(path)}" for path in space.paths))
        first = "\n".join(f"{path} {value}" for path, value in space.defaults.items())
        size = len(space.grid()) if sweep.sampler == "grid" else n
        table.add_row(label, str(n) if n >= size else f"{n}, the first of {size}", ranges, first)
    console.print(table, highlight=False)
    for line in experiment.report.doubtful():
        console.print(line, style="yellow", highlight=False)
    others = len(experiment.models) - len(checked)
    finals = len(experiment.models) * len(experiment.seeds)
    console.print(
        f"{total} trials by {sweep.sampler}, on the validation part; then {finals} runs ({len(checked)} tuned models, "
        f"{others} others, {len(experiment.seeds)} seeds), which read the test part once",
        highlight=False,
    )


class SweepState:
    """The studies of one experiment, opened in the order in which they can be: stages before what stands on them.

    Args:
        experiment: one model at least has a ``search:`` block.
        data: prepared data of the experiment.
        runs: folder of records and studies.
        storage: database URL; see ``location``.
        parallel: other processes take trials too.
        node_alive: tells whether a node of a cluster is there.

    Raises:
        InputError: anything about the search that cannot be, before a trial runs.
    """

    def __init__(
        self,
        experiment: Experiment,
        data: PreparedData,
        runs: str | Path,
        storage: str | None = None,
        parallel: bool = False,
        node_alive: Callable[[str], bool] | None = None,
    ) -> None:
        self.experiment, self.data, self.runs, self.parallel = experiment, data, Path(runs), parallel
        self.labels = order(experiment)
        self.storage = open_storage(location(experiment, runs, storage))
        self.node_alive = node_alive
        self.studies: dict[str, ModelStudy] = {}
        self.chosen: dict[str, Selection] = {}
        self.settled: set[str] = set()  # labels whose search has ended
        self.advance()

    def advance(self) -> None:
        """Open the studies that depend on no unfinished one, and note what the finished ones chose."""
        for label in self.labels:
            if label not in self.studies and self.below(label).isdisjoint(set(self.labels) - self.settled):
                study = ModelStudy(
                    self.selected(),
                    label,
                    self.data.fingerprint,
                    self.storage,
                    self.runs,
                    self.parallel,
                    self.node_alive,
                )
                study.lay_out()
                self.studies[label] = study
            if label in self.studies and label not in self.settled and self.studies[label].finished:
                self.settled.add(label)
                if (selection := self.studies[label].select()) is not None:
                    self.chosen[label] = selection

    def below(self, label: str) -> set[str]:
        """Return the labels of all models that one stands on."""
        direct = stages(self.experiment, label)
        return set(direct).union(*(self.below(other) for other in direct))

    def selected(self) -> Experiment:
        """Return the experiment with the selected values of the studies that are finished."""
        return self.experiment.with_values({label: s.values for label, s in self.chosen.items()})

    @property
    def finished(self) -> bool:
        return self.settled == set(self.labels)

    def retry_failed(self) -> int:
        """Lay down all failed trials once more; return how many."""
        found = sum(study.retry_failed() for study in self.studies.values())
        self.studies, self.settled, self.chosen = {}, set(), {}  # what stands on another choice is another study
        self.advance()
        return found

    def notes(self) -> dict[str, str]:
        """Return, by label, the line under the table that says how the parameters came about."""
        missing = dict.fromkeys(self.labels, "no trial was completed; the file's own parameters")
        return missing | {label: selection.note() for label, selection in self.chosen.items()}

    def snapshots(self) -> list[optuna.Study]:
        """Return the studies for the report, in the order of the file."""
        return [self.studies[label].snapshot() for label in self.experiment.models if label in self.studies]


def search(state: SweepState, console: Console | None = None, node: str | None = None, mirrors: bool = True) -> None:
    """Take trials until none of the experiment is left, here or elsewhere; return when all studies are finished.

    Args:
        state: the studies.
        console: where to show progress; a quiet one by default.
        node: of a cluster, on which this process runs.
        mirrors: send finished trials to Weights & Biases, where the experiment has that; one process is enough.
    """
    console = console or Console(quiet=True)
    store = RunStore(state.runs)
    wandb = state.experiment.tracking.wandb if mirrors else None
    with _view(state, console) as view, TrialMirror(wandb, state.runs) as mirror, kept_backbone():

        def refresh() -> None:
            view.refresh(state.studies.values())
            mirror.refresh(state.studies.values())

        studies = list(state.studies.values())
        beside = any(patient(study.others_at_work) for study in studies)  # a crash beside living ones counts
        for study in studies:
            patient(partial(study.requeue, counting=beside))
        refresh()
        while not state.finished:
            worked = False
            for label, study in list(state.studies.items()):
                if label in state.settled:
                    continue
                if patient(study.counts)["to do"]:
                    _run_stages(state, label)  # before a trial is claimed, which gives no sign of life meanwhile
                while (trial := patient(partial(study.claim, node))) is not None:
                    worked = True
                    progress = view.begin(study, trial.user_attrs["slot"], study.max_epochs)
                    carry_out(study, trial, state.data, store, [progress], node)
                    refresh()
                patient(partial(study.requeue, counting=True))
            state.advance()
            refresh()
            if not worked and not state.finished:
                time.sleep(_POLL)


def watch(state: SweepState, console: Console, working: Callable[[], bool]) -> None:
    """Show, and mirror, the trials that other processes carry out, as long as ``working`` is true and any is left."""
    with _view(state, console) as view, TrialMirror(state.experiment.tracking.wandb, state.runs) as mirror:
        busy = True
        while busy:
            busy = working() and not state.finished  # one more look behind the last
            state.advance()
            view.refresh(state.studies.values())
            mirror.refresh(state.studies.values())


def _view(state: SweepState, console: Console) -> SweepView:
    checked = spaces(state.experiment)
    return SweepView(console, {label: trials_of(state.experiment, space) for label, space in checked.items()})


def _run_stages(state: SweepState, label: str) -> None:
    """Train what the trials of a model stand on: the selected configuration, with the seed of the trials."""
    below = state.below(label)
    if not below:
        return
    selected = state.selected()
    models = {name: entry for name, entry in selected.models.items() if name in below}
    needed = selected.model_copy(update={"models": models, "seeds": selected.seeds[:1]})
    if any(p.state in ("to do", "to continue") for p in plan(needed, state.data, RunStore(state.runs))):
        run(needed, state.runs, data=state.data)


def with_selections(experiment: Experiment, data: PreparedData, runs: str | Path) -> tuple[Experiment, list[Selection]]:
    """Return the experiment with what finished sweeps of it chose; as it is where there are none."""
    found = stored_selections(experiment, runs, data.fingerprint)
    return experiment.with_values({k: s.values for k, s in found.items()}), list(found.values())


def begun(experiment: Experiment, fingerprint: str, runs: Path, storage: str | None) -> dict[str, ModelStudy | None]:
    """Return the study of each searched model, None where it has not begun; nothing is made."""
    labels = order(experiment)
    where = location(experiment, runs, storage)
    if not labels or not exists(where):
        return dict.fromkeys(labels)
    opened = open_storage(where)
    begun = {study.study_name for study in opened.get_all_studies()}
    return {
        label: ModelStudy(experiment, label, fingerprint, opened, runs)
        if study_name(experiment, label) in begun
        else None
        for label in labels
    }
