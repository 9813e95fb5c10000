"""Fills the {fields} of a prompt from the tables of items and users, and from training histories; nothing later."""

from __future__ import annotations

from collections.abc import Collection
from string import Formatter

import numpy as np
import polars as pl

from benchmark.data.schema import TITLE, SplitData
from benchmark.data.text import column_texts
from benchmark.errors import InputError, nearest
from benchmark.experiment.settings import HISTORY, Enrichment

UNKNOWN = "unknown"  # stands for a missing value


def check_fields(enrichment: Enrichment, columns: Collection[str], items: Collection[str]) -> None:
    """Check that what a prompt or a rewriting reads is there.

    Args:
        enrichment: whose prompt or field it is.
        columns: of the table it is about.
        items: columns of the table of items.

    Raises:
        InputError: an unknown field, or a history of items without titles.
    """
    kind = enrichment.of.removesuffix("s")
    if enrichment.field is not None and enrichment.field not in columns:
        found = f"field: unknown {kind} field '{enrichment.field}'"
        raise InputError(f"{found}{nearest(enrichment.field, columns)}")
    for name in enrichment.fields:
        if name == HISTORY and enrichment.of == "users":
            if TITLE not in items:
                raise InputError(f"prompt: {{{HISTORY}}} needs items with a '{TITLE}'; found: {', '.join(items)}")
        elif name not in columns:
            known = [*columns, *([HISTORY] if enrichment.of == "users" else [])]
            raise InputError(f"prompt: unknown {kind} field '{name}'{nearest(name, known)}")


def prompts_of(enrichment: Enrichment, split: SplitData) -> list[str | None]:
    """Return one prompt a row of the table (for a rewriting, the text itself); None where none of its fields is known.

    ``{history}`` is the titles of the user's newest training interactions, the oldest first; whatever the budget of a
    run, but never a validation or test interaction.
    """
    table = split.items if enrichment.of == "items" else split.users
    if enrichment.field is not None:
        return column_texts(table, enrichment.field)
    assert enrichment.prompt is not None
    values = {
        name: histories(split, enrichment.history)
        if name == HISTORY and enrichment.of == "users"
        else column_texts(table, name)
        for name in enrichment.fields
    }
    out: list[str | None] = []
    for row in range(table.height):
        known = {name: texts[row] for name, texts in values.items()}
        if known and not any(known.values()):
            out.append(None)
            continue
        filled = {name: text or UNKNOWN for name, text in known.items()}
        parts = Formatter().parse(enrichment.prompt)
        out.append("".join(text + (filled[name] if name is not None else "") for text, name, _, _ in parts))
    return out


def histories(split: SplitData, n: int) -> list[str | None]:
    """Return for each user the titles of the newest n training interactions, joined by "; "; None without any."""
    train = split.train
    start = np.maximum(train.offsets[:-1], train.offsets[1:] - n)
    length = train.offsets[1:] - start
    place = np.arange(length.sum()) + np.repeat(start - np.concatenate([[0], np.cumsum(length)[:-1]]), length)
    titles = pl.Series(column_texts(split.items, TITLE), dtype=pl.String).gather(train.item[place])
    joined = (
        pl.DataFrame({"user": np.repeat(np.arange(split.n_users), length), "title": titles})
        .drop_nulls()
        .group_by("user", maintain_order=True)
        .agg(pl.col("title").str.join("; "))
    )
    out: list[str | None] = [None] * split.n_users
    for user, text in joined.iter_rows():
        out[user] = text
    return out
