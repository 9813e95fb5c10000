"""Runs an experiment: prepare the data, plan, execute what is not done, give back the records in order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table

from benchmark.data.cache import prepare as prepare_dataset
from benchmark.data.split import split as split_dataset
from benchmark.data.vectors import with_vectors
from benchmark.enrichment.enrich import enrich
from benchmark.errors import InputError
from benchmark.evaluation.metrics import parse_metric
from benchmark.experiment import START, Experiment, RunSpec, check_columns
from benchmark.runs.execute import PreparedData, execute, run_key
from benchmark.runs.mirror import close_mirror, notice, open_mirror
from benchmark.runs.progress import LiveView, clock
from benchmark.runs.record import RunRecord, RunStore

_SAID: set[str] = set()  # notices that are given once a process
_POLL = 0.2  # seconds between two looks at what other processes compute
LAPS = ("build", "fit", "save", "test")  # the stages that make up a run's own time
State = Literal["cached", "to do", "to continue", "failed"]


@dataclass(frozen=True)
class Planned:
    """One run of a plan: its spec, its key, and what the store knows of it."""

    spec: RunSpec
    key: str
    state: State
    record: RunRecord | None


def prepare(
    experiment: Experiment | RunSpec, runs: str | Path = "runs", console: Console | None = None, write: bool = True
) -> PreparedData:
    """Load (or take from the cache), filter, split and enrich the data of an experiment, or of one run of it.

    Args:
        experiment: whose data.
        runs: folder of records, of the data cache and of written texts.
        console: for the progress of texts that are written, and what they cost.
        write: False has no text written that is not kept yet, and so costs nothing.

    Raises:
        InputError: the data cannot be used; one line that says where and why.
    """
    if experiment.dataset.enrich and isinstance(experiment, Experiment):
        experiment.specs()  # what is wrong with the models is said before a text is paid for
    start = time.perf_counter()
    dataset = prepare_dataset(experiment.dataset.source, experiment.dataset.filters, Path(runs) / "data")
    dataset = with_vectors(dataset, experiment.dataset.vectors)
    split = split_dataset(dataset, experiment.task.split, experiment.split_seed)
    fingerprint = dataset.fingerprint()
    if columns := experiment.dataset.enrich:
        enriched = enrich(columns, dataset, split, Path(runs) / "texts", console, write)
        dataset, split, fingerprint = enriched.dataset, enriched.split, enriched.fingerprint
    seconds = time.perf_counter() - start
    return PreparedData(dataset, split, fingerprint, split.fingerprint(), seconds)


def plan(experiment: Experiment, data: PreparedData, store: RunStore) -> list[Planned]:
    """Return every run of the experiment with its state; checks all models and parameters first."""
    domain = experiment.task.domain
    ranked = data.split.n_items if domain is None else int(data.split.of_domains([domain]).sum())
    for metric in experiment.task.metrics:
        k = parse_metric(metric).k
        if k is not None and k > ranked:
            where = "catalogue" if domain is None else f"domain '{domain}'"
            raise InputError(f"task.metrics: '{metric}' is longer than the {where} of {ranked} items")
    check_columns(experiment.beyond, data.split.users, data.split.items)
    planned = []
    checked: set[str] = set()
    for spec in experiment.specs():
        for name, n in spec.train_on or ():
            there = int(data.split.of_domains([name])[data.split.train.item].sum())
            if n is not None and n > there:
                raise InputError(f"models.{spec.label}: {n} interactions of '{name}' to train on, and it has {there}")
        key = run_key(spec, data.fingerprint)
        record = store.get(key)
        state: State = "to do"
        if record is not None:
            state = "cached" if record.status == "finished" else "failed"
        elif store.interrupted(key):
            state = "to continue"
        if state != "cached" and spec.label not in checked:
            checked.add(spec.label)
            try:
                spec.model_class().check(spec.config, data.split.catalogue(cache=store.root / "tokens"))
            except InputError as error:
                raise InputError(f"models.{spec.label}: {error}") from None
        planned.append(Planned(spec, key, state, record))
    return planned


def show_plan(experiment: Experiment, planned: Sequence[Planned], expected: dict[str, float], console: Console) -> None:
    """Print which models and seeds will run, what is cached, and how long the rest took the last time."""
    table = Table(title=f"Plan of {experiment.name}", title_justify="left", box=None, header_style="bold")
    for column in ("model", "class", "seeds", "state", "key"):
        table.add_column(column, overflow="fold")
    unable = experiment.unable(short=True)
    for label in experiment.models:
        mine = [p for p in planned if p.spec.label == label]
        for state in dict.fromkeys(p.state for p in mine):
            those = [p for p in mine if p.state == state]
            seeds = ", ".join(str(p.spec.seed) for p in those)
            keys = " ".join(p.key[:8] for p in those)
            table.add_row(label, those[0].spec.class_path, seeds, state, keys)
        if not mine:
            table.add_row(label, experiment.models[label].class_path, "", unable.get(label, ""), "")
    console.print(table, highlight=False)
    found = {name for p in planned if p.record is not None for name in p.record.model_report}
    for line in experiment.report.doubtful(found):
        console.print(line, style="yellow", highlight=False)
    todo = [p for p in planned if p.state in ("to do", "to continue")]
    seconds = [expected.get(p.spec.label) for p in todo]
    known = [s for s in seconds if s is not None]
    text = f"{len(planned)} runs: {len(planned) - len(todo)} cached or failed, {len(todo)} to do"
    if todo and known:
        text += f"; about {clock(sum(known) / len(known) * len(todo))} by earlier runs"
    console.print(text, highlight=False)


def show_total(plans: Sequence[Sequence[Planned]], console: Console) -> None:
    """Print the counts of a grid of several experiments; a run that stands in two of them is computed once."""
    every = [p for planned in plans for p in planned]
    todo = {p.key for p in every if p.state in ("to do", "to continue")}
    shared = len(every) - len({p.key for p in every})
    twice = f", {shared} of them the same as another" if shared else ""
    console.print(f"{len(plans)} experiments, {len(every)} runs{twice}: {len(todo)} to do", highlight=False)


def expected_seconds(store: RunStore, planned: Sequence[Planned], earlier: dict[str, float]) -> dict[str, float]:
    """Return seconds a run by label: from records of this plan, else from ``earlier`` (a committed manifest)."""
    out = dict(earlier)
    for item in planned:
        if item.record is not None and item.record.status == "finished":
            out[item.spec.label] = sum(v for k, v in item.record.stage_seconds.items() if k in LAPS)
    return out


def run(
    experiment: Experiment,
    runs: str | Path = "runs",
    console: Console | None = None,
    retry_failed: bool = False,
    expected: dict[str, float] | None = None,
    data: PreparedData | None = None,
) -> list[RunRecord]:
    """Execute every run of ``experiment`` that has no record yet; return all records in the order of the file.

    Runs go in the order of the file too, except that a model which others stand on comes before them. Several processes
    may run one experiment on one folder: each run is computed by one of them, the others take its record.

    Args:
        experiment: what to run.
        runs: folder of records and of the data cache.
        console: where to show progress; a quiet one by default.
        retry_failed: run failed ones again; otherwise their records are returned as they are.
        expected: seconds a run by label, for the time left before anything has run here.
        data: prepared data, where the caller has it already.

    Raises:
        InputError: bad input, found before any work starts, or a record that cannot be written.
    """
    console = console or Console(quiet=True)
    store = RunStore(runs)
    data = data or prepare(experiment, runs, console)
    planned = plan(experiment, data, store)
    chosen = [p for p in planned if p.state in ("to do", "to continue") or (retry_failed and p.state == "failed")]
    chosen += _starts(chosen, data, store, {p.key for p in planned}, retry_failed)
    todo = _stages_first(chosen, data)
    records = {p.key: p.record for p in planned}
    if todo and (line := notice(experiment.tracking.wandb)) and line not in _SAID:
        _SAID.add(line)
        console.print(line, highlight=False)
    times = expected_seconds(store, planned, expected or {})
    splits = {experiment.task.split: data}

    def of(spec: RunSpec) -> PreparedData:
        # what another run begins with may have been trained on an earlier slice
        if spec.task.split not in splits:
            splits[spec.task.split] = prepare(spec, runs)
        return splits[spec.task.split]

    with LiveView(console, [p.spec for p in todo], times) as view:
        for item in _claimed(todo, data, store):
            record = store.get(item.key)
            if record is not None and record != item.record:
                view.todo.remove(item.spec)  # the same run under another label, or done by another process
            else:
                start = time.perf_counter()
                progress = view.begin(item.spec)
                mirror = open_mirror(experiment.tracking.wandb, item.spec, item.key, store.root / "wandb")
                record = execute(item.spec, of(item.spec), store, [progress], [mirror] if mirror else [])
                close_mirror(mirror, record)
                view.end(item.spec, record, time.perf_counter() - start)
            records[item.key] = record
    return [named(records[p.key], p.spec) for p in planned]


def stored(experiment: Experiment, data: PreparedData, store: RunStore) -> list[RunRecord | None]:
    """Return what is stored of every run of an experiment, in the order of ``experiment.specs()``."""
    return [named(p.record, p.spec) if p.record is not None else None for p in plan(experiment, data, store)]


def forget_failed(planned: Sequence[Planned], store: RunStore) -> list[Planned]:
    """Remove the records of failed runs, so that whoever comes first runs them again; return the plan after it."""
    for item in planned:
        if item.state == "failed":
            store.forget(item.key)
    return [replace(p, state="to do", record=None) if p.state == "failed" else p for p in planned]


def watch(
    experiment: Experiment,
    planned: Sequence[Planned],
    store: RunStore,
    console: Console,
    expected: dict[str, float],
    working: Callable[[], bool],
    workers: int,
) -> None:
    """Show the runs of a plan while other processes compute them, as long as ``working`` is true."""
    todo = [p for p in planned if p.state != "cached"]
    with LiveView(console, [p.spec for p in todo], expected_seconds(store, planned, expected), workers) as view:
        busy = True
        while busy:
            busy = working()  # one more look behind the last
            for item in list(todo):
                record = store.get(item.key)
                if record is not None and record != item.record:
                    todo.remove(item)
                    view.end(item.spec, record, sum(v for k, v in record.stage_seconds.items() if k in LAPS))


def _claimed(todo: Sequence[Planned], data: PreparedData, store: RunStore) -> Iterator[Planned]:
    """Give each run while its lock is held, in order; what other processes compute at the moment comes later."""
    waiting = list(todo)
    while waiting:
        later = {item.key for item in waiting}
        for item in waiting:
            below = [run_key(stage, data.fingerprint) for stage in item.spec.stages.values()]
            if any(key in later or store.running(key) for key in below):
                continue
            with store.claimed(item.key, wait=False) as mine:
                if not mine:
                    continue
                yield item
            waiting.remove(item)
            break
        else:
            time.sleep(_POLL)


def _starts(
    chosen: Sequence[Planned], data: PreparedData, store: RunStore, known: set[str], retry_failed: bool
) -> list[Planned]:
    """Return the runs that others begin with and that have not been done; they belong to another table."""
    out: dict[str, Planned] = {}

    def visit(spec: RunSpec) -> None:
        for role, stage in spec.stages.items():
            visit(stage)
            key = run_key(stage, data.fingerprint)
            if key in known or (role != START and spec.task == chosen[0].spec.task):
                continue
            record = store.get(key)
            if record is None or (retry_failed and record.status == "failed"):
                out.setdefault(key, Planned(stage, key, "to do", record))

    for item in chosen:
        visit(item.spec)
    return list(out.values())


def _stages_first(chosen: Sequence[Planned], data: PreparedData) -> list[Planned]:
    """Return the runs in their order, except that what a run stands on, or begins with, comes before it."""
    waiting: dict[str, Planned] = {}
    for item in chosen:
        waiting.setdefault(item.key, item)  # of the same run under two labels, the first one's
    ordered: dict[str, Planned] = {}

    def visit(spec: RunSpec) -> None:
        for stage in spec.stages.values():
            visit(stage)  # through finished ones too: what they stand on is loaded with them
        key = run_key(spec, data.fingerprint)
        if key in waiting:
            ordered.setdefault(key, waiting[key])

    for item in chosen:
        visit(item.spec)
    return list(ordered.values())


def named(record: RunRecord | None, spec: RunSpec) -> RunRecord:
    """Return the record under the experiment and label that ask for it now (they are no part of a run's identity)."""
    assert record is not None
    return record.model_copy(update={"experiment": spec.experiment, "label": spec.label})
