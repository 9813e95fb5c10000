"""Raw frames -> Dataset: checks every value, sorts the users and items, and replaces raw ids by row numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from benchmark.data.schema import (
    ITEM,
    ITEM_ID,
    KNOWN,
    PART,
    PARTS,
    RATING,
    TIMESTAMP,
    TITLE,
    USER,
    USER_ID,
    Dataset,
    Step,
)
from benchmark.errors import InputError, nearest


@dataclass(frozen=True)
class Origin:
    """Where a frame came from, to be said in errors.

    Attributes:
        file: the file, or what else the frame was read from.
        columns: our name of a column -> the file's own name of it.
        first_line: the line of the first row in a text file; None where rows are counted from 1.
    """

    file: Path | str
    columns: Mapping[str, str] = field(default_factory=dict)
    first_line: int | None = None

    def error(self, row: int, column: str, found: object, expected: str) -> InputError:
        """Return the error for the value ``found`` in the 0-based ``row``."""
        place = f"row {row + 1}" if self.first_line is None else f"line {row + self.first_line}"
        shown = self.columns.get(column, column)
        return InputError(f"{self.file}: {place}, column '{shown}': found {found!r}, expected {expected}")

    def missing(self, column: str, known: list[str]) -> InputError:
        """Return the error for a column that is not there."""
        shown = self.columns.get(column, column)
        return InputError(f"{self.file}: no column '{shown}'{nearest(shown, known)}")


def _first(mask: pl.Series) -> int | None:
    """Return the position of the first true value, or None."""
    return int(mask.arg_max() or 0) if mask.any() else None


def check_ids(frame: pl.DataFrame, column: str, origin: Origin) -> pl.Series:
    """Return the id column as String or integers.

    Raises:
        InputError: no such column; an id is missing; ids are neither text nor whole numbers.
    """
    if column not in frame.columns:
        raise origin.missing(column, [origin.columns.get(known, known) for known in frame.columns])
    ids = frame[column]
    if isinstance(ids.dtype, (pl.Categorical, pl.Enum)):
        ids = ids.cast(pl.String)
    if ids.dtype != pl.String and not ids.dtype.is_integer():
        shown = origin.columns.get(column, column)
        raise InputError(f"{origin.file}: column '{shown}': found type {ids.dtype}, expected text or whole numbers")
    empty = ids.is_null() if ids.dtype != pl.String else ids.is_null() | (ids.str.len_bytes() == 0).fill_null(False)
    if (row := _first(empty)) is not None:
        raise origin.error(row, column, ids[row], "an id")
    return ids


def _check_numbers(frame: pl.DataFrame, column: str, dtype: type[pl.DataType], origin: Origin) -> pl.Series:
    """Return the column as floats of type ``dtype``, all finite."""
    raw = frame[column]
    if raw.dtype.is_temporal():
        shown = origin.columns.get(column, column)
        raise InputError(f"{origin.file}: column '{shown}': found type {raw.dtype}, expected numbers")
    values = raw.cast(dtype, strict=False)
    if (row := _first(~values.is_finite().fill_null(False))) is not None:
        raise origin.error(row, column, raw[row], "a finite number")
    return values


def check_interactions(frame: pl.DataFrame, origin: Origin) -> dict[str, pl.Series]:
    """Return the checked columns: ids as String or integers, numbers as finite floats, ``part`` as an Enum.

    Raises:
        InputError: the first bad value, with file, row, column and what was expected.
    """
    checked = {name: check_ids(frame, name, origin) for name in (USER_ID, ITEM_ID)}
    if RATING in frame.columns:
        checked[RATING] = _check_numbers(frame, RATING, pl.Float32, origin)
    if TIMESTAMP in frame.columns:
        checked[TIMESTAMP] = _check_numbers(frame, TIMESTAMP, pl.Float64, origin)
    if PART in frame.columns:
        part, names = frame[PART].cast(pl.String), (*PARTS, KNOWN)
        if (row := _first(~part.is_in(list(names)).fill_null(False))) is not None:
            raise origin.error(row, PART, part[row], f"one of {', '.join(names)}")
        checked[PART] = part.cast(pl.Enum(names))
    return checked


def _table(frame: pl.DataFrame | None, key: str, used: pl.Series, origin: Origin) -> pl.DataFrame:
    """Return the table of users or items, one row an id, sorted by id; ``used`` ids that it lacks get null features."""
    bare = used.to_frame(key)
    if frame is None:
        return bare.sort(key)
    ids = check_ids(frame, key, origin).cast(pl.String).alias(key)
    if (row := _first(~ids.is_first_distinct())) is not None:
        raise origin.error(row, key, ids[row], "each id once")
    rest = [name for name in (TITLE,) if name in frame.columns]
    rest += [name for name in frame.columns if name not in (key, TITLE)]
    table = frame.select(ids, *rest)
    absent = bare.join(table, on=key, how="anti")
    return pl.concat([table, absent], how="diagonal").sort(key)


def _encode(values: pl.Series, ids: pl.Series) -> pl.Series:
    """Return the Int32 positions of ``values`` (String or integers) in the sorted String ``ids``."""
    if values.dtype == pl.String:
        return values.cast(pl.Enum(ids)).to_physical().cast(pl.Int32)
    known = values.unique()
    positions = known.cast(pl.String).cast(pl.Enum(ids)).to_physical().cast(pl.Int32)
    low, high = int(known.min()), int(known.max())  # type: ignore[arg-type]
    if high - low > 4 * len(values) + 1024 or high >= 1 << 63:
        return values.replace_strict(known, positions, return_dtype=pl.Int32)
    table = np.zeros(high - low + 1, np.int32)
    table[known.cast(pl.Int64).to_numpy() - low] = positions.to_numpy()
    return pl.Series(values.name, table[values.cast(pl.Int64).to_numpy() - low])


def canonical(
    name: str,
    interactions: pl.DataFrame,
    items: pl.DataFrame | None = None,
    users: pl.DataFrame | None = None,
    graph: pl.DataFrame | None = None,
    links: pl.DataFrame | None = None,
    origins: Mapping[str, Origin] | None = None,
    clock: Literal["time", "order"] = "time",
    note: str = "",
) -> Dataset:
    """Check raw frames and encode them as a Dataset.

    Args:
        name: name of the source.
        interactions: ``user_id`` and ``item_id`` (text or whole numbers); ``rating``, ``timestamp`` (numbers) and
            ``part`` where known; other columns are left out.
        items: ``item_id`` and any features; items without an interaction stay, items absent from it get a row of nulls.
        users: ``user_id`` and any features, likewise.
        graph: ``head``, ``relation``, ``tail``.
        links: ``item_id``, ``entity_id``.
        origins: "interactions", "items", "users" -> where the frame came from, for the errors.
        clock: what ``timestamp`` is, see Dataset.
        note: what a reader must know of the source's rows.

    Raises:
        InputError: a missing column; a missing id; a rating or timestamp that is no finite number; an unknown part; an
            id twice in ``items`` or ``users``; no interaction at all.
    """
    of = {table: Origin(f"{name}: {table}") for table in ("interactions", "items", "users")} | dict(origins or {})
    checked = check_interactions(interactions, of["interactions"])
    if not interactions.height:
        raise InputError(f"{of['interactions'].file}: no interactions")
    del interactions
    tables: dict[str, pl.DataFrame] = {}
    columns: dict[str, pl.Series] = {}
    for table, key, number, frame in (("users", USER_ID, USER, users), ("items", ITEM_ID, ITEM, items)):
        raw = checked.pop(key)
        tables[table] = _table(frame, key, raw.unique().cast(pl.String), of[table])
        columns[number] = _encode(raw, tables[table][key])
        del raw
    rows = pl.DataFrame({**columns, **checked})
    graph, links = (frame if frame is None else frame.sort(frame.columns) for frame in (graph, links))
    step = Step("source", rows.height, rows[USER].n_unique(), rows[ITEM].n_unique(), note)
    return Dataset(name, rows, tables["users"], tables["items"], graph, links, (step,), clock)
