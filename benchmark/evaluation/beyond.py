"""Top lists and groups of users -> fairness and exposure, one value a user: its mean is the metric, its spread the
metric's over users.

As in ``user_values``: of a metric that is no mean over users, a user's value is the metric + U times the user's
influence on it (the infinitesimal jackknife: Efron, "The Jackknife, the Bootstrap and Other Resampling Plans", 1982,
chapter 6). What resamples users by their means then says to first order what it would say if the metric were computed
anew each time. Coverage has no such values: drawn anew, some users are missing, so that it could only fall.

Lists are (U, K) integer: item ids, best first, -1 where a list is shorter. Nothing here depends on their order within
the first k.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from scipy.sparse import csr_array
from scipy.stats import rankdata

from benchmark.evaluation.metrics import Array, mean

LEAST = 10  # judged users of a group; a mean over fewer is too noisy to be an extreme of several


def coverage(lists: Array, k: int, n_items: int) -> float:
    """Share of the catalogue that is in anybody's first k (Herlocker et al., TOIS 2004)."""
    return float((_exposure(lists, k, n_items) > 0).mean())


def gini(lists: Array, k: int, n_items: int) -> float:
    """Gini index of how often each item of the catalogue is recommended: 0 evenly, near 1 a few items only.

    Fleder & Hosanagar, Management Science 2009; nan when nothing is recommended.
    """
    count = np.sort(_exposure(lists, k, n_items))
    if not count.sum():
        return float("nan")
    return float(((2 * np.arange(1, n_items + 1) - n_items - 1) * count).sum() / (n_items * count.sum()))


def gini_values(lists: Array, k: int, n_items: int) -> Array:
    """Return (U,) values of the Gini index of the items' exposure (Fleder & Hosanagar, Management Science 2009).

    With c_i lists holding item i, C their sum, and r_i the item's rank by c_i, ascending from 1 (equal ones share their
    mean rank), the index is G = sum (2 r_i - n - 1) c_i / (n C), and dG / dc_i = (2 r_i - n - 1) / (n C) - G / C. A
    user's value is G + U times the sum of these over the list. G does not change when all c_i grow by one factor, so
    the influences add up to 0. nan when nothing is recommended.
    """
    first, there = _first(lists, k)
    count = _exposure(lists, k, n_items)
    total = count.sum()
    if not total:
        return np.full(len(lists), np.nan)
    value = gini(lists, k, n_items)
    slope = (2 * rankdata(count) - n_items - 1) / (n_items * total) - value / total
    return value + len(lists) * np.where(there, slope[first], 0.0).sum(1)


def novelty(lists: Array, k: int, popularity: Array, n_users: int) -> Array:
    """Return (U,) mean self-information -log2(popularity / n_users) of the lists, in bits (Zhou et al., PNAS 2010).

    Args:
        lists: (U, K) integer.
        k: length that is looked at.
        popularity: (n_items,) training users of each item; 0 counts as 1, which keeps the value finite.
        n_users: training users.
    """
    return _list_mean(lists, k, -np.log2(np.maximum(popularity, 1) / n_users))


def diversity_values(lists: Array, k: int, vectors: csr_array) -> Array:
    """Return (U,) intra-list diversity: mean of 1 - cosine over the pairs of a list (Smyth & McClave, ICCBR 2001).

    A mean over users. nan for lists of fewer than two items. A zero vector has cosine 0 with all.

    Args:
        lists: (U, K) integer.
        k: length that is looked at.
        vectors: (n_items, d) sparse, each row of length 1, or 0 where nothing is known of an item.
    """
    first, there = _first(lists, k)
    n = there.sum(1)
    rows = csr_array(vectors)
    cosines = _cosines(first, rows.data.astype(np.float64), rows.indices, rows.indptr, rows.shape[1])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(n > 1, 1 - cosines / (n * (n - 1)), np.nan)


@njit(cache=True, nogil=True)
def _cosines(first: Array, data: Array, indices: Array, offsets: Array, width: int) -> Array:
    """Return (U,) sums of cosines over the ordered pairs of (U, k) lists; the vectors are sparse, ``width`` long.

    |sum of v|^2 holds every ordered pair and the squares, so that no pair is looked at by itself.
    """
    out = np.zeros(len(first))
    total = np.zeros(width)
    for u in range(len(first)):
        for item in first[u]:
            if item >= 0:
                for j in range(offsets[item], offsets[item + 1]):
                    total[indices[j]] += data[j]
                    out[u] -= data[j] * data[j]
        for item in first[u]:
            if item >= 0:
                for j in range(offsets[item], offsets[item + 1]):
                    out[u] += total[indices[j]] ** 2
                    total[indices[j]] = 0.0  # counted once, and clean for the next user
    return out


def popularity_bias_values(lists: Array, k: int, popularity: Array, history_popularity: Array) -> Array:
    """Return (U,) values of the popularity of what users are recommended over that of their histories; 1 is faithful.

    A ratio of two means over users (the group average popularity of Abdollahpouri et al., RMSE 2019), each over those
    who have a list, or a history (Cochran, Sampling Techniques, 1977, chapter 6). nan without any history.

    Args:
        lists: (U, K) integer.
        k: length that is looked at.
        popularity: (n_items,) training popularity.
        history_popularity: (U,) mean training popularity of each user's history; nan where it is empty.
    """
    recommended = _list_mean(lists, k, popularity.astype(np.float64))
    upper, lower = mean(recommended), mean(history_popularity)
    if not lower > 0:
        return np.full(len(lists), np.nan)
    return upper / lower + (_influence(recommended) - upper / lower * _influence(history_popularity)) / lower


def exposure_values(lists: Array, k: int, shares: csr_array, reference: Array) -> Array:
    """Return (U,) values of the distance between the exposure that providers get and the share they should get.

    Fairness of exposure (Singh & Joachims, "Fairness of Exposure in Rankings", KDD 2018), every place weighing the
    same: p is the share of the first k places, the mean over users of their own lists' shares x_u. The distance is the
    total variation tv = 1/2 sum_j |p_j - q_j|: 0 if exposure is as it should be, 1 if it all goes to others. A user's
    value is tv + 1/2 sum_j sign(p_j - q_j) (x_uj - p_j), nan where there is no list.

    Args:
        lists: (U, K) integer.
        k: length that is looked at.
        shares: (n_items, J) sparse, how an item's exposure is split over J providers; rows add up to 1.
        reference: (J,) the shares q.
    """
    first, there = _first(lists, k)
    n = there.sum(1)
    some = np.count_nonzero(n)
    if not some:
        return np.full(len(lists), np.nan)
    weight = np.broadcast_to(1 / np.maximum(n, 1)[:, None], first.shape)
    exposure = np.bincount(first[there], weights=weight[there], minlength=shares.shape[0]) / some
    difference = shares.T @ exposure - reference
    sign = np.sign(difference)
    own = _list_mean(lists, k, shares @ sign)
    return np.abs(difference).sum() / 2 + (own - mean(own)) / 2


@dataclass(frozen=True)
class Gap:
    """The gap between two groups of users.

    Attributes:
        high, low: the groups.
        seeds: (S,) the high group's metric - the low one's, seed by seed.
        values: (U,) values whose mean is that of ``seeds`` and whose spread is the gap's over users; nan for users of
            other groups.
    """

    high: int
    low: int
    seeds: Array
    values: Array


def gap(values: Array, codes: Array, n_groups: int, means: Array | None = None) -> Gap | None:
    """Return the largest minus the smallest metric of the groups of users, None with fewer than two groups.

    Group fairness of utility, as Ekstrand et al. ("All the cool kids, how do they fit in?", FAT* 2018) compare it. The
    two groups are those that are the extremes when the seeds are averaged. Groups of fewer than LEAST users do not
    count. Of a user in the high group the value is gap + n (x - m) / n_high, of one in the low group gap - n (x - m) /
    n_low, with n = n_high + n_low: x is the user's value averaged over the seeds and m its mean over the group.

    Args:
        values: (S, U) of each seed: their mean over a group's users is the metric there; nan where there is none.
        codes: (U,) the group of each user, -1 for none.
        n_groups: G.
        means: (S, G) the metric of the groups where the values cannot give it: those of a calibration error are nan.
    """
    judged = _judged(values.mean(0), codes)
    group, user_value = codes[judged], values.mean(0)[judged]
    count = np.bincount(group, minlength=n_groups)
    if means is None:
        sums = np.stack([np.bincount(group, weights=seed[judged], minlength=n_groups) for seed in values])
        means = sums / np.maximum(count, 1)
    average = np.where(count >= LEAST, means.mean(0), np.nan)
    if np.isfinite(average).sum() < 2:
        return None
    high, low = int(np.nanargmax(average)), int(np.nanargmin(average))
    seeds = means[:, high] - means[:, low]
    out = np.full(len(codes), np.nan)
    chosen = (group == high) | (group == low)
    sign = np.where(group == high, 1.0, -1.0)
    own = sign * (user_value - average[group]) / np.maximum(count, 1)[group]
    out[np.flatnonzero(judged)[chosen]] = seeds.mean() + (count[high] + count[low]) * own[chosen]
    return Gap(high, low, seeds, out)


def gap_by_chance(values: Array, codes: Array, n_groups: int, n: int = 200, seed: int = 0) -> Array:
    """Return (M,) what ``gap`` is on average when the groups are dealt out to the users at random.

    The extremes of several groups differ by luck too; a gap tells something where it is larger than this. Of a metric
    that is no mean over users this is right to first order: a random group's metric is taken to be the mean of its
    users' values of the whole. nan where a column has no values, or there are fewer than two groups.

    Args:
        values: (U, M) values averaged over the seeds, a column a model; nan where there is none.
        codes, n_groups: as for ``gap``.
        n: permutations of the groups, the same for all columns.
        seed: of the permutations.
    """
    out = np.full(values.shape[1], np.nan)
    known = np.isfinite(values).any(0)
    judged = (codes >= 0) & np.isfinite(values[:, known]).all(1)
    count = np.bincount(codes[judged], minlength=n_groups)
    judged &= (count >= LEAST)[codes]  # -1 is not judged, whatever the last group is
    kept = count >= LEAST
    if np.count_nonzero(kept) < 2 or not known.any():
        return out
    columns = np.ascontiguousarray(values[judged][:, known].T)
    group = (np.cumsum(kept) - 1)[codes[judged]]  # numbered without gaps
    rng = np.random.default_rng(seed)
    total = np.zeros(len(columns))
    for _ in range(n):
        dealt = rng.permutation(group)
        means = np.stack([np.bincount(dealt, weights=column) for column in columns]) / count[kept]
        total += means.max(1) - means.min(1)
    out[known] = total / n
    return out


def _judged(values: Array, codes: Array) -> Array:
    """Return (U,) which users count: those of a group who have a value, or all of a group where nobody has any."""
    known = np.isfinite(values)
    return (codes >= 0) & (known | ~known.any())


def _influence(values: Array) -> Array:
    """Return (U,) U times each user's influence on the mean of the values that are not nan."""
    known = ~np.isnan(values)
    return np.where(known, values - mean(values), 0.0) * len(values) / max(np.count_nonzero(known), 1)


def _exposure(lists: Array, k: int, n_items: int) -> Array:
    """Return (n_items,) how many users have each item among their first k."""
    first, there = _first(lists, k)
    return np.bincount(first[there], minlength=n_items)


def _first(lists: Array, k: int) -> tuple[Array, Array]:
    """Return the (U, k) first items and which of these places are taken.

    Raises:
        ValueError: the lists are too short for k.
    """
    if lists.shape[1] < k:
        raise ValueError(f"lists of {lists.shape[1]} items are too short for k = {k}")
    return lists[:, :k], lists[:, :k] >= 0


def _list_mean(lists: Array, k: int, value: Array) -> Array:
    """Return the (U,) means of an (n_items,) value over each list's first k; nan for empty lists."""
    first, there = _first(lists, k)
    n = there.sum(1)
    return np.where(n > 0, np.where(there, value[first], 0.0).sum(1) / np.maximum(n, 1), np.nan)
