"""What the sources of CoLLM and TALLRec share: 0/1 labels, films with genres, and what of one second may be history."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import polars as pl
from pydantic import Field

from benchmark.data.schema import ITEM_ID, RATING, TIMESTAMP, TITLE, USER_ID, Dataset
from benchmark.data.sources.canonical import Origin, canonical
from benchmark.data.sources.downloads import Downloaded
from benchmark.data.sources.files import read_table
from benchmark.data.sources.raw import Raw

TICKS = 4096  # parts of a second, more than any user has interactions of one second
FILMS = "items.csv"


class RatedFilms(Downloaded):
    """Labelled films of MovieLens in the order that a paper's files give."""

    ties: Literal["strict", "published"] = Field(
        "strict",
        description="strict: nothing of the target's own second stands in its history; published: what the files put "
        "before it does.",
    )

    def _films(self, name: str, rows: pl.DataFrame, films: Path | Raw) -> Dataset:
        """Return the Dataset of rows in the order of the files, and of the table of films."""
        note = ""
        if self.ties == "published":
            rows, later = in_order(rows)
            note = f"{later:,} rows have earlier ones of their very second in the history, as published"
        items, origin = read_table(films, {ITEM_ID: ITEM_ID, TITLE: "title", "genres": "genres"})
        items = items.with_columns(pl.col("genres").str.replace_all("|", ", ", literal=True))
        return canonical(name, rows, items, origins={"items": origin}, note=note)


def in_order(rows: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """Return the rows with times that keep the order of each user's rows within one second, and how many rows it moves.

    The k-th further row of a user and second gets k / TICKS seconds more, so that histories, which hold what is
    strictly before the target, are those of the files.
    """
    place = pl.int_range(pl.len()).over(USER_ID, TIMESTAMP)
    later = rows.select(place > 0).to_series().sum()
    return rows.with_columns(pl.col(TIMESTAMP) + place / TICKS), int(later)


def check(rows: pl.DataFrame, origin: Origin, fine: dict[str, tuple[pl.Series, str]]) -> None:
    """Check that labels are 0 or 1, and by column what else must be so.

    Raises:
        InputError: the first value that is not, with what was expected.
    """
    for column, (good, expected) in {RATING: (rows[RATING].is_in([0.0, 1.0]), "0 or 1"), **fine}.items():
        good = good.fill_null(False)
        if not good.all():
            row = int((~good).arg_max() or 0)
            raise origin.error(row, column, rows[column][row], expected)
