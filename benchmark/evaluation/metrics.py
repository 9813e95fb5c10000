"""Ranks, labelled scores and top-k lists -> numbers: pure vectorised functions, one value a user where users exist.

Ties. Equal scores must win nothing, so the order of the candidates never decides. A relevant item with ``above`` items
above it and ``ties`` others level with it stands within the first k with probability ``(k - above) / (ties + 1)``,
clipped to 0..1, and earns there what its mid-rank earns. Recall, precision, MAP and AUC are so the expected values over
all orders of the ties; nDCG, MRR and hit rate are never above them (gains are convex in the rank: Jensen's inequality).
A constant scorer is thus never above chance, at any k. Without ties all is the textbook's.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import digamma

from benchmark.errors import InputError, nearest

Array = np.ndarray

ECE_BINS = 15


@dataclass(frozen=True)
class UserRanks:
    """The ranks of U users: user u owns the relevant items ``offsets[u]:offsets[u + 1]``.

    Attributes:
        above: (nnz,) integer, unmasked candidates scored strictly higher.
        ties: (nnz,) integer, other unmasked candidates with exactly the same score.
        offsets: (U + 1,) integer, starting at 0; its differences are the numbers of relevant items.
        n_candidates: (U,) integer, unmasked candidates.
    """

    above: Array
    ties: Array
    offsets: Array
    n_candidates: Array

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def n_relevant(self) -> Array:
        """(U,) int64."""
        return np.diff(self.offsets).astype(np.int64)

    @cached_property
    def midrank(self) -> Array:
        """(nnz,) float64, 0-based."""
        return self.above + self.ties / 2.0

    @cached_property
    def user(self) -> Array:
        """(nnz,) int64: the position of each relevant item's user."""
        return np.repeat(np.arange(len(self)), self.n_relevant)

    def within(self, k: int) -> Array:
        """Return (nnz,) float64: the probability to stand among the first ``k`` when ties are broken at random."""
        return np.clip((k - self.above.astype(np.float64)) / (self.ties + 1.0), 0.0, 1.0)

    def total(self, values: Array) -> Array:
        """Return the (U,) sums of (nnz,) values over each user's relevant items; nan for users without any."""
        return self._reduce(np.add, values)

    def highest(self, values: Array) -> Array:
        """Return the (U,) maxima of (nnz,) values over each user's relevant items; nan for users without any."""
        return self._reduce(np.maximum, values)

    def _reduce(self, ufunc: np.ufunc, values: Array) -> Array:
        out = np.full(len(self), np.nan)
        some = self.n_relevant > 0  # reduceat knows no empty segments
        if some.any():
            out[some] = ufunc.reduceat(values, np.asarray(self.offsets)[:-1][some])
        return out


# Ranking: (U,) float64, nan where the user has no relevant item -------------------------------------------------------


def recall(ranks: UserRanks, k: int) -> Array:
    """Share of the user's relevant items among the first k."""
    return ranks.total(ranks.within(k)) / np.maximum(ranks.n_relevant, 1)


def precision(ranks: UserRanks, k: int) -> Array:
    """Share of the first k that is relevant; k stays the divisor when there are fewer candidates."""
    return ranks.total(ranks.within(k)) / k


def hit(ranks: UserRanks, k: int) -> Array:
    """Whether a relevant item stands among the first k; with ties the likeliest item's probability (a lower bound)."""
    return ranks.highest(ranks.within(k))


def mrr(ranks: UserRanks, k: int | None = None) -> Array:
    """1 / rank of the first relevant item (Voorhees, TREC-8, 1999), 0 when it is behind the first k."""
    gain = 1.0 / (ranks.midrank + 1.0)
    return ranks.highest(gain if k is None else gain * ranks.within(k))


def average_precision(ranks: UserRanks, k: int) -> Array:
    """AP@k: precision at each relevant item within the first k, summed, over min(relevant, k); ties in expectation.

    A tie group of G items, r of them relevant, starts at place a with p relevant items before it. In a random order
    each of its places j holds a relevant item with probability r / G, and then the expected precision there is
    (p + 1 + (j - a) q) / (j + 1) with q = (r - 1) / (G - 1). Over the group's places within k this sums to harmonic
    numbers. A mid-rank would be too kind here: precision may rise within a group of relevant items only.
    """
    order = np.lexsort((ranks.above, ranks.user))
    user, a = ranks.user[order], ranks.above[order].astype(np.float64)
    size = ranks.ties[order] + 1.0
    new = np.ones(len(order), bool)  # a user's relevant items with as many above them are of one tie group
    new[1:] = (user[1:] != user[:-1]) | (a[1:] != a[:-1])
    start, group = np.flatnonzero(new), np.cumsum(new) - 1
    before = (start - np.asarray(ranks.offsets)[user[start]])[group]
    q = (np.diff(np.append(start, len(order)))[group] - 1) / np.maximum(size - 1, 1)
    end = np.clip(k, a, a + size)
    harmonic = digamma(end + 1) - digamma(a + 1)
    at = (q * (end - a) + (before + 1 - (a + 1) * q) * harmonic) / size
    return ranks.total(at) / np.minimum(np.maximum(ranks.n_relevant, 1), k)


def ndcg(ranks: UserRanks, k: int) -> Array:
    """Binary-gain nDCG@k (Järvelin & Kekäläinen, TOIS 2002): 1 / log2(rank + 2), ideal over min(relevant, k)."""
    best = np.minimum(ranks.n_relevant, k)
    ideal = np.concatenate([[1.0], np.cumsum(1.0 / np.log2(np.arange(2, best.max(initial=1) + 2)))])
    return ranks.total(ranks.within(k) / np.log2(ranks.midrank + 2.0)) / ideal[best]


def ranking_auc(ranks: UserRanks) -> Array:
    """P(a relevant candidate outranks another one), ties half (Rendle et al., BPR, UAI 2009, section 4).

    nan also where every candidate is relevant.
    """
    n_relevant = ranks.n_relevant.astype(np.float64)
    n_pairs = n_relevant * (np.asarray(ranks.n_candidates) - n_relevant)
    lost = ranks.total(ranks.midrank) - n_relevant * (n_relevant - 1) / 2  # pairs in which the other one is above
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(n_pairs > 0, 1.0 - lost / n_pairs, np.nan)


# Preference: one number from the flat (n,) rows -----------------------------------------------------------------------


def user_auc(user: Array, label: Array, score: Array) -> tuple[Array, Array, Array]:
    """Return the users (U,), the ROC AUC of each one's rows (U,), ties half, nan with one class, and the rows (U,).

    Args:
        user: (n,) integer.
        label: (n,) 0/1; above .5 is positive.
        score: (n,) float.
    """
    order = np.lexsort((score, user))
    u, s, positive = user[order], score[order], label[order] > 0.5
    if not len(u):
        return u, np.zeros(0), np.zeros(0, np.int64)
    new_user = np.append(True, u[1:] != u[:-1])
    new_tie = new_user | np.append(True, s[1:] != s[:-1])
    tie_start = np.flatnonzero(new_tie)
    # the 0-based mid-rank over all rows; what stands before the user is taken off below
    midrank = (tie_start + (np.diff(np.append(tie_start, len(u))) - 1) / 2.0)[np.cumsum(new_tie) - 1]
    start = np.flatnonzero(new_user)
    rows = np.diff(np.append(start, len(u)))
    n_positive = np.add.reduceat(positive.astype(np.float64), start)
    n_pairs = n_positive * (rows - n_positive)
    won = np.add.reduceat(np.where(positive, midrank - np.repeat(start, rows), 0.0), start)
    won -= n_positive * (n_positive - 1) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        return u[start], np.where(n_pairs > 0, won / n_pairs, np.nan), rows


def pooled_auc(label: Array, score: Array) -> float:
    """ROC AUC of all (n,) rows together, ties half; nan with one class."""
    _, value, _ = user_auc(np.zeros(len(label), np.int64), label, score)
    return float(value[0]) if len(value) else float("nan")


def uauc(user: Array, label: Array, score: Array) -> float:
    """Unweighted mean of the users' AUC over users with both classes."""
    _, value, _ = user_auc(user, label, score)
    return mean(value)


def gauc(user: Array, label: Array, score: Array) -> float:
    """Mean of the users' AUC weighted by rows, over users with both classes (Zhou et al., DIN, KDD 2018, eq. 6)."""
    _, value, rows = user_auc(user, label, score)
    known = ~np.isnan(value)
    return float(np.average(value[known], weights=rows[known])) if known.any() else float("nan")


def row_log_loss(label: Array, probability: Array) -> Array:
    """(n,) negative log-likelihoods of 0/1 labels; probabilities are clipped to float64's resolution."""
    eps = np.finfo(np.float64).eps
    p = np.clip(probability.astype(np.float64), eps, 1 - eps)
    return -np.log(np.where(label > 0.5, p, 1 - p))


def row_brier(label: Array, probability: Array) -> Array:
    """(n,) squared differences of probability and 0/1 label."""
    return (probability.astype(np.float64) - (label > 0.5)) ** 2


def row_accuracy(label: Array, probability: Array) -> Array:
    """(n,) 1 where the probability is on the label's side of .5; .5 itself predicts a positive."""
    return ((probability >= 0.5) == (label > 0.5)).astype(np.float64)


def log_loss(label: Array, probability: Array) -> float:
    """Mean negative log-likelihood of (n,) rows."""
    return mean(row_log_loss(label, probability))


def brier(label: Array, probability: Array) -> float:
    """Mean squared difference of probability and label (Brier, Monthly Weather Review 1950)."""
    return mean(row_brier(label, probability))


def accuracy(label: Array, probability: Array) -> float:
    """Share of rows on the right side of .5."""
    return mean(row_accuracy(label, probability))


def ece(label: Array, probability: Array, bins: int = ECE_BINS) -> float:
    """Expected calibration error: equal-width bins of the probability, |mean label - mean probability| by size.

    The binary form of Naeini et al. (AAAI 2015), with 15 bins as in Guo et al. (ICML 2017). A bin holds its lower edge.
    """
    if not len(label):
        return float("nan")
    p = probability.astype(np.float64)
    index = np.clip(np.searchsorted(np.linspace(0, 1, bins + 1), p, side="right") - 1, 0, bins - 1)
    gap = np.bincount(index, weights=(label > 0.5) - p, minlength=bins)
    return float(np.abs(gap).sum() / len(p))


def f1(label: Array, probability: Array) -> float:
    """F1 of the positive class at the threshold .5; nan where nothing is, or is predicted, positive."""
    predicted, positive = probability >= 0.5, label > 0.5
    total = float(predicted.sum() + positive.sum())
    return 2 * float((predicted & positive).sum()) / total if total else float("nan")


def mean(values: Array) -> float:
    """Mean of the values that are not nan; nan when there is none."""
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else float("nan")


# Names ----------------------------------------------------------------------------------------------------------------

_WITH_K: dict[str, Callable[[UserRanks, int], Array]] = {
    "recall": recall,
    "precision": precision,
    "hit": hit,
    "map": average_precision,
    "ndcg": ndcg,
    "mrr": mrr,
}
RANKING_METRICS = ("auc", "mrr", "recall", "precision", "hit", "map", "ndcg")
PREFERENCE_METRICS = ("auc", "uauc", "gauc", "log_loss", "brier", "ece", "accuracy", "f1")
GENERATION_METRICS = ("valid",)  # share of generations that name an item: counted by models that generate
BEYOND_METRICS = ("coverage", "gini", "novelty", "diversity", "popularity_bias")
_NEEDS_K = {"recall", "precision", "hit", "map", "ndcg", *BEYOND_METRICS, *GENERATION_METRICS}
_LOWER_IS_BETTER = {"log_loss", "brier", "ece", "gini", "popularity_bias"}


@dataclass(frozen=True)
class Metric:
    """A metric's name and its cut-off, None where it has none; as text ``ndcg@10`` or ``auc``."""

    name: str
    k: int | None = None

    def __str__(self) -> str:
        return self.name if self.k is None else f"{self.name}@{self.k}"


def parse_metric(text: str) -> Metric:
    """Read ``ndcg@10``, ``mrr`` or ``auc``.

    Raises:
        InputError: the name is unknown, k is missing, not a whole number above 0, or the metric takes none.
    """
    name, at, k = str(text).partition("@")
    known = {*RANKING_METRICS, *PREFERENCE_METRICS, *BEYOND_METRICS, *GENERATION_METRICS}
    if name not in known:
        raise InputError(f"metric '{text}' is unknown{nearest(name, known)}")
    if not at:
        if name in _NEEDS_K:
            raise InputError(f"metric '{text}' needs a cut-off: '{name}@10'")
        return Metric(name)
    if name not in _NEEDS_K and name != "mrr":
        raise InputError(f"metric '{text}' takes no cut-off: '{name}'")
    if not re.fullmatch("[0-9]+", k) or int(k) == 0:
        raise InputError(f"metric '{text}': the cut-off must be a whole number above 0, as in '{name}@10'")
    return Metric(name, int(k))


def higher_is_better(name: str) -> bool:
    """Whether more of a metric (``ndcg@10`` or ``ndcg``) is better; less is for popularity bias and Gini."""
    return name.partition("@")[0] not in _LOWER_IS_BETTER


def ranking_metric(metric: Metric, ranks: UserRanks) -> Array:
    """Return the (U,) float64 values of one of RANKING_METRICS, nan for users without a relevant item.

    Raises:
        InputError: the metric cannot be computed from ranks.
    """
    if metric.name == "auc":
        return ranking_auc(ranks)
    if metric.name == "mrr":
        return mrr(ranks, metric.k)
    if metric.name not in _WITH_K or metric.k is None:
        raise InputError(f"metric '{metric}' is no ranking metric{nearest(metric.name, RANKING_METRICS)}")
    return _WITH_K[metric.name](ranks, metric.k)


def preference_metric(metric: Metric, user: Array, label: Array, score: Array, probability: Array | None) -> float:
    """Return one of PREFERENCE_METRICS from flat (n,) rows; nan where it is undefined or needs a missing probability.

    Raises:
        InputError: the metric is none of them.
    """
    by_user = {"uauc": uauc, "gauc": gauc}
    by_probability = {"log_loss": log_loss, "brier": brier, "ece": ece, "accuracy": accuracy, "f1": f1}
    if metric.name == "auc":
        return pooled_auc(label, score)
    if metric.name in by_user:
        return by_user[metric.name](user, label, score)
    if metric.name in by_probability:
        return float("nan") if probability is None else by_probability[metric.name](label, probability)
    raise InputError(f"metric '{metric}' is no preference metric{nearest(metric.name, PREFERENCE_METRICS)}")
