"""Markdown tables: rows between pipes, the first column set left and the others right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def head(heads: Sequence[str]) -> Iterator[str]:
    """Yield the two lines above the rows."""
    yield row(heads)
    yield "|" + " --- |" + " ---: |" * (len(heads) - 1)


def row(cells: Sequence[str]) -> str:
    """Return one line; a pipe within a cell stays a character of it."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return all lines."""
    return [*head(heads), *map(row, rows)]
