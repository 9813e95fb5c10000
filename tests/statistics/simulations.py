"""Simulated tables whose truth is known: how often intervals hold it, how often tests find what is not there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from benchmark.evaluation.metrics import Metric
from benchmark.evaluation.significance import (
    adjust,
    bootstrap_intervals,
    counting_seeds,
    paired_p_values,
    seed_variance,
)
from benchmark.evaluation.user_values import preference_user_values

GAIN = 1 / np.log2(np.arange(10) + 2)  # nDCG@10 of the only relevant item, by its 0-based rank
_TOGETHER = 100  # tables that share their draws of users; what they share is only the error of 2,000 draws
_AT_ONCE = 1 << 22  # simulated values at once


@dataclass(frozen=True)
class UserValues:
    """A distribution of per-user values.

    Attributes:
        mean: the truth that an interval should hold.
        draw: gives (users, tables) values of a generator; the columns are independent.
    """

    mean: float
    draw: Callable[[np.random.Generator, int, int], np.ndarray]


def hits(share: float) -> UserValues:
    """hit@10 of a model that hits a ``share`` of its users."""
    return UserValues(share, lambda rng, users, tables: (rng.random((users, tables)) < share).astype(np.float64))


def ndcg(share: float) -> UserValues:
    """nDCG@10 of one relevant item a user, which a ``share`` of the users have at one of ten equally likely places."""

    def draw(rng: np.random.Generator, users: int, tables: int) -> np.ndarray:
        return np.where(rng.random((users, tables)) < share, GAIN[rng.integers(0, 10, (users, tables))], 0.0)

    return UserValues(float(share * GAIN.mean()), draw)


def areas() -> UserValues:
    """The users' AUC: beta(8, 2), with mean .8 and a tail to the left."""
    return UserValues(0.8, lambda rng, users, tables: rng.beta(8, 2, (users, tables)))


def pooled_auc() -> UserValues:
    """Linearised values of the pooled AUC of clustered rows.

    A user has 1 to many rows (10 in the mean), a share of positives of beta(2, 2), and a normal shift of all scores
    with s.d. .7; positives score higher by 1, rows vary with s.d. 1. Rows of two users then compare with s.d.
    sqrt(2 (1 + .7^2)), which gives the truth.
    """
    shift, better = 0.7, 1.0

    def table(rng: np.random.Generator, users: int) -> np.ndarray:
        user = np.repeat(np.arange(users), rng.geometric(0.1, users))
        label = (rng.random(len(user)) < rng.beta(2, 2, users)[user]).astype(np.float64)
        score = better * label + shift * rng.normal(size=users)[user] + rng.normal(size=len(user))
        return preference_user_values(Metric("auc"), user, label, score, None)[1]

    return UserValues(
        float(stats.norm.cdf(better / np.sqrt(2 * (1 + shift**2)))),
        lambda rng, users, tables: np.stack([table(rng, users) for _ in range(tables)], axis=1),
    )


DISTRIBUTIONS: dict[str, UserValues] = {
    "hit@10, .1 of the users": hits(0.1),
    "hit@10, .5 of the users": hits(0.5),
    "nDCG@10, .2 of the users above 0": ndcg(0.2),
    "AUC of users, beta(8, 2)": areas(),
    "pooled AUC, clustered rows": pooled_auc(),
}


def bootstrap_interval(per_user: np.ndarray, n: int = 2000, seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """Return the interval (low, high) of the mean of (U,) values: ``bootstrap_intervals`` of one column."""
    low, high = bootstrap_intervals(per_user[:, None], n, seed, level)[0]
    return float(low), float(high)


def coverage(values: UserValues, users: int, tables: int, seed: int = 0) -> dict[str, float]:
    """Return the share of tables whose 95 % interval holds the truth, and of those that lie above and below it.

    ``student`` is the share of Student's interval on the same tables, which says what a textbook would have done.
    """
    rng = np.random.default_rng(seed)
    above, below, student = [], [], []
    for start in range(0, tables, _TOGETHER):
        drawn = values.draw(rng, users, min(_TOGETHER, tables - start))
        low, high = bootstrap_intervals(drawn, seed=seed + start).T
        above.append(low > values.mean)
        below.append(high < values.mean)
        half = stats.t.ppf(0.975, users - 1) * drawn.std(axis=0, ddof=1) / np.sqrt(users)
        student.append(np.abs(drawn.mean(axis=0) - values.mean) <= half)
    shares = {"above": float(np.concatenate(above).mean()), "below": float(np.concatenate(below).mean())}
    return {"covered": 1 - sum(shares.values()), **shares, "student": float(np.concatenate(student).mean())}


def equal_models(rng: np.random.Generator, users: int, tables: int, models: int) -> np.ndarray:
    """Return (users, tables, models + 1) nDCG@10 of equally good models.

    The log of the rank of a user's only relevant item is normal: how hard the user is (s.d. 1.5) is the same for all
    models of a table, each adds noise of its own (s.d. 1). About a quarter of the values is above 0.
    """
    hard = rng.normal(3.5, 1.5, (users, tables, 1))
    rank = np.exp(hard + rng.normal(0, 1, (users, tables, models + 1))).astype(np.int64)
    return np.where(rank < 10, GAIN[np.minimum(rank, 9)], 0.0)


def p_values_of_equals(
    test: Literal["permutation", "wilcoxon"], users: int, tables: int, models: int = 1, seed: int = 0
) -> np.ndarray:
    """Return the (tables, models) p-values of equally good models against one more, the reference."""
    rng = np.random.default_rng(seed)
    step = max(1, _AT_ONCE // (users * (models + 1)))
    found = []
    for start in range(0, tables, step):
        values = equal_models(rng, users, min(step, tables - start), models)
        # every table has a reference of its own; only differences count, so all tables can be the columns of one call
        difference = (values[..., 1:] - values[..., :1]).reshape(users, -1)
        p = paired_p_values(difference, np.zeros(users), test, seed=seed + start)
        found.append(p.reshape(-1, models))
    return np.concatenate(found)


def any_mark_of_the_best(values: np.ndarray, method: Literal["holm", "bh"], level: float = 0.05) -> tuple[float, float]:
    """Return the shares of tables with a mark against the best model: corrected for all pairs, and for its own alone.

    Args:
        values: (users, tables, models) of equally good models.
        method: of correction.
        level: below which a cell is marked.
    """
    users, tables, models = values.shape
    first, second = np.triu_indices(models, 1)
    difference = (values[..., first] - values[..., second]).reshape(users, -1)
    p = paired_p_values(difference, np.zeros(users)).reshape(tables, -1)
    best = values.mean(axis=0).argmax(axis=1)[:, None]
    own = (first[None] == best) | (second[None] == best)
    all_pairs = [(adjust(row, method)[mine] <= level).any() for row, mine in zip(p, own, strict=True)]
    own_pairs = [(adjust(row[mine], method) <= level).any() for row, mine in zip(p, own, strict=True)]
    return float(np.mean(all_pairs)), float(np.mean(own_pairs))


def any_mark(p: np.ndarray, method: Literal["holm", "bh"], level: float = 0.05) -> float:
    """Return the share of tables with a corrected p-value of at most ``level``, of (tables, models) p-values."""
    return float(np.mean([(adjust(row, method) <= level).any() for row in p]))


def p_values_of_seeds(values: np.ndarray, test: Literal["permutation", "wilcoxon"] = "permutation") -> np.ndarray:
    """Return (tables, 2) p-values of two runs of one model, over users alone and counting the seeds.

    Args:
        values: (users, tables, 2, S): of each user in each of the S seeds of both sides.
        test: over users.
    """
    users, tables, _, seeds = values.shape
    mean = values.mean(axis=3)
    difference = mean[:, :, 0] - mean[:, :, 1]
    p = paired_p_values(difference, np.zeros(users), test)
    by_seed = values.mean(axis=0)
    within = values.var(axis=3, ddof=1).mean(axis=0) if seeds > 1 else np.zeros((tables, 2))
    moved = np.array(
        [[seed_variance(by_seed[t, side], within[t, side], users) for side in (0, 1)] for t in range(tables)]
    ).sum(axis=1)
    counted = counting_seeds(p, difference.mean(axis=0), difference.var(axis=0, ddof=1) / users, *moved.T)
    return np.stack([p, counted], axis=1)


def moving_seeds(users: int, tables: int, seeds: int, moved: float, seed: int = 0) -> np.ndarray:
    """Return (users, tables, 2, seeds) values of one model.

    Users differ; every run has noise of its own for each user (s.d. 1), and moves all users together by ``moved`` times
    what that noise makes one expect of the difference of two runs.
    """
    rng = np.random.default_rng(seed)
    hard = rng.normal(0, 1, (users, tables, 1, 1))
    own = rng.normal(0, 1, (users, tables, 2, seeds))
    return hard + own + moved * (2 / users) ** 0.5 * rng.normal(0, 1, (1, tables, 2, seeds))
