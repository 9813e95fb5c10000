"""Source mind: clicks on news of Microsoft, from the impression logs and the histories that stand in them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import polars as pl
from pydantic import Field

from benchmark.data.schema import ITEM_ID, TIMESTAMP, TITLE, USER_ID, Dataset
from benchmark.data.sources.canonical import Origin, canonical, check_ids
from benchmark.data.sources.downloads import Download, Downloaded, Pack, locate
from benchmark.data.sources.files import read_table
from benchmark.data.sources.raw import Raw

SIZES = {
    "small": "MINDsmall_train.zip (52,952,752 bytes) and MINDsmall_dev.zip (30,945,572 bytes)",
    "large": "MINDlarge_train.zip and MINDlarge_dev.zip",
}
BEHAVIORS = ("impression_id", "user_id", "time", "history", "impressions")
NEWS = ("news_id", "category", "subcategory", "title", "abstract", "url", "title_entities", "abstract_entities")


class Mind(Downloaded):
    """Clicks on news (Wu et al., ACL 2020): the shown news that were clicked, at the time they were shown.

    The history that stands beside an impression was clicked earlier, in its order, at times that are not told: it is
    dated one second a click backwards from the start of the log, so that it comes before every impression. What is in
    a history and in the log counts once, as in the log. What was shown and not clicked is left out.

    Items have ``title``, ``category``, ``subcategory`` and ``abstract``. Times are taken as UTC.
    """

    source: Literal["mind"] = "mind"
    version: Literal["small", "large"] = "small"
    parts: tuple[Literal["train", "dev"], ...] = Field(("train", "dev"), min_length=1, description="Read as one log.")
    history: bool = Field(True, description="With the clicks before the log, whose times are made up.")

    def _places(self) -> dict[str, Path | Raw]:
        download = Download(
            f"mind {self.version}",
            "mind",
            SIZES[self.version],
            "https://msnews.github.io",
            "Microsoft Research License Terms, not commercial",
        )
        found: dict[str, Path | Raw] = {}
        for part in dict.fromkeys(self.parts):
            name = f"MIND{self.version}_{part}"
            pack = Pack(("behaviors.tsv", "news.tsv"), f"{name}.zip", name)
            found |= {f"{part}/{table}": place for table, place in locate(download, self.folder, pack).items()}
        return found

    def load(self) -> Dataset:
        """Read and check the files.

        Raises:
            InputError: a file, column or value that cannot be used, in one line.
        """
        places = self._places()
        logs = pl.concat([_log(place) for name, place in places.items() if name.endswith("behaviors.tsv")])
        about = {ITEM_ID: "news_id", TITLE: "title"} | {name: name for name in ("category", "subcategory", "abstract")}
        news = pl.concat([_news(place, about) for name, place in places.items() if name.endswith("news.tsv")])
        news = news.unique(ITEM_ID, keep="first", maintain_order=True)
        clicks = logs.select(USER_ID, pl.col("clicked").alias(ITEM_ID), TIMESTAMP).explode(ITEM_ID).drop_nulls(ITEM_ID)
        rows = [clicks]
        if self.history:
            rows.append(_earlier(logs, clicks))
        return canonical(f"mind-{self.version}", pl.concat(rows), news)


def _log(path: Path | Raw) -> pl.DataFrame:
    """Return the impressions: ``user_id``, ``timestamp``, ``history`` (text) and ``clicked`` (a list)."""
    columns = {USER_ID: "user_id", "time": "time", "history": "history", "shown": "impressions"}
    log, origin = read_table(path, columns, "\t", quote=None, header=BEHAVIORS)
    time = log["time"].str.to_datetime("%m/%d/%Y %I:%M:%S %p", strict=False)
    _all(time.is_not_null(), log, "time", "a time as 11/13/2019 8:36:57 AM", origin)
    fine = log["shown"].str.contains(r"^\S+-[01]( \S+-[01])*$").fill_null(False)
    _all(fine, log, "shown", "ids of news with -0 or -1 behind them, one blank between", origin)
    clicked = pl.col("shown").str.extract_all(r"\S+-1(?: |$)")
    return log.select(
        check_ids(log, USER_ID, origin),
        (time.dt.epoch("s").cast(pl.Float64)).alias(TIMESTAMP),
        "history",
        clicked.list.eval(pl.element().str.strip_chars_end().str.head(-2)).alias("clicked"),
    )


def _all(fine: pl.Series, frame: pl.DataFrame, column: str, expected: str, origin: Origin) -> None:
    if not fine.all():
        row = int((~fine).arg_max() or 0)
        shown = frame[column][row]
        raise origin.error(row, column, shown[:60] if isinstance(shown, str) else shown, expected)


def _news(path: Path | Raw, columns: dict[str, str]) -> pl.DataFrame:
    news, origin = read_table(path, columns, "\t", quote=None, header=NEWS)
    check_ids(news, ITEM_ID, origin)
    return news


def _earlier(logs: pl.DataFrame, clicks: pl.DataFrame) -> pl.DataFrame:
    """Return what the histories hold beyond the clicks of the log, dated backwards from its start."""
    texts = logs.select(USER_ID, "history").drop_nulls().unique()
    lists = texts.select(USER_ID, pl.col("history").str.split(" ").alias(ITEM_ID))
    back = lists.with_columns(pl.int_ranges(pl.col(ITEM_ID).list.len(), 0, -1).alias("back"))
    pairs = back.explode(ITEM_ID, "back").filter(pl.col(ITEM_ID) != "")
    first = pairs.group_by(USER_ID, ITEM_ID).agg(pl.col("back").max())
    start = logs[TIMESTAMP].min()
    return first.join(clicks, on=[USER_ID, ITEM_ID], how="anti").select(
        USER_ID, ITEM_ID, (start - pl.col("back").cast(pl.Float64)).alias(TIMESTAMP)
    )
