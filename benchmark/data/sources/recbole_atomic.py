"""Source recbole-atomic: a folder of RecBole's atomic files (.inter, .item, .user, .kg, .link)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from benchmark.data.schema import ITEM_ID, RATING, TIMESTAMP, TITLE, USER_ID, Dataset
from benchmark.data.sources.canonical import Origin, canonical
from benchmark.data.sources.files import existing, read_header, read_table
from benchmark.errors import InputError, nearest

TYPES = ("token", "token_seq", "float", "float_seq")


def read_fields(path: Path) -> dict[str, str]:
    """Return the columns of an atomic file, name -> type, from its header ``name:type``.

    Raises:
        InputError: no such file; a column without one of RecBole's types; a name twice.
    """
    types: dict[str, str] = {}
    for column in read_header(path, "\t", quote=None):
        name, _, kind = column.rpartition(":")
        if kind not in TYPES or not name:
            expected = f"a column as 'name:type', type one of {', '.join(TYPES)}"
            raise InputError(f"{path}: line 1: found '{column}', expected {expected}{nearest(kind, TYPES)}")
        if name in types:
            raise InputError(f"{path}: line 1: column '{name}' stands there twice")
        types[name] = kind
    return types


def read_atomic(path: Path, columns: dict[str, str] | None = None) -> tuple[pl.DataFrame, Origin]:
    """Read an atomic file (tab-separated, never quoted).

    Args:
        path: the file.
        columns: our name -> the file's name without its type; None means all, under their own names.

    Returns:
        The frame, token columns as text, ``float`` columns as Float64, and sequences as the text they are.

    Raises:
        InputError: see ``read_table``.
    """
    types = read_fields(path)
    columns = columns if columns is not None else {name: name for name in types}
    for name in columns.values():
        if name not in types:
            raise InputError(f"{path}: no column '{name}'{nearest(name, types)}")
    frame, origin = read_table(
        path, {ours: f"{name}:{types[name]}" for ours, name in columns.items()}, "\t", quote=None
    )
    floats = [ours for ours, name in columns.items() if types[name] == "float" and ours not in (RATING, TIMESTAMP)]
    for name in floats:
        number = frame[name].cast(pl.Float64, strict=False)
        wrong = number.is_null() & frame[name].is_not_null()
        if wrong.any():
            row = int(wrong.arg_max() or 0)
            raise origin.error(row, name, frame[name][row], "a number")
        frame = frame.with_columns(number)
    return frame, origin


def read_graph(path: Path) -> pl.DataFrame:
    """Return the triples of a .kg file as ``head``, ``relation``, ``tail``."""
    return read_atomic(path, {"head": "head_id", "relation": "relation_id", "tail": "tail_id"})[0]


def read_links(path: Path) -> pl.DataFrame:
    """Return the ``item_id``, ``entity_id`` pairs of a .link file."""
    return read_atomic(path, {ITEM_ID: ITEM_ID, "entity_id": "entity_id"})[0]


class RecBoleAtomic(BaseModel):
    """A data set in RecBole's atomic files; its fields ``user_id`` and ``item_id`` are the ids.

    Sequences of tokens other than the title are shown joined by ', '.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Literal["recbole-atomic"] = "recbole-atomic"
    folder: Path = Field(description="Folder of the files.")
    name: str | None = Field(None, description="Name of the files before the suffix; default: the folder's name.")
    rating: str = Field("rating", description="Column of .inter that is the rating, where it has it.")
    timestamp: str = Field("timestamp", description="Column of .inter that is the time, where it has it.")
    title: str | None = Field(
        None, description="Column of .item that is the title; default: the first with 'title' or 'name' in its name."
    )

    @property
    def _name(self) -> str:
        return self.name or self.folder.expanduser().resolve().name

    def _path(self, suffix: str) -> Path:
        return self.folder.expanduser() / f"{self._name}.{suffix}"

    def files(self) -> list[Path]:
        """Return the files that ``load`` reads: .inter, and those others that are there.

        Raises:
            InputError: there is no .inter file.
        """
        others = (self._path(suffix) for suffix in ("item", "user", "kg", "link"))
        return [existing(self._path("inter")), *(path for path in others if path.is_file())]

    def load(self) -> Dataset:
        """Read and check the files.

        Raises:
            InputError: a file, column or value that cannot be used, in one line.
        """
        have = {path.suffix[1:]: path for path in self.files()}
        types = read_fields(have["inter"])
        columns = {USER_ID: USER_ID, ITEM_ID: ITEM_ID}
        for ours, given in ((RATING, self.rating), (TIMESTAMP, self.timestamp)):
            if given in types or given != ours:
                columns[ours] = given
        interactions, origin = read_atomic(have["inter"], columns)
        origins = {"interactions": origin}
        items = users = None
        if "item" in have:
            items, origins["items"] = self._table(have["item"], ITEM_ID)
        if "user" in have:
            users, origins["users"] = self._table(have["user"], USER_ID)
        graph = read_graph(have["kg"]) if "kg" in have else None
        links = read_links(have["link"]) if "link" in have else None
        return canonical(self._name, interactions, items, users, graph, links, origins)

    def _table(self, path: Path, key: str) -> tuple[pl.DataFrame, Origin]:
        types = read_fields(path)
        title = None
        if key == ITEM_ID:
            words = (name for name in types if name != key and ("title" in name.lower() or "name" in name.lower()))
            title = self.title or next(words, None)
        features = {name: name for name in types if name != title and name not in (RATING, TIMESTAMP)}
        if title is not None and TITLE in features:
            raise InputError(f"{path}: has a column 'title' beside '{title}', which is to be the title")
        frame, origin = read_atomic(path, ({TITLE: title} if title is not None else {}) | features)
        sequences = [name for name in features if types[name].endswith("_seq")]
        return frame.with_columns(pl.col(sequences).str.replace_all(" ", ", ", literal=True)), origin
