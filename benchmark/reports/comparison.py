"""Which rows of a column differ from the best baseline: paired over users, counting seeds, corrected for looking."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np

from benchmark.evaluation.metrics import higher_is_better, parse_metric
from benchmark.evaluation.significance import adjust, counting_seeds, paired_p_values
from benchmark.reports.names import title
from benchmark.reports.part import Part
from benchmark.runs.outcomes import best_baseline, comparable, differences


def reference_of(p: Part, metric: str) -> str | None:
    """Return the baseline that the others are compared with: the best row of the column that is not proposed."""
    return best_baseline(p.outcomes, p.proposed, metric)


def compare(p: Part, metric: str) -> dict[str, tuple[float, int]]:
    """Return, by label, the corrected p-value against the best baseline, and 1 better, -1 worse or 0 not told.

    The best baseline is the one that was best by luck too, so that those behind it would be called worse too often. It
    is picked by looking at all: the correction is therefore for all comparisons with any baseline, of which those with
    the best one are given. Empty where there is nothing to compare.
    """
    settings, outcomes = p.experiment.report, p.outcomes
    reference, labels = reference_of(p, metric), comparable(outcomes, metric)
    if reference is None or len(labels) < 2:
        return {}
    ordered = sorted(labels, key=lambda label: label in p.proposed)  # baselines first: each pair once
    n_baselines = sum(label not in p.proposed for label in labels)
    pairs, found = list[set[str]](), list[float]()
    for i, baseline in enumerate(ordered[:n_baselines]):
        others = ordered[i + 1 :]
        pairs += [{label, baseline} for label in others]
        found += p_values(p, metric, others, baseline).tolist() if others else []
    means = {label: statistics.fmean(outcomes.seeds[label, metric]) for label in labels}
    out = {}
    for pair, p_value in zip(pairs, map(float, adjust(np.array(found), settings.correction)), strict=True):
        if reference in pair and not np.isnan(p_value):
            (label,) = pair - {reference}
            better = (means[label] > means[reference]) == higher_is_better(parse_metric(metric).name)
            out[label] = (p_value, (1 if better else -1) if p_value < settings.significance else 0)
    return out


def p_values(p: Part, metric: str, labels: Sequence[str], other: str) -> np.ndarray:
    """Return the p-values of models against another one, which count users and seeds; not corrected."""
    new = [label for label in labels if (metric, label, other) not in p.tested]
    if new:
        for label, value in zip(new, _p_values(p, metric, new, other).tolist(), strict=True):
            p.tested[metric, label, other] = p.tested[metric, other, label] = value
    return np.array([p.tested[metric, label, other] for label in labels])


def _p_values(p: Part, metric: str, labels: Sequence[str], other: str) -> np.ndarray:
    outcomes, test = p.outcomes, p.experiment.report.test
    if p.experiment.task.kind != "ranking" and parse_metric(metric).name != "uauc":
        test = "permutation"  # the users' values are shares in a pooled metric: ranks of such mean nothing
    found = paired_p_values(outcomes.matrix(metric, labels), outcomes.values[other, metric], test)
    told = differences(outcomes, metric, labels, other)
    return counting_seeds(found, told.mean, told.by_users, told.by_seeds, told.doubt)


def legend(p: Part, dataset: str, metrics: Sequence[str]) -> list[str]:
    """Return the line that says what is compared with what, and how; none without a compared metric."""
    if not metrics:
        return []
    settings, n = p.experiment.report, len(p.outcomes.users)
    by_label: dict[str, list[str]] = {}
    for metric in metrics:
        by_label.setdefault(str(reference_of(p, metric)), []).append(title(metric))
    which = "; ".join(f"{label} ({', '.join(titles)})" for label, titles in by_label.items())
    if len(by_label) == 1:
        which = next(iter(by_label))
    how = "sign-flip permutation test" if settings.test == "permutation" else "Wilcoxon's signed-rank test"
    if settings.test == "wilcoxon" and p.experiment.task.kind != "ranking":
        how += " (of metrics that are no mean over users, a sign-flip permutation test)"
    correction = {"holm": "Holm", "bh": "Benjamini-Hochberg"}[settings.correction]
    numbers = {len(seeds) for seeds in p.outcomes.seeds.values()}
    seeds = "of one seed, which may have been lucky" if max(numbers) < 2 else "counting how much seeds move a model"
    return [
        f"{dataset + ': ' if dataset else ''}† better, ‡ worse than the best baseline, {which}: "
        f"p < {settings.significance:g}, {how} paired over {n:,} users, {seeds}, {correction} over all comparisons of "
        "a column with any baseline, since the best is picked by looking."
    ]
