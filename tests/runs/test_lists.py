"""Stored lists: whatever the order of users and items in the file, numbers in the order that is asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmark.errors import InputError
from benchmark.runs.lists import top_lists
from benchmark.runs.record import TOP, RunStore
from tests.reports.made import ranks, stored

LISTS = [("a", 0, "x"), ("a", 1, "y"), ("c", 0, "z"), ("b", 0, "x"), ("b", 1, "z"), ("b", 2, "y")]


def test_lists_are_numbers_of_users_and_items(tmp_path: Path) -> None:
    _, (record, *_), store = stored(tmp_path, {"popularity": lambda seed: ranks(1.0)})
    assert record is not None
    frame = pl.DataFrame(LISTS, schema=["user", "rank", "item"], orient="row")
    store.write_parquet(record.key, TOP, frame)
    items = pl.Series(["z", "y", "x"])
    found = top_lists(record, pl.Series(["a", "b", "c", "d"]), items, 2, store)
    np.testing.assert_array_equal(found, [[2, 1], [2, 0], [0, -1], [-1, -1]])
    np.testing.assert_array_equal(top_lists(record, pl.Series(["a", "c", "b"]), items, 1, store), [[2], [0], [2]])
    with pytest.raises(InputError, match="name 'c', which is not in the data"):
        top_lists(record, pl.Series(["a", "b"]), items, 2, store)
    (RunStore(tmp_path).folder(record.key) / TOP).unlink()
    with pytest.raises(InputError, match=r"top\.parquet: cannot be read .*; delete the folder to run it again"):
        top_lists(record, pl.Series(["a", "b", "c"]), items, 2, store)
