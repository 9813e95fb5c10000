"""Records -> one table: rows grouped by kind of model, mean ± s.d. over seeds, best and second marked, the protocol."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmark.evaluation.evaluator import PreferenceEvaluator, RankingEvaluator
from benchmark.evaluation.metrics import GENERATION_METRICS, higher_is_better, parse_metric
from benchmark.evaluation.significance import bootstrap_interval
from benchmark.experiment import Experiment
from benchmark.runs.record import RunRecord, RunStore

GROUPS = ("trivial", "collaborative", "sequential", "content", "llm-zero-shot", "llm")
ABBREVIATIONS = {"auc", "uauc", "gauc", "mrr", "map", "ndcg", "ece", "f1"}


@dataclass(frozen=True)
class Cell:
    """One number: mean over seeds, s.d. (None for one seed), and the interval over users; or why there is none."""

    mean: float | None = None
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str = ""
    rank: int | None = None  # 1 best of its column, 2 second


@dataclass(frozen=True)
class Row:
    label: str
    group: str
    keys: tuple[str, ...]
    cells: tuple[Cell, ...]
    note: str = ""


@dataclass(frozen=True)
class ComparisonTable:
    """What every format is rendered from. ``columns[j]`` heads ``rows[i].cells[j]``."""

    name: str
    columns: tuple[str, ...]
    metrics: tuple[str, ...]
    rows: tuple[Row, ...]
    protocol: str
    notes: tuple[str, ...] = field(default=())


def title(metric: str) -> str:
    """Return a metric's heading: ndcg@10 -> NDCG@10."""
    parsed = parse_metric(metric)
    name = parsed.name.upper() if parsed.name in ABBREVIATIONS else parsed.name.replace("_", " ").capitalize()
    return name if parsed.k is None else f"{name}@{parsed.k}"


def build(
    experiment: Experiment,
    records: Sequence[RunRecord | None],
    store: RunStore,
    notes: Mapping[str, str] | None = None,
) -> ComparisonTable:
    """Return the table of an experiment's records (in the order of ``experiment.specs()``; None where not run).

    ``notes`` holds, by label, what stands under the table about how a model's parameters came about.
    """
    metrics = experiment.task.metrics
    by_label: dict[str, list[RunRecord | None]] = {label: [] for label in experiment.models}
    for spec, record in zip(experiment.specs(), records, strict=True):
        by_label[spec.label].append(record)
    rows = []
    for spec in experiment.specs()[:: len(experiment.seeds)]:
        mine = by_label[spec.label]
        done = [r for r in mine if r is not None and r.status == "finished"]
        cells = _metric_cells(done, metrics, store, experiment.task.kind) if done else []
        if done:
            cells.append(_cell([r.stage_seconds["fit"] for r in done]))
            cells.append(_cell([r.ms_per_user for r in done if r.ms_per_user is not None]))
        else:
            error = next((r.error for r in mine if r is not None and r.error), None)
            cells = [Cell(reason="failed" if error else "not run")] * (len(metrics) + 2)
        missing = len(mine) - len(done)
        note = f"{missing} of {len(mine)} seeds failed" if done and missing else ""
        if spec.limit_train:
            note = "; ".join(filter(None, [note, f"trained on {spec.limit_train} rows"]))
        error = next((r.error for r in mine if r is not None and r.status == "failed"), None)
        note = "; ".join(filter(None, [note, error or "", (notes or {}).get(spec.label, "")]))
        keys = tuple(r.key for r in mine if r is not None)
        rows.append(Row(spec.label, spec.model_class().traits_of(spec.config).group, keys, tuple(cells), note))
    rows.sort(key=lambda row: GROUPS.index(row.group))
    return ComparisonTable(
        name=experiment.name,
        columns=(*map(title, metrics), "Train s", "ms/user" if experiment.task.kind == "ranking" else "ms/row"),
        metrics=metrics,
        rows=tuple(_ranked(rows, metrics)),
        protocol=protocol(experiment, [r for r in records if r is not None]),
        notes=tuple(f"{row.label}: {row.note}" for row in rows if row.note),
    )


def _metric_cells(records: list[RunRecord], metrics: Sequence[str], store: RunStore, kind: str) -> list[Cell]:
    """Return a cell a metric, computed from the stored ranks: any metric at any k needs no new run."""
    evaluators: list[RankingEvaluator | PreferenceEvaluator] = []
    ranked = [m for m in metrics if parse_metric(m).name not in GENERATION_METRICS]
    for record in records:
        frame = store.ranks(record.key)
        if kind == "ranking":
            evaluators.append(RankingEvaluator.from_table(frame, ranked))
        else:
            evaluators.append(PreferenceEvaluator.from_table(frame, metrics, probability=record.probability))
    cells = []
    values = [evaluator.compute() for evaluator in evaluators]
    for metric in metrics:
        if metric not in ranked:  # not of the ranks: as it was counted in the run
            counted = [v for r in records if (v := r.metrics["test"].get(metric)) is not None]
            cells.append(_cell(counted) if len(counted) == len(records) else Cell(reason="undefined"))
            continue
        numbers = [float(v[metric]) for v in values]
        if any(np.isnan(numbers)):
            cells.append(Cell(reason="undefined"))
            continue
        low = high = None
        if kind == "ranking":
            # the same users stand in every seed: resample users of the seed-averaged values
            per_user = np.mean([e.per_user(metric) for e in evaluators], axis=0)
            low, high = bootstrap_interval(per_user)
        cells.append(_cell(numbers, low, high))
    return cells


def _cell(numbers: Sequence[float], low: float | None = None, high: float | None = None) -> Cell:
    sd = statistics.stdev(numbers) if len(numbers) > 1 else None
    return Cell(statistics.fmean(numbers), sd, low, high)


def _ranked(rows: Sequence[Row], metrics: Sequence[str]) -> list[Row]:
    """Mark the best and the second of every metric column; rows that show the same number share a mark."""
    columns = [[row.cells[j] for row in rows] for j in range(len(rows[0].cells))]
    for j, metric in enumerate(metrics):
        sign = -1 if higher_is_better(parse_metric(metric).name) else 1
        order = sorted({round(c.mean, 4) * sign for c in columns[j] if c.mean is not None})[:2]
        columns[j] = [
            Cell(c.mean, c.sd, c.low, c.high, c.reason, order.index(round(c.mean, 4) * sign) + 1)
            if c.mean is not None and round(c.mean, 4) * sign in order
            else c
            for c in columns[j]
        ]
    return [
        Row(row.label, row.group, row.keys, tuple(column[i] for column in columns), row.note)
        for i, row in enumerate(rows)
    ]


def protocol(experiment: Experiment, records: Sequence[RunRecord]) -> str:
    """Return one sentence that states what was compared with what, and on what."""
    task = experiment.task
    if not records:
        return f"{experiment.name}: nothing has been run."
    record = next((r for r in records if r.status == "finished"), records[0])
    report, judged = record.split_report, record.judged.get("test", 0)
    source = experiment.dataset.source.source
    shape = (
        f"{source}, {int(report['n_train']):,} / {int(report['n_valid']):,} / {int(report['n_test']):,} interactions"
    )
    split = {
        "temporal": "split at one global time for everybody",
        "leave_last_out": "each user's last interaction is the test",
        "ratio": "seeded random split (future interactions leak into histories)",
        "predefined": "split as given",
        "cold_items": "test items never seen in training",
        "cold_users": "test users never seen in training",
    }[task.split.kind]
    if task.kind == "ranking":
        against = "the full catalogue" if task.candidates.kind == "full" else f"{task.candidates.n} sampled negatives"
        few = "one earlier interaction" if task.min_history == 1 else f"{task.min_history} earlier interactions"
        warm = f" with at least {few}" if task.min_history else ""
        seen = "seen items stay in" if task.allow_repeats else "seen items removed"
        judge = f"{judged:,} test users{warm} ranked against {against}, {seen}"
    else:
        judge = f"{judged:,} labelled test rows, a like is a rating of at least {task.positive_rating:g}"
    seeds = f"mean ± s.d. over {len(experiment.seeds)} seeds" if len(experiment.seeds) > 1 else "one seed"
    hashes = f"data {record.data_fingerprint[:8]}, split {record.split_fingerprint[:8]}"
    candidates = record.candidates_fingerprint[:8] if record.candidates_fingerprint != "full" else "full"
    levelfield = record.environment["versions"].get("levelfield", "")
    sha = record.environment["commit"]["commit"]
    stamp = f"levelfield {levelfield}" + (f", commit {sha[:8]}" if sha else "")
    return (
        f"{shape}, {split}; {judge}; {seeds}; selection on validation only, test read once; "
        f"{hashes}, candidates {candidates}; {stamp}."
    )
