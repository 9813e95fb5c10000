"""Source collm: MovieLens-1M as CoLLM prepared and split it, like or dislike."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import polars as pl

from benchmark.data.schema import ITEM_ID, PART, PARTS, RATING, TIMESTAMP, USER_ID, Dataset
from benchmark.data.sources.canonical import check_interactions
from benchmark.data.sources.downloads import Download, Pack, locate
from benchmark.data.sources.files import read_table
from benchmark.data.sources.rated_films import FILMS, RatedFilms, check
from benchmark.data.sources.raw import Raw

DOWNLOAD = Download(
    "collm",
    "collm-ml-1m",
    "collm-datasets/ml-1m.zip, its pickles written as train.csv.gz, valid.csv.gz, test.csv.gz (user_id, item_id, "
    "label, timestamp, row_id) and items.csv (item_id, title, genres)",
    "https://github.com/zyang1580/CoLLM/tree/48042b168bb5aa41b42e9c89e7582b718e301556",
    "the terms of MovieLens: for research, not to be passed on",
)
FILES = (*(f"{part}.csv.gz" for part in PARTS), FILMS)


class CoLLM(RatedFilms):
    """Twenty months of MovieLens-1M, a rating above 3 a like, cut at two points in time (Zhang et al., TKDE 2025,
    arXiv 2310.19488).

    Use it with ``split: {kind: predefined}``, ``positive_rating: 1`` (the rating is the label) and, as in the paper,
    ``history: before_target`` and ``history_holds: likes``. Titles carry their year. 43 % of the test rows are cold.
    """

    source: Literal["collm"] = "collm"

    def _places(self) -> dict[str, Path | Raw]:
        return locate(DOWNLOAD, self.folder, Pack(FILES))

    def load(self) -> Dataset:
        """Read and check the files.

        Raises:
            InputError: a file, column or value that cannot be used, in one line.
        """
        places = self._places()
        columns = {USER_ID: USER_ID, ITEM_ID: ITEM_ID, RATING: "label", TIMESTAMP: TIMESTAMP, "row": "row_id"}
        frames = []
        for part, file in zip(PARTS, FILES, strict=False):
            rows, origin = read_table(places[file], columns)
            check_interactions(rows, origin)
            check(rows, origin, {"row": (rows["row"].cast(pl.Int64, strict=False).is_not_null(), "a whole number")})
            frames.append(rows.with_columns(pl.lit(part).alias(PART), pl.col("row").cast(pl.Int64)))
        return self._films("collm-ml-1m", pl.concat(frames).sort("row").drop("row"), places[FILMS])
