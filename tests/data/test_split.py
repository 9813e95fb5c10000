"""Splits: every interaction in one part, no leak where none is promised, and the same result everywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from benchmark.data.budget import few_shot, of_slices
from benchmark.data.filters import Filters
from benchmark.data.schema import Dataset, Interactions, SplitData
from benchmark.data.sources.canonical import canonical
from benchmark.data.split import (
    ColdItems,
    ColdUsers,
    LeaveLastOut,
    Predefined,
    Prequential,
    Ratio,
    SplitSpec,
    Temporal,
    known,
    split,
)
from benchmark.data.task import Task
from benchmark.errors import InputError
from tests.data.make import dataset, frame, shuffled

DRAWN = [Temporal(), LeaveLastOut(), Ratio(), Ratio(by="all"), ColdItems(), ColdUsers()]
KINDS = [type(spec).__name__ + getattr(spec, "by", "") for spec in DRAWN]


def raw_rows(data: SplitData, part: Interactions) -> list[tuple[Any, ...]]:
    """Return a part with raw ids: (user_id, item_id, rating, time), sorted."""
    users, items = data.users["user_id"].to_numpy(), data.items["item_id"].to_numpy()
    columns = [users[part.user], items[part.item], *(c for c in (part.rating, part.time) if c is not None)]
    return sorted(zip(*(column.tolist() for column in columns), strict=True))


def all_parts(data: SplitData) -> list[Interactions]:
    return [p for p in (data.train, data.valid, data.test, data.valid_known, data.test_known) if p is not None]


def source_rows(data: Dataset) -> list[tuple[Any, ...]]:
    rows = data.interactions
    return sorted(
        zip(
            data.users["user_id"].gather(rows["user"]).to_list(),
            data.items["item_id"].gather(rows["item"]).to_list(),
            *(rows[name].to_list() for name in ("rating", "timestamp") if name in rows.columns),
            strict=True,
        )
    )


# --- what every split promises ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", DRAWN, ids=KINDS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(150, 500), span=st.sampled_from([5, 100, 10**9]))
def test_parts_are_disjoint_and_complete(spec: SplitSpec, seed: int, n: int, span: int) -> None:
    data = dataset(n, seed=seed, span=span)
    try:
        parts = split(data, spec, seed)
    except InputError as error:  # few distinct times: a part may be empty, and that is said
        if "without interactions" not in str(error):
            raise
        return
    together = sorted(row for part in all_parts(parts) for row in raw_rows(parts, part))
    assert together == source_rows(data)


@pytest.mark.parametrize("spec", DRAWN, ids=KINDS)
def test_the_order_of_rows_does_not_matter(spec: SplitSpec) -> None:
    raw = frame(600, span=20)
    one, two = (split(canonical("x", some), spec, 5) for some in (raw, shuffled(raw, 1)))
    assert one.fingerprint() == two.fingerprint()
    assert one.fingerprint() != split(canonical("x", raw), spec, 6).fingerprint()


@pytest.mark.parametrize("spec", DRAWN, ids=KINDS)
def test_parts_are_sorted_and_indexed_by_user(spec: SplitSpec) -> None:
    for part in all_parts(split(dataset(), spec)):
        assert part.time is not None
        assert np.array_equal(np.lexsort((part.item, part.time, part.user)), np.arange(len(part)))
        assert part.offsets[-1] == len(part)
        assert np.array_equal(np.repeat(np.arange(part.n_users), np.diff(part.offsets)), part.user)


def test_ids_follow_a_seeded_shuffle_and_only_what_occurs_has_one() -> None:
    items = pl.DataFrame({"item_id": [f"i{n}" for n in range(99)]})
    data = split(canonical("x", frame(), items), Ratio(), 0)
    assert data.n_items == 30
    assert data.items["item_id"].to_list() != data.items["item_id"].sort().to_list()
    assert data.users["user_id"].to_list() != split(dataset(), Ratio(), 1).users["user_id"].to_list()


@pytest.mark.parametrize("spec", DRAWN, ids=KINDS)
def test_the_report_counts(spec: SplitSpec) -> None:
    data = split(dataset(), spec)
    report = data.report
    assert report["n_train"] == len(data.train)
    assert sum(value for name, value in report.items() if name.startswith("n_")) == report["interactions"] == 400
    assert sum(value for name, value in report.items() if name.startswith("share_")) == pytest.approx(1)
    unseen = set(data.test.item.tolist()) - set(data.train.item.tolist())
    assert report["test_unseen_items"] == len(unseen)
    assert report["test_unseen_items_share"] == len(unseen) / len(set(data.test.item.tolist()))
    assert data.test.time is not None
    assert data.train.time is not None
    assert report["test_older_than_train"] == (data.test.time < data.train.time.max()).mean()
    assert all(isinstance(value, float) for value in report.values())


# --- each kind -------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), span=st.integers(3, 300), valid=st.floats(0.05, 0.4), test=st.floats(0.05, 0.4))
def test_temporal_trains_on_nothing_at_or_after_a_cut(seed: int, span: int, valid: float, test: float) -> None:
    try:
        data = split(dataset(seed=seed, span=span), Temporal(valid=valid, test=test))
    except InputError:
        return
    times = [part.time for part in (data.train, data.valid, data.test) if part.time is not None]
    assert times[0].max() < times[1].min()
    assert times[1].max() < times[2].min()
    assert data.report["test_older_than_train"] == 0


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), span=st.sampled_from([40, 10**9]), slices=st.integers(2, 6))
def test_slices_follow_each_other_and_know_what_came_before(seed: int, span: int, slices: int) -> None:
    data = dataset(400, seed=seed, span=span)
    try:
        parts = [split(data, Prequential(slices=slices, slice=s, judged=0.6), seed) for s in range(1, slices + 1)]
    except InputError as error:
        if "without interactions" not in str(error):
            raise
        return
    judged: list[tuple[Any, ...]] = []
    before = raw_rows(parts[0], parts[0].train) + raw_rows(parts[0], parts[0].valid)
    for number, now in enumerate(parts, 1):
        assert now.train.time is not None
        assert now.valid.time is not None
        assert now.test.time is not None
        assert now.train.time.max() < now.valid.time.min()
        assert now.valid.time.max() < now.test.time.min()
        # all that came before is known, what was judged included
        assert sorted(raw_rows(now, now.train) + raw_rows(now, now.valid)) == sorted([*before, *judged])
        judged += raw_rows(now, now.test)
        assert now.items.equals(parts[0].items), "one set of ids for all slices"
        assert now.report[f"train_ends_{number}"] <= now.valid.time.min()
    assert sorted([*before, *judged]) == source_rows(data)
    # what is new since an earlier slice, by its name in the report
    last = parts[-1]
    new, old = (of_slices(last, after, upto) for after, upto in ((slices - 1, slices), (None, slices - 1)))
    assert sorted([*new, *old]) == list(range(len(last.train)))
    assert raw_rows(last, last.train.take(old)) == raw_rows(parts[-2], parts[-2].train)


def test_temporal_shares_are_those_asked_for_where_times_differ() -> None:
    raw = frame(1000).with_columns(timestamp=pl.int_range(1000))
    data = split(canonical("x", raw), Temporal(valid=0.1, test=0.2))
    assert (len(data.train), len(data.valid), len(data.test)) == (700, 100, 200)


def test_leave_last_out_takes_the_last_two_of_who_has_three() -> None:
    raw = frame(300, users=60)
    data = split(canonical("x", raw), LeaveLastOut())
    for user in range(data.n_users):
        parts = [
            part.time[part.offsets[user] : part.offsets[user + 1]] for part in all_parts(data) if part.time is not None
        ]
        total = sum(map(len, parts))
        assert [len(part) for part in parts] == ([total, 0, 0] if total < 3 else [total - 2, 1, 1])
        if total >= 3:
            assert parts[0].max() <= parts[1][0] <= parts[2][0]


def test_leave_last_out_breaks_ties_by_the_seed_alone() -> None:
    # everything at one time: what is left out is random, neither the largest id nor the last row
    raw = pl.DataFrame(
        {"user_id": [f"u{u:03}" for u in range(300) for _ in range(4)], "item_id": ["a", "b", "c", "d"] * 300}
    ).with_columns(timestamp=1.0)
    data = split(canonical("x", raw), LeaveLastOut(), 0)
    names = data.items["item_id"].to_numpy()[data.test.item]
    counts = {name: (names == name).sum() for name in "abcd"}
    assert all(50 < count < 100 for count in counts.values()), counts


@pytest.mark.parametrize("by", ["user", "all"])
def test_ratio_shares(by: Any) -> None:
    raw = pl.DataFrame(
        {"user_id": [f"u{u}" for u in range(50) for _ in range(20)], "item_id": [f"i{i}" for i in range(20)] * 50}
    )
    data = split(canonical("x", raw), Ratio(valid=0.1, test=0.2, by=by))
    assert (len(data.train), len(data.valid), len(data.test)) == (700, 100, 200)
    if by == "user":
        assert set(np.diff(data.test.offsets).tolist()) == {4}
    assert "test_older_than_train" not in data.report


def test_what_is_known_only_is_history_and_nothing_else() -> None:
    raw = frame(120).with_columns(part=pl.Series(["known", "train", "valid", "test"] * 30))
    data = split(canonical("made", raw), Predefined())
    assert len(data.train) == len(data.valid) == len(data.test) == 30
    assert data.report["n_known"] == 30
    assert len(data.complete_train) == 60
    assert len(data.catalogue().train) == 30  # all that a model may learn from
    assert len(known(data, "valid")) == 60
    assert len(known(data, "test")) == 90
    few = few_shot(data, Task(split=Predefined()), 10, 0)
    assert (len(few.train), len(few.complete_train)) == (10, 60)


def test_predefined_is_what_the_file_says() -> None:
    raw = frame(90).with_columns(part=pl.Series(["test", "train", "valid"] * 30))
    data = split(canonical("x", raw), Predefined())
    for name, part in zip(("train", "valid", "test"), all_parts(data), strict=True):
        assert raw_rows(data, part) == sorted(raw.filter(pl.col("part") == name).drop("part").rows())


def test_cold_items_are_in_one_part_only() -> None:
    data = split(dataset(1000), ColdItems(valid=0.2, test=0.2))
    items = [set(part.item.tolist()) for part in all_parts(data)]
    assert [len(some) for some in items] == [18, 6, 6]
    assert data.report["test_unseen_items_share"] == 1


def test_cold_users_have_a_known_history_that_is_not_trained_on() -> None:
    data = split(dataset(1000), ColdUsers(valid=0.2, test=0.2, history=0.5))
    assert data.test_known is not None
    assert data.test_known.time is not None
    assert data.test.time is not None
    users = set(data.test.user.tolist())
    assert len(users) == 4
    assert users == set(data.test_known.user.tolist())
    assert not users & set(data.train.user.tolist())
    for user in users:
        first, rest = (part.time[part.offsets[user] : part.offsets[user + 1]] for part in (data.test_known, data.test))
        assert first.max() <= rest.min()
        assert len(first) == (len(first) + len(rest)) // 2


def test_known_is_what_may_be_used_when_a_part_is_scored() -> None:
    data = split(dataset(), Temporal())
    assert raw_rows(data, known(data, "valid")) == raw_rows(data, data.train)
    assert raw_rows(data, known(data, "test")) == sorted(raw_rows(data, data.train) + raw_rows(data, data.valid))
    cold = split(dataset(), ColdUsers())
    assert cold.valid_known is not None
    assert cold.test_known is not None
    expected = [cold.train, cold.valid_known]
    assert raw_rows(cold, known(cold, "valid")) == sorted(row for part in expected for row in raw_rows(cold, part))
    expected += [cold.valid, cold.test_known]
    rows = known(cold, "test")
    assert raw_rows(cold, rows) == sorted(row for part in expected for row in raw_rows(cold, part))
    assert rows.time is not None
    assert np.array_equal(np.lexsort((rows.item, rows.time, rows.user)), np.arange(len(rows)))


# --- what cannot be split --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [Temporal(), LeaveLastOut()], ids=["temporal", "leave_last_out"])
def test_time_is_needed(spec: SplitSpec) -> None:
    with pytest.raises(
        InputError, match=rf"^dataset x has no timestamps, which the split {spec.kind} needs; use ratio"
    ):
        split(canonical("x", frame().drop("timestamp")), spec)


def test_parts_are_needed() -> None:
    with pytest.raises(InputError, match=r"^dataset made has no predefined parts"):
        split(dataset(), Predefined())


@pytest.mark.parametrize(
    ("spec", "raw", "part"),
    [
        (Temporal(), frame(span=1), "train"),
        (LeaveLastOut(), frame(2), "valid"),
        (Ratio(), frame(30), "valid"),
        (ColdItems(), frame(items=3), "valid"),
        (ColdUsers(), frame(users=3), "valid"),
        (Predefined(), frame(2).with_columns(part=pl.Series(["train", "valid"])), "test"),
    ],
)
def test_an_empty_part_is_said(spec: SplitSpec, raw: pl.DataFrame, part: str) -> None:
    with pytest.raises(InputError, match=rf"^dataset x: the split {spec.kind} leaves '{part}' without interactions"):
        split(canonical("x", raw), spec)


@pytest.mark.parametrize(
    "bad",
    [
        {"kind": "temporal", "valid": 0.5, "test": 0.5},
        {"kind": "temporal", "test": 0},
        {"kind": "ratio", "valid": -0.1},
        {"kind": "ratio", "by": "item"},
        {"kind": "cold_users", "history": 1},
        {"kind": "leave_last_out", "test": 0.1},
        {"kind": "leave-last-out"},
    ],
)
def test_bad_specifications_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(SplitSpec).validate_python(bad)


# --- the same everywhere ---------------------------------------------------------------------------------------------

PRINT = """
from benchmark.data.budget import few_shot
from benchmark.data.filters import Filters
from benchmark.data.split import split
from tests.data.make import dataset
from tests.data.test_split import DRAWN
print(*(split(Filters().apply(dataset(2000)), spec, 7).fingerprint()[:16] for spec in DRAWN))
"""
GOLDEN = [
    "4a911cc92bd4df5c",
    "80e45b2d32302b3f",
    "dc242dd39f9d1f54",
    "394c61fa121d6996",
    "11675d8ae6a7095e",
    "ce8a5e7b923e04b3",
]


def test_fingerprints_are_pinned() -> None:
    assert [split(Filters().apply(dataset(2000)), spec, 7).fingerprint()[:16] for spec in DRAWN] == GOLDEN


def test_another_process_gives_the_same() -> None:
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", PRINT], cwd=root, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == GOLDEN
