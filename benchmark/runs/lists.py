"""The stored recommendation lists of a run -> item numbers, all users in one order."""

from __future__ import annotations

import numpy as np
import polars as pl

from benchmark.errors import InputError
from benchmark.runs.record import RunRecord, RunStore


def top_lists(record: RunRecord, users: pl.Series, items: pl.Series, k: int, store: RunStore) -> np.ndarray:
    """Return the (U, k) int64 first items of each user as row numbers of ``items``, -1 where a list is shorter.

    Args:
        record: of a ranking.
        users: (U,) raw ids of the judged users.
        items: (n_items,) raw ids.
        k: at most what is stored.
        store: holds the lists.

    Raises:
        InputError: they cannot be read, or name users or items that are not in the data.
    """
    frame = store.top(record.key, k)
    out = np.full((len(users), k), -1)
    runs = frame["user"].rle().struct.unnest()  # a user's rows stand behind each other
    there = np.arange(len(users)) if runs["value"].equals(users) else places(users, runs["value"])
    user = np.repeat(there, runs["len"].to_numpy())
    out[user, frame["rank"].to_numpy()] = places(items, frame["item"])
    return out


def places(ids: pl.Series, wanted: pl.Series) -> np.ndarray:
    """Return the row number in ``ids`` of each of ``wanted``.

    Raises:
        InputError: one is not there.
    """
    found = wanted.replace_strict(ids, np.arange(len(ids)), default=None, return_dtype=pl.Int64)
    if found.null_count():
        raise InputError(f"the stored ranks name '{wanted.filter(found.is_null())[0]}', which is not in the data")
    return found.to_numpy()
