"""Power: the smallest difference from the best baseline that the table can be expected to mark."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from benchmark.audit.finding import Finding, Level, percent
from benchmark.audit.material import Material
from benchmark.evaluation.metrics import parse_metric
from benchmark.runs.outcomes import best_baseline, comparable, differences

CHECK, TITLE = "power", "Smallest difference the table can detect"
POWER = 0.8
LARGE, FEW = 0.1, 100


def power(material: Material) -> list[Finding]:
    """Say which true difference from the best baseline the table would mark with probability 80 %.

    (z_{1 - a/2} + z_{.8}) times the standard error of the paired mean difference (Cohen, "Statistical Power Analysis
    for the Behavioral Sciences", 1988, chapter 2; for retrieval Sakai, "Laboratory Experiments in Information
    Retrieval", 2018), with a the significance over the number of comparisons, the first step of Holm. The error counts
    users and seeds as the table's test does; where seeds are counted, quantiles of Student's t stand for those of the
    normal. Given is the median over the other rows.
    """
    outcomes = material.outcomes
    if not outcomes.labels:
        return [Finding(CHECK, TITLE, "unknown", "Nothing has been run yet: levelfield run comes first.")]
    found = {metric: it for metric in outcomes.metrics if (it := _smallest(material, metric)) is not None}
    if not found:
        said = "No metric has a value per user for a baseline and another row, so no difference can be tested."
        return [Finding(CHECK, TITLE, "unknown", said)]
    metric, told = next(iter(found.items()))
    unit = "users" if material.ranking else "users with labelled rows"
    said = (
        f"With {told.users:,} {unit} and {told.comparisons:,} comparisons of a column, the table marks a true "
        f"difference of {metric} from the best baseline ({told.reference}) with probability 80 % "
    )
    if _beyond(metric, told):
        said += "only beyond the range of the metric: as good as never (median over rows)."
    else:
        share = percent(told.share)
        said += f"if it is at least {told.size:.4f}, {share} of that baseline's value (median over rows)."
    if told.size > 2 * told.by_users:
        said += (
            f" Most of that is how much seeds move the models: more seeds would bring it nearer to {told.by_users:.4f}."
        )
    others = [
        f"{name} {'beyond its range' if _beyond(name, it) else f'{it.size:.4f} ({percent(it.share)})'}"
        for name, it in found.items()
        if name != metric
    ]
    if others:
        said += f" Others: {', '.join(others)}."
    level: Level = "warning" if told.share > LARGE or told.users < FEW else "fine"
    if level == "warning":
        said += " Smaller ones may go unmarked: a row without a mark is not shown to be as good as the best."
    numbers = {"users": float(told.users), "comparisons": float(told.comparisons)}
    for name, it in found.items():
        numbers |= {f"{name}_smallest": it.size, f"{name}_share": it.share, f"{name}_by_users": it.by_users}
    return [Finding(CHECK, TITLE, level, said, numbers)]


@dataclass(frozen=True)
class _Smallest:
    """The smallest difference of a metric: its size, that as a share of the best baseline, and by users alone."""

    size: float
    share: float
    by_users: float
    reference: str
    users: int
    comparisons: int


def _beyond(metric: str, told: _Smallest) -> bool:
    """Return whether no two rows can differ so much: all metrics but the log loss lie between 0 and 1."""
    return told.size > 1 and parse_metric(metric).name != "log_loss"


def _smallest(material: Material, metric: str) -> _Smallest | None:
    """Return the smallest difference that a column can mark, None where there is nothing to compare."""
    outcomes, proposed = material.outcomes, material.experiment.proposed()
    reference, labels = best_baseline(outcomes, proposed, metric), comparable(outcomes, metric)
    others = [label for label in labels if label != reference]
    if reference is None or not others:
        return None
    baselines = sum(label not in proposed for label in labels)
    comparisons = baselines * (baselines - 1) // 2 + baselines * (len(labels) - baselines)
    tail = material.experiment.report.significance / comparisons / 2
    told = differences(outcomes, metric, others, reference)
    total = told.by_users + told.by_seeds
    value, differing = abs(statistics.fmean(outcomes.seeds[reference, metric])), total > 0
    if not value or not differing.any():
        return None
    normal = special.ndtri(POWER) - special.ndtri(tail)
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = 2 * total**2 / told.doubt
        student = stats.t.ppf(POWER, freedom) - stats.t.ppf(tail, freedom)
    counted = (told.by_seeds > 0) & np.isfinite(student)
    sizes = np.where(counted, student, normal) * np.sqrt(total)
    size, by_users = (float(np.median(of[differing])) for of in (sizes, normal * np.sqrt(told.by_users)))
    return _Smallest(size, size / value, by_users, reference, int(told.users.max()), comparisons)
