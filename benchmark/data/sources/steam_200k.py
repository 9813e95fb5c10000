"""Source steam-200k: who bought and who played which game, from the one original file or from two plain tables."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import polars as pl

from benchmark.data.schema import ITEM_ID, RATING, TITLE, USER_ID, Dataset
from benchmark.data.sources.canonical import canonical, check_interactions
from benchmark.data.sources.downloads import Download, Downloaded, Pack, locate
from benchmark.data.sources.files import read_table
from benchmark.data.sources.raw import Raw

DOWNLOAD = Download(
    "steam-200k",
    "steam-200k",
    "steam-200k.csv (200,000 lines)",
    "https://www.kaggle.com/datasets/tamber/steam-video-games",
    "no licence stated",
)
ORIGINAL = "steam-200k.csv"
HEADER = ("user", "game", "behaviour", "value", "zero")
BEHAVIOURS = ("purchase", "play")


class Steam200K(Downloaded):
    """Purchases and hours of play on Steam, without times; rows that are there twice stay.

    ``play`` has the hours as the rating (.1 to 11,754, extremely skewed). Whatever was played was bought: to train on
    the one and test on the other is a leak. The original file names games by their titles, which are the ids then.
    """

    source: Literal["steam-200k"] = "steam-200k"
    behaviour: Literal["purchase", "play"]

    def _places(self) -> dict[str, Path | Raw]:
        return locate(DOWNLOAD, self.folder, Pack((ORIGINAL,)), Pack((f"{self.behaviour}.csv", "items.csv")))

    def load(self) -> Dataset:
        """Read and check the files.

        Raises:
            InputError: a file, column or value that cannot be used, in one line.
        """
        places = self._places()
        name = f"steam-200k-{self.behaviour}"
        if ORIGINAL in places:
            return self._original(name, places[ORIGINAL])
        columns = {USER_ID: USER_ID, ITEM_ID: ITEM_ID} | ({RATING: "hours"} if self.behaviour == "play" else {})
        rows, origin = read_table(places[f"{self.behaviour}.csv"], columns)
        items, of_items = read_table(places["items.csv"], {ITEM_ID: ITEM_ID, TITLE: "title"})
        return canonical(name, rows, items, origins={"interactions": origin, "items": of_items})

    def _original(self, name: str, path: Path | Raw) -> Dataset:
        columns = {USER_ID: "user", ITEM_ID: "game", "behaviour": "behaviour", RATING: "value"}
        rows, origin = read_table(path, columns, header=HEADER)
        check_interactions(rows, origin)
        unknown = ~rows["behaviour"].is_in(list(BEHAVIOURS)).fill_null(False)
        if unknown.any():
            row = int(unknown.arg_max() or 0)
            raise origin.error(row, "behaviour", rows["behaviour"][row], f"one of {', '.join(BEHAVIOURS)}")
        rows = rows.filter(pl.col("behaviour") == self.behaviour)
        games = rows.select(ITEM_ID, pl.col(ITEM_ID).alias(TITLE)).unique(maintain_order=True)
        return canonical(name, rows if self.behaviour == "play" else rows.drop(RATING), games)
