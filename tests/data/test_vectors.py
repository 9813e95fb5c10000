"""Vectors: read in any order, brought to the items' own, part of the fingerprints; whatever is wrong is one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from benchmark import Experiment
from benchmark.data.graph_vectors import graph_vectors
from benchmark.data.schema import Dataset
from benchmark.data.split import ColdItems, split
from benchmark.data.vectors import VectorFile, chosen, standardised, with_vectors
from benchmark.errors import InputError
from benchmark.runs.run import prepare
from tests.planted import dataset

DATA = dataset()
NAMES = DATA.items["item_id"].to_list()
VALUES = np.random.default_rng(0).normal(size=(len(NAMES), 5)).astype(np.float32)


def parquet(path: Path, ids: list[Any], vectors: Any) -> Path:
    pl.DataFrame({"item_id": ids, "vector": vectors}).write_parquet(path)
    return path


def read(path: Path, **options: Any) -> Dataset:
    return with_vectors(DATA, {"image": VectorFile(file=path, **options)})


def test_a_parquet_file_may_stand_in_any_order_and_lack_items(tmp_path: Path) -> None:
    order = np.random.default_rng(1).permutation(len(NAMES))[:70]
    lists = read(parquet(tmp_path / "a.parquet", [NAMES[i] for i in order], VALUES[order].tolist()))
    arrays = read(parquet(tmp_path / "b.parquet", [NAMES[i] for i in order], VALUES[order]))
    expected = np.zeros_like(VALUES)
    expected[order] = VALUES[order]
    np.testing.assert_array_equal(lists.vectors["image"], expected)
    np.testing.assert_array_equal(arrays.vectors["image"], expected)
    assert lists.steps[-1].note == "5 numbers an item; 10 items have none"


def test_an_array_has_the_items_of_its_ids_or_all_of_them(tmp_path: Path) -> None:
    np.save(tmp_path / "all.npy", VALUES)
    np.testing.assert_array_equal(read(tmp_path / "all.npy").vectors["image"], VALUES)
    np.save(tmp_path / "some.npy", VALUES[[7, 3]].astype(np.float64))
    (tmp_path / "ids.txt").write_text(f"{NAMES[7]}\n{NAMES[3]}\n")
    some = read(tmp_path / "some.npy", ids=tmp_path / "ids.txt").vectors["image"]
    np.testing.assert_array_equal(some[[3, 7]], VALUES[[3, 7]])
    assert not some[[0, 1, 2, 4]].any()


def test_they_follow_the_items_through_the_split_into_the_catalogue(tmp_path: Path) -> None:
    np.save(tmp_path / "all.npy", VALUES)
    data = read(tmp_path / "all.npy")
    parts = split(data, ColdItems(), 3)
    place = [NAMES.index(name) for name in parts.items["item_id"]]
    np.testing.assert_array_equal(parts.catalogue().vectors["image"], VALUES[place])
    plain = split(DATA, ColdItems(), 3)
    assert data.fingerprint() != DATA.fingerprint()
    assert parts.fingerprint() != plain.fingerprint()
    np.save(tmp_path / "all.npy", -VALUES)
    assert read(tmp_path / "all.npy").fingerprint() != data.fingerprint()


def test_standardised_columns_leave_out_the_items_without_a_vector() -> None:
    values = VALUES.copy()
    values[10:20] = 0
    out = standardised(values)
    known = np.r_[0:10, 20 : len(values)]
    np.testing.assert_allclose(out[known], (VALUES[known] - VALUES[known].mean(0)) / VALUES[known].std(0), atol=1e-5)
    assert not out[10:20].any()
    with pytest.raises(InputError, match=r"no vectors 'image'; dataset\.vectors names none"):
        chosen(split(DATA, ColdItems()).catalogue(), ["image"])


def _nan(values: np.ndarray) -> np.ndarray:
    values[4, 2] = np.nan
    return values


def _cut(path: Path, size: int) -> None:
    np.save(path, VALUES)
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda p: np.save(p / "v.npy", VALUES[:70]), "v.npy: found 70 rows, expected 80, one for each item of plan"),
        (lambda p: np.save(p / "v.npy", VALUES[0]), "found float32 (5,), expected numbers of shape (items, d)"),
        (lambda p: np.save(p / "v.npy", np.array([{}])), "v.npy: holds Python objects, expected an array of numbers"),
        (lambda p: (p / "v.npy").write_text("1 2 3"), "v.npy: no .npy file, expected what numpy.save writes"),
        (lambda p: (p / "v.npy").write_text(""), "v.npy: no .npy file, expected what numpy.save writes"),
        (lambda p: (p / "v.npy").write_bytes(b"PK\x03\x04 of numpy.savez"), "v.npy: no .npy file, expected what"),
        (lambda p: _cut(p / "v.npy", 200), "v.npy: a damaged .npy file, expected a whole one: write it again"),
        (lambda p: _cut(p / "v.npy", 20), "v.npy: a damaged .npy file, expected a whole one: write it again"),
        (lambda p: np.save(p / "v.npy", _nan(VALUES.copy())), "row 5 holds a NaN or an infinite number"),
        (lambda p: parquet(p / "v.parquet", ["i0000", "x1"], [[1.0], [2.0]]), "1 of 2 ids are no items of planted"),
        (lambda p: parquet(p / "v.parquet", NAMES[:2], [[1.0], [2.0, 3.0]]), "row 2 has 2 numbers, expected 1"),
        (lambda p: parquet(p / "v.parquet", NAMES[:2], [[1.0], [None]]), "row 2 holds a NaN"),
        (lambda p: parquet(p / "v.parquet", NAMES[:2], ["a", "b"]), "holds String, expected lists of numbers"),
        (lambda p: parquet(p / "v.parquet", [NAMES[1]] * 2, [[1.0], [2.0]]), "item 'i0001' stands there twice"),
        (
            lambda p: pl.DataFrame({"item_id": NAMES[:1], "vectro": [[1.0]]}).write_parquet(p / "v.parquet"),
            "no column 'vector'; did you mean 'vectro'?",
        ),
        (lambda p: (p / "v.parquet").write_text("PAR"), "v.parquet"),
    ],
)  # fmt: skip
def test_a_faulty_file_gets_one_line(tmp_path: Path, make: Callable[[Path], Any], expected: str) -> None:
    make(tmp_path)
    path = next(tmp_path.iterdir())
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value).startswith("dataset.vectors.image: ")
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "pickle" not in str(caught.value)


def test_ids_that_do_not_match_and_files_that_are_not_there(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", VALUES[:3])
    (tmp_path / "ids.txt").write_text("i0000\ni0001\n")
    with pytest.raises(InputError, match=r"v\.npy: found 3 rows, expected 2, one a line of .*ids\.txt"):
        read(tmp_path / "v.npy", ids=tmp_path / "ids.txt")
    with pytest.raises(InputError, match=r"v\.parquet: no such file; make it with: python -m maker"):
        read(tmp_path / "v.parquet", made_by="python -m maker")
    with pytest.raises(ValidationError, match=r"found 'posters\.pt', expected a \.parquet or \.npy file"):
        VectorFile(file="posters.pt")
    with pytest.raises(ValidationError, match=r"ids: a \.parquet file holds its ids itself"):
        VectorFile(file="v.parquet", ids="ids.txt")


def test_an_experiment_names_them_and_keeps_its_keys_without(tiny_experiment: Path) -> None:
    plain = Experiment.load(tiny_experiment)
    assert "vectors" not in plain.specs()[0].resolved()["dataset"]
    folder = tiny_experiment.parent
    items = prepare(plain, folder / "runs").dataset.items["item_id"]
    parquet(folder / "image.parquet", items.to_list(), np.ones((len(items), 2)))
    named = Experiment.load(tiny_experiment, [f"dataset.vectors.image={folder / 'image.parquet'}"])
    data = prepare(named, folder / "runs")
    assert data.split.catalogue().vectors["image"].shape == (data.split.n_items, 2)
    assert data.dataset.steps[-1].name == "vectors.image=image.parquet"
    assert named.specs()[0].resolved()["dataset"]["vectors"]["image"]["file"].endswith("image.parquet")


def test_a_graph_gives_items_of_one_kind_like_vectors() -> None:
    frame = graph_vectors(DATA, size=7)
    assert frame.equals(graph_vectors(DATA, size=7))
    assert DATA.graph is not None
    told = DATA.graph.select(pl.col("head").str.strip_prefix("e").alias("item_id"), pl.concat_str("relation", "tail"))
    kind = frame.join(told, on="item_id", maintain_order="left")["relation"].to_numpy()
    vectors = frame["vector"].to_numpy()
    cosine = vectors @ vectors.T
    assert np.abs(cosine[kind[:, None] != kind]).max() < 1e-4
    assert np.median(cosine[kind[:, None] == kind]) == pytest.approx(1)
    with pytest.raises(InputError, match="8 facts of 80 items are too few for 64 numbers an item"):
        graph_vectors(DATA)
