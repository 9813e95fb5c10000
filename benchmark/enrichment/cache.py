"""TextCache: what was written for which prompt, in one file that several processes may use; nothing is paid twice."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.errors import InputError

FILE = "texts.sqlite"
_WAIT = 60.0  # seconds for another process to finish a write
_AT_ONCE = 500  # keys of one query
_CUT = "cut INTEGER NOT NULL DEFAULT 0"


@dataclass(frozen=True)
class Answer:
    """A text that was written, and what it took: tokens of the prompt and of the text, as the writer counts them; and
    whether it ends where the writer may say no more.
    """

    text: str
    tokens_in: int = 0
    tokens_out: int = 0
    cut: bool = False


def key_of(identity: dict[str, Any], prompt: str) -> str:
    """Return the SHA-256 of who writes, with which settings and seed, and of the prompt."""
    return hashlib.sha256(json.dumps([identity, prompt], sort_keys=True).encode()).hexdigest()


class TextCache:
    """Answers by key, in one sqlite3 file; each is committed as it comes, so that whatever happens next it is kept.

    Args:
        folder: where the file is; made at the first ``put``.

    Raises:
        InputError: in ``get`` and ``put``, where the file cannot be read or written.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self._there = False

    def get(self, keys: Iterable[str]) -> dict[str, Answer]:
        """Return the answers that are there, by key."""
        out: dict[str, Answer] = {}
        if not self.path.exists():
            return out
        try:
            with closing(self._connect()) as database:
                wanted = list(keys)
                for start in range(0, len(wanted), _AT_ONCE):
                    some = wanted[start : start + _AT_ONCE]
                    marks = ", ".join("?" * len(some))
                    query = f"SELECT key, text, tokens_in, tokens_out, cut FROM answers WHERE key IN ({marks})"
                    found = database.execute(query, some)
                    out |= {key: Answer(text, n_in, n_out, bool(cut)) for key, text, n_in, n_out, cut in found}
        except sqlite3.Error as error:
            raise InputError(f"{self.path}: cannot be read ({error})") from None
        return out

    def put(self, key: str, answer: Answer) -> None:
        """Keep an answer; the first one of a key stays."""
        try:
            with closing(self._connect()) as database, database:
                values = key, answer.text, answer.tokens_in, answer.tokens_out, answer.cut
                database.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?)", values)
        except (sqlite3.Error, OSError) as error:
            raise InputError(f"{self.path}: cannot be written ({error})") from None

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(self.path, timeout=_WAIT)
        if not self._there:
            columns = "key TEXT PRIMARY KEY, text TEXT, tokens_in INTEGER, tokens_out INTEGER"
            database.execute(f"CREATE TABLE IF NOT EXISTS answers ({columns}, {_CUT}) WITHOUT ROWID")
            if not _says_cut(database):  # a file of before there was that column
                with database:
                    database.execute("BEGIN IMMEDIATE")
                    if not _says_cut(database):
                        database.execute(f"ALTER TABLE answers ADD COLUMN {_CUT}")
            self._there = True
        return database


def _says_cut(database: sqlite3.Connection) -> bool:
    return any(name == "cut" for _, name, *_ in database.execute("PRAGMA table_info(answers)"))
