"""Vectors of items from files (image, audio, graph ...): read, checked, and put into the order of the items."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field, model_validator

from benchmark.data.schema import ITEM_ID, Catalogue, Dataset
from benchmark.data.sources.downloads import ROOT
from benchmark.data.sources.files import UNREADABLE, existing, unreadable
from benchmark.errors import InputError, nearest

_MAGIC = b"\x93NUMPY"  # what a .npy file begins with


class VectorFile(BaseModel):
    """One modality: a file with a vector for each item, or for some; the others get zeros.

    ``.parquet`` holds a column of raw item ids and one of lists of numbers, in any order. ``.npy`` holds an (n, d)
    array, whose rows are the items named in ``ids``, or all items of the source in the order of their raw ids.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: Path = Field(description="A .parquet or .npy file; a relative path also counts from $LEVELFIELD_DATA.")
    id: str = Field(ITEM_ID, description="Of .parquet: the column of raw item ids.")
    column: str = Field("vector", description="Of .parquet: the column of lists of numbers.")
    ids: Path | None = Field(None, description="Of .npy: a text file with the raw item id of each row, one a line.")
    made_by: str | None = Field(
        None, exclude=True, description="The command that makes the file, said if it is missing."
    )

    @model_validator(mode="before")
    @classmethod
    def _alone(cls, value: Any) -> Any:
        return {"file": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _known_kind(self) -> VectorFile:
        if self.file.suffix not in (".parquet", ".npy"):
            raise ValueError(f"file: found '{self.file}', expected a .parquet or .npy file")
        if self.ids is not None and self.file.suffix != ".npy":
            raise ValueError("ids: a .parquet file holds its ids itself; name their column with 'id'")
        return self


def with_vectors(dataset: Dataset, files: Mapping[str, VectorFile]) -> Dataset:
    """Return the dataset with the vectors of its items, by modality, and a step in its report for each.

    Raises:
        InputError: a file is missing, or holds something else than one finite vector of one length for each item id.
    """
    for name, wanted in files.items():
        try:
            ids, values = _read(wanted, dataset)
        except InputError as error:
            raise InputError(f"dataset.vectors.{name}: {error}") from None
        vectors = np.zeros((dataset.items.height, values.shape[1]), np.float32)
        vectors[ids] = values
        without = dataset.items.height - len(ids)
        note = f"{values.shape[1]} numbers an item" + (f"; {without:,} items have none" if without else "")
        dataset = replace(dataset, vectors={**dataset.vectors, name: vectors})
        dataset = dataset.after(f"vectors.{name}={wanted.file.name}", dataset.interactions, note)
    return dataset


def chosen(catalogue: Catalogue, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the standardised vectors (n_items, d) of these modalities.

    Raises:
        InputError: the data has no vectors of that name.
    """
    for name in names:
        if name not in catalogue.vectors:
            known = nearest(name, catalogue.vectors) or "; dataset.vectors names none"
            raise InputError(f"vectors: the data has no vectors '{name}'{known}")
    return {name: standardised(catalogue.vectors[name]) for name in names}


def standardised(vectors: np.ndarray) -> np.ndarray:
    """Return (n, d) of mean 0 and deviation 1 in each column, over the rows that are not zero; those stay zero."""
    there = vectors.any(axis=1)
    known = vectors[there].astype(np.float64)
    out = np.zeros(vectors.shape, np.float32)
    if len(known):
        deviation = known.std(axis=0)
        out[there] = (known - known.mean(axis=0)) / np.where(deviation > 0, deviation, 1)
    return out


def _read(wanted: VectorFile, dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Return (m,) row numbers of items and their (m, d) float32 vectors."""
    path = _located(wanted.file, wanted.made_by)
    if path.suffix == ".npy":
        values = _array(path)
        if wanted.ids is None:
            if len(values) != dataset.items.height:
                raise InputError(
                    f"{path}: found {len(values):,} rows, expected {dataset.items.height:,}, one for each item of "
                    f"{dataset.name} in the order of item_id; or name the id of each row in 'ids'"
                )
            return np.arange(len(values)), _finite(path, values)
        names = _located(wanted.ids).read_text(encoding="utf-8").splitlines()
        if len(values) != len(names):
            raise InputError(f"{path}: found {len(values):,} rows, expected {len(names):,}, one a line of {wanted.ids}")
        return _numbers(path, pl.Series(names, dtype=pl.String), dataset), _finite(path, values)
    try:
        columns = list(pl.read_parquet_schema(path))
        for column in (wanted.id, wanted.column):
            if column not in columns:
                raise InputError(f"{path}: no column '{column}'{nearest(column, columns)}")
        frame = pl.read_parquet(path, columns=[wanted.id, wanted.column])
    except UNREADABLE as error:
        raise unreadable(path, error) from error
    frame = frame.select(pl.col(wanted.id).cast(pl.String).alias("id"), pl.col(wanted.column).alias("vector"))
    frame = frame.filter(pl.col("vector").is_not_null())
    ids = _numbers(path, frame["id"], dataset)
    return ids, _finite(path, _lists(path, wanted.column, frame["vector"]))


def _located(path: Path, made_by: str | None = None) -> Path:
    path = path.expanduser()
    root = os.environ.get(ROOT)
    if root and not path.is_file() and (Path(root) / path).is_file():
        return Path(root) / path
    if made_by and not path.is_file():
        raise InputError(f"{path}: no such file; make it with: {made_by}")
    return existing(path)


def _array(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as file:
            start = file.read(len(_MAGIC))
        if start != _MAGIC:
            raise InputError(f"{path}: no .npy file, expected what numpy.save writes of (items, d) numbers")
        values = np.load(path, allow_pickle=False)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, EOFError) as error:  # numpy's own words advise what is unsafe
        if "Object arrays" in str(error):
            raise InputError(f"{path}: holds Python objects, expected an array of numbers") from None
        raise InputError(f"{path}: a damaged .npy file, expected a whole one: write it again") from None
    if values.ndim != 2 or values.dtype.kind not in "fiu" or not values.shape[1]:
        raise InputError(f"{path}: found {values.dtype} {values.shape}, expected numbers of shape (items, d)")
    return values.astype(np.float32)


def _lists(path: Path, name: str, column: pl.Series) -> np.ndarray:
    """Return a column of n lists of numbers as (n, d) float32."""
    dtype = column.dtype
    if not isinstance(dtype, (pl.List, pl.Array)) or not dtype.inner.is_numeric():
        raise InputError(f"{path}: column '{name}' holds {dtype}, expected lists of numbers")
    lists = column.cast(pl.List(pl.Float32))
    lengths = lists.list.len().to_numpy()
    if not len(lengths) or not lengths[0]:
        raise InputError(f"{path}: column '{name}' holds no numbers")
    if (other := np.flatnonzero(lengths != lengths[0])).size:
        row = int(other[0])
        raise InputError(
            f"{path}: row {row + 1} has {lengths[row]} numbers, expected {lengths[0]}, as many as the first one has"
        )
    return lists.explode().fill_null(float("nan")).to_numpy().reshape(len(lengths), -1)


def _finite(path: Path, values: np.ndarray) -> np.ndarray:
    if (bad := np.flatnonzero(~np.isfinite(values).all(axis=1))).size:
        raise InputError(f"{path}: row {int(bad[0]) + 1} holds a NaN or an infinite number, expected finite ones")
    return values


def _numbers(path: Path, ids: pl.Series, dataset: Dataset) -> np.ndarray:
    """Return the (m,) row numbers of the items with these raw ids."""
    if ids.is_duplicated().any():
        raise InputError(f"{path}: item '{ids.filter(ids.is_duplicated())[0]}' stands there twice")
    items = dataset.items.select(pl.col(ITEM_ID).cast(pl.String).alias("id"), pl.int_range(pl.len()).alias("row"))
    found = ids.alias("id").to_frame().join(items, on="id", how="left", maintain_order="left")["row"]
    unknown = ids.filter(found.is_null())
    if len(unknown):
        raise InputError(
            f"{path}: {len(unknown):,} of {len(ids):,} ids are no items of {dataset.name}, such as '{unknown[0]}'; "
            f"its items are named like '{items['id'][0]}'"
        )
    return found.to_numpy().astype(np.int64)
