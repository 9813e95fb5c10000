"""TextCache: what is put is there for everybody, at once; keys tell apart whatever decides a text."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from benchmark.enrichment.cache import FILE, Answer, TextCache, key_of
from benchmark.errors import InputError


def test_what_is_put_is_there_for_another_process(tmp_path: Path) -> None:
    cache = TextCache(tmp_path / "texts")
    assert cache.get(["a"]) == {}
    assert not cache.path.exists()
    cache.put("a", Answer("a film", 3, 2))
    cache.put("a", Answer("another film", 3, 2))  # the first one stays
    other = TextCache(tmp_path / "texts")
    assert other.get(["a", "b"]) == {"a": Answer("a film", 3, 2)}


def test_texts_of_a_file_that_says_nothing_of_cut_ones_are_kept(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / FILE)) as database, database:
        columns = "key TEXT PRIMARY KEY, text TEXT, tokens_in INTEGER, tokens_out INTEGER"
        database.execute(f"CREATE TABLE answers ({columns}) WITHOUT ROWID")
        database.execute("INSERT INTO answers VALUES ('a', 'a film', 3, 2)")
    assert TextCache(tmp_path).get(["a"]) == {"a": Answer("a film", 3, 2)}
    TextCache(tmp_path).put("b", Answer("a fi", 3, 1, cut=True))
    assert TextCache(tmp_path).get("ab") == {"a": Answer("a film", 3, 2), "b": Answer("a fi", 3, 1, cut=True)}


def test_many_keys_and_many_writers(tmp_path: Path) -> None:
    def put(number: int) -> None:
        TextCache(tmp_path).put(f"k{number % 40}", Answer(str(number % 40)))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, range(120)))
    found = TextCache(tmp_path).get(f"k{number}" for number in range(2000))
    assert found == {f"k{number}": Answer(str(number)) for number in range(40)}


def test_a_key_is_decided_by_the_writer_and_the_prompt() -> None:
    identity = {"model": "m", "temperature": 0.0, "seed": 0}
    keys = {
        key_of(identity, "p"),
        key_of(identity, "q"),
        *(key_of(identity | change, "p") for change in ({"model": "n"}, {"temperature": 1.0}, {"seed": 1})),
    }
    assert len(keys) == 5
    assert key_of(dict(reversed(identity.items())), "p") in keys


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"no database" * 100)
    with pytest.raises(InputError, match=r"texts.sqlite: cannot be read \(file is not a database\)"):
        TextCache(tmp_path).get(["a"])
    with pytest.raises(InputError, match=r"texts.sqlite: cannot be written"):
        TextCache(tmp_path).put("a", Answer("a film"))
