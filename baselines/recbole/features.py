"""Features: columns of users and items, chosen by a model's parameters, as RecBole's tokens, sequences and numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from baselines.recbole import zoo
from baselines.recbole.config import RecBoleConfig
from benchmark.data.schema import ITEM_ID, TITLE, USER_ID, Catalogue
from benchmark.errors import InputError, nearest

SEPARATOR = ", "  # between the values of a feature that has several (see ``benchmark.data.sources``)


@dataclass(frozen=True)
class Feature:
    """One feature of all users or all items; row 0 is RecBole's padding, row i + 1 describes our id i.

    Attributes:
        kind: token, token_seq or float, RecBole's types.
        values: (n + 1,) int64 codes from 1, 0 for missing; (n + 1, longest) for token_seq; (n + 1, 2) float pairs of
            (value, 1) for float, as RecBole embeds numbers.
        size: number of codes, 0 included.
    """

    kind: str
    values: Tensor
    size: int


def feature_columns(config: RecBoleConfig, catalogue: Catalogue) -> dict[str, list[str]]:
    """Return which columns of users and items the model reads: ``load_col``, else all but ids and titles.

    Raises:
        InputError: a column that ``load_col``, ``selected_features`` ... names is not there, or is no number.
    """
    kind = zoo.family(config.model)
    if kind not in ("context_aware", "sequential", "exlib"):
        return {"user": [], "item": []}
    frames = {"user": (catalogue.users, USER_ID), "item": (catalogue.items, ITEM_ID)}
    chosen = config.value("load_col") or {}
    out = {}
    for part, (frame, key) in frames.items():
        there = [name for name in frame.columns if name != key]
        everything = [name for name in there if name != TITLE]
        if part in chosen:
            names = [name for name in chosen[part] if name != key]
        else:
            names = everything if kind != "sequential" or config.model in zoo.CLICK else []
        asked = dict.fromkeys(names, "load_col")
        if part == "item":
            asked |= {name: key for key in zoo.ITEM_FEATURES for name in _listed(config.value(key))}
        names = list(asked)
        for name in names:
            if name not in there:
                raise InputError(
                    f"RecBole's {config.model} reads the {part} feature '{name}' (parameters.{asked[name]}), which the "
                    f"data does not have{nearest(name, there) or '; it has no feature'}"
                )
        out[part] = names
    _distinct_names(config.model, out)
    for name in config.value("numerical_features") or []:
        places = [frame for part, (frame, _) in frames.items() if name in out[part]]
        if not places:
            raise InputError(
                f"'numerical_features': '{name}' is no feature that the model reads"
                f"{nearest(name, [*out['user'], *out['item']])}"
            )
        if not places[0][name].dtype.is_numeric():
            raise InputError(f"'numerical_features': '{name}' is {places[0][name].dtype}, expected numbers")
    return out


def _distinct_names(model: str, chosen: dict[str, list[str]]) -> None:
    """Refuse a feature named like a field of RecBole's, or chosen of users and of items: one would hide the other."""
    fields = {"user_id", "item_id", "label", "rating", "timestamp"}
    for name in (*chosen["user"], *chosen["item"]):
        if name in fields or (name in chosen["user"] and name in chosen["item"]):
            why = "is a field of RecBole's own" if name in fields else "is a column of users and of items"
            raise InputError(f"RecBole's {model}: the feature '{name}' {why}; choose others with parameters.load_col")


def _listed(value: Any) -> list[str]:
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def encode(column: pl.Series, numeric: bool) -> Feature:
    """Return a column of n values as a feature of n + 1 rows."""
    if numeric:
        numbers = column.cast(pl.Float64).to_numpy()
        known = numbers[~np.isnan(numbers)]
        low, high = (known.min(), known.max()) if len(known) else (0.0, 1.0)
        scaled = (numbers - low) / (high - low or 1.0)  # what RecBole's normalize_all does
        scaled = np.where(np.isnan(numbers), scaled[~np.isnan(numbers)].mean() if len(known) else 0.0, scaled)
        pairs = np.stack([np.r_[0.0, scaled], np.r_[0.0, np.ones(len(scaled))]], axis=1)
        return Feature("float", torch.from_numpy(pairs.astype(np.float32)), 2)
    text = column.cast(pl.String).fill_null("")
    several = column.dtype == pl.String and bool(text.str.contains(SEPARATOR, literal=True).any())
    if column.name == TITLE or several:
        lists = text.str.split(" " if column.name == TITLE else SEPARATOR)
        row = np.repeat(np.arange(column.len()), lists.list.len().to_numpy())
        code, size = _codes(lists.explode())
        there = code > 0
        row, code = row[there], code[there]
        place = np.arange(len(row)) - np.searchsorted(row, row)
        values = np.zeros((column.len() + 1, max(int(place.max(initial=0)) + 1, 1)), np.int64)
        values[row + 1, place] = code
        return Feature("token_seq", torch.from_numpy(values), size)
    code, size = _codes(text)
    return Feature("token", torch.from_numpy(np.r_[0, code]), size)


def _codes(text: pl.Series) -> tuple[np.ndarray, int]:
    """Return (n,) codes from 1 in the order of the sorted distinct texts, 0 for empty ones; and the number of codes."""
    distinct = text.fill_null("").unique().sort()
    distinct = distinct.filter(distinct != "")
    codes = pl.DataFrame({"text": distinct, "code": np.arange(1, len(distinct) + 1)})
    joined = text.fill_null("").alias("text").to_frame().join(codes, on="text", how="left", maintain_order="left")
    return joined["code"].fill_null(0).to_numpy().astype(np.int64), len(distinct) + 1
