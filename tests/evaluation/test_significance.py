"""Intervals cover what they should; tests find what is there and nothing else; by hand, by scipy, by simulation."""

from __future__ import annotations

import itertools
from typing import Literal, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from statsmodels.stats.multitest import multipletests

from benchmark.errors import InputError
from benchmark.evaluation import significance
from benchmark.evaluation.significance import (
    adjust,
    bootstrap_intervals,
    counting_seeds,
    paired_p_values,
    seed_variance,
)
from tests.statistics.simulations import (
    DISTRIBUTIONS,
    any_mark,
    any_mark_of_the_best,
    bootstrap_interval,
    coverage,
    equal_models,
    moving_seeds,
    p_values_of_equals,
    p_values_of_seeds,
)

Test = Literal["permutation", "wilcoxon"]


def against(a: np.ndarray, b: np.ndarray, test: Test = "permutation", n: int = 10_000, seed: int = 0) -> float:
    """The p-value of one model against another."""
    return float(paired_p_values(a[:, None], b, test, n, seed)[0])


# Intervals ------------------------------------------------------------------------------------------------------------


def test_intervals_are_scipys_where_there_are_many_users() -> None:
    rng = np.random.default_rng(0)
    values = np.stack([rng.beta(8, 2, 3000), rng.random(3000) < 0.1, 100 * rng.exponential(size=3000)], axis=1)
    found = bootstrap_intervals(values, n=10_000)
    for column, (low, high) in zip(values.T, found, strict=True):
        peer = stats.bootstrap((column,), np.mean, method="percentile", n_resamples=10_000, batch=500, rng=1)
        half = (high - low) / 2
        assert (low, high) == pytest.approx(peer.confidence_interval, abs=0.05 * half)
        assert low < column.mean() < high


def test_intervals_are_students_where_there_are_few() -> None:
    for users in (8, 15, 30):
        values = stats.norm.ppf((np.arange(users) + 0.5) / users)  # as normal as so few values can be
        low, high = bootstrap_interval(values, n=40_000)
        student = stats.t.interval(0.95, users - 1, values.mean(), values.std(ddof=1) / np.sqrt(users))
        assert (low, high) == pytest.approx(student, rel=0.05)
        plain = np.sqrt((users - 1) / users) * stats.norm.ppf(0.975) / stats.t.ppf(0.975, users - 1)
        assert plain < 0.95 or users == 30, "the plain percentiles would have been narrower by more than that"


def test_two_users_say_little_and_one_nothing() -> None:
    assert bootstrap_interval(np.array([0.2, 0.6])) == pytest.approx((0.2, 0.6))
    assert bootstrap_interval(np.array([0.2])) == (0.2, 0.2)


def test_intervals_are_seeded_and_narrow_with_the_level() -> None:
    values = np.random.default_rng(0).random(100)
    low, high = bootstrap_interval(values)
    assert bootstrap_interval(values) == (low, high)
    assert bootstrap_interval(values, seed=1) != (low, high)
    assert bootstrap_interval(values, level=0.5)[0] > low


def test_float32_within_loses_nothing_that_is_seen() -> None:
    """Against the same draws in float64, for columns of any place and size."""
    rng = np.random.default_rng(3)
    users, n = 2000, 500
    values = rng.random((users, 4)) * [1, 1e-3, 1e6, 1] + [0, 50, -1e6, 0]
    values[:, 3] = np.where(rng.random(users) < 0.01, 1e4, values[:, 3])  # a few users far off
    weight = significance._multinomial(np.random.default_rng(0), n, users).astype(np.float64)
    assert (weight.sum(1) == users).all()
    tail = stats.norm.cdf(-np.sqrt(users / (users - 1)) * stats.t.ppf(0.975, users - 1))
    exact = np.quantile(weight @ values / users, [tail, 1 - tail], axis=0).T
    error = np.abs(bootstrap_intervals(values, n) - exact)
    assert (error < 1e-6 * values.std(axis=0)[:, None]).all()


@settings(max_examples=50, deadline=None)
@given(
    arrays(np.float64, st.tuples(st.integers(1, 30), st.integers(1, 4)), elements=st.floats(-5, 5)),
    st.floats(-9, 9),
    st.floats(0.1, 9),
)
def test_intervals_move_with_the_values(values: np.ndarray, shift: float, factor: float) -> None:
    found = bootstrap_intervals(values, n=200)
    assert (found[:, 0] <= found[:, 1]).all()
    assert (found >= values.min(0)[:, None]).all()
    assert (found <= values.max(0)[:, None]).all()
    np.testing.assert_allclose(bootstrap_intervals(shift + factor * values, n=200), shift + factor * found, atol=1e-5)
    np.testing.assert_allclose(bootstrap_intervals(-values, n=200), -found[:, ::-1], atol=1e-5)
    for j in range(values.shape[1]):  # the other models of a table change nothing
        np.testing.assert_allclose(bootstrap_intervals(values[:, [j]], n=200), found[[j]], atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.floats(-1e6, 1e6), st.integers(1, 40))
def test_a_constant_is_certain(value: float, users: int) -> None:
    assert bootstrap_interval(np.full(users, value), n=50) == (value, value)


def test_a_users_missing_value_is_missing_from_the_mean() -> None:
    rng = np.random.default_rng(1)
    values = rng.random((400, 3))
    values[rng.random(400) < 0.3, 1] = np.nan
    values[:, 2] = np.nan
    found = bootstrap_intervals(values, n=20_000)
    np.testing.assert_allclose(found[0], bootstrap_intervals(values[:, :1], n=20_000)[0], atol=1e-7)
    there = values[~np.isnan(values[:, 1]), 1]
    assert found[1] == pytest.approx(bootstrap_interval(there, n=20_000), abs=0.1 * there.std() / np.sqrt(len(there)))
    assert np.isnan(found[2]).all()
    assert bootstrap_interval(np.array([0.5, np.nan, 0.5])) == (0.5, 0.5)
    assert bootstrap_interval(np.array([np.nan, 0.7, np.nan])) == (0.7, 0.7)  # some draws hold no value
    assert np.isnan(bootstrap_interval(np.array([]))).all()
    assert bootstrap_intervals(np.zeros((5, 0))).shape == (0, 2)


def test_many_models_are_done_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    values = rng.random((50, 7))
    values[::9, 3] = np.nan
    whole = bootstrap_intervals(values, n=300), paired_p_values(values, values[:, 0] ** 2)
    monkeypatch.setattr(significance, "_RESAMPLED", 600)
    monkeypatch.setattr(significance, "_COMPARED", 30_000)
    np.testing.assert_allclose(bootstrap_intervals(values, n=300), whole[0], atol=1e-7)
    np.testing.assert_array_equal(paired_p_values(values, values[:, 0] ** 2), whole[1])


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_intervals_hold_the_truth_as_often_as_they_say(name: str) -> None:
    """A small `make statistics`; 600 tables know a share to 1.8 %."""
    assert coverage(DISTRIBUTIONS[name], users=300, tables=600)["covered"] == pytest.approx(0.95, abs=0.03)


# Paired tests ---------------------------------------------------------------------------------------------------------


def test_permutation_is_exact_for_few_users() -> None:
    a, b = np.array([0.9, 0.8, 0.3, 0.7, 0.5]), np.array([0.1, 0.5, 0.4, 0.2, 0.5])
    d = a - b
    flips = [abs((np.array(signs) * d).sum()) >= abs(d.sum()) - 1e-9 for signs in itertools.product([-1, 1], repeat=5)]
    assert against(a, b) == pytest.approx(np.mean(flips))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=9))
def test_exact_permutation_is_scipys(pairs: list[tuple[int, int]]) -> None:
    """With many ties, of users and of sums; in tenths, which make equal sums differ by rounding, and which scipy takes
    as whole numbers, since it knows no margin.
    """
    a, b = np.array(pairs, float).T
    peer = stats.permutation_test(
        (a, b),
        lambda x, y, axis: (x - y).mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
    )
    assert against(a / 10, b / 10) == pytest.approx(min(peer.pvalue, 1.0))


def test_random_permutation_is_scipys_but_for_chance() -> None:
    rng = np.random.default_rng(0)
    a = rng.random((60, 4))
    b = a[:, 0] + rng.normal(0, 0.1, 60)
    a += [0.0, 0.05, 0.08, 0.12]
    for column, p in zip(a.T, paired_p_values(a, b), strict=True):
        peer = stats.permutation_test(
            (column, b),
            lambda x, y, axis: (x - y).mean(axis=axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=10_000,
            rng=1,
        )
        assert p == pytest.approx(peer.pvalue, abs=4 * np.sqrt(2 * 0.25 / 10_000))


def test_equal_sums_count_in_spite_of_rounding() -> None:
    d = np.array([0.1, 0.2, -0.3] * 10)
    assert d.sum() != 0
    assert against(d, np.zeros(30)) == 1.0
    hits = np.where(np.arange(200) < 113, 0.7, -0.7)  # hits are won and lost by one amount: the sign test
    exact = stats.binomtest(113, 200).pvalue
    assert against(hits, np.zeros(200), n=40_000) == pytest.approx(exact, abs=4 * np.sqrt(exact / 40_000))


def test_users_who_differ_by_rounding_did_not_move() -> None:
    a = np.array([0.1 + 0.2, 0.5, 0.9])
    b = np.array([0.3, 0.4, 0.7])
    assert a[0] != b[0]
    assert against(a, b) == 0.5  # two users moved, both up: 2 of 4 signs
    assert against(a, b, "wilcoxon") == 0.5


@pytest.mark.parametrize("shift", [0.0, 0.01, 0.02, 0.03])
def test_the_normal_limit_is_the_permutation_test(shift: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    d = np.where(rng.random(12_000) < 0.9, rng.normal(shift, 1, 12_000), rng.exponential(3, 12_000) - 3 + shift)
    limit = against(d, np.zeros(12_000))
    assert limit == against(d, np.zeros(12_000), seed=1), "nothing is drawn"
    assert limit == pytest.approx(stats.ttest_1samp(d, 0).pvalue, rel=0.01, abs=1e-4)
    monkeypatch.setattr(significance, "_MANY", 20_000)
    assert limit == pytest.approx(against(d, np.zeros(12_000)), abs=4 * np.sqrt(limit / 10_000) + 1e-4)


def test_no_limit_is_taken_where_one_user_outweighs_all() -> None:
    d = np.full(12_000, 1.0)
    d[6000:] = -1.0
    d[0] = 1e4  # z is near 1, but only this user's sign matters, and the rest is as often on its side as not
    assert against(d, np.zeros(12_000)) == pytest.approx(0.5, abs=0.03)


def test_wilcoxon_is_scipys() -> None:
    rng = np.random.default_rng(3)
    for users in (5, 12, 13, 14, 40, 500):
        for ties in (False, True):
            d = rng.normal(0.2, 1, users)
            d = np.round(2 * d) / 2 if ties else d
            reference = rng.integers(0, 4, users) / 2
            peer = stats.wilcoxon(d[d != 0]).pvalue
            assert against(reference + d, reference, "wilcoxon") == pytest.approx(peer), (users, ties)


@settings(max_examples=40, deadline=None)
@given(arrays(np.float64, st.integers(1, 20), elements=st.floats(-1, 1)), st.sampled_from(get_args(Test)))
def test_tests_are_two_sided_and_know_no_order(d: np.ndarray, test: Test) -> None:
    zero, n = np.zeros(len(d)), 2**20  # enough for all signs
    p = against(d, zero, test, n)
    assert 0 < p <= 1
    assert against(-d, zero, test, n) == p
    assert against(zero, d, test, n) == p
    assert against(d[::-1], zero, test, n) == pytest.approx(p)


@pytest.mark.parametrize("test", get_args(Test))
def test_users_with_nan_are_left_out_column_by_column(test: Test) -> None:
    rng = np.random.default_rng(4)
    reference = rng.random(12)
    values = reference[:, None] + rng.normal(0.1, 0.2, (12, 4))
    reference[3] = values[5, 0] = values[7, 1] = np.nan
    values[:, 2] = reference
    values[:, 3] = np.nan
    found = paired_p_values(values, reference, test)
    for j, left_out in ((0, [3, 5]), (1, [3, 7])):
        assert found[j] == against(np.delete(values[:, j], left_out), np.delete(reference, left_out), test)
    assert found[2] == 1.0
    assert np.isnan(found[3])


def test_unfit_arguments_are_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'wilcoxon'"):
        paired_p_values(np.ones((3, 1)), np.ones(3), "wilcoxson")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="are needed"):
        paired_p_values(np.ones((3, 1)), np.ones(2))
    assert np.isnan(paired_p_values(np.ones((0, 2)), np.ones(0))).all()


@pytest.mark.parametrize("test", get_args(Test))
@pytest.mark.parametrize("users", [60, 300])
def test_equal_models_are_seldom_called_different(test: Test, users: int) -> None:
    """A small `make statistics`; 1,000 tables know a share to 1.4 %."""
    assert (p_values_of_equals(test, users, tables=1000) <= 0.05).mean() == pytest.approx(0.05, abs=0.025)


def test_ten_equal_models_seldom_get_a_mark() -> None:
    p = p_values_of_equals("permutation", users=200, tables=600, models=10)
    assert (p <= 0.05).any(axis=1).mean() > 0.15, "the reason for corrections"
    assert any_mark(p, "holm") < 0.05 + 0.025
    assert any_mark(p, "bh") < 0.05 + 0.025


@pytest.mark.parametrize("moved", [0, 1, 3])
@pytest.mark.parametrize("seeds", [2, 5])
def test_runs_of_one_model_whose_seeds_move_it_are_seldom_called_different(seeds: int, moved: float) -> None:
    alone, counted = (p_values_of_seeds(moving_seeds(100, 600, seeds, moved)) <= 0.05).mean(axis=0)
    assert counted < 0.05 + 0.025
    assert alone > 0.15 or not moved, "the reason for counting the seeds"


def test_the_best_of_ten_equals_gets_a_mark_seldom_when_all_pairs_are_corrected_for() -> None:
    """As the tables do it (`benchmark/reports/comparison.py`); 600 tables know a share to 1.8 %."""
    values = equal_models(np.random.default_rng(0), users=200, tables=600, models=9)
    every, own = any_mark_of_the_best(values, "holm")
    assert every < 0.05 + 0.025
    assert own > 0.09, "the reason for correcting for the looking"


def test_one_seed_tells_nothing_of_the_others() -> None:
    assert seed_variance([0.3], 0.0, 100) == (0.0, 0.0)
    assert counting_seeds(np.array([0.01]), np.array([1.0]), np.array([0.1]), np.array([0.0]), np.array([0.0])) == 0.01


def test_a_deterministic_model_is_moved_by_no_seed() -> None:
    assert seed_variance([0.3, 0.3, 0.3], 0.0, 100) == (0.0, 0.0)


def test_what_the_noise_of_users_explains_is_not_counted_twice() -> None:
    """Runs that differ by noise of their own for each user: their means differ, the seeds move nothing."""
    values = moving_seeds(400, 300, 5, moved=0)
    by_seed, within = values.mean(axis=0), values.var(axis=3, ddof=1).mean(axis=0)
    found = [seed_variance(by_seed[t, 0], within[t, 0], 400)[0] for t in range(300)]
    assert np.mean(found) < 0.5 / 400 / 5, "less than half of what the means show"


@pytest.mark.parametrize("gaps", [0.0, 0.3])
def test_above_ten_thousand_users_the_interval_is_that_of_many_draws(gaps: float) -> None:
    rng = np.random.default_rng(5)
    values = np.stack([rng.gamma(0.2, 1, 16_000), rng.random(16_000), np.full(16_000, 0.5)], axis=1)
    values[rng.random(16_000) < gaps, 0] = np.nan
    found = bootstrap_intervals(values)
    for j in range(3):
        column = values[:, j][~np.isnan(values[:, j])][:, None]
        drawn = significance._intervals(column, 10_000, 0, 0.95)[0]
        error = np.nanstd(values[:, j]) / 16_000**0.5
        np.testing.assert_allclose(found[j], drawn, atol=0.06 * error + 1e-12)


def test_a_few_users_who_outweigh_the_others_are_resampled_at_any_number() -> None:
    values = np.zeros((12_000, 1))
    values[:20] = 1.0
    _, few = significance._limits(values, 0.95)
    assert few.all()
    low, high = bootstrap_intervals(values)[0]
    assert 0 < low < 20 / 12_000 < high


# Corrections ----------------------------------------------------------------------------------------------------------


def test_corrections_by_hand() -> None:
    p = np.array([0.01, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(adjust(p), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(adjust(np.array([0.02, np.nan, 0.9])), [0.04, np.nan, 0.9])
    assert adjust(np.array([])).shape == (0,)
    with pytest.raises(ValueError, match="unknown correction"):
        adjust(p, "bonferoni")  # type: ignore[arg-type]


@settings(max_examples=20, deadline=None)  # statsmodels takes fifty milliseconds
@given(arrays(np.float64, st.integers(1, 40), elements=st.floats(0, 1)))
def test_corrections_are_those_of_scipy_and_statsmodels(p: np.ndarray) -> None:
    np.testing.assert_allclose(adjust(p, "bh"), stats.false_discovery_control(p), atol=1e-12)
    np.testing.assert_allclose(adjust(p, "bh"), multipletests(p, method="fdr_bh")[1], atol=1e-12)
    np.testing.assert_allclose(adjust(p, "holm"), multipletests(p, method="holm")[1], atol=1e-12)
