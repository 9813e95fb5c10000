"""A user's value: its mean is the metric, its spread the metric's when users are drawn anew."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.errors import InputError
from benchmark.evaluation.metrics import (
    PREFERENCE_METRICS,
    Metric,
    mean,
    parse_metric,
    pooled_auc,
    preference_metric,
    user_auc,
)
from benchmark.evaluation.user_values import preference_user_values
from tests.statistics.simulations import bootstrap_interval

Rows = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def rows(seed: int, users: int, ties: bool = False) -> Rows:
    """Return user, label, score and probability of users with a level of their own and 1 to about 30 rows, unsorted."""
    rng = np.random.default_rng(seed)
    user = rng.permutation(np.repeat(7 * np.arange(users), rng.geometric(0.12, users)))
    label = (rng.random(len(user)) < rng.beta(2, 2, users)[user // 7]).astype(np.float32)
    logit = label + 0.7 * rng.normal(size=users)[user // 7] + rng.normal(size=len(user)) - 0.5
    logit = np.round(logit) if ties else logit
    return user, label, logit, 1 / (1 + np.exp(-logit))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.booleans(), st.sampled_from(PREFERENCE_METRICS))
def test_the_mean_of_the_values_is_the_metric(seed: int, users: int, ties: bool, name: str) -> None:
    sample = rows(seed, users, ties)
    found, values = preference_user_values(Metric(name), *sample)
    np.testing.assert_array_equal(found, np.unique(sample[0]))
    assert values.shape == found.shape
    expected = float("nan") if name == "ece" else preference_metric(Metric(name), *sample)
    assert mean(values) == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_mean_of_users_needs_no_linearisation() -> None:
    user, label, score, _ = rows(1, 50)
    _, values = preference_user_values(Metric("uauc"), user, label, score, None)
    np.testing.assert_array_equal(values, user_auc(user, label, score)[1])
    assert np.isnan(values).any()


def auc_of_resampled_users(
    user: np.ndarray, label: np.ndarray, score: np.ndarray, n: int, seed: int
) -> tuple[float, float]:
    """The 95 % interval of the pooled AUC when users are drawn and the area is computed anew from their rows."""
    order = np.argsort(score, kind="stable")
    sorted_score, positive = score[order], label[order] > 0.5
    tie_start = np.flatnonzero(np.append(True, sorted_score[1:] != sorted_score[:-1]))
    users, who = np.unique(user[order], return_inverse=True)
    rng = np.random.default_rng(seed)
    found = np.empty(n)
    for i in range(n):
        weight = np.bincount(rng.integers(0, len(users), len(users)), minlength=len(users))[who].astype(np.float64)
        up = np.add.reduceat(np.where(positive, weight, 0.0), tie_start)
        down = np.add.reduceat(np.where(positive, 0.0, weight), tie_start)
        found[i] = (up * (down.cumsum() - down / 2)).sum() / (up.sum() * down.sum())
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


@pytest.mark.parametrize("ties", [False, True])
def test_the_interval_of_the_pooled_auc_is_that_of_drawn_users(ties: bool) -> None:
    user, label, score, _ = rows(2, 400, ties)
    _, values = preference_user_values(Metric("auc"), user, label, score, None)
    low, high = bootstrap_interval(values, n=4000)
    full = auc_of_resampled_users(user, label, score, n=4000, seed=1)
    assert (low, high) == pytest.approx(full, abs=0.05 * (high - low))
    assert low < pooled_auc(label, score) < high
    alone = bootstrap_interval(preference_user_values(Metric("auc"), np.arange(len(user)), label, score, None)[1])
    assert alone[1] - alone[0] < 0.8 * (high - low), "rows of one user are no rows of many"


@pytest.mark.parametrize("name", ["gauc", "log_loss", "brier", "accuracy", "f1"])
def test_the_interval_of_a_ratio_is_that_of_drawn_users(name: str) -> None:
    user, *columns = rows(3, 300)
    low, high = bootstrap_interval(preference_user_values(Metric(name), user, *columns)[1], n=4000)
    order = np.argsort(user, kind="stable")
    start = np.append(np.flatnonzero(np.diff(user[order], prepend=-1)), len(user))
    rng = np.random.default_rng(4)
    found = []
    for _ in range(1500):
        drawn = rng.integers(0, 300, 300)
        size = np.diff(start)[drawn]
        picked = order[np.repeat(start[drawn] - size.cumsum() + size, size) + np.arange(size.sum())]
        # a user drawn twice is two users
        found.append(preference_metric(Metric(name), np.repeat(np.arange(300), size), *(c[picked] for c in columns)))
    assert (low, high) == pytest.approx(np.quantile(found, [0.025, 0.975]), abs=0.07 * (high - low))


def test_pooled_auc_by_the_definition_of_an_influence() -> None:
    """A user's value is the metric's derivative by the user's weight, here by a small step."""
    user, label, score, _ = rows(5, 20, ties=True)
    users, values = preference_user_values(Metric("auc"), user, label, score, None)

    def weighted(weight: np.ndarray) -> float:
        up, down = (weight * (label > 0.5))[:, None], (weight * (label < 0.5))[None]
        wins = (score[:, None] > score[None]) + (score[:, None] == score[None]) / 2
        return float((up * wins * down).sum() / (up.sum() * down.sum()))

    for u, value in zip(users, values, strict=True):
        step = 1e-5 * (user == u)
        slope = (weighted(1 + step) - weighted(1 - step)) / 2e-5
        assert value == pytest.approx(pooled_auc(label, score) + len(users) * slope, abs=1e-6)


def test_what_is_undefined_is_nan() -> None:
    user, label, score, probability = rows(6, 30)
    for name in ("log_loss", "brier", "ece", "accuracy", "f1"):
        assert np.isnan(preference_user_values(Metric(name), user, label, score, None)[1]).all()
    for name in ("auc", "uauc", "gauc"):
        assert np.isnan(preference_user_values(Metric(name), user, np.ones(len(user)), score, probability)[1]).all()
    nobody = (np.zeros(0, np.int64), *(np.zeros(0) for _ in range(3)))
    for name in PREFERENCE_METRICS:
        users, values = preference_user_values(Metric(name), *nobody)
        assert users.shape == values.shape == (0,)
    with pytest.raises(InputError, match="no preference metric"):
        preference_user_values(parse_metric("ndcg@10"), user, label, score, probability)


def test_users_who_do_not_count_have_no_value_in_gauc() -> None:
    user, label = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 1, 0, 0])
    score = np.array([0.1, 0.2, 0.3, 0.2, 0.1, 0.3])
    _, values = preference_user_values(Metric("gauc"), user, label, score, None)
    assert np.isnan(values).tolist() == [False, True, False]
    assert np.nanmean(values) == pytest.approx((2 * 1 + 3 * 0.5) / 5)
