"""The real files: the sources give the counts that are written beside the data."""

from __future__ import annotations

import csv
import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter

from benchmark.data.batch import BatchSpec
from benchmark.data.datamodule import RecDataModule
from benchmark.data.schema import Dataset
from benchmark.data.sources import Source
from benchmark.data.split import Predefined, split
from benchmark.data.task import Task
from tests.data.make import rows_of

SHARED = os.environ.get("LEVELFIELD_SHARED")
pytestmark = pytest.mark.skipif(not SHARED, reason="LEVELFIELD_SHARED is not set: no shared data sets on this machine")


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEVELFIELD_DATA", f"{SHARED}/data")
    return Path(f"{SHARED}/data")


def load(source: str, **settings: object) -> Dataset:
    return TypeAdapter(Source).validate_python({"source": source, **settings}).load()


def counts(data: Dataset) -> tuple[int, int, int]:
    """Return the numbers of interactions, and of users and items with one."""
    return data.interactions.height, data.interactions["user"].n_unique(), data.interactions["item"].n_unique()


def pairs(data: Dataset) -> int:
    return data.interactions.select("user", "item").unique().height


@pytest.mark.parametrize(
    ("category", "expected", "longest", "titles"),
    [
        ("Beauty", (198_502, 22_363, 12_101), 204, 12_094),
        ("Toys", (167_597, 19_412, 11_924), 550, 0),
        ("Sports", (296_337, 35_598, 18_357), 296, 0),
    ],
)
def test_amazon_sequences(category: str, expected: tuple[int, int, int], longest: int, titles: int, data: Path) -> None:
    found = load("amazon-reviews", version="2014-5core-sequences", category=category)
    assert counts(found) == expected
    assert pairs(found) == expected[0]
    assert found.items.height == expected[2]
    assert found.interactions["timestamp"].max() == longest - 1
    assert found.items["title"].count() == titles
    named = load("amazon-reviews", version="2014-5core-sequences", category=category, text="short_text")
    assert named.items["title"].null_count() == 0
    with gzip.open(data / "amazon2014-5core" / category / "sequences.tsv.gz", "rt", encoding="utf-8") as file:
        lines = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        by_hand = sorted(
            (line["user_id"], item, float(n)) for line in lines for n, item in enumerate(line["item_ids"].split(" "))
        )
    assert rows_of(found) == by_hand


@pytest.mark.parametrize(
    ("implicit", "file", "expected"),
    [(False, "ratings.csv", (62_656, 1_295, 14_684)), (True, "history.csv.gz", (272_678, 2_946, 17_384))],
)
def test_book_crossing(implicit: bool, file: str, expected: tuple[int, int, int], data: Path) -> None:
    found = load("book-crossing", implicit=implicit)
    assert counts(found) == expected
    assert pairs(found) == expected[0]
    assert (found.users.height, found.items.height) == (2_946, 17_384)
    assert found.items["year"].null_count() == 270
    assert found.items["year"].max() == 2050
    assert found.users["age"].max() == 239
    if not implicit:
        assert found.interactions["rating"].mean() == pytest.approx(7.95, abs=0.005)
    path = data / "book-crossing" / file
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:  # type: ignore[attr-defined]
        rows = list(csv.reader(lines))[1:]
    assert rows_of(found) == sorted((row[0], row[1], *map(float, row[2:])) for row in rows)
    with (data / "book-crossing" / "items.csv").open(encoding="utf-8", newline="") as lines:
        titles = {row["item_id"]: row["title"] for row in csv.DictReader(lines)}
    assert dict(found.items.select("item_id", "title").iter_rows()) == titles


@pytest.mark.parametrize(
    ("behaviour", "expected", "distinct"),
    [("purchase", (129_511, 12_393, 5_155), 128_804), ("play", (70_489, 11_350, 3_600), 70_477)],
)
def test_steam(behaviour: str, expected: tuple[int, int, int], distinct: int, data: Path) -> None:
    found = load("steam-200k", behaviour=behaviour)
    assert counts(found) == expected
    assert pairs(found) == distinct
    assert found.items.height == 5_155
    assert found.has_rating == (behaviour == "play")
    with (data / "steam-200k" / f"{behaviour}.csv").open(encoding="utf-8", newline="") as lines:
        by_hand = sorted((row[0], row[1]) for row in list(csv.reader(lines))[1:])
    assert [row[:2] for row in rows_of(found)] == by_hand
    if behaviour == "play":
        assert found.interactions["rating"].min() == pytest.approx(0.1)
        assert found.interactions["rating"].max() == 11_754


def test_collm(data: Path) -> None:
    found = split(load("collm"), Predefined())
    assert (len(found.train), len(found.valid), len(found.test)) == (33_891, 10_401, 7_331)
    assert (found.n_users, found.n_items) == (838, 3_255)
    assert found.items["genres"].null_count() == 0
    cold = (np.bincount(found.train.user, minlength=838) == 0)[found.test.user]
    assert cold.sum() == 3_111


def test_tallrec_histories_are_the_published_ones(data: Path) -> None:
    published = split(load("tallrec-movie", ties="published"), Predefined())
    assert (len(published.train), len(published.valid), len(published.test)) == (8_000, 1_000, 1_000)
    task = Task.model_validate(
        {"kind": "preference", "split": {"kind": "predefined"}, "positive_rating": 1, "history": "before_target"}
    )
    rows = RecDataModule(published, task, BatchSpec("pointwise", max_history=10)).rows("test")
    batch = rows[rows.all]
    items, users = published.items["item_id"].to_list(), published.users["user_id"].to_list()
    assert batch.history is not None
    assert batch.history_label is not None
    assert batch.candidates is not None
    shown = {
        (users[u], items[c]): (" ".join(items[i] for i in h), " ".join(str(int(x)) for x in y))
        for u, c, h, y in zip(
            batch.user.tolist(),
            batch.candidates[:, 0].tolist(),
            batch.history.tolist(),
            batch.history_label.tolist(),
            strict=True,
        )
    }
    with (data / "tallrec-movie" / "test.csv").open(encoding="utf-8", newline="") as lines:
        for line in csv.DictReader(lines):
            assert shown[line["user_id"], line["item_id"]] == (line["history_item_ids"], line["history_labels"])


def test_llara(data: Path) -> None:
    found = split(load("llara-lastfm"), Predefined())
    assert (len(found.train), len(found.valid), len(found.test)) == (50_800, 122, 122)
    assert found.report["test_unseen_items"] == 0
    assert "0" in found.items["item_id"].to_list()  # a real artist
    assert found.items["title"].null_count() == 0
