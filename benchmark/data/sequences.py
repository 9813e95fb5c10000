"""Sequences: users' interactions as flat arrays, windows of which become the histories of a batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from benchmark.data.batch import Ragged
from benchmark.data.schema import Interactions
from benchmark.data.task import Task
from benchmark.errors import InputError


@dataclass
class Sequences:
    """Everything that may stand in a history, sorted by (user, time): windows of it become the histories of a batch."""

    item: Tensor
    label: Tensor | None
    time: Tensor | None
    pad: int

    @classmethod
    def of(cls, rows: Interactions, pad: int, positive_rating: float | None) -> Sequences:
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


def held(rows: Interactions, task: Task) -> tuple[Interactions, np.ndarray]:
    """Return those of (n,) ``rows`` that may stand in a history, and (n + 1,) how many of them stand before each row.

    Raises:
        InputError: likes are asked for, and the data has no ratings.
    """
    if task.history_holds == "all":
        return rows, np.arange(len(rows) + 1)
    mask = likes(rows, task) > 0
    before = np.concatenate([[0], np.cumsum(mask)])
    rating, time = (None if values is None else values[mask] for values in (rows.rating, rows.time))
    return Interactions(rows.user[mask], rows.item[mask], rating, time, before[rows.offsets]), before


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
