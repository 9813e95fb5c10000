"""Writes the text files of a table's folder, each whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from benchmark.runs.record import whole_file


def write_texts(folder: Path, contents: Mapping[str, str]) -> list[Path]:
    """Write each content under its name below ``folder``; return the paths."""
    for name, content in contents.items():
        with whole_file(folder / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return [folder / name for name in contents]
