"""Small generated data sets for the tests of the data package."""

from __future__ import annotations

import numpy as np
import polars as pl

from benchmark.data.schema import Dataset
from benchmark.data.sources.canonical import canonical


def frame(n: int = 400, users: int = 20, items: int = 30, seed: int = 0, span: int = 200) -> pl.DataFrame:
    """Return n raw rows with ratings and times that repeat; the same on every platform (integers only)."""
    state = np.arange(n, dtype=np.uint64) * np.uint64(6364136223846793005) + np.uint64(1442695040888963407 + seed)
    state ^= state >> np.uint64(29)
    state *= np.uint64(6364136223846793005)
    user, item, rating, time = (
        ((state >> np.uint64(shift)) % np.uint64(size)).astype(np.int64)
        for shift, size in ((7, users), (19, items), (33, 5), (41, span))
    )
    return pl.DataFrame({"user_id": user, "item_id": item, "rating": rating + 1, "timestamp": time}).with_columns(
        pl.format("u{}", "user_id").alias("user_id"), pl.format("i{}", "item_id").alias("item_id")
    )


def dataset(n: int = 400, users: int = 20, items: int = 30, seed: int = 0, span: int = 200) -> Dataset:
    """Return the same rows as a Dataset; pairs repeat, as no filter has run."""
    return canonical("made", frame(n, users, items, seed, span))


def shuffled(raw: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Return the rows in another order."""
    return raw[np.random.default_rng(seed).permutation(raw.height)]


def rows_of(data: Dataset) -> list[tuple[object, ...]]:
    """Return the interactions with their raw ids, sorted: (user, item) and whatever else is known of each."""
    users, items = (data.users["user_id"].to_list(), data.items["item_id"].to_list())
    return sorted((users[row[0]], items[row[1]], *row[2:]) for row in data.interactions.rows())


def items_of(data: Dataset) -> dict[str, dict[str, object]]:
    """Return item_id -> its features."""
    return {row.pop("item_id"): row for row in data.items.to_dicts()}
