"""The cache of prepared data: the same data back, built once, rebuilt when something changed or broke."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from benchmark.data import cache
from benchmark.data.filters import Filters
from benchmark.data.schema import Dataset
from benchmark.data.sources import Csv, RecBoleAtomic
from benchmark.data.split import Predefined, split
from benchmark.errors import InputError
from tests.data.make import frame


@pytest.fixture
def source(tmp_path: Path) -> Csv:
    raw = frame(300).with_columns(part=pl.Series(["train", "valid", "test"] * 100))
    raw.write_csv(tmp_path / "log.csv")
    items = pl.DataFrame({"item_id": ["i1", "i2"], "title": ["One", None], "year": [1999, 2000]})
    items.write_csv(tmp_path / "items.csv")
    return Csv(interactions=tmp_path / "log.csv", items=tmp_path / "items.csv")


def forbid_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: Csv) -> None:
        raise AssertionError("built again")

    monkeypatch.setattr(Csv, "load", load)


class Ordered(Csv):
    def load(self) -> Dataset:
        return replace(super().load(), clock="order")


def test_what_the_clock_is_comes_back(source: Csv, tmp_path: Path) -> None:
    for _ in range(2):  # built, then read
        assert cache.prepare(Ordered(**dict(source)), Filters(), tmp_path / "cache").clock == "order"


def test_the_second_time_comes_from_the_cache(source: Csv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = cache.prepare(source, Filters(), tmp_path / "cache")
    forbid_loading(monkeypatch)
    read = cache.prepare(source, Filters(), tmp_path / "cache")
    assert read.fingerprint() == built.fingerprint()
    assert read.steps == built.steps
    assert read.name == built.name
    for table in ("interactions", "users", "items"):
        assert getattr(read, table).equals(getattr(built, table))
        assert getattr(read, table).schema == getattr(built, table).schema
    assert split(read, Predefined()).fingerprint() == split(built, Predefined()).fingerprint()


def test_graph_and_links_are_kept(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    (folder / "tiny.inter").write_text("user_id:token\titem_id:token\nu\ta\n")
    (folder / "tiny.kg").write_text("head_id:token\trelation_id:token\ttail_id:token\nx\tr\ty\n")
    (folder / "tiny.link").write_text("item_id:token\tentity_id:token\na\tx\n")
    source = RecBoleAtomic(folder=folder)
    built, read = (cache.prepare(source, Filters(), tmp_path / "cache") for _ in range(2))
    assert read.graph is not None
    assert read.graph.rows() == [("x", "r", "y")]
    assert read.fingerprint() == built.fingerprint()


def test_the_key_follows_content_filters_and_version(source: Csv, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = [cache.key(source, Filters()), cache.key(source, Filters(k_core=2))]
    assert source.interactions is not None
    text = source.interactions.read_text()
    source.interactions.write_text(text + "u1,i9,5,7,test\n")
    keys.append(cache.key(source, Filters()))
    monkeypatch.setattr(cache, "VERSION", cache.VERSION + 1)
    keys.append(cache.key(source, Filters()))
    assert len(set(keys)) == 4
    monkeypatch.undo()
    source.interactions.write_text(text)  # another time of change, the same content
    assert cache.key(source, Filters()) == keys[0]


@pytest.mark.parametrize("damage", ["cut", "nonsense", "gone", "index", "flipped"])
def test_a_damaged_entry_is_built_again_and_said_in_one_line(
    source: Csv, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    built = cache.prepare(source, Filters(), tmp_path / "cache")
    folder = tmp_path / "cache" / cache.key(source, Filters())
    table = folder / "interactions.parquet"
    good = table.read_bytes()
    if damage == "gone":
        table.unlink()
    elif damage == "index":
        (folder / "dataset.json").write_text("{")
    else:
        flipped = good[:50] + bytes([good[50] ^ 255]) + good[51:]
        table.write_bytes({"cut": good[:100], "nonsense": b"nonsense", "flipped": flipped}[damage])
    with caplog.at_level(logging.WARNING):
        again = cache.prepare(source, Filters(), tmp_path / "cache")
    assert again.fingerprint() == built.fingerprint()
    (record,) = caplog.records
    assert "is damaged" in record.getMessage()
    assert "\n" not in record.getMessage()
    caplog.clear()
    cache.prepare(source, Filters(), tmp_path / "cache")
    assert not caplog.records
    assert table.read_bytes() == good


def test_nothing_half_written_is_left(source: Csv, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: pl.DataFrame, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", fail)
    with pytest.raises(InputError, match="prepared data cannot be written: No space left on device"):
        cache.prepare(source, Filters(), tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_cache_that_cannot_be_a_folder_is_said(source: Csv, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(InputError, match="prepared data cannot be written"):
        cache.prepare(source, Filters(), tmp_path / "cache")


def test_a_missing_file_is_said_before_anything(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        cache.prepare(Csv(interactions=tmp_path / "none.csv"), Filters(), tmp_path / "cache")
