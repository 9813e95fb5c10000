"""Rows: the training part and the judged rows as flat arrays, gathered into batches by vectorised indexing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from benchmark.data.batch import Batch, BatchSpec, Ragged
from benchmark.data.candidates import draw
from benchmark.data.negatives import NegativeSampler
from benchmark.data.schema import Interactions, SplitData
from benchmark.data.split import known
from benchmark.data.task import Task
from benchmark.errors import InputError

# --- windows over flat arrays ----------------------------------------------------------------------------------------


@dataclass
class _Sequences:
    """Everything that may stand in a history, sorted by (user, time): windows of it become the histories of a batch."""

    item: Tensor
    label: Tensor | None
    time: Tensor | None
    pad: int

    @classmethod
    def of(cls, rows: Interactions, pad: int, positive_rating: float | None) -> _Sequences:
        """Histories carry ratings, or likes where ``positive_rating`` is given (preference)."""
        label = None
        if rows.rating is not None:
            values = rows.rating if positive_rating is None else (rows.rating >= positive_rating).astype(np.float32)
            label = torch.from_numpy(values)
        time = None if rows.time is None else torch.from_numpy(rows.time)
        return cls(torch.from_numpy(rows.item), label, time, pad)

    def windows(self, start: Tensor, stop: Tensor, longest: int) -> dict[str, Tensor | None]:
        """Return the history fields of a batch: the newest ``longest`` items of ``[start, stop)``, oldest first."""
        start = torch.maximum(start, stop - longest)
        length = stop - start
        width = int(length.max()) if len(length) else 0
        column = torch.arange(max(width, 1))
        real = column < length.unsqueeze(1)
        position = torch.where(real, start.unsqueeze(1) + column, 0)
        if not len(self.item):
            return {
                "history": torch.full(real.shape, self.pad),
                "history_length": length,
                "history_label": torch.zeros(real.shape),
                "history_time": None,
            }
        label = torch.ones(()) if self.label is None else self.label[position]
        return {
            "history": torch.where(real, self.item[position].long(), self.pad),
            "history_length": length,
            "history_label": torch.where(real, label, 0.0),
            "history_time": None if self.time is None else torch.where(real, self.time[position], 0.0),
        }


def unique_pairs(user: np.ndarray, item: np.ndarray, n_users: int, n_items: int) -> Ragged:
    """Return each user's items once, ascending."""
    keys = np.unique(user.astype(np.int64) * n_items + item)
    offsets = np.zeros(n_users + 1, np.int64)
    np.cumsum(np.bincount(keys // n_items, minlength=n_users), out=offsets[1:])
    return Ragged(torch.from_numpy(offsets), torch.from_numpy(keys % n_items))


def take(lists: Ragged, index: Tensor) -> Ragged:
    """Return the lists at ``index``, in that order."""
    start, length = lists.offsets[index], lists.offsets[index + 1] - lists.offsets[index]
    offsets = torch.zeros(len(index) + 1, dtype=torch.int64)
    torch.cumsum(length, 0, out=offsets[1:])
    position = torch.arange(int(offsets[-1])) + torch.repeat_interleave(start - offsets[:-1], length)
    return Ragged(offsets, lists.values[position])


def strictly_before(rows: Interactions) -> np.ndarray:
    """Return (n,) for each row the position one past the last row of the same user with an earlier time.

    Rows of one time do not see each other. Without times the row's own position is returned: the stored order is then
    that of the shuffled ids, which carries nothing.
    """
    index = np.arange(len(rows))
    if rows.time is None or not len(rows):
        return index
    new = np.ones(len(rows), bool)
    new[1:] = (rows.user[1:] != rows.user[:-1]) | (rows.time[1:] != rows.time[:-1])
    return np.maximum.accumulate(np.where(new, index, 0))


def likes(rows: Interactions, task: Task) -> np.ndarray:
    """Return (n,) float32 labels of a preference task.

    Raises:
        InputError: the data has no ratings.
    """
    if rows.rating is None:
        raise InputError("task.kind: a preference task needs ratings and the data has none; use kind: ranking")
    return (rows.rating >= task.positive_rating).astype(np.float32)


# --- training rows ---------------------------------------------------------------------------------------------------


class TrainRows(Dataset):
    """The training part as batches of one kind; indexed by an index tensor, returns a Batch."""

    def __init__(
        self, data: SplitData, task: Task, spec: BatchSpec, seed: int, sample: Callable[[int], np.ndarray]
    ) -> None:
        rows = data.train
        self.spec, self.seed, self.epoch = spec, seed, 0
        self.preference = task.kind == "preference"
        self.sequences = _Sequences.of(rows, data.n_items, task.positive_rating if self.preference else None)
        self.user, self.item = torch.from_numpy(rows.user), torch.from_numpy(rows.item)
        self.offsets = torch.from_numpy(rows.offsets)
        self.generator = torch.Generator()
        self.before: Tensor | None = None
        if spec.kind in ("sequence", "user_rows"):
            shortest = 2 if spec.kind == "sequence" else 1
            users = np.flatnonzero(np.diff(rows.offsets) >= shortest)
            self.all = torch.from_numpy(users[sample(len(users))])
        else:
            with_history = spec.kind in ("pointwise", "pairwise") and spec.max_history > 0
            self.before = torch.from_numpy(strictly_before(rows)) if with_history else None
            there = np.arange(len(rows))
            if self.before is not None and spec.min_history:
                there = np.flatnonzero(self.before.numpy() - rows.offsets[rows.user] >= spec.min_history)
            self.all = torch.from_numpy(there[sample(len(there))])
        if not len(self.all):
            raise InputError(f"no training row is left for {spec.kind} batches (sequences need two items of one user)")
        self.label = torch.from_numpy(likes(rows, task)) if self.preference else None
        if spec.kind == "whole" and not self.preference and rows.rating is not None:
            self.label = torch.from_numpy(rows.rating)
        self.seen: Ragged | None = None
        self.negatives: NegativeSampler | None = None
        drawn = spec.negatives > 0 and (spec.kind == "pairwise" or (spec.kind == "pointwise" and not self.preference))
        if drawn or spec.kind == "user_rows":
            self.seen = unique_pairs(rows.user, rows.item, data.n_users, data.n_items)
        if drawn:
            assert self.seen is not None
            self.negatives = NegativeSampler(self.seen, data.n_items)

    @property
    def rows_a_positive(self) -> int:
        """What a positive row becomes with its drawn negatives: so many labelled rows, or so many pairs."""
        if self.negatives is None:
            return 1
        return self.spec.negatives + (self.spec.kind == "pointwise")

    def order(self, epoch: int) -> Tensor:
        """Return the rows in the order of an epoch, pass after pass, and start the draws of that epoch."""
        self.generator.manual_seed(self.seed * 1_000_003 + epoch)
        if self.spec.kind == "whole":
            return self.all
        return torch.cat([self._shuffled() for _ in range(self.spec.passes)])

    def _shuffled(self) -> Tensor:
        index = self.all[torch.randperm(len(self.all), generator=self.generator)]
        return self._bucketed(index) if self.spec.cost is not None else index

    def _bucketed(self, index: Tensor) -> Tensor:
        """Put rows of like cost into one batch: sort within chunks of 64 batches, then shuffle the batches."""
        assert self.spec.cost is not None
        size = self.spec.batch_size
        chunks = [
            chunk[torch.argsort(self.spec.cost(self._rows(chunk)), stable=True)] for chunk in index.split(64 * size)
        ]
        batches = list(torch.cat(chunks).split(size))
        last = batches.pop() if len(batches[-1]) < size else None
        shuffled = [batches[i] for i in torch.randperm(len(batches), generator=self.generator).tolist()]
        return torch.cat(shuffled if last is None else [*shuffled, last])

    def __getitem__(self, index: Tensor) -> Batch:
        batch = self._rows(index)
        if self.negatives is None:
            return batch
        negative = self.negatives.draw(batch.user, self.spec.negatives, self.generator)
        if self.spec.kind == "pairwise":
            batch.negative = negative
            return batch
        return _with_negatives(batch, negative)

    def _rows(self, index: Tensor) -> Batch:
        if self.spec.kind in ("sequence", "user_rows"):
            batch = Batch(user=index)
            if self.spec.kind == "sequence":
                start, stop = self.offsets[index], self.offsets[index + 1]
                fields = self.sequences.windows(start, stop, self.spec.max_history + 1)
                batch = Batch(user=index, **fields)  # type: ignore[arg-type]
            else:
                assert self.seen is not None
                batch.seen = take(self.seen, index)
            return batch
        batch = Batch(user=self.user[index].long(), item=self.item[index].long())
        batch.label = torch.ones(len(index)) if self.label is None else self.label[index]
        if self.before is not None:
            fields = self.sequences.windows(self.offsets[batch.user], self.before[index], self.spec.max_history)
            for name, value in fields.items():
                setattr(batch, name, value)
        return batch

    def __len__(self) -> int:
        return len(self.all)


def _with_negatives(batch: Batch, negative: Tensor) -> Batch:
    """Append the drawn negatives as rows of label 0 that share user and history with their positive."""
    assert batch.item is not None
    times = negative.shape[1] + 1

    def repeat(value: Tensor | None) -> Tensor | None:
        return None if value is None else value.repeat(times, *[1] * (value.dim() - 1))

    label = torch.zeros(len(batch) * times)
    label[: len(batch)] = 1
    return Batch(
        user=batch.user.repeat(times),
        item=torch.cat([batch.item, negative.T.reshape(-1)]),
        label=label,
        history=repeat(batch.history),
        history_length=repeat(batch.history_length),
        history_label=repeat(batch.history_label),
        history_time=repeat(batch.history_time),
    )


# --- judged rows -----------------------------------------------------------------------------------------------------


class EvalRows(Dataset):
    """The judged rows of one part; indexed by an index tensor, returns a Batch."""

    def __init__(
        self,
        user: np.ndarray,
        sequences: _Sequences,
        start: np.ndarray,
        stop: np.ndarray,
        seen: Ragged,
        max_history: int,
        relevant: Ragged | None = None,
        candidates: Tensor | None = None,
        label: Tensor | None = None,
        allow_repeats: bool = False,
    ) -> None:
        self.user = torch.from_numpy(user.astype(np.int64))
        self.sequences, self.max_history = sequences, max_history
        self.start, self.stop = torch.from_numpy(start), torch.from_numpy(stop)
        self.seen, self.relevant, self.candidates, self.label = seen, relevant, candidates, label
        self.allow_repeats = allow_repeats
        self.all = torch.arange(len(self.user))

    def __len__(self) -> int:
        return len(self.user)

    def __getitem__(self, index: Tensor) -> Batch:
        user = self.user[index]
        seen = take(self.seen, user)
        batch = Batch(user=user, seen=seen, row=index)
        if self.max_history:
            fields = self.sequences.windows(self.start[index], self.stop[index], self.max_history)
            for name, value in fields.items():
                setattr(batch, name, value)
        if self.label is not None:
            assert self.candidates is not None
            batch.candidates, batch.label = self.candidates[index], self.label[index]
            return batch
        assert self.relevant is not None
        relevant = take(self.relevant, index)
        if self.candidates is None:
            batch.relevant = relevant
            none = Ragged(torch.zeros(len(index) + 1, dtype=torch.int64), torch.empty(0, dtype=torch.int64))
            batch.excluded = none if self.allow_repeats else seen
            return batch
        candidates = self.candidates[index]
        padding = candidates < 0
        batch.excluded = _ragged_of(padding)
        batch.relevant = _ragged_of(_is_in(candidates, relevant))
        batch.candidates = torch.where(padding, 0, candidates)
        return batch


def _ragged_of(mask: Tensor) -> Ragged:
    """Return the columns of each row's true cells."""
    offsets = torch.zeros(len(mask) + 1, dtype=torch.int64)
    torch.cumsum(mask.sum(1), 0, out=offsets[1:])
    return Ragged(offsets, mask.nonzero()[:, 1])


def _is_in(candidates: Tensor, lists: Ragged) -> Tensor:
    """Return (B, C) whether a candidate stands in the row's list."""
    n = int(max(candidates.max(), lists.values.max() if len(lists.values) else 0)) + 1
    row = torch.arange(len(candidates)).unsqueeze(1)
    keys = torch.where(candidates < 0, -1, row * n + candidates)
    return torch.isin(keys, lists.row * n + lists.values)


def ranking_rows(
    data: SplitData, task: Task, part: Literal["valid", "test"], max_history: int, sample: Callable[[int], np.ndarray]
) -> EvalRows:
    """One row a user with something relevant in ``part``.

    The user's history ends strictly before the first relevant interaction; ``seen`` is all that is known of the user.
    """
    target: Interactions = getattr(data, part)
    before = known(data, part)
    seen = unique_pairs(before.user, before.item, data.n_users, data.n_items)
    relevant = unique_pairs(target.user, target.item, data.n_users, data.n_items)
    if not task.allow_repeats:
        fresh = ~torch.isin(
            relevant.row * data.n_items + relevant.values, seen.row * data.n_items + seen.values, assume_unique=True
        )
        relevant = _select(relevant, fresh)
    stop = before.offsets[1:].copy()
    if before.time is not None and target.time is not None:
        first = np.full(data.n_users, np.inf)
        np.minimum.at(first, target.user, target.time)
        earlier = before.time < first[before.user]
        stop = before.offsets[:-1] + np.bincount(before.user, weights=earlier, minlength=data.n_users).astype(np.int64)
    users = np.flatnonzero((relevant.lengths.numpy() > 0) & (stop - before.offsets[:-1] >= task.min_history))
    if not len(users):
        raise InputError(f"the {part} part has no user to judge (min_history {task.min_history}); loosen the split")
    users = users[sample(len(users))]
    relevant = take(relevant, torch.from_numpy(users))
    candidates = None
    if task.candidates.kind != "full":
        own = take(seen, torch.from_numpy(users))
        popularity = np.bincount(data.train.item, minlength=data.n_items)
        drawn = draw(
            task.candidates,
            (own.offsets.numpy(), own.values.numpy()),
            (relevant.offsets.numpy(), relevant.values.numpy()),
            data.n_items,
            popularity,
            user_ids=users,
        )
        candidates = torch.from_numpy(drawn)
    return EvalRows(
        users,
        _Sequences.of(before, data.n_items, None),
        before.offsets[:-1][users],
        stop[users],
        seen,
        max_history,
        relevant=relevant,
        candidates=candidates,
        allow_repeats=task.allow_repeats,
    )


def preference_rows(
    data: SplitData, task: Task, part: Literal["valid", "test"], max_history: int, sample: Callable[[int], np.ndarray]
) -> EvalRows:
    """One row a labelled interaction of ``part``; its history ends strictly before it."""
    target: Interactions = getattr(data, part)
    before = known(data, part)
    seen = unique_pairs(before.user, before.item, data.n_users, data.n_items)
    label = likes(target, task)
    memory = before
    if task.history == "before_target":
        memory = _merged(before, target)
    index = sample(len(target))
    user = target.user[index]
    stop = memory.offsets[1:][user]
    if memory.time is not None and target.time is not None:
        stop = _count_before(memory, user, target.time[index])
    return EvalRows(
        user,
        _Sequences.of(memory, data.n_items, task.positive_rating),
        memory.offsets[:-1][user],
        stop,
        seen,
        max_history,
        candidates=torch.from_numpy(target.item[index].astype(np.int64)).unsqueeze(1),
        label=torch.from_numpy(label[index]),
    )


def _merged(a: Interactions, b: Interactions) -> Interactions:
    """Return both parts as one, sorted by (user, time)."""

    def join(x: np.ndarray | None, y: np.ndarray | None) -> np.ndarray | None:
        return None if x is None or y is None else np.concatenate([x, y])

    return Interactions.from_arrays(
        np.concatenate([a.user, b.user]),
        np.concatenate([a.item, b.item]),
        join(a.rating, b.rating),
        join(a.time, b.time),
        a.n_users,
    )


def _count_before(memory: Interactions, user: np.ndarray, time: np.ndarray) -> np.ndarray:
    """Return (R,) the position one past the last row of ``user`` in ``memory`` that is earlier than ``time``."""
    assert memory.time is not None
    times = np.unique(np.concatenate([memory.time, time]))
    step = len(times) + 1
    keys = memory.user.astype(np.int64) * step + np.searchsorted(times, memory.time)
    return np.searchsorted(keys, user.astype(np.int64) * step + np.searchsorted(times, time), side="left")


def _select(lists: Ragged, keep: Tensor) -> Ragged:
    """Return the lists with only the values where ``keep``."""
    offsets = torch.zeros(len(lists) + 1, dtype=torch.int64)
    torch.cumsum(torch.bincount(lists.row[keep], minlength=len(lists)), 0, out=offsets[1:])
    return Ragged(offsets, lists.values[keep])
