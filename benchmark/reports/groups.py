"""Parts users into groups by one column of the users table."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import polars as pl

FEW_VALUES = 12  # a column with more values is parted at the quartiles where it holds numbers


@dataclass(frozen=True)
class Groups:
    """Groups of users.

    Attributes:
        note: how they are parted, one sentence.
        codes: (U,) the group of each user, -1 for none.
        names: (G,) of the groups.
    """

    note: str
    codes: np.ndarray
    names: list[str]


def groups_of(column: pl.Series) -> Groups | None:
    """Return the groups of users by a column (U,) of the users table, None where it holds lists or nothing.

    A group a value; numbers with more than FEW_VALUES values are parted at the quartiles. Missing values are no group.
    """
    if column.dtype.is_nested() or column.null_count() == len(column):
        return None
    values = column.drop_nulls().unique().sort().to_list()
    if len(values) > FEW_VALUES and column.dtype.is_numeric():
        edges = np.unique(np.quantile(column.drop_nulls().to_numpy(), [0.25, 0.5, 0.75]))
        codes = np.where(column.is_null(), -1, np.searchsorted(edges, column.fill_null(0).to_numpy(), side="left"))
        told = [f"{e:g}" for e in edges]
        names = [f"up to {told[0]}", *(f"over {a} to {b}" for a, b in pairwise(told)), f"over {told[-1]}"]
        return Groups("Parted at the quartiles.", codes, names)
    code = {value: i for i, value in enumerate(values)}
    codes = np.array([code.get(value, -1) for value in column.to_list()])
    return Groups("A column of the users table.", codes, [str(v) for v in values])
