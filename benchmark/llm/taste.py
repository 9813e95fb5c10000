"""Taste: what a user's history mostly holds, such as genres or decades, for ``{taste}`` in a prompt."""

from __future__ import annotations

import numpy as np
import polars as pl

from benchmark.data.text import flat_index, offsets_of
from benchmark.errors import InputError, nearest
from benchmark.llm.prompts import History
from benchmark.llm.templates import Taste

SEPARATOR = ", "  # between the values of a column that has several (see ``benchmark.data.sources``)


class Tastes:
    """Counts the values of an item column over histories.

    Args:
        items: row i describes item i.
        taste: which column, and how many values are told.

    Attributes:
        values: the distinct values, sorted.

    Raises:
        InputError: there is no such column, or it holds nothing that can be counted.
    """

    def __init__(self, items: pl.DataFrame, taste: Taste) -> None:
        self.taste = taste
        if taste.column not in items.columns:
            raise InputError(
                f"prompt.taste.column: no item column '{taste.column}'{nearest(taste.column, items.columns)}"
            )
        lists = _lists(items[taste.column])
        each = lists.explode(empty_as_null=False, keep_nulls=False)
        distinct = each.unique().sort()
        if not len(distinct):
            raise InputError(f"prompt.taste.column: '{taste.column}' is empty for every item")
        self.values: list[str] = distinct.to_list()
        self._value = distinct.search_sorted(each).to_numpy().astype(np.int64)
        self._offsets = offsets_of(lists.list.len().fill_null(0).to_numpy().astype(np.int64))

    def top(self, history: History) -> np.ndarray:
        """Return (B, top) numbers of the values most frequent among the liked items of B histories, -1 behind the last.

        Of equally frequent ones the first in the order of the alphabet comes first.
        """
        n, n_values = len(history), len(self.values)
        row = np.repeat(np.arange(n), np.diff(history.offsets))[history.liked]
        items = history.items[history.liked]
        lengths = np.diff(self._offsets)[items]
        value = self._value[flat_index(self._offsets[items], lengths)]
        count = np.bincount(np.repeat(row, lengths) * n_values + value, minlength=n * n_values).reshape(n, n_values)
        best = np.argsort(-count, axis=1, kind="stable")[:, : self.taste.top]
        return np.where(np.take_along_axis(count, best, axis=1) > 0, best, -1)


def _lists(column: pl.Series) -> pl.Series:
    """Return the values of each item: lists as they are, text split at its commas, years as decades."""
    if isinstance(column.dtype, pl.List):
        return column.cast(pl.List(pl.String)).list.drop_nulls()
    if column.dtype.is_numeric():
        decade = (column.cast(pl.Float64).fill_nan(None) // 10 * 10).cast(pl.Int64)
        text = decade.cast(pl.String) + "s"
    else:
        text = column.cast(pl.String)
    lists = text.str.split(SEPARATOR).list.eval(pl.element().str.strip_chars())
    return lists.list.eval(pl.element().filter(pl.element() != ""))
