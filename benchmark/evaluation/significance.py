"""Per-user values -> intervals and p-values: bootstrap over users, paired tests, corrections for many comparisons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

_BLOCK = 1 << 22  # resampled values at once: bounds the memory whatever the number of users


@dataclass(frozen=True)
class PairedTest:
    """The difference of two models over the same users.

    Attributes:
        difference: mean of a - b.
        n: users compared.
        permutation: two-sided p-value of the sign-flip permutation test on the mean.
        wilcoxon: two-sided p-value of Wilcoxon's signed-rank test.
    """

    difference: float
    n: int
    permutation: float
    wilcoxon: float


def bootstrap_interval(per_user: np.ndarray, n: int = 2000, seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """Return the percentile bootstrap interval (low, high) of the mean of (U,) values (Efron, Ann. Statist. 1979).

    Users are resampled; nan values are left out first. (nan, nan) when none is left.
    """
    values = per_user[~np.isnan(per_user)]
    if not len(values):
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    means = np.empty(n)
    step = max(1, _BLOCK // len(values))
    for start in range(0, n, step):
        drawn = rng.integers(0, len(values), (min(step, n - start), len(values)), dtype=np.int32)
        means[start : start + step] = values[drawn].mean(1)
    return _percentiles(means, level)


def bootstrap_interval_pooled(
    user: np.ndarray, label: np.ndarray, score: np.ndarray, n: int = 2000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Return the percentile interval (low, high) of the pooled ROC AUC of (N,) rows when users are resampled.

    A user's rows stay together, because they are not independent. A draw with one class only is left out;
    (nan, nan) when all are.
    """
    if not len(user):
        return float("nan"), float("nan")
    order = np.argsort(score, kind="stable")
    sorted_score, positive = score[order], label[order] > 0.5
    tie_start = np.flatnonzero(np.append(True, sorted_score[1:] != sorted_score[:-1]))
    users, who = np.unique(user[order], return_inverse=True)
    rng = np.random.default_rng(seed)
    areas = np.full(n, np.nan)
    for i in range(n):
        weight = np.bincount(rng.integers(0, len(users), len(users)), minlength=len(users))[who].astype(np.float64)
        up = np.add.reduceat(np.where(positive, weight, 0.0), tie_start)
        down = np.add.reduceat(np.where(positive, 0.0, weight), tie_start)
        if up.any() and down.any():
            areas[i] = (up * (down.cumsum() - down / 2)).sum() / (up.sum() * down.sum())
    areas = areas[~np.isnan(areas)]
    return _percentiles(areas, level) if len(areas) else (float("nan"), float("nan"))


def paired_test(a: np.ndarray, b: np.ndarray, n: int = 10_000, seed: int = 0) -> PairedTest:
    """Compare (U,) values of two models over the same users, left out where either is nan.

    The permutation test flips the signs of the differences at random (Fisher's randomisation test; Smucker et al.,
    CIKM 2007), or in all ways where these are fewer than ``n``.

    Raises:
        ValueError: the lengths differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"paired values must have one length, got {a.shape} and {b.shape}")
    both = ~(np.isnan(a) | np.isnan(b))
    difference = (a[both] - b[both]).astype(np.float64)
    if not len(difference):
        return PairedTest(float("nan"), 0, float("nan"), float("nan"))
    moved = difference[difference != 0]  # a flipped zero changes nothing
    if not len(moved):
        return PairedTest(0.0, len(difference), 1.0, 1.0)
    wilcoxon = float(stats.wilcoxon(moved).pvalue)
    return PairedTest(float(difference.mean()), len(difference), _sign_flip(moved, n, seed), wilcoxon)


def _sign_flip(difference: np.ndarray, n: int, seed: int) -> float:
    """Return the two-sided p-value of the sum of (m,) differences under sign flips."""
    m = len(difference)
    # twice the flipped part is what a flip takes off the sum; the margin keeps rounding from breaking equalities
    observed = abs(difference.sum()) * (1 - 1e-10)
    if m < 31 and 2**m <= n:
        flips = (np.arange(2**m)[:, None] >> np.arange(m)) & 1
        return float((np.abs(difference.sum() - 2 * (flips @ difference)) >= observed).mean())
    rng = np.random.default_rng(seed)
    extreme = 0
    step = max(1, _BLOCK // m)
    for start in range(0, n, step):
        rows = min(step, n - start)
        bits = np.unpackbits(rng.integers(0, 256, (rows, -(-m // 8)), dtype=np.uint8), axis=1, count=m)
        extreme += int((np.abs(difference.sum() - 2 * (bits.astype(np.float64) @ difference)) >= observed).sum())
    return (1 + extreme) / (1 + n)  # the observed signs are one of the draws: the p-value is never 0


def adjust(p: np.ndarray, method: Literal["holm", "bh"] = "holm") -> np.ndarray:
    """Return (m,) p-values corrected for m comparisons; nan stays nan and does not count.

    Args:
        p: (m,) p-values.
        method: ``holm`` bounds the chance of any false finding (Holm, Scand. J. Statist. 1979); ``bh`` the share of
            false findings (Benjamini & Hochberg, JRSS B 1995).

    Raises:
        ValueError: the method is unknown.
    """
    p = np.asarray(p, dtype=np.float64)
    if method not in ("holm", "bh"):
        raise ValueError(f"unknown correction '{method}'; known: bh, holm")
    out = np.full(p.shape, np.nan)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    m = len(order)
    if method == "holm":
        corrected = np.maximum.accumulate(p[order] * (m - np.arange(m)))
    else:
        corrected = np.minimum.accumulate((p[order] * m / np.arange(1, m + 1))[::-1])[::-1]
    out[order] = np.minimum(corrected, 1.0)
    return out


def _percentiles(values: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
