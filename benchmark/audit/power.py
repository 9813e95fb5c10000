"""Power: the smallest difference from the best baseline that the table can be expected to mark."""

from __future__ import annotations

import statistics

import numpy as np
from scipy import special, stats

from benchmark.audit.finding import Finding, Level, percent
from benchmark.audit.material import Material
from benchmark.experiment import LLM
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
    found = {metric: told for metric in outcomes.metrics if (told := _smallest(material, metric)) is not None}
    if not found:
        said = "No metric has a value per user for a baseline and another row, so no difference can be tested."
        return [Finding(CHECK, TITLE, "unknown", said)]
    metric, (size, share, reference, users, comparisons) = next(iter(found.items()))
    unit = "users" if material.ranking else "users with labelled rows"
    said = (
        f"With {users:,} {unit} and {comparisons:,} comparisons of a column, the table marks a true difference of "
        f"{metric} from the best baseline ({reference}) with probability 80 % if it is at least {size:.4f}, "
        f"{percent(share)} of that baseline's value (median over rows)."
    )
    if others := [f"{name} {told[0]:.4f} ({percent(told[1])})" for name, told in found.items() if name != metric]:
        said += f" Others: {', '.join(others)}."
    level: Level = "warning" if share > LARGE or users < FEW else "fine"
    if level == "warning":
        said += " It cannot see smaller ones: a row without a mark is not shown to be as good, or as bad."
    numbers = {"users": float(users), "comparisons": float(comparisons)}
    for name, told in found.items():
        numbers |= {f"{name}_smallest": told[0], f"{name}_share": told[1]}
    return [Finding(CHECK, TITLE, level, said, numbers)]


def _smallest(material: Material, metric: str) -> tuple[float, float, str, int, int] | None:
    """Return the smallest difference, as a share of the best baseline too, that baseline, users and comparisons."""
    outcomes, groups = material.outcomes, material.groups
    reference, labels = best_baseline(outcomes, groups, metric), comparable(outcomes, metric)
    others = [label for label in labels if label != reference]
    if reference is None or not others:
        return None
    baselines = sum(groups[label] not in LLM for label in labels)
    comparisons = baselines * (baselines - 1) // 2 + baselines * (len(labels) - baselines)
    tail = material.experiment.report.significance / comparisons / 2
    told = differences(outcomes, metric, others, reference)
    total = told.by_users + told.by_seeds
    quantile = np.full(len(others), -special.ndtri(tail) + special.ndtri(POWER))
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom = 2 * total**2 / told.doubt
        counted = -stats.t.ppf(tail, freedom) + stats.t.ppf(POWER, freedom)
    quantile = np.where((told.by_seeds > 0) & np.isfinite(counted), np.maximum(quantile, counted), quantile)
    differing = total > 0
    if not differing.any():
        return None
    size = float(np.median((quantile * np.sqrt(total))[differing]))
    value = abs(statistics.fmean(outcomes.seeds[reference, metric]))
    if not value:
        return None
    return size, size / value, reference, int(told.users.max()), comparisons
