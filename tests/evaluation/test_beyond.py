"""Fairness and exposure: the mean of the users' values is the metric, their spread the metric's over drawn users."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from benchmark.evaluation import beyond as B
from benchmark.evaluation import metrics as M

ITEMS, K = 40, 5
POPULARITY = np.random.default_rng(0).integers(1, 100, ITEMS)


def some_lists(seed: int, users: int, short: bool = True) -> np.ndarray:
    """Return (users, K + 1) lists that prefer some items; every sixth or so is shorter, some are empty."""
    rng = np.random.default_rng(seed)
    score = rng.random((users, ITEMS)) + np.linspace(0, 0.7, ITEMS)
    lists = np.argsort(-score, axis=1)[:, : K + 1]
    if short:
        length = np.where(rng.random(users) < 0.17, rng.integers(0, K, users), K + 1)
        lists = np.where(np.arange(K + 1) < length[:, None], lists, -1)
    return lists


def histories(seed: int, users: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(users) < 0.1, np.nan, 60 * rng.random(users) + 5)


def providers(seed: int, n: int = 4) -> tuple[csr_array, np.ndarray]:
    """Return the shares of n providers in each item, some items shared by several, and what they should get."""
    rng = np.random.default_rng(seed)
    share = rng.random((ITEMS, n)) * (rng.random((ITEMS, n)) < 0.5) + 1e-3
    return csr_array(share / share.sum(1, keepdims=True)), rng.dirichlet(np.full(n, 5))


def distance(lists: np.ndarray, shares: csr_array, reference: np.ndarray) -> float:
    """The distance by its definition, user by user."""
    rows = [[i for i in row[:K] if i >= 0] for row in lists.tolist()]
    own = np.array([shares.toarray()[row].mean(0) for row in rows if row])
    return float(np.abs(own.mean(0) - reference).sum() / 2)


def bias_of(lists: np.ndarray, history: np.ndarray) -> float:
    """Popularity of the lists over that of the histories, by its definition."""
    own = [POPULARITY[row[row >= 0]].mean() for row in lists[:, :K] if (row >= 0).any()]
    return float(np.mean(own) / np.nanmean(history))


def test_what_is_no_value_a_user_by_hand() -> None:
    lists = np.array([[0, 1, 2], [0, 1, -1], [-1, -1, -1]])
    popularity = np.array([8, 4, 2, 0])
    assert B.coverage(lists, 2, 4) == 0.5
    assert B.gini(np.array([[0, 1, 2, 3]]), 4, 4) == 0
    assert B.gini(np.array([[3]] * 5), 1, 4) == 0.75  # all on one of n items: 1 - 1 / n
    np.testing.assert_allclose(B.novelty(lists, 3, popularity, 8), [1.0, 0.5, np.nan])
    assert np.isfinite(B.novelty(np.array([[3]]), 1, popularity, 8)).all()


def test_by_hand() -> None:
    lists = np.array([[0, 1], [0, 2], [0, -1], [-1, -1]])
    assert B.gini_values(lists, 1, 4).mean() == B.gini(lists, 1, 4) == 0.75  # all on one of four items: 1 - 1 / 4
    shares = csr_array(np.array([[1.0, 0], [0, 1], [0.5, 0.5], [0, 1]]))
    # the lists give provider 0 a half, three quarters and all: 3/4 on average, where a half is its due
    values = B.exposure_values(lists, 2, shares, np.array([0.5, 0.5]))
    np.testing.assert_allclose(values, [0, 0.25, 0.5, np.nan])
    assert np.isnan(B.exposure_values(lists[3:], 2, shares, np.array([0.5, 0.5]))).all()
    values = B.popularity_bias_values(lists, 2, np.array([6, 2, 4, 0]), np.array([2.0, 2, 2, np.nan]))
    assert M.mean(values) == pytest.approx((4 + 5 + 6) / 3 / 2)
    assert np.isnan(B.popularity_bias_values(lists, 2, np.arange(4), np.full(4, np.nan))).all()
    assert np.isnan(B.gini_values(lists[3:], 2, 4)).all()
    with pytest.raises(ValueError, match="too short for k = 3"):
        B.gini_values(lists, 3, 4)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 60))
def test_the_mean_of_the_values_is_the_metric(seed: int, users: int) -> None:
    lists, history = some_lists(seed, users), histories(seed, users)
    lists[0], history[0] = np.arange(K + 1), 7.0  # somebody has some
    gini = B.gini(lists, K, ITEMS)
    assert 0 <= gini < 1
    assert B.gini_values(lists, K, ITEMS).mean() == pytest.approx(gini)
    bias = bias_of(lists, history)
    assert M.mean(B.popularity_bias_values(lists, K, POPULARITY, history)) == pytest.approx(bias)
    shares, reference = providers(seed)
    found = M.mean(B.exposure_values(lists, K, shares, reference))
    assert found == pytest.approx(distance(lists, shares, reference))
    assert 0 <= found <= 1


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_diversity_from_sparse_vectors_is_that_of_every_pair(seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.random((ITEMS, 30)) * (rng.random((ITEMS, 30)) < 0.2)
    vectors[3] = 0
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(length > 0, length, 1)
    lists = some_lists(seed, 20)
    found = B.diversity_values(lists, K, csr_array(unit))
    for row, value in zip(lists[:, :K], found, strict=True):
        pairs = [1 - unit[a] @ unit[b] for a, b in itertools.combinations(row[row >= 0], 2)]
        assert value == pytest.approx(np.mean(pairs) if pairs else np.nan, nan_ok=True)


def spread(metric: Callable[[np.ndarray], float], users: int, n: int = 600) -> float:
    """The standard error of a metric of the users drawn, when they are drawn anew."""
    rng = np.random.default_rng(1)
    return float(np.std([metric(rng.integers(0, users, users)) for _ in range(n)]))


def test_the_spread_of_the_values_is_that_of_drawn_users() -> None:
    users = 600
    lists, history, (shares, reference) = some_lists(2, users), histories(2, users), providers(2)
    vectors = csr_array(np.eye(ITEMS)[:, :9] + np.eye(ITEMS)[:, 9:18])
    told: dict[str, tuple[np.ndarray, Callable[[np.ndarray], float]]] = {
        "gini": (B.gini_values(lists, K, ITEMS), lambda drawn: B.gini(lists[drawn], K, ITEMS)),
        "popularity_bias": (
            B.popularity_bias_values(lists, K, POPULARITY, history),
            lambda drawn: bias_of(lists[drawn], history[drawn]),
        ),
        "exposure": (
            B.exposure_values(lists, K, shares, reference),
            lambda drawn: M.mean(B.exposure_values(lists[drawn], K, shares, reference)),
        ),
        "diversity": (
            B.diversity_values(lists, K, vectors),
            lambda drawn: M.mean(B.diversity_values(lists[drawn], K, vectors)),
        ),
        "novelty": (
            B.novelty(lists, K, POPULARITY, 100),
            lambda drawn: M.mean(B.novelty(lists[drawn], K, POPULARITY, 100)),
        ),
    }
    for name, (values, metric) in told.items():
        known = values[~np.isnan(values)]
        assert known.std() / np.sqrt(len(known)) == pytest.approx(spread(metric, users), rel=0.15), name


# Gaps -----------------------------------------------------------------------------------------------------------------


def test_a_gap_by_hand() -> None:
    codes = np.repeat([0, 1, 2, 3, -1], [20, 10, 10, 9, 11])
    values = np.repeat([0.5, 0.2, 0.4, 9.0, -9.0], [20, 10, 10, 9, 11])  # nine users and no group do not count
    found = B.gap(values[None], codes, 4)
    assert found is not None
    assert (found.high, found.low) == (0, 1)
    assert found.seeds == pytest.approx([0.3])
    np.testing.assert_array_equal(~np.isnan(found.values), np.isin(codes, [0, 1]))
    np.testing.assert_allclose(found.values[:30], 0.3)
    assert B.gap(values[None], np.where(codes == 0, 0, -1), 4) is None, "one group"
    without = np.where(np.arange(60) < 11, np.nan, values)  # nine users of the first group have a value
    found = B.gap(without[None], codes, 4)
    assert found is not None
    assert (found.high, found.low) == (2, 1)


def test_the_extremes_are_those_of_the_average_over_the_seeds() -> None:
    codes = np.repeat([0, 1, 2], 10)
    seeds = np.stack([np.repeat([0.1, 0.6, 0.5], 10), np.repeat([0.3, 0.2, 0.6], 10)])
    found = B.gap(seeds, codes, 3)
    assert found is not None
    assert (found.high, found.low) == (2, 0)
    np.testing.assert_allclose(found.seeds, [0.4, 0.3])
    assert np.nanmean(found.values) == pytest.approx(0.35)


def test_the_spread_of_a_gap_is_that_of_drawn_users() -> None:
    rng = np.random.default_rng(3)
    codes = rng.integers(-1, 3, 500)
    values = rng.random(500) ** (2 + codes)
    found = B.gap(values[None], codes, 3)
    assert found is not None

    def again(drawn: np.ndarray) -> float:
        means = [values[drawn][codes[drawn] == g].mean() for g in (found.high, found.low)]
        return float(means[0] - means[1])

    known = found.values[~np.isnan(found.values)]
    assert known.mean() == pytest.approx(again(np.arange(500)))
    assert known.std() / np.sqrt(len(known)) == pytest.approx(spread(again, 500), rel=0.15)


def test_the_gap_by_chance_of_two_groups_is_the_mean_difference_of_two_samples() -> None:
    rng = np.random.default_rng(4)
    codes = np.repeat([0, 1, 2, -1], [150, 250, 9, 91])
    values = np.column_stack([rng.random(500), 5 + 2 * rng.random(500), np.full(500, np.nan), np.ones(500)])
    found = B.gap_by_chance(values, codes, 3, n=2000)
    # of a normal difference the mean size is sqrt(2 / pi) of its standard error
    expected = np.sqrt(2 / np.pi) * values[:400].std(0) * np.sqrt(1 / 150 + 1 / 250)
    np.testing.assert_allclose(found, expected, rtol=0.05)
    np.testing.assert_array_equal(found, B.gap_by_chance(values, codes, 3, n=2000))
    assert np.isnan(B.gap_by_chance(values, np.zeros(500, np.int64), 1)).all()
