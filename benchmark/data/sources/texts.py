"""Makes readable text of what raw files hold: HTML entities, repeated blanks, lists, words for nothing."""

from __future__ import annotations

import html
import re
from html.entities import html5

import polars as pl

_ENTITY = re.compile(r"&#?\w+;")


def readable(values: pl.Series) -> pl.Series:
    """Return text without HTML entities, repeated blanks and line breaks; nothing left is null."""
    marked = values.filter(values.str.contains(r"&#?\w+;").fill_null(False)).unique()
    if len(marked):
        plain = [_ENTITY.sub(_character, text) for text in marked]
        values = values.replace(marked, pl.Series(plain, dtype=pl.String))
    values = values.str.replace_all(r"\s+", " ").str.strip_chars()
    return values.set(values == "", None)


def _character(entity: re.Match[str]) -> str:
    # html.unescape alone would also take a word that merely begins as an entity does
    return html.unescape(entity[0]) if entity[0][1] == "#" or entity[0][1:] in html5 else entity[0]


def joined(values: pl.Series, separator: str = ", ") -> pl.Series:
    """Return a column of lists as readable text."""
    return readable(values.list.join(separator, ignore_nulls=True))


def whole(values: pl.Series) -> pl.Series:
    """Return text as whole numbers ("1997" and "1997.0" alike); null where it is none."""
    number = values.cast(pl.Float64, strict=False)
    return number.set(number.is_nan() | number.is_infinite(), None).cast(pl.Int64, strict=False)
