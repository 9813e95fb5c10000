"""EvalRows: the judged rows of validation and test, gathered into scoring batches by vectorised indexing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from benchmark.data.batch import Batch, Ragged
from benchmark.data.candidates import draw
from benchmark.data.schema import Interactions, SplitData
from benchmark.data.sequences import Sequences, held, likes, take, unique_pairs
from benchmark.data.split import known, merged
from benchmark.data.task import Task
from benchmark.errors import InputError


class EvalRows(Dataset):
    """The judged rows of one part; indexed by an index tensor, returns a Batch."""

    def __init__(
        self,
        user: np.ndarray,
        sequences: Sequences,
        start: np.ndarray,
        stop: np.ndarray,
        seen: Ragged,
        max_history: int,
        relevant: Ragged | None = None,
        candidates: Tensor | None = None,
        label: Tensor | None = None,
        allow_repeats: bool = False,
        draws: int = 1,
        pool: np.ndarray | None = None,
        read: Ragged | None = None,
    ) -> None:
        self.user = torch.from_numpy(user.astype(np.int64))
        self.sequences, self.max_history = sequences, max_history
        self.start, self.stop = torch.from_numpy(start), torch.from_numpy(stop)
        self.seen, self.relevant, self.candidates, self.label = seen, relevant, candidates, label
        self.allow_repeats = allow_repeats
        self.read = seen if read is None else read  # what models read of what is known; all of it is out of the ranking
        self.draws = draws  # candidate lists of each user: row r is of draw r // n_judged
        self.all = torch.arange(len(self.user))
        self.pool: Tensor | None = None
        if pool is not None:
            self.pool = torch.from_numpy(np.flatnonzero(pool))
            self._column = torch.from_numpy(np.where(pool, np.cumsum(pool) - 1, -1))

    def __len__(self) -> int:
        return len(self.user)

    @property
    def n_judged(self) -> int:
        """Number of judged users (ranking) or labelled rows (preference)."""
        return len(self) // self.draws

    def __getitem__(self, index: Tensor) -> Batch:
        user = self.user[index]
        seen = take(self.seen, user)
        batch = Batch(user=user, seen=take(self.read, user), row=index)
        if self.draws > 1:
            batch.draw = index // self.n_judged
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
            none = Ragged(torch.zeros(len(index) + 1, dtype=torch.int64), torch.empty(0, dtype=torch.int64))
            excluded = none if self.allow_repeats else seen
            batch.relevant, batch.excluded, batch.pool = self._in_pool(relevant), self._in_pool(excluded), self.pool
            return batch
        candidates = self.candidates[index]
        padding = candidates < 0
        batch.excluded = _ragged_of(padding)
        batch.relevant = _ragged_of(_is_in(candidates, relevant))
        batch.candidates = torch.where(padding, 0, candidates)
        return batch

    def _in_pool(self, lists: Ragged) -> Ragged:
        """Return lists of items as lists of the columns that are ranked, without what has none."""
        if self.pool is None:
            return lists
        column = self._column[lists.values]
        inside = _select(lists, column >= 0)
        return Ragged(inside.offsets, column[column >= 0])


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


def judged_part(data: SplitData, task: Task, part: Literal["valid", "test"]) -> Interactions:
    """Return the interactions of a part that are judged: all, or those of ``task.domain``."""
    target: Interactions = getattr(data, part)
    if task.domain is None:
        return target
    return target.take(np.flatnonzero(data.of_domains([task.domain])[target.item]))


def ranking_rows(
    data: SplitData, task: Task, part: Literal["valid", "test"], max_history: int, sample: Callable[[int], np.ndarray]
) -> EvalRows:
    """One row a user with something relevant in ``part``; with several draws of candidates, one a draw and user.

    The user's history ends strictly before the first relevant interaction; ``seen`` is all that is known of the user,
    and of a ``cold_items`` split, which knows no time, what the history holds: who can score new items reads it.
    """
    target = judged_part(data, task, part)
    before = known(data, part)
    seen = unique_pairs(before.user, before.item, data.n_users, data.n_items)
    relevant = unique_pairs(target.user, target.item, data.n_users, data.n_items)
    if not task.allow_repeats:
        fresh = ~torch.isin(
            relevant.row * data.n_items + relevant.values, seen.row * data.n_items + seen.values, assume_unique=True
        )
        relevant = _select(relevant, fresh)
    stop, read = before.offsets[1:].copy(), None
    if before.time is not None and target.time is not None:
        first = np.full(data.n_users, np.inf)
        np.minimum.at(first, target.user, target.time)
        earlier = before.time < first[before.user]
        stop = before.offsets[:-1] + np.bincount(before.user, weights=earlier, minlength=data.n_users).astype(np.int64)
        if task.split.kind == "cold_items":
            read = unique_pairs(before.user[earlier], before.item[earlier], data.n_users, data.n_items)
    users = np.flatnonzero((relevant.lengths.numpy() > 0) & (stop - before.offsets[:-1] >= task.min_history))
    if not len(users):
        raise InputError(f"the {part} part has no user to judge (min_history {task.min_history}); loosen the split")
    users = users[sample(len(users))]
    relevant = take(relevant, torch.from_numpy(users))
    candidates, draws = None, 1
    if task.candidates.kind != "full":
        draws = task.candidates.draws
        own = take(seen, torch.from_numpy(users))
        popularity = np.bincount(data.complete_train.item, minlength=data.n_items)
        lists = [
            draw(
                task.candidates.model_copy(update={"seed": task.candidates.seed + number}),
                (own.offsets.numpy(), own.values.numpy()),
                (relevant.offsets.numpy(), relevant.values.numpy()),
                data.n_items,
                popularity,
                user_ids=users,
            )
            for number in range(draws)
        ]
        candidates = torch.from_numpy(np.concatenate(lists))  # of equal widths: a user has as many in each draw
        relevant = take(relevant, torch.arange(len(users)).repeat(draws))
        users = np.tile(users, draws)
    return EvalRows(
        users,
        Sequences.of(before, data.n_items, None),
        before.offsets[:-1][users],
        stop[users],
        seen,
        max_history,
        relevant=relevant,
        candidates=candidates,
        allow_repeats=task.allow_repeats,
        draws=draws,
        pool=None if task.domain is None else data.of_domains([task.domain]),
        read=read,
    )


def preference_rows(
    data: SplitData, task: Task, part: Literal["valid", "test"], max_history: int, sample: Callable[[int], np.ndarray]
) -> EvalRows:
    """One row a labelled interaction of ``part``; its history ends strictly before it."""
    target = judged_part(data, task, part)
    before = known(data, part)
    seen = unique_pairs(before.user, before.item, data.n_users, data.n_items)
    label = likes(target, task)
    memory = before
    if task.history == "before_target":
        memory = merged((before, target), data.n_users)
    memory, _ = held(memory, task)
    index = sample(len(target))
    user = target.user[index]
    stop = memory.offsets[1:][user]
    if memory.time is not None and target.time is not None:
        stop = _count_before(memory, user, target.time[index])
    return EvalRows(
        user,
        Sequences.of(memory, data.n_items, task.positive_rating),
        memory.offsets[:-1][user],
        stop,
        seen,
        max_history,
        candidates=torch.from_numpy(target.item[index].astype(np.int64)).unsqueeze(1),
        label=torch.from_numpy(label[index]),
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
