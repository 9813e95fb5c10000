"""The two shapes of data: fingerprints that follow content alone, and interactions sorted the same by every way."""

from __future__ import annotations

import hashlib

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.data.schema import Interactions, order_by, update_digest
from benchmark.data.seeded import mix, permutation, unit
from benchmark.data.sources.canonical import canonical
from benchmark.errors import InputError
from tests.data.make import dataset, frame


def digest(frame: pl.DataFrame) -> str:
    made = hashlib.sha256()
    update_digest(made, frame)
    return made.hexdigest()


def test_the_digest_ignores_the_order_and_width_of_columns() -> None:
    one = pl.DataFrame({"a": [1, None], "b": ["x", "é"]})
    assert digest(one) == digest(one.select("b", pl.col("a").cast(pl.Int16)))


@pytest.mark.parametrize(
    "other",
    [
        pl.DataFrame({"a": ["xy", "z"]}),
        pl.DataFrame({"a": ["x", None]}),
        pl.DataFrame({"a": ["x", ""]}),
        pl.DataFrame({"b": ["x", "yz"]}),
        pl.DataFrame({"a": [1, 2]}),
    ],
)
def test_the_digest_tells_contents_apart(other: pl.DataFrame) -> None:
    assert digest(pl.DataFrame({"a": ["x", "yz"]})) != digest(other)


def test_the_digest_takes_lists_dates_and_wide_numbers() -> None:
    wide = pl.DataFrame({"l": [["a", "b"]], "u": pl.Series([2**64 - 1], dtype=pl.UInt64), "b": [True]}).with_columns(
        d=pl.date(2020, 1, 1)
    )
    assert digest(wide) == digest(wide.clone())
    assert digest(wide) != digest(wide.with_columns(l=pl.Series([["a", "c"]])))


def test_the_fingerprint_of_a_dataset_is_pinned() -> None:
    assert dataset(100).fingerprint()[:16] == "9dd124253162fa3d"


def test_canonical_takes_frames_and_says_where_a_value_is_wrong() -> None:
    with pytest.raises(InputError) as raised:
        canonical("mine", pl.DataFrame({"user_id": ["a", None], "item_id": [1, 2]}))
    assert str(raised.value) == "mine: interactions: row 2, column 'user_id': found None, expected an id"
    with pytest.raises(InputError) as raised:
        canonical("mine", pl.DataFrame({"user_id": ["a"], "item_id": [1], "rating": [1e300]}))
    assert str(raised.value) == "mine: interactions: row 1, column 'rating': found 1e+300, expected a finite number"
    with pytest.raises(InputError) as raised:
        canonical("mine", frame(5), pl.DataFrame({"item": ["a"]}))
    assert str(raised.value) == "mine: items: no column 'item_id'; did you mean 'item'?"


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(0, 60),
    base=st.sampled_from([0.0, 0.5, -7.0, 1e9, 2.0**60]),
    rated=st.booleans(),
    timed=st.booleans(),
)
def test_interactions_are_sorted_whatever_their_order(seed: int, n: int, base: float, rated: bool, timed: bool) -> None:
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, 5, n).astype(np.int32), rng.integers(0, 4, n).astype(np.int32)
    rating = rng.integers(0, 3, n).astype(np.float32) if rated else None
    time = base + rng.integers(0, 4, n) if timed else None
    parts = []
    for order in (np.arange(n), rng.permutation(n)):
        parts.append(
            Interactions.from_arrays(
                user[order],
                item[order],
                None if rating is None else rating[order],
                None if time is None else time[order],
                5,
            )
        )
    keys = [key for key in (rating, item, time, user) if key is not None]
    expected = np.lexsort(keys)
    for part in parts:
        assert np.array_equal(part.user, user[expected])
        assert np.array_equal(part.item, item[expected])
        assert rating is None or np.array_equal(part.rating, rating[expected])
        assert time is None or np.array_equal(part.time, time[expected])
        assert (np.diff(part.offsets) == np.bincount(user, minlength=5)).all()


def test_wide_keys_are_sorted_too() -> None:
    key = np.array([2**40, 0, 2**40, 5])
    second = np.array([3.0, 2.0**50, 1.0, 0.0])
    assert order_by(key, second).tolist() == [1, 3, 2, 0]


def test_hashes_are_pinned_and_follow_values() -> None:
    assert mix(0, 1).tolist() == mix(0, np.array([1], np.int8)).tolist()
    assert mix(np.array([-0.0])).tolist() == mix(np.array([0.0])).tolist()
    assert mix(1, 2).tolist() != mix(2, 1).tolist()
    assert mix(-1).dtype == np.uint64
    assert sorted(permutation(1000, 3).tolist()) == list(range(1000))
    values = unit(mix(0, np.arange(100_000)))
    assert 0 < values.min() < 1e-3
    assert 1 - 1e-3 < values.max() < 1
    assert abs(values.mean() - 0.5) < 0.005
