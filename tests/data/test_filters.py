"""Filters: what each keeps, in which order, and what the report says of it."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from benchmark.data.filters import Filters
from benchmark.data.schema import Dataset
from benchmark.data.sources.canonical import canonical
from benchmark.errors import InputError
from tests.data.make import dataset, frame, shuffled


def rows(data: Dataset) -> list[tuple[object, ...]]:
    return sorted(data.interactions.rows())


def small(*raw: tuple[object, ...], columns: str = "user_id item_id rating timestamp") -> Dataset:
    return canonical("small", pl.DataFrame(list(raw), schema=columns.split(), orient="row"))


NONE = {"deduplicate": None}


def test_nothing_is_filtered_unless_said_but_duplicates() -> None:
    data = small(("u", "a", 1.0, 1.0), ("u", "b", 1.0, 1.0))
    assert rows(Filters().apply(data)) == rows(data)


def test_deduplicate_keeps_the_last_or_first_by_time_not_by_row() -> None:
    data = small(("u", "a", 5.0, 3.0), ("u", "a", 1.0, 1.0), ("u", "a", 2.0, 2.0), ("v", "a", 4.0, 9.0))
    assert rows(Filters(deduplicate="last").apply(data)) == [(0, 0, 5.0, 3.0), (1, 0, 4.0, 9.0)]
    assert rows(Filters(deduplicate="first").apply(data)) == [(0, 0, 1.0, 1.0), (1, 0, 4.0, 9.0)]
    assert rows(Filters(deduplicate=None).apply(data)) == rows(data)


def test_deduplicate_at_equal_times_takes_the_higher_rating_as_later() -> None:
    data = small(("u", "a", 5.0, 3.0), ("u", "a", 1.0, 3.0))
    assert rows(Filters(deduplicate="last").apply(data)) == [(0, 0, 5.0, 3.0)]
    assert rows(Filters(deduplicate="first").apply(data)) == [(0, 0, 1.0, 3.0)]


def test_deduplicate_without_time_goes_by_the_file() -> None:
    data = small(("u", "a", 5.0), ("u", "a", 1.0), columns="user_id item_id rating")
    assert rows(Filters(deduplicate="last").apply(data)) == [(0, 0, 1.0)]
    assert rows(Filters(deduplicate="first").apply(data)) == [(0, 0, 5.0)]


def test_deduplicate_equals_the_plain_reference() -> None:
    data = dataset(2000)
    ours = rows(Filters().apply(data))
    reference = data.interactions.sort("timestamp", "rating").unique(["user", "item"], keep="last")
    assert ours == sorted(reference.rows())


def test_min_rating_keeps_equal_ratings() -> None:
    data = small(("u", "a", 4.1, 1.0), ("u", "b", 4.0, 1.0))
    assert Filters(min_rating=4.1).apply(data).interactions["item"].to_list() == [0]


def test_min_interactions_are_one_pass_users_first() -> None:
    # v has two, but item b, which v alone has, then goes; v stays with one
    data = small(("u", "a"), ("w", "a"), ("v", "a"), ("v", "b"), ("u", "c"), ("w", "c"), columns="user_id item_id")
    kept = Filters(min_user_interactions=2, min_item_interactions=2).apply(data)
    assert np.bincount(kept.interactions["user"].to_numpy()).tolist() == [2, 1, 2]
    assert rows(Filters(k_core=2).apply(data)) == [(0, 0), (0, 2), (2, 0), (2, 2)]


@pytest.mark.parametrize("k", [2, 5, 10])
def test_the_core_is_the_fixpoint(k: int) -> None:
    data = Filters().apply(dataset(2500, users=100, items=120))
    core = Filters(k_core=k).apply(data).interactions
    assert core.group_by("user").len()["len"].min() >= k  # type: ignore[operator]
    assert core.group_by("item").len()["len"].min() >= k  # type: ignore[operator]
    left = data.interactions
    while True:  # reference: one pass after the other
        kept = left.filter((pl.len().over("user") >= k) & (pl.len().over("item") >= k))
        if kept.height == left.height:
            break
        left = kept
    assert sorted(core.rows()) == sorted(left.rows())


def test_sampled_users_do_not_depend_on_the_order_of_rows() -> None:
    raw = frame(500)
    filters = Filters(sample_users=7, seed=3)
    one, two = (filters.apply(canonical("x", some)) for some in (raw, shuffled(raw, 1)))
    assert one.fingerprint() == two.fingerprint()
    assert one.interactions["user"].n_unique() == 7
    assert set(one.interactions["user"]) != set(
        Filters(sample_users=7, seed=4).apply(dataset(500)).interactions["user"]
    )


def test_each_filter_is_a_step_of_the_report() -> None:
    data = Filters(min_rating=2, sample_users=15, min_user_interactions=2, min_item_interactions=2, k_core=3).apply(
        dataset(600)
    )
    assert [step.name for step in data.steps] == [
        "source", "deduplicate=last", "min_rating=2", "sample_users=15", "min_user_interactions=2",
        "min_item_interactions=2", "k_core=3",
    ]  # fmt: skip
    counts = [step.interactions for step in data.steps]
    assert counts == sorted(counts, reverse=True)
    assert data.steps[3].users == 15
    assert data.steps[-1].interactions == data.interactions.height


def test_an_empty_result_names_the_filter() -> None:
    with pytest.raises(InputError) as raised:
        Filters(k_core=1000).apply(dataset())
    assert str(raised.value).startswith("dataset made: no interaction is left after 'k_core=1000' (of ")
    with pytest.raises(InputError, match="'min_rating=6'"):
        Filters(min_rating=6).apply(dataset())


def test_min_rating_needs_ratings() -> None:
    with pytest.raises(InputError) as raised:
        Filters(min_rating=4).apply(canonical("made", frame().drop("rating")))
    assert str(raised.value) == "dataset made has no ratings; remove the filter min_rating"


def test_bad_settings_are_refused() -> None:
    for bad in ({"k_core": 0}, {"min_ratings": 3}, {"deduplicate": "any"}, {"sample_users": -1}):
        with pytest.raises(ValidationError):
            Filters.model_validate(bad)
