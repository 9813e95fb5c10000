"""Labelled rows -> one value a user: the mean is the preference metric, the spread is that of the metric over users."""

from __future__ import annotations

import numpy as np

from benchmark.evaluation.metrics import (
    Metric,
    preference_metric,
    row_accuracy,
    row_brier,
    row_log_loss,
    user_auc,
)


def preference_user_values(
    metric: Metric, user: np.ndarray, label: np.ndarray, score: np.ndarray, probability: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the users (U,), ascending, and their values (U,) of one of PREFERENCE_METRICS.

    The mean of the values that are not nan is the metric. Where the metric is no mean over users, a value is the metric
    + U times the user's influence on it, its derivative by the user's weight (the infinitesimal jackknife: Efron, "The
    Jackknife, the Bootstrap and Other Resampling Plans", 1982, chapter 6). What resamples users, or compares two models
    over them by their means, then says to first order what it would say if the metric were computed anew each time.
    Such values compare means; a test of ranks, as Wilcoxon's, has no meaning on them.

    ``uauc``: the user's AUC, nan with one class. ``auc``: the placement values of the user's rows, ties half, summed
    (Obuchowski, Biometrics 1997, whose variance of clustered ROC areas is that of the mean of these values).
    ``log_loss``, ``brier``, ``accuracy``, ``f1``: ratios of sums over users (Cochran, Sampling Techniques, 1977,
    chapter 6); F1 is 2 TP / (2 TP + FP + FN). ``gauc``: likewise, nan with one class. ``ece`` is a sum of absolute
    values, which has no such values: all nan. All are nan where the metric is.

    Args:
        metric: which.
        user: (n,) integer.
        label: (n,) 0/1; above .5 is positive.
        score: (n,) float.
        probability: (n,) float, or None where the scores are no logits.

    Raises:
        InputError: the metric is no preference metric.
    """
    value = preference_metric(metric, user, label, score, probability)
    users, owner = np.unique(user, return_inverse=True)
    if metric.name == "ece" or np.isnan(value):
        return users, np.full(len(users), np.nan)
    if metric.name == "auc":
        influence = np.bincount(owner, weights=_placement(label, score, value))
        return users, value + len(users) * influence
    if metric.name in ("uauc", "gauc"):
        _, area, rows = user_auc(user, label, score)
        if metric.name == "uauc":
            return users, area
        weight = np.where(np.isnan(area), np.nan, rows)  # which users count is decided by the labels, for all models
        return users, _ratio(area * weight, weight, value)
    assert probability is not None  # else the metric were nan
    if metric.name == "f1":
        predicted, positive = (probability >= 0.5).astype(np.float64), (label > 0.5).astype(np.float64)
        upper, lower = 2 * predicted * positive, predicted + positive
    else:
        per_row = {"log_loss": row_log_loss, "brier": row_brier, "accuracy": row_accuracy}[metric.name]
        upper, lower = per_row(label, probability), np.ones(len(label))
    return users, _ratio(np.bincount(owner, weights=upper), np.bincount(owner, weights=lower), value)


def _ratio(upper: np.ndarray, lower: np.ndarray, value: float) -> np.ndarray:
    """Return the (U,) values of the ratio ``value`` of the sums of two (U,) arrays, nan where they are."""
    return value + (upper - value * lower) / np.nanmean(lower)


def _placement(label: np.ndarray, score: np.ndarray, value: float) -> np.ndarray:
    """Return the influence of each of (n,) rows on their pooled ROC AUC ``value``; the influences add up to 0.

    A positive counts by the share of negatives below it, a negative by the share of positives above it.
    """
    positive = label > 0.5
    _, level = np.unique(score, return_inverse=True)
    up, down = np.bincount(level, weights=positive), np.bincount(level, weights=~positive)
    n_up, n_down = up.sum(), down.sum()
    below, above = (down.cumsum() - down / 2) / n_down, 1 - (up.cumsum() - up / 2) / n_up
    return np.where(positive, (below[level] - value) / n_up, (above[level] - value) / n_down)
