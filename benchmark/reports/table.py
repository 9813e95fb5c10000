"""Records -> one table: rows in groups, mean ± s.d. over seeds, intervals, best and second, significance, protocol."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from benchmark.errors import nearest
from benchmark.evaluation.metrics import GENERATION_METRICS, higher_is_better, parse_metric
from benchmark.evaluation.significance import bootstrap_intervals
from benchmark.experiment import Beyond, ModelEntry, check_together
from benchmark.reports.beyond import legend as beyond_legend
from benchmark.reports.comparison import compare, legend
from benchmark.reports.kept import kept
from benchmark.reports.names import COSTS, GROUP_TITLES, beyond_title, measured_title, title
from benchmark.reports.part import Part
from benchmark.runs.record import RunRecord

_FINDABLE = ("metric", "measured", "cost")  # kinds of columns that are asked for by their name
_SHARES = ("next_token_agreement", "neighbour_overlap")
NEED_PROBABILITY = {"log_loss", "brier", "ece", "accuracy", "f1"}


@dataclass(frozen=True)
class Column:
    """One column: of which data set ("" where there is one), of what, and how it is read."""

    dataset: str
    name: str
    title: str
    kind: Literal["metric", "beyond", "measured", "cost", "published", "difference"]
    lower: bool = False  # less is better


@dataclass(frozen=True)
class Cell:
    """One number: mean over seeds, s.d. (None for one seed), and the interval over users; or why there is none."""

    mean: float | None = None
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str = ""
    rank: int | None = None  # 1 best of its column, 2 second
    mark: int = 0  # 1 better than the reference baseline, -1 worse, 0 no difference that could be told
    p: float | None = None  # corrected p-value of that comparison
    n: int = 0  # runs behind the number


@dataclass(frozen=True)
class Row:
    label: str
    group: str
    cells: tuple[Cell, ...]
    keys: tuple[str, ...] = ()


@dataclass(frozen=True)
class ComparisonTable:
    """What every format is rendered from. ``columns[j]`` heads ``rows[i].cells[j]``."""

    name: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    protocols: tuple[str, ...]
    legend: tuple[str, ...] = field(default=())
    notes: tuple[str, ...] = field(default=())

    def column(self, name: str) -> list[Cell]:
        """Return the cells of the first metric, measured or cost column of a name, row by row."""
        j = next(j for j, c in enumerate(self.columns) if c.name == name and c.kind in _FINDABLE)
        return [row.cells[j] for row in self.rows]

    @property
    def datasets(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(column.dataset for column in self.columns))


def build(parts: Sequence[Part]) -> ComparisonTable:
    """Return the table of one or several experiments, data sets x metrics in columns.

    Raises:
        InputError: the experiments differ in their protocol; the line names the difference.
    """
    first = parts[0].experiment
    check_together([p.experiment for p in parts])
    several = len(parts) > 1
    columns: list[Column] = []
    cells: dict[str, list[Cell]] = {}
    groups = {label: group for p in parts for label, group in p.groups.items()}
    lines, notes = list[str](), list[str]()
    for p in parts:
        name = p.dataset if several else ""
        own, by_label, compared = _columns_of(p, name)
        for label in groups:
            missing = [Cell(reason="not in this experiment")] * len(own)
            cells.setdefault(label, [Cell(reason="not in this experiment")] * len(columns))
            cells[label] += by_label.get(label, missing)
        columns += own
        lines += legend(p, name, compared) + beyond_legend(p.experiment, p.beyond, name)
        lines += _over_texts(own, by_label, name)
        notes += [f"{name}: {note}" if several else note for note in _notes(p)]
    rows = [
        Row(label, group, tuple(cells[label]), tuple(r.key for p in parts for r in p.by_label.get(label, []) if r))
        for label, group in groups.items()
    ]
    rows.sort(key=lambda row: list(GROUP_TITLES).index(row.group))
    return ComparisonTable(
        name=(first.report.together or first.name) if several else first.name,
        columns=tuple(columns),
        rows=tuple(rows),
        protocols=tuple((f"{p.dataset}: " if several else "") + protocol(p) for p in parts),
        legend=tuple(dict.fromkeys(lines)),
        notes=tuple(dict.fromkeys(notes)),
    )


def _columns_of(p: Part, dataset: str) -> tuple[list[Column], dict[str, list[Cell]], list[str]]:
    """Return a part's columns, the cells of each label, and the metrics in which rows were compared."""
    experiment, metrics = p.experiment, p.experiment.task.metrics
    costs, measured, unable = experiment.report.costs, experiment.report.measured, experiment.unable(short=True)
    columns = [
        Column(dataset, m, title(m), "metric", lower=not higher_is_better(parse_metric(m).name)) for m in metrics
    ]
    columns += [Column(dataset, b.text, beyond_title(b), "beyond", lower=b.lower) for b in experiment.beyond]
    columns += [Column(dataset, m, measured_title(m), "measured") for m in measured]
    per = "ms/user" if experiment.task.kind == "ranking" else "ms/row"
    columns += [Column(dataset, c, per if c == "ms_per_user" else COSTS[c], "cost", lower=True) for c in costs]
    intervals, beyond = _intervals(p), _beyond(p)
    empty = len(columns)
    by_label: dict[str, list[Cell]] = {}
    for label in experiment.models:
        done = p.finished(label)
        if done:
            by_label[label] = [_metric(p, label, done, m, intervals) for m in metrics]
            by_label[label] += [
                *beyond.get(label, []),
                *(_measured(done, m) for m in measured),
                *(_cost(done, c) for c in costs),
            ]
            continue
        failed = any(r is not None and r.status == "failed" for r in p.by_label[label])
        reason = unable.get(label, "failed" if failed else "not run")
        by_label[label] = [Cell(reason=reason)] * empty
    _rank(by_label, metrics)
    compared = []
    for j, m in enumerate(metrics):
        if found := compare(p, m):
            compared.append(m)
        for label, (p_value, mark) in found.items():
            by_label[label][j] = dataclasses.replace(by_label[label][j], p=p_value, mark=mark)
    for row in experiment.published:
        by_label.setdefault(row.model, [Cell(reason="undefined")] * empty)
    published = {(row.model, m): value for row in experiment.published for m, value in row.values.items()}
    for m in [m for m in metrics if any(m == other for _, other in published)]:
        columns.append(Column(dataset, m, f"{title(m)} published", "published"))
        columns.append(Column(dataset, m, "ours − published", "difference"))
        for label, cells in by_label.items():
            value, ours = published.get((label, m)), cells[metrics.index(m)].mean
            cells.append(Cell(value, reason="" if value is not None else "undefined"))
            both = value is not None and ours is not None
            cells.append(Cell(ours - value) if both else Cell(reason="undefined"))  # type: ignore[operator]
    return columns, by_label, compared


def _intervals(p: Part) -> dict[tuple[str, str], tuple[float, float]]:
    """Return the 95 % intervals of all (label, metric): one resampling of the users for all of them."""
    names = list(p.outcomes.values)
    if not names:
        return {}
    found = bootstrap_intervals(np.column_stack([p.outcomes.values[name] for name in names]))
    return {name: (float(low), float(high)) for name, (low, high) in zip(names, found, strict=True)}


def _metric(
    p: Part,
    label: str,
    done: Sequence[RunRecord],
    metric: str,
    intervals: Mapping[tuple[str, str], tuple[float, float]],
) -> Cell:
    name = parse_metric(metric).name
    if name in GENERATION_METRICS:  # not of the ranks: as it was counted in the run
        counted = [v for r in done if (v := r.metrics["test"].get(metric)) is not None]
        return _cell(counted) if len(counted) == len(done) else Cell(reason="writes nothing")
    numbers = p.outcomes.seeds[label, metric]
    if any(np.isnan(numbers)):
        return _undefined(name, done)
    low, high = intervals[label, metric]
    few = np.isfinite(p.outcomes.values[label, metric]).sum() < 2  # one user tells nothing of the spread
    return _cell(numbers, *((None, None) if np.isnan(low) or few else (low, high)))


def _undefined(metric: str, done: Sequence[RunRecord]) -> Cell:
    """Return the cell of a metric, without its cut-off, that came out as nan."""
    no_probability = metric in NEED_PROBABILITY and not all(r.probability for r in done)
    return Cell(reason="no probability" if no_probability else "undefined")


def _beyond(p: Part) -> dict[str, list[Cell]]:
    """Return the cells of `report.beyond` by label: never ranked and never tested."""
    spread = {name: m.values for name, m in p.beyond.cells.items() if m.values is not None}
    found = bootstrap_intervals(np.column_stack(list(spread.values()))).tolist() if spread else []
    intervals = dict(zip(spread, found, strict=True))

    def cell(label: str, one: Beyond) -> Cell:
        m = p.beyond.cells[label, one.text]
        if m.reason:
            return Cell(reason=m.reason)
        if any(np.isnan(m.seeds)):
            return _undefined(parse_metric(one.metric).name if one.metric else one.name, p.finished(label))
        low, high = intervals.get((label, one.text), (np.nan, np.nan))
        few = m.values is None or np.isfinite(m.values).sum() < 2
        return _cell(m.seeds, *((None, None) if np.isnan(low) or few else (low, high)))

    labels = dict.fromkeys(label for label, _ in p.beyond.cells)
    return {label: [cell(label, one) for one in p.experiment.beyond] for label in labels}


def _measured(done: Sequence[RunRecord], name: str) -> Cell:
    """Return the cell, with the 95 % interval over texts where every run tells its standard error, or its log's."""

    def told(key: str) -> list[float]:
        found = [r.model_report[key] for r in done if key in r.model_report]
        return found if len(found) == len(done) else []

    found = told(name)
    if not found:
        return Cell(reason="not measured")
    mean = statistics.fmean(found)
    if errors := told(f"{name}_se"):  # of what is never negative
        far = 1.96 * statistics.fmean(errors)
        return _cell(found, max(mean - far, 0.0), min(mean + far, 1.0 if name in _SHARES else math.inf))
    if errors := told(f"{name}_log_se"):
        factor = math.exp(min(1.96 * statistics.fmean(errors), 700.0))
        return _cell(found, mean / factor, mean * factor)
    return _cell(found)


def _over_texts(columns: Sequence[Column], by_label: Mapping[str, Sequence[Cell]], dataset: str) -> list[str]:
    """Return the line that says what the intervals of measured columns are over; none without such."""
    titles = [
        column.title
        for j, column in enumerate(columns)
        if column.kind == "measured" and any(cells[j].low is not None for cells in by_label.values())
    ]
    said = f"{', '.join(titles)}: 95 % intervals are over texts, by the standard error (mean over seeds)."
    return [f"{dataset}: {said}" if dataset else said] if titles else []


def _cost(done: Sequence[RunRecord], cost: str) -> Cell:
    def of(record: RunRecord) -> float | None:
        if cost == "train_seconds":
            return record.stage_seconds["fit"]
        if cost == "ms_per_user":
            return record.ms_per_user
        if cost == "trainable_parameters":
            return float(record.parameters["trainable"])
        if cost == "peak_memory":
            return record.peak_memory.get("device", record.peak_memory["host"]) / 2**30
        return record.energy_wh

    found = [v for r in done if (v := of(r)) is not None]
    return _cell(found) if found else Cell(reason="not measured")


def _cell(numbers: Sequence[float], low: float | None = None, high: float | None = None) -> Cell:
    sd = statistics.stdev(numbers) if len(numbers) > 1 else None
    return Cell(statistics.fmean(numbers), sd, low, high, n=len(numbers))


def _rank(by_label: dict[str, list[Cell]], metrics: Sequence[str]) -> None:
    """Mark the best and the second of every metric column; rows that show the same number share a mark."""
    for j, metric in enumerate(metrics):
        sign = -1 if higher_is_better(parse_metric(metric).name) else 1
        means = {label: cells[j].mean for label, cells in by_label.items()}
        column = {label: round(mean, 4) * sign for label, mean in means.items() if mean is not None}
        order = sorted(set(column.values()))[:2]
        for label, value in column.items():
            if value in order:
                cells = by_label[label]
                cells[j] = dataclasses.replace(cells[j], rank=order.index(value) + 1)


def _origin(entry: ModelEntry, target: str | None) -> str:
    """Return in words what a row of joined data sets begins with and learns from; "" where nothing is said of it."""
    if entry.train_on is None or (entry.start is None and entry.train_on == {"target": None}):
        return ""
    names = {target if name == "target" else name: n for name, n in entry.train_on.items()}
    learned = ", ".join(f"{n:,} interactions of {name}" if n else f"all of {name}" for name, n in names.items())
    begun = f"begins with what was trained for {entry.start.domain}" if entry.start is not None else ""
    return "; ".join(filter(None, [begun, f"trained on {learned}" if learned else "not trained further"]))


def _notes(p: Part) -> list[str]:
    experiment, out = p.experiment, list[str]()
    unable = p.experiment.unable()
    for label, entry in p.experiment.models.items():
        mine, done = p.by_label[label], p.finished(label)
        failed, not_run = sum(r is not None for r in mine) - len(done), sum(r is None for r in mine)
        said = [f"{failed} of {len(mine)} seeds failed" if done and failed else ""]
        said.append(f"{not_run} of {len(mine)} seeds not run" if done and not_run else "")
        said.append(_origin(entry, experiment.task.domain))
        said.append(f"trained on {entry.limit_train} rows" if entry.limit_train and label not in unable else "")
        said.append(next((r.error or "" for r in mine if r is not None and r.status == "failed"), ""))
        said += [p.notes.get(label, ""), unable.get(label, ""), kept(p, label) if done else ""]
        if any(said):
            out.append(f"{label}: {'; '.join(filter(None, said))}")
    known = sorted({name for r in p.records if r is not None for name in r.model_report})
    report = p.experiment.report
    asked = [("measured", name) for name in report.measured]
    asked += [("tradeoff", report.tradeoff.measured)] if report.tradeoff else []
    for key, name in asked if p.outcomes.labels else ():
        if name not in known:
            out.append(f"report.{key}: no row has '{name}'{nearest(name, known) or '; none measures anything'}")
    for row in p.experiment.published:
        out.append(f"{row.model}, published: {row.source}{'; ' + row.settings if row.settings else ''}")
    return out


def protocol(p: Part) -> str:
    """Return one sentence that states what was compared with what, and on what."""
    experiment, task = p.experiment, p.experiment.task
    records = [r for r in p.records if r is not None]
    if not records:
        return f"{experiment.name}: nothing has been run."
    record = next((r for r in records if r.status == "finished"), records[0])
    report, judged = record.split_report, record.judged.get("test", 0)
    source = experiment.dataset.source.source
    shape = (
        f"{source}, {int(report['n_train']):,} / {int(report['n_valid']):,} / {int(report['n_test']):,} interactions"
    )
    split = {
        "prequential": "one slice of time after the other is the test, all before it is known",
        "temporal": "split at one global time for everybody",
        "leave_last_out": "each user's last interaction is the test",
        "ratio": "seeded random split (future interactions leak into histories)",
        "predefined": "split as given",
        "cold_items": "test items never seen in training",
        "cold_users": "test users never seen in training",
    }[task.split.kind]
    if task.kind == "ranking":
        against = "the full catalogue" if task.domain is None else f"all items of {task.domain}"
        if task.candidates.kind != "full":
            draws = f" (mean of {task.candidates.draws} draws)" if task.candidates.draws > 1 else ""
            against = f"{task.candidates.n} sampled negatives{draws}"
        few = "one earlier interaction" if task.min_history == 1 else f"{task.min_history} earlier interactions"
        warm = f" with at least {few}" if task.min_history else ""
        seen = "seen items stay in" if task.allow_repeats else "seen items removed"
        judge = f"{judged:,} test users{warm} ranked against {against}, {seen}"
    else:
        alone = ", histories hold likes alone" if task.history_holds == "likes" else ""
        judge = f"{judged:,} labelled test rows, a like is a rating of at least {task.positive_rating:g}{alone}"
    numbers = sorted({len(done) for label in experiment.models if (done := p.finished(label))}) or [0]
    over = f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else str(numbers[0])
    seeds = f"mean ± s.d. over {over} seeds" if numbers[-1] > 1 else "one seed"
    if experiment.resample_train and any(entry.limit_train for entry in experiment.models.values()):
        seeds += ", each with its own sample of training rows"
    hashes = f"data {record.data_fingerprint[:8]}, split {record.split_fingerprint[:8]}"
    candidates = record.candidates_fingerprint[:8] if record.candidates_fingerprint != "full" else "full"
    source_note = next((f"; {step['note']}" for step in record.data_steps[:1] if step.get("note")), "")
    return (
        f"{shape}, {split}{source_note}; {judge}; {seeds}, 95 % intervals by resampling users; "
        f"selection on validation only, test read once; {hashes}, candidates {candidates}; {_stamp(records)}."
    )


def _stamp(records: Sequence[RunRecord]) -> str:
    """Return the versions and commits of the runs; several where they differ."""

    def every(values: Sequence[str]) -> str:
        return " and ".join(sorted({v for v in values if v}))

    versions = [r.environment["versions"] for r in records]
    commits = [r.environment["commit"] for r in records]
    shas = every([f"{c['commit'][:8]}{' with changes' if c['dirty'] else ''}" for c in commits if c["commit"]])
    told = [f"{name} {every([v.get(name, '') for v in versions])}" for name in ("levelfield", "torch")]
    return ", ".join([*told, *([f"commit {shas}"] if shas else [])])
