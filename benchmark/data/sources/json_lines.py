"""Reads the wanted keys of JSON lines (plain or .gz) in a stream; whatever is wrong becomes one line."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path

import polars as pl

from benchmark.data.schema import ITEM_ID, RATING, TIMESTAMP, USER_ID
from benchmark.data.sources.canonical import Origin
from benchmark.data.sources.files import UNREADABLE, existing, not_utf8, numbers, open_text, unreadable
from benchmark.errors import InputError


def read_json_lines(
    path: Path, columns: Mapping[str, str], lists: Collection[str] = (), among: pl.Series | None = None
) -> tuple[pl.DataFrame, Origin]:
    """Read the given keys of a file with one JSON object a line.

    Args:
        path: the file, plain or .gz.
        columns: our name -> the file's key. ``rating`` and ``timestamp`` become numbers (dates become seconds since
            1970 in UTC), everything else text; a key that an object lacks is null.
        lists: our names of those that are lists of text; null where one is something else.
        among: only the rows whose ``item_id`` is one of these.

    Returns:
        The frame under our names, and where it came from.

    Raises:
        InputError: no such file; not JSON; not UTF-8; no object has a key that is needed; text for a number.
    """
    path = existing(path)
    origin = Origin(path, dict(columns), 1)
    kinds: dict[str, pl.DataType | type[pl.DataType]] = {
        key: pl.List(pl.String) if name in lists else pl.String for name, key in columns.items()
    }
    plain = {columns[name]: pl.Float64 for name in (RATING, TIMESTAMP) if name in columns}

    def read(schema: Mapping[str, pl.DataType | type[pl.DataType]]) -> pl.DataFrame:
        rows = pl.scan_ndjson(path, schema=dict(schema), ignore_errors=bool(lists))
        rows = rows.select(pl.col(key).alias(name) for name, key in columns.items())
        if among is not None:
            rows = rows.filter(pl.col(ITEM_ID).is_in(among.implode()))
        return rows.collect(engine="streaming")

    try:
        frame = read(kinds | plain)
    except UNREADABLE:
        try:
            frame = read(kinds)  # a date, or a number in quotes
        except UNREADABLE as error:
            raise not_utf8(path) or _broken(path) or unreadable(path, error, "JSON lines") from error
    if frame.height:
        for name in (USER_ID, ITEM_ID, RATING, TIMESTAMP):
            if name in columns and frame[name].null_count() == frame.height:
                raise origin.missing(name, _keys(path))
    for name in (RATING, TIMESTAMP):
        if name in columns:
            frame = frame.with_columns(numbers(frame[name], name, origin))
    return frame, origin


def _broken(path: Path) -> InputError | None:
    """Return the error for the first line that is no JSON object, or None."""
    try:
        with open_text(path) as file:
            for number, line in enumerate(file, 1):
                try:
                    value = json.loads(line) if line.strip() else {}
                except json.JSONDecodeError as error:
                    said = f"not JSON at character {error.pos + 1}: {error.msg.removesuffix(' starting at')}"
                    return InputError(f"{path}: line {number}: {said}")
                if not isinstance(value, dict):
                    return InputError(f"{path}: line {number}: found {line.strip()[:40]!r}, expected a JSON object")
    except UNREADABLE:
        return None
    return None


def _keys(path: Path) -> list[str]:
    """Return the keys of the first object."""
    with open_text(path) as file:
        return next((list(json.loads(line)) for line in file if line.strip()), [])
