"""What a paper's files say of interactions of one second: their order in the file, or none at all."""

from __future__ import annotations

from typing import Literal

import polars as pl

from benchmark.data.schema import TIMESTAMP, USER_ID

Ties = Literal["strict", "published"]
TICKS = 4096  # parts of a second, more than any user has interactions of one second


def in_order(rows: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """Return the rows with times that keep the order of each user's rows within one second, and how many rows it moves.

    The k-th further row of a user and second gets k / TICKS seconds more, so that histories, which hold what is
    strictly before the target, are those of the files.
    """
    place = pl.int_range(pl.len()).over(USER_ID, TIMESTAMP)
    later = rows.select(place > 0).to_series().sum()
    return rows.with_columns(pl.col(TIMESTAMP) + place / TICKS), int(later)
