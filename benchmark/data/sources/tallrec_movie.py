"""Source tallrec-movie: MovieLens-100K as TALLRec prepared it, like or dislike after ten labelled films."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import polars as pl

from benchmark.data.schema import ITEM_ID, KNOWN, PART, PARTS, RATING, TIMESTAMP, USER_ID, Dataset
from benchmark.data.sources.canonical import check_interactions
from benchmark.data.sources.downloads import Download, Pack, locate
from benchmark.data.sources.files import read_table
from benchmark.data.sources.rated_films import FILMS, TICKS, RatedFilms, check
from benchmark.data.sources.raw import Raw
from benchmark.errors import InputError

DOWNLOAD = Download(
    "tallrec-movie",
    "tallrec-movie",
    "data/movie (train, valid and test as CSV) written as train.csv, valid.csv, test.csv (user_id, item_id, label, "
    "timestamp, history_item_ids, history_labels: ten each, between blanks) and items.csv (item_id, title, genres)",
    "https://github.com/SAI990323/TALLRec/tree/c1db29ce6501bce32cc8c3e343c4eb14155beeb1",
    "the terms of MovieLens: for research, not to be passed on",
)
FILES = (*(f"{part}.csv" for part in PARTS), FILMS)
ITEMS, LABELS = "history_item_ids", "history_labels"


class TALLRecMovie(RatedFilms):
    """Ten thousand labelled films of 108 users with the ten films before each (Bao et al., RecSys 2023, arXiv
    2305.00447).

    A user's rows are a window that slides over one sequence; what stands before the first row is ``known``: history,
    neither learned from nor judged. Use it with ``split: {kind: predefined}``, ``positive_rating: 1`` (the rating is
    the label) and ``history: before_target``. Titles carry their year.
    """

    source: Literal["tallrec-movie"] = "tallrec-movie"

    def _places(self) -> dict[str, Path | Raw]:
        return locate(DOWNLOAD, self.folder, Pack(FILES))

    def load(self) -> Dataset:
        """Read and check the files.

        Raises:
            InputError: a file, column or value that cannot be used, in one line.
        """
        places = self._places()
        rows = pl.concat([_part(places[file], part) for part, file in zip(PARTS, FILES, strict=False)])
        return self._films("tallrec-movie", _sequences(rows), places[FILMS])


def _part(path: Path | Raw, part: str) -> pl.DataFrame:
    """Return the labelled rows of a file, with their histories as lists."""
    columns = {USER_ID: USER_ID, ITEM_ID: ITEM_ID, RATING: "label", TIMESTAMP: TIMESTAMP}
    rows, origin = read_table(path, columns | {ITEMS: ITEMS, LABELS: LABELS})
    check_interactions(rows, origin)
    lists = rows.with_columns(pl.col(ITEMS, LABELS).str.split(" "), pl.lit(part).alias(PART))
    same = lists[ITEMS].list.len() == lists[LABELS].list.len()
    fine = {
        ITEMS: (rows[ITEMS].str.contains(r"^\S+( \S+)*$"), "item ids with one blank between them"),
        LABELS: (rows[LABELS].str.contains("^[01]( [01])*$") & same, "a 0 or 1 for each item of the history"),
    }
    check(rows, origin, fine)
    return lists


def _sequences(rows: pl.DataFrame) -> pl.DataFrame:
    """Return one row an interaction: before a user's rows the history of the first one, as ``known``.

    Raises:
        InputError: a history is not what the rows before it say.
    """
    moved = [
        pl.concat_list(pl.col(of).list.slice(1), next_.cast(pl.String)).shift(1).over(USER_ID).alias(f"{of}'")
        for of, next_ in ((ITEMS, pl.col(ITEM_ID)), (LABELS, pl.col(RATING).cast(pl.Int8)))
    ]
    checked = rows.with_columns(moved, first=pl.int_range(pl.len()).over(USER_ID) == 0)
    wrong = ~checked["first"] & ((checked[ITEMS] != checked[f"{ITEMS}'"]) | (checked[LABELS] != checked[f"{LABELS}'"]))
    if wrong.any():
        user, item, part = rows.select(USER_ID, ITEM_ID, PART).row(int(wrong.arg_max() or 0))
        raise InputError(
            f"tallrec-movie: {part}.csv: the history of user {user} before item {item} is not that of the user's row "
            "before it, moved on by one"
        )
    start = checked.filter("first").select(USER_ID, ITEMS, LABELS, TIMESTAMP)
    # their own times are in no file: only that they come before
    back = (pl.int_ranges(pl.col(ITEMS).list.len()) - pl.col(ITEMS).list.len()).cast(pl.List(pl.Float64))
    known = start.with_columns(back.alias("back")).explode(ITEMS, LABELS, "back")
    columns = [USER_ID, ITEM_ID, RATING, TIMESTAMP, PART]
    known = known.select(
        USER_ID,
        pl.col(ITEMS).alias(ITEM_ID),
        pl.col(LABELS).cast(pl.Float64).alias(RATING),
        pl.col(TIMESTAMP) + pl.col("back") / TICKS,
        pl.lit(KNOWN).alias(PART),
    )
    return pl.concat([known, rows.select(columns)], how="vertical_relaxed")
