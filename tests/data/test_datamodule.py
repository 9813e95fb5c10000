"""RecDataModule: every kind of batch against a slow reference, histories strictly before the target, shards, epochs."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from benchmark.data.batch import Batch, BatchSpec
from benchmark.data.candidates import Sampled
from benchmark.data.datamodule import RecDataModule
from benchmark.data.schema import Dataset, Interactions, SplitData
from benchmark.data.split import ColdItems, ColdUsers, LeaveLastOut, Predefined, Ratio, Temporal, split
from benchmark.data.task import Task
from benchmark.errors import InputError

SPLITS: dict[str, Any] = {
    "temporal": Temporal(valid=0.2, test=0.2),
    "leave_last_out": LeaveLastOut(),
    "ratio": Ratio(valid=0.2, test=0.2),
    "predefined": Predefined(),
    "cold_items": ColdItems(valid=0.2, test=0.2),
    "cold_users": ColdUsers(valid=0.2, test=0.2),
}
KINDS = ("pointwise", "pairwise", "sequence", "user_rows", "whole")


def dataset(with_time: bool = True, with_rating: bool = True, seed: int = 0) -> Dataset:
    """Small, with many equal times, so that 'strictly before' means something."""
    rng = np.random.default_rng(seed)
    pairs = [(u, i) for u in range(25) for i in rng.choice(30, rng.integers(3, 13), replace=False)]
    user, item = np.array(pairs).T
    n = len(pairs)
    columns = {"user": user.astype(np.int32), "item": item.astype(np.int32)}
    if with_rating:
        columns["rating"] = rng.integers(1, 6, n).astype(np.float32)
    if with_time:
        columns["timestamp"] = rng.integers(0, 30, n).astype(np.float64)
    frame = pl.DataFrame(columns).with_columns(
        part=pl.Series(rng.choice(["train", "valid", "test"], n, p=[0.6, 0.2, 0.2]))
    )
    users = pl.DataFrame({"user_id": [f"u{i:02d}" for i in range(25)]})
    return Dataset("small", frame, users, pl.DataFrame({"item_id": [f"i{i:02d}" for i in range(30)]}))


def module(data: SplitData, task: Task, **options: Any) -> RecDataModule:
    seed = options.pop("seed", 0)
    spec = BatchSpec(**{"kind": "pointwise", "batch_size": 7, "eval_batch_size": 4, **options})
    return RecDataModule(data, task, spec, seed)


def epoch(loader: Any, number: int = 0) -> list[Batch]:
    loader.sampler.set_epoch(number)
    return list(loader)


def rows_of(*parts: Interactions | None) -> list[tuple[int, int, float, float]]:
    """(user, item, rating, time) of all rows, in the stored order of each part."""
    rows = []
    for part in parts:
        if part is not None:
            rating = np.ones(len(part)) if part.rating is None else part.rating
            time = np.zeros(len(part)) if part.time is None else part.time
            rows += list(zip(part.user.tolist(), part.item.tolist(), rating.tolist(), time.tolist(), strict=True))
    return rows


def known_rows(data: SplitData, part: str) -> list[tuple[int, int, float, float]]:
    if part == "valid":
        return rows_of(data.train, data.valid_known)
    return rows_of(data.train, data.valid_known, data.valid, data.test_known)


def lists(ragged: Any) -> list[list[int]]:
    return [ragged.values[a:b].tolist() for a, b in zip(ragged.offsets, ragged.offsets[1:], strict=False)]


def check_history(batch: Batch, row: int, expected: list[tuple[float, float, float]], limit: int, n_items: int) -> None:
    """``expected``: (time, item, label), any order; what is of one time may stand in any order."""
    assert batch.history is not None
    assert batch.history_length is not None
    assert batch.history_label is not None
    length = int(batch.history_length[row])
    assert length == min(len(expected), limit)
    assert batch.history[row, length:].eq(n_items).all()
    assert batch.history_label[row, length:].eq(0).all()
    labels = batch.history_label[row, :length].tolist()
    times = [0.0] * length if batch.history_time is None else batch.history_time[row, :length].tolist()
    found = list(zip(times, batch.history[row, :length].tolist(), labels, strict=True))
    assert times == sorted(times)
    assert times == sorted(time for time, _, _ in expected)[len(expected) - length :]
    assert set(found) <= set(expected)
    assert len(set(found)) == length
    if length and length < len(expected):
        assert {f for f in expected if f[0] > times[0]} <= set(found), "the newest are kept"


# --- judged rows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPLITS)
@pytest.mark.parametrize("part", ["valid", "test"])
@pytest.mark.parametrize("limit", [3, 50])
def test_ranking_rows(name: str, part: str, limit: int) -> None:
    data = split(dataset(), SPLITS[name], 3)
    task = Task(split=SPLITS[name])
    target = rows_of(getattr(data, part))
    known = known_rows(data, part)
    judged = []
    for batch in epoch(_loader(module(data, task, max_history=limit), part)):
        assert batch.seen is not None
        assert batch.relevant is not None
        assert batch.excluded is not None
        assert batch.candidates is None
        assert batch.label is None
        for row, user in enumerate(batch.user.tolist()):
            judged.append(user)
            seen = {i for u, i, _, _ in known if u == user}
            first = min(t for u, _, _, t in target if u == user)
            # of new items the split knows no time: who can score them reads no more of a user than the history
            read = {i for u, i, _, t in known if u == user and (t < first or name != "cold_items")}
            assert lists(batch.seen)[row] == sorted(read)
            assert lists(batch.excluded)[row] == sorted(seen)
            assert lists(batch.relevant)[row] == sorted({i for u, i, _, _ in target if u == user} - seen)
            expected = [(t, i, r) for u, i, r, t in known if u == user and t < first]
            check_history(batch, row, expected, limit, data.n_items)
    wanted = {u for u, i, _, _ in target if (u, i) not in {(u, i) for u, i, _, _ in known}}
    assert sorted(judged) == sorted(wanted)


def _loader(module: RecDataModule, part: str) -> Any:
    return module.val_dataloader() if part == "valid" else module.test_dataloader()


@pytest.mark.parametrize("name", ["temporal", "ratio", "predefined"])
@pytest.mark.parametrize("history", ["before_split", "before_target"])
def test_preference_rows(name: str, history: str) -> None:
    data = split(dataset(), SPLITS[name], 1)
    task = Task(kind="preference", split=SPLITS[name], metrics=("auc",), history=history, positive_rating=3.0)
    known, target = known_rows(data, "test"), rows_of(data.test)
    memory = known + target if history == "before_target" else known
    found = []
    for batch in epoch(module(data, task, max_history=4).test_dataloader()):
        assert batch.candidates is not None
        assert batch.label is not None
        assert batch.row is not None
        assert batch.relevant is None
        for row, number in enumerate(batch.row.tolist()):
            user, item, rating, time = target[number]
            found.append(number)
            assert (batch.user[row], batch.candidates[row].tolist()) == (user, [item])
            assert batch.label[row] == float(rating >= 3)
            expected = [(t, i, float(r >= 3)) for u, i, r, t in memory if u == user and t < time]
            check_history(batch, row, expected, 4, data.n_items)
    assert sorted(found) == list(range(len(target)))


def test_without_times_a_history_is_all_that_is_known() -> None:
    data = split(dataset(with_time=False, with_rating=False), Ratio(valid=0.2, test=0.2), 0)
    for batch in epoch(module(data, Task(split=Ratio()), max_history=50).test_dataloader()):
        assert batch.history_time is None
        assert batch.history_label is not None
        for row, user in enumerate(batch.user.tolist()):
            expected = [(0.0, i, 1.0) for u, i, _, _ in known_rows(data, "test") if u == user]
            check_history(batch, row, expected, 50, data.n_items)


def test_sampled_candidates_hold_the_relevant_and_mask_the_padding() -> None:
    data = split(dataset(), SPLITS["leave_last_out"], 0)
    task = Task(split=SPLITS["leave_last_out"], candidates=Sampled(n=22))
    everything = task.model_copy(update={"candidates": Task().candidates})
    full = dict(_by_user(epoch(module(data, everything).test_dataloader()), "relevant"))
    padded = 0
    for batch in epoch(module(data, task).test_dataloader()):
        assert batch.candidates is not None
        assert batch.seen is not None
        assert batch.candidates.min() >= 0
        for row, user in enumerate(batch.user.tolist()):
            excluded, relevant = lists(batch.excluded)[row], lists(batch.relevant)[row]
            padded += len(excluded)
            items = batch.candidates[row].tolist()
            real = [item for column, item in enumerate(items) if column not in excluded]
            assert sorted(items[c] for c in relevant) == full[user]
            assert not set(real) & set(lists(batch.seen)[row])
            assert len(set(real)) == len(real)
    assert padded, "the case with padding did not come up"


def _by_user(batches: list[Batch], field: str) -> list[tuple[int, list[int]]]:
    return [pair for b in batches for pair in zip(b.user.tolist(), lists(getattr(b, field)), strict=True)]


def test_a_user_is_given_the_same_candidates_however_many_are_judged() -> None:
    data = split(dataset(), SPLITS["leave_last_out"], 0)
    task = Task(split=SPLITS["leave_last_out"], candidates=Sampled(n=5))
    few = task.model_copy(update={"limit_test": 6})
    everything = {u: c for b in epoch(module(data, task).test_dataloader()) for u, c in _candidates(b)}
    some = {u: c for b in epoch(module(data, few).test_dataloader()) for u, c in _candidates(b)}
    assert len(some) == 6
    assert all(everything[user] == candidates for user, candidates in some.items())


def _candidates(batch: Batch) -> list[tuple[int, list[int]]]:
    assert batch.candidates is not None
    return list(zip(batch.user.tolist(), batch.candidates.tolist(), strict=True))


def test_repeats_stay_in_the_competition_where_the_task_says_so() -> None:
    data = split(dataset(), SPLITS["temporal"], 0)
    again = replace(data, test=data.train)
    batches = epoch(module(again, Task(allow_repeats=True)).test_dataloader())
    assert all(not len(b.excluded.values) for b in batches if b.excluded is not None)
    assert sorted(itertools.chain.from_iterable(lists(b.relevant) for b in batches)) == sorted(
        [
            sorted({i for u, i, _, _ in rows_of(data.train) if u == user})
            for user in sorted(set(data.train.user.tolist()))
        ]
    )
    with pytest.raises(InputError, match="no user to judge"):
        module(again, Task()).test_dataloader()


def test_min_history_judges_users_with_enough_behind_them() -> None:
    data = split(dataset(), SPLITS["ratio"], 0)
    batches = epoch(module(data, Task(split=SPLITS["ratio"], min_history=3), max_history=50).test_dataloader())
    assert all(b.history_length is not None and bool((b.history_length >= 3).all()) for b in batches)
    assert sum(map(len, batches)) < sum(map(len, epoch(module(data, Task(split=SPLITS["ratio"])).test_dataloader())))


# --- training batches ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ranking", "preference"])
def test_pointwise(kind: Any) -> None:
    data = split(dataset(), SPLITS["ratio"], 0)
    task = Task(kind=kind, split=SPLITS["ratio"], metrics=("auc",))
    train = rows_of(data.train)
    owned = {(u, i) for u, i, _, _ in train}
    positives = []
    for batch in epoch(module(data, task, negatives=2, max_history=5).train_dataloader()):
        assert batch.item is not None
        assert batch.label is not None
        for row, (user, item, label) in enumerate(
            zip(batch.user.tolist(), batch.item.tolist(), batch.label.tolist(), strict=True)
        ):
            if kind == "ranking":
                assert ((user, item) in owned) == (label == 1)
            if (user, item) not in owned:
                continue
            positives.append((user, item))
            rating, time = next((r, t) for u, i, r, t in train if (u, i) == (user, item))
            if kind == "preference":
                assert label == float(rating >= 4)
            value = (lambda r: float(r >= 4)) if kind == "preference" else float
            expected = [(t, i, value(r)) for u, i, r, t in train if u == user and t < time]
            check_history(batch, row, expected, 5, data.n_items)
        if kind == "ranking":
            assert len(batch) == 3 * int(batch.label.sum())
            third = len(batch) // 3
            assert torch.equal(batch.user[:third].repeat(3), batch.user)
            assert batch.history is not None
            assert torch.equal(batch.history[:third].repeat(3, 1), batch.history)
    assert sorted(positives) == sorted(owned)


def test_pairwise() -> None:
    data = split(dataset(), SPLITS["temporal"], 0)
    owned = {(u, i) for u, i, _, _ in rows_of(data.train)}
    pairs = []
    for batch in epoch(module(data, Task(), kind="pairwise", negatives=3).train_dataloader()):
        assert batch.item is not None
        assert batch.negative is not None
        assert batch.negative.shape == (len(batch), 3)
        pairs += list(zip(batch.user.tolist(), batch.item.tolist(), strict=True))
        for user, negatives in zip(batch.user.tolist(), batch.negative.tolist(), strict=True):
            assert not {(user, i) for i in negatives} & owned
    assert sorted(pairs) == sorted(owned)


def test_sequence() -> None:
    data = split(dataset(), SPLITS["temporal"], 0)
    users = []
    for batch in epoch(module(data, Task(), kind="sequence", max_history=4).train_dataloader()):
        for row, user in enumerate(batch.user.tolist()):
            users.append(user)
            own = [(t, i, r) for u, i, r, t in rows_of(data.train) if u == user]
            check_history(batch, row, own, 5, data.n_items)  # one more: the model shifts it
    assert sorted(users) == [u for u in range(data.n_users) if (data.train.user == u).sum() >= 2]


def test_user_rows_and_whole() -> None:
    data = split(dataset(), SPLITS["temporal"], 0)
    train = rows_of(data.train)
    rows = [
        pair for b in epoch(module(data, Task(), kind="user_rows").train_dataloader()) for pair in _by_user([b], "seen")
    ]
    assert sorted(rows) == [(u, sorted(i for v, i, _, _ in train if v == u)) for u in sorted({u for u, *_ in train})]
    (whole,) = epoch(module(data, Task(), kind="whole").train_dataloader())
    assert whole.item is not None
    assert whole.label is not None
    assert list(zip(whole.user.tolist(), whole.item.tolist(), whole.label.tolist(), strict=True)) == [
        (u, i, r) for u, i, r, _ in train
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_and_an_epoch_decide_the_batches(kind: Any) -> None:
    data = split(dataset(), SPLITS["temporal"], 0)

    def content(seed: int, number: int) -> list[Any]:
        loader = module(data, Task(), kind=kind, max_history=3, seed=seed).train_dataloader()
        assert len(loader) == len(epoch(loader, number))  # and a look at the length starts nothing again
        return [_plain(batch) for batch in epoch(loader, number)]

    assert content(0, 0) == content(0, 0)
    assert content(0, 2) == content(0, 2)
    if kind != "whole":
        assert content(0, 0) != content(0, 1)
        assert content(0, 0) != content(1, 0)


def _plain(batch: Batch) -> list[Any]:
    tensors = (batch.user, batch.item, batch.negative, batch.history, None if batch.seen is None else batch.seen.values)
    return [None if tensor is None else tensor.tolist() for tensor in tensors]


def test_the_length_asked_for_within_an_epoch_changes_no_draw() -> None:
    data = split(dataset(), SPLITS["temporal"], 0)
    plain = [_plain(b) for b in epoch(module(data, Task(), kind="pairwise").train_dataloader(), 1)]
    loader = module(data, Task(), kind="pairwise").train_dataloader()
    loader.sampler.set_epoch(1)  # type: ignore[attr-defined]
    asked = []
    for batch in loader:
        len(loader)
        asked.append(_plain(batch))
    assert asked == plain


def test_rows_of_like_cost_share_a_batch() -> None:
    data = split(dataset(), SPLITS["temporal"], 0)

    def cost(batch: Batch) -> torch.Tensor:
        assert batch.history_length is not None
        return batch.history_length

    def spread(**options: Any) -> float:
        batches = epoch(
            module(data, Task(), max_history=20, kind="sequence", batch_size=5, **options).train_dataloader()
        )
        assert sum(map(len, batches)) == sum((data.train.user == u).sum() >= 2 for u in range(data.n_users))
        return sum(float(cost(b).max() - cost(b).min()) for b in batches)

    assert spread(cost=cost) < spread() / 2


@pytest.mark.parametrize("kind", ["ranking", "preference"])
def test_limits_judge_a_seeded_sample(kind: Any) -> None:
    data = split(dataset(), SPLITS["temporal"], 0)
    task = Task(kind=kind, metrics=("auc",), limit_valid=5, limit_test=7)
    first, second, everything = (module(data, t) for t in (task, task, Task(kind=kind, metrics=("auc",))))
    assert (len(first.rows("valid")), len(first.rows("test"))) == (5, 7)
    assert torch.equal(first.rows("test").user, second.rows("test").user)
    assert set(first.rows("test").user.tolist()) <= set(everything.rows("test").user.tolist())


def test_a_preference_task_needs_ratings() -> None:
    data = split(dataset(with_rating=False), SPLITS["temporal"], 0)
    task = Task(kind="preference", metrics=("auc",))
    for loader in ("train_dataloader", "test_dataloader"):
        with pytest.raises(InputError, match="needs ratings"):
            getattr(module(data, task), loader)()


# --- processes -------------------------------------------------------------------------------------------------------


def shards(module: RecDataModule, loader: str, world: int, number: int = 0) -> list[list[Batch]]:
    found = []
    for rank in range(world):
        module.trainer = SimpleNamespace(world_size=world, global_rank=rank)  # type: ignore[assignment]
        this = getattr(module, loader)()
        found.append(epoch(this, number))
        assert len(this) == len(found[-1])
    return found


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_shards_of_judged_rows_are_disjoint_and_complete(world: int) -> None:
    data = split(dataset(), SPLITS["ratio"], 0)
    users = [
        b.user.tolist() for shard in shards(module(data, Task(split=Ratio())), "test_dataloader", world) for b in shard
    ]
    flat = [user for batch in users for user in batch]
    assert sorted(flat) == module(data, Task(split=Ratio())).rows("test").user.tolist()


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("drop_last", [False, True])
def test_shards_of_training_rows_are_of_one_size_and_lose_nothing(world: int, drop_last: bool) -> None:
    data = split(dataset(), SPLITS["ratio"], 0)
    found = shards(module(data, Task(), kind="pairwise", drop_last=drop_last), "train_dataloader", world, 1)
    sizes = [[len(b) for b in shard] for shard in found]
    assert all(size == sizes[0] for size in sizes), "processes would wait for each other"
    pairs = [(u, i) for shard in found for b in shard for u, i in zip(b.user.tolist(), b.item.tolist(), strict=True)]  # type: ignore[union-attr]
    if drop_last:
        assert all(n == 7 for n in sizes[0])
    else:
        assert set(pairs) == {(u, i) for u, i, _, _ in rows_of(data.train)}
        assert len(pairs) - len(set(pairs)) < world


def test_every_process_has_the_whole_training_part_for_closed_forms() -> None:
    data = split(dataset(), SPLITS["ratio"], 0)
    for (batch,) in shards(module(data, Task(), kind="whole"), "train_dataloader", 2):
        assert len(batch) == len(data.train)


# --- what a model may ask for besides --------------------------------------------------------------------------------


def test_rows_without_enough_history_are_left_out() -> None:
    data = split(dataset(), LeaveLastOut())
    everything = module(data, Task(split=LeaveLastOut()), max_history=50)
    some = module(data, Task(split=LeaveLastOut()), max_history=50, min_history=2)
    lengths = torch.cat([batch.history_length for batch in epoch(everything.train_dataloader())])
    kept = torch.cat([batch.history_length for batch in epoch(some.train_dataloader())])
    # drawn negatives share the history of their positive
    assert len(kept) == int((lengths >= 2).sum())
    assert int(kept.min()) == 2


def test_pairs_carry_the_history_of_their_positive() -> None:
    data, task = split(dataset(), LeaveLastOut()), Task(split=LeaveLastOut())
    pairs = epoch(module(data, task, kind="pairwise", max_history=5, negatives=2).train_dataloader())
    points = epoch(module(data, task, max_history=5, negatives=0).train_dataloader())

    def histories(batches: list[Batch]) -> set[tuple[int, ...]]:
        rows = [
            (int(user), int(item), *history[:length].tolist())
            for batch in batches
            for user, item, history, length in zip(
                batch.user, batch.item, batch.history, batch.history_length, strict=True
            )
        ]
        return set(rows)

    assert histories(pairs) == histories(points)
    assert all(batch.negative.shape == (len(batch), 2) for batch in pairs)


@pytest.mark.parametrize("world", [1, 2])
def test_an_epoch_may_go_through_the_rows_several_times(world: int) -> None:
    data, task = split(dataset(), LeaveLastOut()), Task(split=LeaveLastOut())
    once, twice = (module(data, task, kind="user_rows", batch_size=4, passes=passes) for passes in (1, 2))
    for made in (once, twice):
        made.trainer = SimpleNamespace(world_size=world, global_rank=0)
    loader = twice.train_dataloader()
    batches = epoch(loader)
    assert len(batches) == len(loader) == 2 * len(once.train_dataloader())
    half = len(batches) // 2
    first, second = (torch.cat([b.user for b in part]) for part in (batches[:half], batches[half:]))
    assert len(first) == len(second)
    assert first.tolist() != second.tolist()  # in another order
    if world == 1:
        assert sorted(first.tolist()) == sorted(second.tolist())


@pytest.mark.parametrize(("kind", "rows"), [("pointwise", 12), ("pairwise", 12)])
def test_a_batch_may_count_its_negatives(kind: str, rows: int) -> None:
    data, task = split(dataset(), LeaveLastOut()), Task(split=LeaveLastOut())
    made = module(data, task, kind=kind, batch_size=12, negatives=3, count_negatives=True)
    first = epoch(made.train_dataloader())[0]
    assert (first.label if kind == "pointwise" else first.negative).numel() == rows
    labelled = module(data, Task(kind="preference", split=LeaveLastOut(), metrics=("auc",)), batch_size=12, negatives=3)
    assert len(epoch(labelled.train_dataloader())[0]) == 12  # rows with labels of their own bring no negatives
