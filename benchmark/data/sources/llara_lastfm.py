"""Source llara-lastfm: listening sequences of Last.fm as LLaRA split them, next artist."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import polars as pl

from benchmark.data.schema import ITEM_ID, KNOWN, PART, PARTS, TIMESTAMP, TITLE, USER_ID, Dataset
from benchmark.data.sources.canonical import canonical, check_ids
from benchmark.data.sources.downloads import Download, Downloaded, Pack, locate
from benchmark.data.sources.files import read_table
from benchmark.data.sources.json_lines import read_json_lines
from benchmark.data.sources.raw import Raw
from benchmark.errors import InputError

DOWNLOAD = Download(
    "llara-lastfm",
    "llara-lastfm",
    # a copy by others; code and protocol: https://github.com/ljy0ustc/LLaRA
    "data/ref/lastfm, its pickles written as train.jsonl.gz, valid.jsonl.gz, test.jsonl.gz ({user_id, history: oldest "
    "first, without padding, target} a line) and items.csv (item_id, artist)",
    "https://github.com/ChickenTheSlayer/DeepRec/tree/4a8562582e79c1fb493d54d4ee29da62a03bdd13",
    "Last.fm data of HetRec 2011, not for commercial use",
)
FILES = (*(f"{part}.jsonl.gz" for part in PARTS), "items.csv")


class LLaRALastFM(Downloaded):
    """Artists in the order in which 1,220 users listened to them (Liao et al., SIGIR 2024, arXiv 2312.02445).

    Train holds the whole sequences of most users; of each other user only the last artist is judged, in valid or in
    test, and the (up to ten) before it are ``known``: history, never learned from. Use it with
    ``split: {kind: predefined}``. Only the order is known: ``timestamp`` is the place in the user's sequence.
    """

    source: Literal["llara-lastfm"] = "llara-lastfm"

    def _places(self) -> dict[str, Path | Raw]:
        return locate(DOWNLOAD, self.folder, Pack(FILES))

    def load(self) -> Dataset:
        """Read and check the files.

        Raises:
            InputError: a file, column or value that cannot be used, in one line.
        """
        *parts, items_file = self.files()
        frames = [_sequences(path, part) for path, part in zip(parts, PARTS, strict=True)]
        users = [frame[USER_ID].unique() for frame in frames]
        for earlier, later, path in ((0, 1, parts[1]), (0, 2, parts[2]), (1, 2, parts[2])):
            if (both := users[later].filter(users[later].is_in(users[earlier].implode()))).len():
                raise InputError(f"{path}: user_id: found {both[0]} of {parts[earlier].name}, expected other users")
        items, of_items = read_table(items_file, {ITEM_ID: ITEM_ID, TITLE: "artist"})
        return canonical("llara-lastfm", pl.concat(frames), items, origins={"items": of_items}, clock="order")


def _sequences(path: Path, part: str) -> pl.DataFrame:
    """Return one row an interaction, its place in the user's sequence as the time."""
    rows, origin = read_json_lines(path, {USER_ID: "user_id", "history": "history", ITEM_ID: "target"}, ["history"])
    for column in (USER_ID, ITEM_ID):
        check_ids(rows, column, origin)
    lists = rows.with_columns(pl.col("history").fill_null(pl.lit([], pl.List(pl.String))))
    if part == "train":
        # all beginnings of a sequence, one a row: the targets are the sequence
        moved = pl.concat_list("history", ITEM_ID).list.tail(10).shift(1).over(USER_ID)
        expected = lists.select(moved.fill_null(pl.lit([], pl.List(pl.String)))).to_series()
        wrong = lists["history"].list.tail(10) != expected
        if wrong.any():
            row = int(wrong.arg_max() or 0)
            found = " ".join(lists["history"][row])
            raise origin.error(row, "history", found, f"the targets before it: {' '.join(expected[row])}")
        place = pl.int_range(pl.len()).over(USER_ID)
        return lists.select(USER_ID, ITEM_ID, place.cast(pl.Float64).alias(TIMESTAMP), pl.lit(part).alias(PART))
    if not (once := rows[USER_ID].is_first_distinct()).all():
        row = int((~once).arg_max() or 0)
        raise origin.error(row, USER_ID, rows[USER_ID][row], "each user once")
    known = lists.select(
        USER_ID,
        pl.col("history").alias(ITEM_ID),
        pl.int_ranges(pl.col("history").list.len()).cast(pl.List(pl.Float64)).alias(TIMESTAMP),
        pl.lit(KNOWN).alias(PART),
    ).explode(ITEM_ID, TIMESTAMP)
    target = lists.select(
        USER_ID, ITEM_ID, pl.col("history").list.len().cast(pl.Float64).alias(TIMESTAMP), pl.lit(part).alias(PART)
    )
    return pl.concat([known.drop_nulls(ITEM_ID), target])
