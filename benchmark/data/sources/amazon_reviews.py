"""Source amazon-reviews: the 2014 five-core sequences, and the raw JSON lines of 2018 and 2023."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import polars as pl
from pydantic import Field, model_validator

from benchmark.data.schema import ITEM_ID, RATING, TIMESTAMP, TITLE, USER_ID, Dataset
from benchmark.data.sources.canonical import Origin, canonical, check_ids
from benchmark.data.sources.downloads import Download, Downloaded, Pack, locate
from benchmark.data.sources.files import read_table
from benchmark.data.sources.json_lines import read_json_lines
from benchmark.data.sources.raw import Raw
from benchmark.data.sources.texts import joined, readable
from benchmark.errors import nearest

SEQUENCES = "2014-5core-sequences"
CATEGORIES = ("Beauty", "Sports", "Toys")
ADDRESS = "https://mcauleylab.ucsd.edu/public_datasets/data"
TERMS = "no licence stated; cite the authors"
REVIEWS = {
    "2018": {USER_ID: "reviewerID", ITEM_ID: "asin", RATING: "overall", TIMESTAMP: "unixReviewTime"},
    "2023": {USER_ID: "user_id", ITEM_ID: "parent_asin", RATING: "rating", TIMESTAMP: "timestamp"},
}
META = {
    "2018": {ITEM_ID: "asin", TITLE: "title", "brand": "brand", "category": "category"},
    "2023": {ITEM_ID: "parent_asin", TITLE: "title", "store": "store", "categories": "categories"},
}
LISTS = {"category": ", ", "categories": ", ", "features": " ", "description": " "}


class AmazonReviews(Downloaded):
    """Reviews on Amazon, one category at a time (McAuley et al., SIGIR 2015; Ni et al., EMNLP 2019; Hou et al., 2024).

    ``2014-5core-sequences``: users and items with at least five reviews, as prepared for S3-Rec, P5 and TIGER. Only
    the order is known: ``timestamp`` is the place in the user's sequence, counted from 0, so there is no split at one
    global time; there are no ratings. Titles are known for Beauty alone. With ``text: short_text`` an item
    without one is called by its ``short_text``, which is **no title**: a machine-made identifier of a few words,
    unique to the item, sometimes of category words only.

    ``2018``, ``2023``: every review with rating and time (seconds), double ones included; the items that have one,
    with ``title``, ``brand`` or ``store``, ``category`` or ``categories``, ``features`` (2023), ``description`` and
    ``price``. Titles and prices that are no more than a page's leftover code are left out.
    """

    source: Literal["amazon-reviews"] = "amazon-reviews"
    version: Literal["2014-5core-sequences", "2018", "2023"]
    category: str = Field(description="As in the files' names: Beauty, All_Beauty.", pattern=r"^\w+$")
    text: Literal["title", "short_text"] = Field("title", description="What names an item in the 2014 sequences.")
    five_core: bool = Field(False, description="2018: <category>_5.json.gz, users and items with five reviews.")

    @model_validator(mode="after")
    def _of_the_version(self) -> AmazonReviews:
        if self.version == SEQUENCES and self.category not in CATEGORIES:
            raise ValueError(f"unknown category '{self.category}'{nearest(self.category, CATEGORIES)}")
        if self.text == "short_text" and self.version != SEQUENCES:
            raise ValueError(f"'text: short_text' needs 'version: {SEQUENCES}'")
        if self.five_core and self.version != "2018":
            raise ValueError("'five_core' needs 'version: 2018'")
        return self

    def _places(self) -> dict[str, Path | Raw]:
        """Return the file of interactions, then that of items."""
        name = f"amazon-reviews {self.version} {self.category}"
        if self.version == SEQUENCES:
            said = (
                "user_sequence.txt, written as sequences.tsv.gz (user_id, item_ids: oldest first, between blanks), and "
                "the items' texts as items.tsv.gz (item_id, title, short_text)"
            )
            address = "https://github.com/skleee/GRAM/tree/7ac4d9272a57beed9df35c27ea34221f6e4a8fb1/rec_datasets"
            packs = [Pack(("sequences.tsv.gz", "items.tsv.gz"), inside=self.category)]
            return locate(Download(name, "amazon2014-5core", said, address, TERMS), self.folder, *packs)
        suffix, version = (".json", "amazon_v2") if self.version == "2018" else (".jsonl", "amazon_2023/raw")
        reviews = self.category + ("_5" if self.five_core else "") + suffix
        meta = f"meta_{self.category}{suffix}"
        if self.version == "2018":
            rooms = ("categoryFilesSmall" if self.five_core else "categoryFiles", "metaFiles2")
        else:
            rooms = ("review_categories", "meta_categories")
        said = f"{rooms[0]}/{reviews}.gz and {rooms[1]}/{meta}.gz"
        download = Download(name, f"amazon-reviews-{self.version}", said, f"{ADDRESS}/{version}", TERMS)
        packs = [Pack((f"{reviews}.gz", f"{meta}.gz")), Pack((reviews, meta))]
        return locate(download, self.folder, *packs)

    def load(self) -> Dataset:
        """Read and check the files.

        Raises:
            InputError: a file, column or value that cannot be used, in one line.
        """
        first, second = self.files()
        name = f"amazon-{self.category.lower().replace('_', '-')}-{self.version.removesuffix('-5core-sequences')}"
        if self.version == SEQUENCES:
            rows, origin = _sequences(first)
            items, of_items = read_table(second, {ITEM_ID: ITEM_ID, TITLE: "title", "short": "short_text"}, quote=None)
            called = pl.coalesce(TITLE, "short") if self.text == "short_text" else pl.col(TITLE)
            items = items.select(ITEM_ID, called.alias(TITLE))
            return canonical(name, rows, items, origins={"interactions": origin, "items": of_items}, clock="order")
        rows, origin = read_json_lines(first, REVIEWS[self.version])
        if self.version == "2023":
            rows = rows.with_columns(pl.col(TIMESTAMP) / 1000)
        items = _meta(second, self.version, rows[ITEM_ID].drop_nulls().unique())
        return canonical(name, rows, items, origins={"interactions": origin})


def _sequences(path: Path) -> tuple[pl.DataFrame, Origin]:
    """Return one row an interaction, its place in the user's sequence as the time."""
    rows, origin = read_table(path, {USER_ID: USER_ID, ITEM_ID: "item_ids"}, quote=None)
    for column, fine, expected in (
        (USER_ID, check_ids(rows, USER_ID, origin).is_first_distinct(), "each user once"),
        (ITEM_ID, rows[ITEM_ID].str.contains(r"^\S+( \S+)*$").fill_null(False), "item ids with one blank between them"),
    ):
        if not fine.all():
            row = int((~fine).arg_max() or 0)
            raise origin.error(row, column, rows[column][row], expected)
    lists = rows.with_columns(pl.col(ITEM_ID).str.split(" "))
    places = lists.with_columns(pl.int_ranges(pl.col(ITEM_ID).list.len()).alias(TIMESTAMP))
    return places.explode(ITEM_ID, TIMESTAMP), origin


def _meta(path: Path, version: str, reviewed: pl.Series) -> pl.DataFrame:
    """Return the items of ``reviewed`` that the file describes, each by its first line."""
    columns = META[version] | {name: name for name in ("features", "description", "price")}
    if version == "2018":
        columns.pop("features")
    items, _ = read_json_lines(path, columns, [name for name in LISTS if name in columns], reviewed)
    items = items.unique(ITEM_ID, keep="first", maintain_order=True)
    price = items["price"].str.strip_prefix("$").str.replace_all(",", "")
    junk = items[TITLE].str.contains("getTime", literal=True).fill_null(False)  # a script of the page, says its README
    texts = {name: readable(items[name]) for name in (TITLE, "brand", "store") if name in columns}
    return items.with_columns(
        **{name: joined(items[name], between) for name, between in LISTS.items() if name in columns},
        **texts | {TITLE: texts[TITLE].set(junk, None)},
        price=price.cast(pl.Float64, strict=False).fill_nan(None),
    )
