"""Few-shot budgets: every model of a table learns from the same interactions, and is judged as without a budget."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from benchmark.data.batch import Batch, Ragged
from benchmark.data.budget import few_shot
from benchmark.data.candidates import Sampled
from benchmark.data.schema import Interactions, SplitData
from benchmark.data.split import ColdUsers, LeaveLastOut, Ratio, SplitSpec, Temporal, known, split
from benchmark.data.task import Task
from benchmark.errors import InputError
from tests.data import make
from tests.data.test_datamodule import dataset, epoch, lists, module, rows_of

RANKING = Task(split=Ratio())
PREFERENCE = Task(kind="preference", split=Ratio(), metrics=("auc",))
TASKS = [RANKING, PREFERENCE]
BOTH = pytest.mark.parametrize("task", TASKS, ids=lambda task: task.kind)
DATA: dict[str, SplitData] = {
    "timed": split(dataset(), Ratio(valid=0.2, test=0.2), 0),
    "untimed": split(dataset(with_time=False), Ratio(valid=0.2, test=0.2), 0),
    "repeating": split(make.dataset(), Ratio(valid=0.2, test=0.2), 0),  # users come back to items
    "last out": split(dataset(), LeaveLastOut(), 0),
    "cold users": split(dataset(), ColdUsers(valid=0.2, test=0.2), 0),
}
SOME = DATA["timed"]
any_data, any_task = st.sampled_from(sorted(DATA)), st.sampled_from(TASKS)
any_limit, any_seed = st.integers(1, min(len(data.train) for data in DATA.values())), st.integers(0, 10_000)


def counts(rows: Interactions) -> dict[tuple[float, ...], int]:
    """How often each interaction is there."""
    found, times = np.unique(rows_of(rows), axis=0, return_counts=True)
    return {tuple(row): int(n) for row, n in zip(found.tolist(), times, strict=True)}


def holds(larger: Interactions, smaller: Interactions) -> bool:
    there = counts(larger)
    return all(there.get(row, 0) >= n for row, n in counts(smaller).items())


def plain(batch: Batch) -> dict[str, Any]:
    """A batch as lists, which compare."""

    def listed(value: Tensor | Ragged | None) -> Any:
        return lists(value) if isinstance(value, Ragged) else None if value is None else value.tolist()

    return {field.name: listed(getattr(batch, field.name)) for field in fields(batch)}


# --- what is learned from --------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(any_data, any_task, any_limit, any_seed)
def test_a_budget_is_so_many_interactions_of_the_training_part(name: str, task: Task, limit: int, seed: int) -> None:
    data = DATA[name]
    few = few_shot(data, task, limit, seed)
    assert len(few.train) == limit
    assert holds(data.train, few.train)
    # and they are what Interactions are: sorted, and indexed by user
    train = few.train
    again = Interactions.from_arrays(train.user, train.item, train.rating, train.time, data.n_users)
    assert rows_of(train) == rows_of(again)
    assert train.offsets.tolist() == again.offsets.tolist()


@settings(max_examples=40, deadline=None)
@given(any_data, any_limit, any_seed)
def test_a_ranking_is_learned_from_whole_users_the_last_one_cut_to_the_oldest(name: str, limit: int, seed: int) -> None:
    data = DATA[name]
    few = few_shot(data, RANKING, limit, seed).train
    sizes, all_sizes = np.diff(few.offsets), np.diff(data.train.offsets)
    assert ((sizes > 0) & (sizes < all_sizes)).sum() <= 1
    for user in np.flatnonzero(sizes):
        first = data.train.offsets[user]
        assert rows_of(data.train)[first : first + sizes[user]] == rows_of(few)[few.offsets[user] :][: sizes[user]]


@BOTH
@pytest.mark.parametrize("name", DATA)
def test_every_kind_of_batch_holds_the_same_interactions(name: str, task: Task) -> None:
    few = few_shot(DATA[name], task, 60, 0)
    wanted = sorted((user, item) for user, item, _, _ in rows_of(few.train))

    def batches(kind: str, history: int = 0) -> list[Batch]:
        return epoch(module(few, task, kind=kind, max_history=history, negatives=0).train_dataloader())

    for kind, history in (("pointwise", 0), ("pointwise", 5), ("pairwise", 0), ("pairwise", 5), ("whole", 0)):
        found = [pair for b in batches(kind, history) for pair in zip(b.user.tolist(), b.item.tolist(), strict=True)]
        assert sorted(found) == wanted, kind
    owned = [
        (user, item)
        for b in batches("user_rows")
        for user, items in zip(b.user.tolist(), lists(b.seen), strict=True)
        for item in items
    ]
    assert sorted(owned) == sorted(set(wanted))
    # one item is no sequence, so the users that have no more are missing
    sequences = [
        (user, item)
        for b in batches("sequence", 100)
        for user, items, length in zip(b.user.tolist(), b.history.tolist(), b.history_length.tolist(), strict=True)
        for item in items[:length]
    ]
    sizes = np.diff(few.train.offsets)
    assert sorted(sequences) == [pair for pair in wanted if sizes[pair[0]] > 1]


@settings(max_examples=40, deadline=None)
@given(any_data, any_task, any_limit, any_limit, any_seed)
def test_a_small_budget_is_part_of_a_large_one(name: str, task: Task, a: int, b: int, seed: int) -> None:
    smaller, larger = (few_shot(DATA[name], task, limit, seed).train for limit in sorted((a, b)))
    assert holds(larger, smaller)  # of the cut user too: the oldest rows come first


@BOTH
def test_the_seed_decides(task: Task) -> None:
    first, again, other = (rows_of(few_shot(SOME, task, 16, seed).train) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_users_trained_on_are_drawn_apart_from_those_that_are_judged() -> None:
    task = Task(split=LeaveLastOut(), limit_test=8)
    data = DATA["last out"]
    assert len(module(data, RANKING).rows("test")) == data.n_users, "both are drawn from all users"
    judged = set(module(data, task).rows("test").user.tolist())
    trained = set(few_shot(data, task, int(len(data.train) * 8 / data.n_users), 0).train.user.tolist())
    assert len(trained & judged) < 6  # of 25 users; with the same draw all 8 were judged


@BOTH
def test_without_a_limit_the_data_stay_the_same_object(task: Task) -> None:
    for limit in (None, len(SOME.train), len(SOME.train) + 1):
        assert few_shot(SOME, task, limit, 0) is SOME
    assert few_shot(SOME, task, len(SOME.train) - 1, 0) is not SOME


@BOTH
def test_a_model_is_shown_the_limited_part_alone(task: Task) -> None:
    few = few_shot(SOME, task, 16, 0)
    shown, before = few.catalogue(), SOME.catalogue()
    assert shown.train is few.train
    assert replace(shown, train=before.train) == before
    assert shown.cache is None
    assert few.catalogue(Path("tokens")).cache == Path("tokens")


@BOTH
def test_the_fingerprint_tells_budgets_apart(task: Task) -> None:
    prints = [few_shot(SOME, task, limit, seed).fingerprint() for limit, seed in ((None, 0), (16, 0), (16, 1), (17, 0))]
    assert len(set(prints)) == 4
    assert prints[0] == SOME.fingerprint()


def test_a_budget_of_a_budget_still_knows_the_whole_part() -> None:
    twice = few_shot(few_shot(SOME, RANKING, 64, 0), RANKING, 16, 0)
    assert len(twice.train) == 16
    assert twice.complete_train is SOME.train


def test_a_budget_too_small_for_the_kind_of_batch_says_so() -> None:
    with pytest.raises(InputError, match="the budget of 1 is too small"):
        module(few_shot(SOME, RANKING, 1, 0), RANKING, kind="sequence", max_history=5).train_dataloader()


# --- what stands before it is input ----------------------------------------------------------------------------------


def histories(data: SplitData, task: Task, kind: str, **options: Any) -> list[tuple[Any, ...]]:
    """(user, item) of each training row, with the items, labels and times of its history."""
    found = []
    for batch in epoch(module(data, task, kind=kind, max_history=50, negatives=0, **options).train_dataloader()):
        row = plain(batch)
        times = row["history_time"] or [[]] * len(batch)
        columns = (row["user"], row["item"], row["history_length"], row["history"], row["history_label"], times)
        for user, item, n, *history in zip(*columns, strict=True):
            found.append((user, item, *(tuple(values[:n]) for values in history)))
    return found


@settings(max_examples=30, deadline=None)
@given(any_data, any_task, st.sampled_from(["pointwise", "pairwise"]), any_limit, any_seed)
def test_histories_are_those_of_the_complete_part(name: str, task: Task, kind: str, limit: int, seed: int) -> None:
    data = DATA[name]
    few = histories(few_shot(data, task, limit, seed), task, kind)
    assert len(few) == limit
    assert set(few) <= set(histories(data, task, kind))


@settings(max_examples=20, deadline=None)
@given(any_task, any_limit, any_seed)
def test_histories_hold_all_that_is_strictly_earlier(task: Task, limit: int, seed: int) -> None:
    complete = rows_of(SOME.train)
    when = {(user, item): time for user, item, _, time in complete}
    for user, item, items, _, times in histories(few_shot(SOME, task, limit, seed), task, "pointwise"):
        earlier = [(i, t) for u, i, _, t in complete if u == user and t < when[user, item]]
        assert sorted(zip(items, times, strict=True)) == sorted(earlier)


def test_a_row_is_left_out_for_its_history_in_the_complete_part() -> None:
    few = few_shot(SOME, PREFERENCE, 64, 0)
    kept = histories(few, PREFERENCE, "pointwise", min_history=3)
    assert sorted(kept) == sorted(row for row in histories(few, PREFERENCE, "pointwise") if len(row[2]) >= 3)
    assert 0 < len(kept) < 64


@settings(max_examples=20, deadline=None)
@given(any_data, st.sampled_from(["pointwise", "pairwise"]), any_task, any_limit, any_seed)
def test_no_negative_is_an_item_the_user_is_known_to_have(
    name: str, kind: str, task: Task, limit: int, seed: int
) -> None:
    data = DATA[name]
    owned = {(user, item) for user, item, _, _ in rows_of(data.train)}
    if kind == "pointwise":
        task = RANKING  # labelled rows bring no negatives
    few = few_shot(data, task, limit, seed)
    for batch in epoch(module(few, task, kind=kind, negatives=4, batch_size=64).train_dataloader()):
        rows = plain(batch)
        drawn = (
            [(user, item) for user, items in zip(rows["user"], rows["negative"], strict=True) for item in items]
            if kind == "pairwise"
            else [(u, i) for u, i, label in zip(rows["user"], rows["item"], rows["label"], strict=True) if not label]
        )
        assert drawn
        assert not owned & set(drawn)


# --- and judging does not know of it ---------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["valid", "test"])
@pytest.mark.parametrize("spec", [Temporal(valid=0.2, test=0.2), LeaveLastOut(), ColdUsers(valid=0.2, test=0.2)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"candidates": Sampled(n=5)},
        {"candidates": Sampled(n=5, strategy="popularity")},
        {"min_history": 2, "limit_test": 4},
        {"kind": "preference", "metrics": ("auc",)},
        {"kind": "preference", "metrics": ("auc",), "history": "before_target"},
    ],
    ids=["full", "uniform", "popularity", "min_history", "preference", "before_target"],
)
def test_histories_seen_items_and_candidates_at_scoring_are_the_same(
    options: dict[str, Any], spec: SplitSpec, part: Literal["valid", "test"]
) -> None:
    task = Task(split=spec, **options)
    data = split(dataset(), spec, 0)
    few = few_shot(data, task, 10, 0)
    assert rows_of(known(few, part)) == rows_of(known(data, part))
    judged, expected = (module(d, task, max_history=20).rows(part) for d in (few, data))
    assert plain(judged[judged.all]) == plain(expected[expected.all])
