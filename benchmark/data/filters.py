"""Filters: which interactions of a Dataset take part; each step is counted in the dataset's report."""

from __future__ import annotations

from typing import Literal

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from benchmark.data.schema import ITEM, PART, RATING, TIMESTAMP, USER, Dataset
from benchmark.data.seeded import mix
from benchmark.errors import InputError


class Filters(BaseModel):
    """Filters in the order in which they are applied; each is one pass except ``k_core``.

    None of them depends on the order of rows, save ``deduplicate`` where there are no timestamps.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    deduplicate: Literal["last", "first"] | None = Field(
        "last",
        description="Keep one row a user-item pair, over all parts: the last or first by time (of equal times the "
        "higher rating counts as later); without timestamps by the order in the files. None keeps all.",
    )
    min_rating: float | None = Field(None, description="Keep interactions rated so or higher.")
    sample_users: int | None = Field(None, ge=1, description="Keep so many users, drawn with ``seed``.")
    min_user_interactions: int | None = Field(None, ge=1, description="Keep users with so many interactions.")
    min_item_interactions: int | None = Field(
        None, ge=1, description="Then keep items with so many interactions; users may fall below their minimum again."
    )
    k_core: int | None = Field(None, ge=1, description="Repeat both with this minimum until nothing changes.")
    seed: int = Field(0, ge=0, description="Of ``sample_users``.")

    def apply(self, dataset: Dataset) -> Dataset:
        """Return the dataset after the filters, with one Step for each.

        Raises:
            InputError: a filter needs a column that the dataset has not, or leaves nothing.
        """
        if self.deduplicate is not None:
            kept = _deduplicate(dataset.interactions, dataset.items.height, self.deduplicate)
            dataset = dataset.after(f"deduplicate={self.deduplicate}", kept)
        if self.min_rating is not None:
            if not dataset.has_rating:
                raise InputError(f"dataset {dataset.name} has no ratings; remove the filter min_rating")
            dataset = dataset.after(
                f"min_rating={self.min_rating:g}",
                # compared as Float32, as ratings are kept: 4.1 keeps a rating of 4.1
                dataset.interactions.filter(pl.col(RATING) >= pl.lit(self.min_rating, pl.Float32)),
            )
        if self.sample_users is not None:
            users = np.unique(dataset.interactions[USER].to_numpy())
            lucky = users[np.argsort(mix(self.seed, users), kind="stable")[: self.sample_users]]
            note = f"seed {self.seed}" if self.sample_users <= len(users) else f"there are only {len(users)}"
            dataset = _keep(dataset, f"sample_users={self.sample_users}", USER, lucky, note)
        for name, column, least in (
            ("min_user_interactions", USER, self.min_user_interactions),
            ("min_item_interactions", ITEM, self.min_item_interactions),
        ):
            if least is not None:
                enough = np.flatnonzero(np.bincount(dataset.interactions[column].to_numpy()) >= least)
                dataset = _keep(dataset, f"{name}={least}", column, enough)
        if self.k_core is not None:
            mask, rounds = _core(
                dataset.interactions[USER].to_numpy(), dataset.interactions[ITEM].to_numpy(), self.k_core
            )
            dataset = dataset.after(f"k_core={self.k_core}", dataset.interactions.filter(mask), f"{rounds} rounds")
        return dataset


def _keep(dataset: Dataset, step: str, column: str, numbers: np.ndarray, note: str = "") -> Dataset:
    """Keep the interactions whose ``column`` is one of the row ``numbers``."""
    values = dataset.interactions[column].to_numpy()
    table = np.zeros(int(values.max()) + 1 if len(values) else 0, bool)
    table[numbers] = True
    return dataset.after(step, dataset.interactions.filter(table[values]), note)


def _deduplicate(rows: pl.DataFrame, n_items: int, which: Literal["last", "first"]) -> pl.DataFrame:
    """Return one row for each pair of user and item, in the order of ``rows``."""
    pair = rows[USER].to_numpy().astype(np.int64)
    pair *= n_items
    pair += rows[ITEM].to_numpy()
    ordered = np.sort(pair)
    twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    del ordered
    if not len(twice):
        return rows
    # only pairs that occur more than once need a look at the time; their last bits find nearly no others
    bits = (1 << 24) - 1
    table = np.zeros(bits + 1, bool)
    table[twice & bits] = True
    rest = np.flatnonzero(table[pair & bits])
    inside = np.searchsorted(twice, pair[rest])
    inside[inside == len(twice)] = 0
    rest = rest[twice[inside] == pair[rest]]
    columns = [name for name in (TIMESTAMP, RATING, PART) if name in rows.columns] if TIMESTAMP in rows.columns else []
    keys = [rows[name].to_physical().to_numpy()[rest] for name in reversed(columns)]
    rest = rest[np.lexsort((*keys, pair[rest]))]
    group = pair[rest]
    change = group[1:] != group[:-1]
    best = np.append(change, True) if which == "last" else np.insert(change, 0, True)
    mask = np.ones(rows.height, bool)
    mask[rest[~best]] = False
    return rows.filter(mask)


def _core(user: np.ndarray, item: np.ndarray, k: int) -> tuple[np.ndarray, int]:
    """Return the (n,) mask of the largest subset in which each user and item occurs ``k`` times, and the rounds."""
    left = np.arange(len(user))
    rounds = 0
    while len(left):
        rounds += 1
        users, items = user[left], item[left]
        keep = (np.bincount(users) >= k)[users] & (np.bincount(items) >= k)[items]
        if keep.all():
            break
        left = left[keep]
    mask = np.zeros(len(user), bool)
    mask[left] = True
    return mask, rounds
