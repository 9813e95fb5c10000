"""Intervals cover what they should; tests find what is there and nothing else; corrections by hand and by scipy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from benchmark.evaluation.metrics import pooled_auc
from benchmark.evaluation.significance import adjust, bootstrap_interval, bootstrap_interval_pooled, paired_test


def test_interval_agrees_with_the_normal_one() -> None:
    values = np.random.default_rng(0).normal(0.3, 0.1, 2000)
    low, high = bootstrap_interval(values)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=half / 5)
    assert high == pytest.approx(values.mean() + half, abs=half / 5)
    assert bootstrap_interval(values) == (low, high)  # seeded
    assert bootstrap_interval(values, level=0.5)[0] > low


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = [low < 0.5 < high for low, high in (bootstrap_interval(rng.random(60), n=400) for _ in range(300))]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.04)


def test_interval_leaves_out_nan() -> None:
    assert bootstrap_interval(np.array([0.5, np.nan, 0.5])) == (0.5, 0.5)
    assert np.isnan(bootstrap_interval(np.array([np.nan]))).all()
    assert np.isnan(bootstrap_interval(np.array([]))).all()


def test_pooled_interval_holds_the_area() -> None:
    rng = np.random.default_rng(2)
    user, label = rng.integers(0, 80, 1000), (rng.random(1000) < 0.5).astype(float)
    score = np.round(rng.normal(0, 1, 1000) + label, 1)
    low, high = bootstrap_interval_pooled(user, label, score, n=300)
    assert low < pooled_auc(label, score) < high
    assert high - low < 0.15
    assert np.isnan(bootstrap_interval_pooled(user, np.ones(1000), score, n=20)).all()
    # one row a user: the interval is DeLong's, roughly
    wide = bootstrap_interval_pooled(np.arange(1000), label, score, n=300)
    assert wide == pytest.approx((low, high), abs=0.02)


def test_permutation_is_exact_for_few_users() -> None:
    a, b = np.array([0.9, 0.8, 0.3, 0.7, 0.5]), np.array([0.1, 0.5, 0.4, 0.2, 0.5])
    d = a - b
    flips = [abs((np.array(signs) * d).sum()) >= abs(d.sum()) - 1e-9 for signs in itertools.product([-1, 1], repeat=5)]
    found = paired_test(a, b)
    assert found.permutation == pytest.approx(np.mean(flips))
    assert found.difference == pytest.approx(d.mean())
    assert found.n == 5


def test_permutation_agrees_with_the_t_test_for_many() -> None:
    rng = np.random.default_rng(3)
    a = rng.random(500)
    b = a + rng.normal(0.012, 0.15, 500)
    found = paired_test(a, b)
    assert found.permutation == pytest.approx(stats.ttest_rel(a, b).pvalue, abs=0.02)
    assert found.wilcoxon == pytest.approx(stats.wilcoxon(a - b).pvalue)


def test_no_difference_is_not_significant() -> None:
    rng = np.random.default_rng(4)
    p = np.array([paired_test(rng.random(40), rng.random(40), n=400, seed=i).permutation for i in range(300)])
    assert (p < 0.05).mean() == pytest.approx(0.05, abs=0.035)
    same = paired_test(np.ones(10), np.ones(10))
    assert (same.permutation, same.wilcoxon, same.difference) == (1.0, 1.0, 0.0)


def test_pairs_with_nan_are_left_out() -> None:
    found = paired_test(np.array([1.0, np.nan, 2.0]), np.array([0.5, 1.0, np.nan]))
    assert (found.n, found.difference) == (1, 0.5)
    assert np.isnan(paired_test(np.array([np.nan]), np.array([1.0])).permutation)
    with pytest.raises(ValueError, match="one length"):
        paired_test(np.ones(3), np.ones(2))


def test_corrections() -> None:
    p = np.array([0.01, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(adjust(p), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(adjust(p, "bh"), stats.false_discovery_control(p))
    np.testing.assert_allclose(adjust(np.array([0.02, np.nan, 0.9])), [0.04, np.nan, 0.9])
    assert adjust(np.array([])).shape == (0,)
    with pytest.raises(ValueError, match="unknown correction"):
        adjust(p, "bonferoni")  # type: ignore[arg-type]
