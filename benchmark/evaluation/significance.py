"""Per-user values -> intervals and p-values: bootstrap over users, paired tests, corrections for many comparisons."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import numpy as np
from scipy import special, stats

from benchmark.errors import InputError, nearest

_BLOCK = 1 << 22  # drawn users or signs at once
_RESAMPLED = 1 << 24  # values of one pass of the bootstrap: 64 MB of float32
_COMPARED = 1 << 23  # values of one pass of the tests: 64 MB of float64
_MANY = 10_000  # users from which on sums over them are taken for normal
_UNEVEN = 0.01  # largest sum d^4 / (sum d^2)^2 for which they are


def bootstrap_intervals(values: np.ndarray, n: int = 2000, seed: int = 0, level: float = 0.95) -> np.ndarray:
    """Return the (M, 2) percentile bootstrap intervals (low, high) of the means of (U, M) columns.

    Users are resampled, the same draws for all columns (Efron, Ann. Statist. 1979). A column's mean is that of its
    users in the draw whose value is not nan; draws that hold none are left out, and a column without any value gives
    nan. The percentiles are the expanded ones of Hesterberg ("What Teachers Should Know About the Bootstrap", The
    American Statistician 2015): the tail alpha / 2 becomes Phi(-sqrt(u / (u - 1)) t) with t the upper alpha / 2
    quantile of Student's t at u - 1 degrees of freedom and u the column's users, which mends the narrowness at small u.
    One user gives (value, value): nothing is known of the spread. Above 10,000 users it is the limit of more and
    more draws: the quantiles of the resampled mean by its first three moments (Cornish-Fisher; Hall, "The Bootstrap and
    Edgeworth Expansion", 1992, section 3.3), which err by less than 2,000 draws do; unless a few users outweigh the
    others (sum(d^4) / sum(d^2)^2 about the mean above .01).

    Args:
        values: (U, M) float, one column a model, nan where a user has no value.
        n: draws.
        seed: of the draws.
        level: of the interval, above 0 and below 1.
    """
    out = np.full((values.shape[1], 2), np.nan)
    if not len(values):
        return out
    for columns in _columns(values, _RESAMPLED, n):
        some = values[:, columns]
        found, few = _limits(some, level) if len(values) > _MANY else (out[columns], np.ones(some.shape[1], bool))
        if few.any():
            found[few] = _intervals(some[:, few], n, seed, level)
        out[columns] = found
    return out


def _limits(values: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the (M, 2) intervals of infinitely many draws, and for which of the (M,) columns they are no good."""
    known = ~np.isnan(values)
    users = np.maximum(known.sum(0), 1)
    centre = np.sum(values, axis=0, where=known) / users
    deviation = np.where(known, values - centre, 0.0)
    square = deviation * deviation
    second, third, fourth = square.sum(0), _products(square, deviation), _products(square, square)
    few = (users <= _MANY) | (fourth > _UNEVEN * second**2)
    z = special.ndtri([(1 - level) / 2, (1 + level) / 2])[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        skew = np.where(second > 0, third / second**1.5, 0.0)  # of the mean: that of the values over sqrt(users)
    return (centre + np.sqrt(second) / users * (z + skew * (z**2 - 1) / 6)).T, few


def _columns(values: np.ndarray, at_once: int, n: int) -> Iterator[slice]:
    """Yield slices of columns that together hold at most ``at_once`` of the (U, M) values or of n draws, or one."""
    step = max(1, at_once // max(n, len(values)))
    for start in range(0, values.shape[1], step):
        yield slice(start, start + step)


def _intervals(values: np.ndarray, n: int, seed: int, level: float) -> np.ndarray:
    known = ~np.isnan(values)
    users = known.sum(0)
    some = users > 0
    lowest, highest = (f(values, axis=0, where=known, initial=v) for f, v in ((np.min, np.inf), (np.max, -np.inf)))
    # about their mean the values lose nothing that matters in float32, which halves the work
    centre = np.sum(values, axis=0, where=known) / np.maximum(users, 1)
    centred = np.empty(values.shape, np.float32)
    np.subtract(values, centre, out=centred, casting="same_kind")
    gaps = np.flatnonzero(users < len(values))
    if len(gaps):
        centred[~known] = 0.0
    there = known[:, gaps].astype(np.float32)
    rng = np.random.default_rng(seed)
    means = np.empty((n, values.shape[1]))
    step = max(1, _BLOCK // len(values))
    for start in range(0, n, step):
        weight = _multinomial(rng, min(step, n - start), len(values))
        size = np.full((len(weight), values.shape[1]), float(len(values)))
        if len(gaps):
            size[:, gaps] = weight @ there
        with np.errstate(invalid="ignore"):  # 0 / 0: a draw without a known user
            means[start : start + step] = (weight @ centred) / size
    freedom = np.maximum(users - 1, 1)
    student = stats.t.ppf((1 + level) / 2, freedom)
    tail = special.ndtr(-np.sqrt((freedom + 1) / freedom) * student)
    bounds = centre + _quantiles(means, np.stack([tail, 1 - tail]))
    # a mean lies within the values; so rounding cannot widen the interval of a constant
    return np.where(some, np.clip(bounds, lowest, highest), np.nan).T


def _products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the (M,) sums of products of (U, M) arrays, column by column."""
    return np.einsum("um,um->m", a, b)


def _multinomial(rng: np.random.Generator, rows: int, users: int) -> np.ndarray:
    """Return (rows, users) float32: how often each user is drawn when as many are drawn as there are."""
    drawn = rng.integers(0, users, (rows, users), dtype=np.int32)
    drawn += np.arange(0, rows * users, users, dtype=np.int32)[:, None]
    return np.bincount(drawn.ravel(), minlength=rows * users).astype(np.float32).reshape(rows, users)


def _quantiles(draws: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Return the ``at`` (q, M) quantiles of the columns of (n, M) draws, nan left out, on a line between two draws."""
    ordered = np.sort(draws, axis=0)  # nan come last
    place = at * np.maximum((~np.isnan(draws)).sum(0) - 1, 0)
    below = np.floor(place).astype(np.int64)
    low, high = (np.take_along_axis(ordered, i, 0) for i in (below, np.ceil(place).astype(np.int64)))
    return low + (high - low) * (place - below)


def paired_p_values(
    values: np.ndarray,
    reference: np.ndarray,
    test: Literal["permutation", "wilcoxon"] = "permutation",
    n: int = 10_000,
    seed: int = 0,
) -> np.ndarray:
    """Return the (M,) two-sided p-values of each column of (U, M) values against the (U,) reference.

    Users with nan on either side are left out, column by column. A column that is the reference gives 1, one without
    a user to compare gives nan. Users whose values are equal, or differ by rounding only, decide nothing.

    ``permutation`` tests the mean difference by flipping signs (Fisher's randomisation test; Smucker et al., CIKM
    2007): in all 2^m ways for m moved users where these are at most ``n``, else in ``n`` random ones, with the observed
    signs counted as one more. Above 10,000 moved users it is the normal limit of that very test: under flips sum(d)
    has mean 0 and variance sum(d^2), so z = sum(d) / sqrt(sum(d^2)). The flipped sum is symmetric, so no term of
    order 1 / sqrt(m) stands in its Edgeworth expansion and the p-value errs by at most about
    0.02 sum(d^4) / sum(d^2)^2 near .05, which is less than what n random flips err by. Columns in which a few users
    outweigh the others (sum(d^4) / sum(d^2)^2 above .01) are flipped at any m. If all differences have one size, the
    limit counts half of the chance, at most 0.8 / sqrt(m), that the flipped sum equals the observed one.

    ``wilcoxon`` is Wilcoxon's signed-rank test of the moved users (``scipy.stats.wilcoxon``). It asks whether the
    differences are symmetric about 0, which is another question than that of the means.

    Args:
        values: (U, M) float, one column a model.
        reference: (U,) float.
        test: which.
        n: random flips.
        seed: of the flips, which are drawn once for all columns.

    Raises:
        InputError: the test is unknown.
        ValueError: there are not as many users in both.
    """
    if test not in ("permutation", "wilcoxon"):
        raise InputError(f"unknown test '{test}'{nearest(test, ('permutation', 'wilcoxon'))}")
    if values.ndim != 2 or reference.shape != values.shape[:1]:
        raise ValueError(f"values (U, M) and reference (U,) are needed, got {values.shape} and {reference.shape}")
    p = np.full(values.shape[1], np.nan)
    for columns in _columns(values, _COMPARED, n):
        difference = np.subtract(values[:, columns], reference[:, None], dtype=np.float64)
        compared = ~np.isnan(difference)
        # a mean over seeds may differ by rounding; those users did not move
        size = np.maximum(np.abs(values[:, columns]), np.abs(reference)[:, None])
        moved = compared & (np.abs(difference) > 1e-13 * size)
        difference[~moved] = 0.0
        if test == "permutation":
            found = _sign_flips(difference, moved, n, seed)
        else:
            found = np.array([_wilcoxon(d[m]) for d, m in zip(difference.T, moved.T, strict=True)])
        p[columns] = np.where(compared.any(0), found, np.nan)
    return p


def _wilcoxon(moved: np.ndarray) -> float:
    m = len(moved)
    if not m:
        return 1.0
    if m <= 13:  # scipy goes through all signs too, if there are ties, but takes sixty milliseconds
        ranks = (np.sign(moved) * stats.rankdata(np.abs(moved)))[:, None]
        return float(_extreme(ranks, _all_flips(m, 2**m))[0] / 2**m)
    return float(stats.wilcoxon(moved).pvalue)


def _sign_flips(difference: np.ndarray, moved: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Return the (M,) p-values of the sums of (U, M) differences, 0 where a user did not move, under sign flips."""
    m = np.count_nonzero(moved, axis=0)
    total = difference.sum(0)
    squares = difference * difference
    square = squares.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = np.where(m > 0, special.erfc(np.abs(total) / np.sqrt(2 * square)), 1.0)
        even = _products(squares, squares) <= _UNEVEN * square**2
    every = (m > 0) & (2.0 ** np.minimum(m, 31) <= n)
    some = (m > 0) & ~every & ~((m > _MANY) & even)
    if every.any():
        packed = _packed(difference[:, every], moved[:, every])
        p[every] = _extreme(packed, _all_flips(len(packed), _rows(packed))) / 2.0 ** len(packed)
    if some.any():
        packed = _packed(difference[:, some], moved[:, some])
        p[some] = (1 + _extreme(packed, _random_flips(len(packed), _rows(packed), n, seed))) / (1 + n)  # never 0
    return p


def _packed(difference: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Return (max m, M): the differences of each column's m moved users, then 0.

    Which of the random signs goes to which user is of no consequence, so no sign is drawn for users who did not move.
    """
    m = moved.sum(0)
    packed = np.zeros((int(m.max()), len(m)))
    for column in range(len(m)):
        packed[: m[column], column] = difference[moved[:, column], column]
    return packed


def _extreme(difference: np.ndarray, flips: Iterable[np.ndarray]) -> np.ndarray:
    """Return (M,): in how many of the flips the sum of (m, M) differences is as far from 0 as without."""
    observed = difference.sum(0)
    bound = np.abs(observed) - 1e-10 * np.abs(difference).sum(0)  # equal sums count, and rounding makes them unequal
    count = np.zeros(difference.shape[1], np.int64)
    for flip in flips:  # twice the flipped part is what a flip takes off the sum
        count += (np.abs(observed - 2 * (flip @ difference)) >= bound).sum(0)
    return count


def _rows(difference: np.ndarray) -> int:
    """Return how many flips of (m, M) differences to work on at once: neither they nor their sums may be too many."""
    return max(1, _BLOCK // max(difference.shape))


def _all_flips(m: int, step: int) -> Iterator[np.ndarray]:
    """Yield all 2^m rows of m flips, 0 or 1, in blocks of ``step``."""
    for start in range(0, 2**m, step):
        rows = np.arange(start, min(start + step, 2**m))
        yield ((rows[:, None] >> np.arange(m)) & 1).astype(np.float64)


def _random_flips(m: int, step: int, n: int, seed: int) -> Iterator[np.ndarray]:
    """Yield n rows of m random flips, 0 or 1, in blocks of ``step``."""
    rng = np.random.default_rng(seed)
    for start in range(0, n, step):
        octets = rng.integers(0, 256, (min(step, n - start), -(-m // 8)), dtype=np.uint8)
        yield np.unpackbits(octets, axis=1, count=m).astype(np.float64)


def seed_variance(seeds: Sequence[float], within: float, users: int) -> tuple[float, float]:
    """Return how much the mean over seeds varies because a seed moves the model as a whole, and the variance of that.

    The variance of the seeds' means is that of the seeds plus what ``users`` users leave of the noise a seed has for
    each of them; the latter is in every test over users already and is taken off.

    Args:
        seeds: (S,) the metric of each seed; one seed gives (0, 0): nothing is known.
        within: mean over users of the variance of their values over the seeds.
        users: how many.
    """
    if len(seeds) < 2:
        return 0.0, 0.0
    found = float(np.var(seeds, ddof=1))
    own = max(within - found, 0.0) / users
    return max(found - own, 0.0) / len(seeds), 2 * (found / len(seeds)) ** 2 / (len(seeds) - 1)


def counting_seeds(
    p: np.ndarray, difference: np.ndarray, by_users: np.ndarray, by_seeds: np.ndarray, doubt: np.ndarray
) -> np.ndarray:
    """Return (M,) p-values that count how much seeds move a difference, of (M,) ``p`` that know the users alone.

    A seed moves a model for all users in one direction, which no test over users can see: it calls two runs of one
    model different far too often (``results/statistics``). The p-value is therefore at least that of
    difference / sqrt(by_users + by_seeds) under Student's t, with the degrees of freedom of Satterthwaite (Biometrics
    Bulletin 1946), 2 variance^2 / (variance of the variance).

    Args:
        p: two-sided p-values of the mean differences over users.
        difference: mean differences.
        by_users: their variances over users.
        by_seeds: their variances by seeds, the sum of both models' ``seed_variance``; where it is 0, ``p`` stays.
        doubt: the variances of ``by_seeds``, likewise summed.
    """
    p, total = np.asarray(p, dtype=np.float64), np.asarray(by_users + by_seeds, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        both = 2 * stats.t.sf(np.abs(difference) / np.sqrt(total), 2 * total**2 / doubt)
    return np.where(np.asarray(by_seeds) > 0, np.maximum(p, both), p)


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
