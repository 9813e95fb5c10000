"""TrainRows: the training part as batches of one kind, gathered by vectorised indexing."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from benchmark.data.batch import Batch, BatchSpec, Ragged
from benchmark.data.negatives import NegativeSampler, PopularitySampler, popularity
from benchmark.data.schema import Interactions, SplitData
from benchmark.data.seeded import mix
from benchmark.data.sequences import Sequences, held, likes, strictly_before, take, unique_pairs
from benchmark.data.task import Task
from benchmark.errors import InputError


class TrainRows(Dataset):
    """The training part as batches of one kind; indexed by an index tensor, returns a Batch.

    Every interaction of ``data.train`` is trained on, save those without ``min_history`` and the users without a
    sequence. What stands before a row is input, so histories and the exclusion of negatives rest on the complete part.
    """

    def __init__(self, data: SplitData, task: Task, spec: BatchSpec, seed: int) -> None:
        rows = data.train
        with_history = spec.kind in ("pointwise", "pairwise") and spec.max_history > 0
        source = data.complete_train if with_history else rows  # what windows are cut from
        self.spec, self.seed, self.epoch = spec, seed, 0
        self.preference = task.kind == "preference"
        memory, moved = held(source, task)
        self.sequences = Sequences.of(memory, data.n_items, task.positive_rating if self.preference else None)
        self.user, self.item = torch.from_numpy(rows.user), torch.from_numpy(rows.item)
        self.offsets = torch.from_numpy(memory.offsets)
        self.generator = torch.Generator()
        self.before: Tensor | None = None
        if spec.kind in ("sequence", "user_rows"):
            shortest = 2 if spec.kind == "sequence" else 1
            self.all = torch.from_numpy(np.flatnonzero(np.diff(rows.offsets) >= shortest))
        else:
            there = np.arange(len(rows))
            if with_history:
                before = moved[strictly_before(source)[_places(rows, source)]]
                there = np.flatnonzero(before - memory.offsets[rows.user] >= spec.min_history)
                self.before = torch.from_numpy(before)
            self.all = torch.from_numpy(there)
        if not len(self.all):
            hint = "" if data.train_known is None else f"; the budget of {len(rows)} is too small"
            raise InputError(
                f"no training row is left for {spec.kind} batches (sequences need two items of one user){hint}"
            )
        self.label = torch.from_numpy(likes(rows, task)) if self.preference else None
        if spec.kind == "whole" and not self.preference and rows.rating is not None:
            self.label = torch.from_numpy(rows.rating)
        self.seen: Ragged | None = None
        self.negatives: NegativeSampler | None = None
        drawn = spec.negatives > 0 and (spec.kind == "pairwise" or (spec.kind == "pointwise" and not self.preference))
        if drawn or spec.kind == "user_rows":
            owned = data.complete_train if drawn else rows  # a known item is no negative, whatever the budget
            self.seen = unique_pairs(owned.user, owned.item, data.n_users, data.n_items)
        if drawn:
            assert self.seen is not None
            if spec.sampling is not None and spec.sampling.kind == "popularity":
                chance = popularity(rows.item, data.n_items, spec.sampling.power)
                self.negatives = PopularitySampler(self.seen, data.n_items, chance)
                self.negatives.check(np.unique(rows.user))
            else:
                self.negatives = NegativeSampler(self.seen, data.n_items)
        self.hard = drawn and spec.sampling is not None and spec.sampling.kind == "hard"
        self.pool = spec.sampling.pool if self.hard and spec.sampling is not None else 1

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
        if self.spec.augment is not None and batch.history is not None:
            least = 2 if self.spec.kind == "sequence" else 1
            batch = self.spec.augment.apply(batch, self.sequences.pad, least, self.generator)
        if self.negatives is None:
            return batch
        negative = self.negatives.draw(batch.user, self.spec.negatives * self.pool, self.generator)
        if self.spec.kind == "pairwise" or self.hard:
            batch.negative = negative
            return batch
        return with_negatives(batch, negative)

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


def _places(rows: Interactions, source: Interactions) -> np.ndarray:
    """Return (n,) the position in ``source`` of each of ``rows``, a part of it; for equal rows the first one's."""
    if rows is source:
        return np.arange(len(rows))

    def names(part: Interactions) -> np.ndarray:
        return mix(*(values for values in (part.user, part.item, part.rating, part.time) if values is not None))

    known = names(source)
    order = np.argsort(known, kind="stable")
    return order[np.searchsorted(known, names(rows), sorter=order)]


def with_negatives(batch: Batch, negative: Tensor) -> Batch:
    """Append the drawn negatives as rows of label 0 that share user and history with their positive."""
    assert batch.item is not None
    times = negative.shape[1] + 1

    def repeat(value: Tensor | None) -> Tensor | None:
        return None if value is None else value.repeat(times, *[1] * (value.dim() - 1))

    label = torch.zeros(len(batch) * times, device=negative.device)
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
