"""Source csv: your own interactions, items and users from csv, tsv, gz or parquet files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field, model_validator

from benchmark.data.schema import ITEM_ID, PART, PARTS, RATING, TIMESTAMP, TITLE, USER_ID, Dataset
from benchmark.data.sources.canonical import Origin, canonical, check_interactions
from benchmark.data.sources.files import existing, infer_types, read_header, read_table
from benchmark.errors import InputError


class Columns(BaseModel):
    """What the files call our columns; None means: our own name, where the file has it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    user_id: str = USER_ID
    item_id: str = ITEM_ID
    rating: str | None = None
    timestamp: str | None = None
    part: str | None = None
    title: str | None = None


class Csv(BaseModel):
    """Interactions and, where given, items and users, from files. Relative paths start at the working directory.

    The kind of a file is told by its suffix: .parquet, else text with a header line; .gz is unpacked. Ids and titles
    are read as text. Timestamps are numbers, or dates, which become seconds since 1970 in UTC.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Literal["csv"] = "csv"
    name: str | None = Field(None, description="Name in tables; default: the file's name.")
    interactions: Path | None = Field(None, description="One row an interaction; or give train, valid and test.")
    train: Path | None = None
    valid: Path | None = None
    test: Path | None = None
    items: Path | None = Field(None, description="One row an item.")
    users: Path | None = Field(None, description="One row a user.")
    columns: Columns = Columns()
    separator: str | None = Field(
        None, min_length=1, max_length=1, description="Of text files; default: a comma for .csv, else a tab."
    )

    @model_validator(mode="after")
    def _one_way(self) -> Csv:
        parts = [path is not None for path in (self.train, self.valid, self.test)]
        if (self.interactions is not None) == any(parts) or any(parts) != all(parts):
            raise ValueError("give either 'interactions', or all of 'train', 'valid' and 'test'")
        if self.columns.title and self.items is None:
            raise ValueError("columns.title needs the file 'items'")
        if self.columns.part and any(parts):
            raise ValueError("columns.part cannot stand beside 'train', 'valid' and 'test'")
        return self

    def files(self) -> list[Path]:
        """Return the files that ``load`` reads.

        Raises:
            InputError: one of them does not exist.
        """
        paths = (self.interactions, self.train, self.valid, self.test, self.items, self.users)
        return [existing(path) for path in paths if path is not None]

    def load(self) -> Dataset:
        """Read and check the files.

        Raises:
            InputError: a file, column or value that cannot be used, in one line.
        """
        origins: dict[str, Origin] = {}
        if self.interactions is not None:
            name = self.name or self.interactions.name.split(".")[0]
            rows, origins["interactions"] = self._interactions(self.interactions)
        else:
            name = self.name or (self.train or Path()).expanduser().resolve().parent.name
            rows = self._parts()
        tables: dict[str, pl.DataFrame | None] = {"items": None, "users": None}
        for table, path, key in (("items", self.items, ITEM_ID), ("users", self.users, USER_ID)):
            if path is not None:
                tables[table], origins[table] = self._table(path, key)
        return canonical(name, rows, tables["items"], tables["users"], origins=origins)

    def _interactions(self, path: Path, with_part: bool = True) -> tuple[pl.DataFrame, Origin]:
        header = read_header(path, self.separator)
        columns = {USER_ID: self.columns.user_id, ITEM_ID: self.columns.item_id}
        for ours in (RATING, TIMESTAMP, PART):
            given = getattr(self.columns, ours)
            if (given or ours in header) and (ours != PART or with_part):
                columns[ours] = given or ours
        return read_table(path, columns, self.separator)

    def _parts(self) -> pl.DataFrame:
        frames = []
        for part, path in zip(PARTS, (self.train, self.valid, self.test), strict=True):
            assert path is not None  # by _one_way
            frame, origin = self._interactions(path, with_part=False)
            checked = pl.DataFrame(check_interactions(frame, origin))
            frames.append(checked.with_columns(pl.lit(part, pl.Enum(PARTS)).alias(PART)))
            if set(frames[0].columns) != set(frames[-1].columns):
                found, expected = (", ".join(set(f.columns) - {PART}) for f in (frames[-1], frames[0]))
                raise InputError(f"{path}: found the columns {found}, expected those of {self.train}: {expected}")
        ids = pl.col(USER_ID, ITEM_ID).cast(pl.String)
        return pl.concat([frame.select(ids, pl.exclude(USER_ID, ITEM_ID)) for frame in frames], how="diagonal")

    def _table(self, path: Path, key: str) -> tuple[pl.DataFrame, Origin]:
        header = read_header(path, self.separator)
        ours = {key: getattr(self.columns, key)}
        if key == ITEM_ID and self.columns.title:
            ours[TITLE] = self.columns.title
        clash = [name for name in header if name in ours and name not in ours.values()]
        if clash:
            raise InputError(
                f"{path}: has a column '{clash[0]}' beside '{ours[clash[0]]}', which is to be '{clash[0]}'"
            )
        features = {name: name for name in header if name not in ours.values() and name not in (RATING, TIMESTAMP)}
        frame, origin = read_table(path, {**ours, **features}, self.separator)
        return infer_types(frame, text=(key, TITLE)), origin
