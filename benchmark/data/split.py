"""Splits: Dataset -> train, valid and test with integer ids, and a report of what the split leaks.

What every split promises: each interaction stands in exactly one part (under ``prequential`` those after the slice in
none); the same dataset, specification and seed give
the same parts and ids, whatever the order of the rows; ids follow a seeded shuffle.

The report holds, as floats: ``users``, ``items``, ``interactions``; for each part ``n_<part>`` and ``share_<part>``
(under ``cold_users`` for ``valid_known`` and ``test_known`` too); for valid and test ``<part>_unseen_users`` and
``<part>_unseen_items`` (how many of the part's users and items do not occur in train), and both with ``_share`` behind
it (of the part's users and items); with times that can be compared between users ``test_older_than_train``, the share
of test interactions strictly older than the newest training interaction; under ``prequential`` ``train_ends_<slice>``,
the time at which the training part of this slice and of each earlier one ends. Rows that are ``known`` only are counted
as ``n_known``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict, Field, model_validator

from benchmark.data.schema import (
    ITEM,
    KNOWN,
    PART,
    PARTS,
    RATING,
    TIMESTAMP,
    USER,
    Dataset,
    Interactions,
    SplitData,
    order_by,
)
from benchmark.data.seeded import mix, permutation
from benchmark.errors import InputError

TRAIN, VALID, TEST, VALID_KNOWN, TEST_KNOWN = range(5)
ONLY_KNOWN = 3  # of the predefined split
LATER = 5  # of the prequential split: in no part
# one stream of random numbers for each purpose
_USER_IDS, _ITEM_IDS, _ROWS, _HELD_OUT = range(4)


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Shares(_Spec):
    valid: float = Field(0.1, gt=0, lt=1, description="Share for validation.")
    test: float = Field(0.1, gt=0, lt=1, description="Share for the test.")

    @model_validator(mode="after")
    def _something_left(self) -> _Shares:
        if self.valid + self.test >= 1:
            raise ValueError(f"valid + test = {self.valid + self.test:g}, expected less than 1")
        return self


class Temporal(_Shares):
    """One cut in time for everybody: train before ``valid`` before ``test``; equal times never straddle a cut."""

    kind: Literal["temporal"] = "temporal"


class LeaveLastOut(_Spec):
    """Each user's last interaction is test, the last but one valid; users with fewer than three are train only.

    Equal times are ordered by a seeded shuffle.
    """

    kind: Literal["leave_last_out"] = "leave_last_out"


class Ratio(_Shares):
    """A seeded random share of the interactions, of each user (rounded down) or of all together."""

    kind: Literal["ratio"] = "ratio"
    by: Literal["user", "all"] = "user"


class Predefined(_Spec):
    """The parts that the source brings: column ``part`` or three files.

    What is in the part ``known`` is history for whoever is scored; it is neither learned from nor judged.
    """

    kind: Literal["predefined"] = "predefined"


class ColdItems(_Shares):
    """A seeded share of the items goes wholly to valid, another to test: nobody has interacted with them in train."""

    kind: Literal["cold_items"] = "cold_items"


class ColdUsers(_Shares):
    """Strong generalisation (Liang et al., WWW 2018): a seeded share of the users is held out.

    Of a held-out user the oldest ``history`` share of the interactions (at least one, never all; drawn at random where
    there are no timestamps, and so are equal times) is known when the user is scored, but never trained on; the rest is
    to be found. Only users with two interactions or more are held out.
    """

    kind: Literal["cold_users"] = "cold_users"
    history: float = Field(0.5, gt=0, lt=1, description="Share of a held-out user's interactions that is known.")


class Prequential(_Spec):
    """The newest ``judged`` share in ``slices`` parts of equal size, one after the other; ``slice`` is the test.

    What came before it is known, its newest ``valid`` share is validation; what comes after it is in no part. Equal
    times never straddle a cut. Ids are the same in all slices (Gama et al., Machine Learning 2013,
    doi:10.1007/s10994-012-5320-9).
    """

    kind: Literal["prequential"] = "prequential"
    slices: int = Field(5, ge=2, description="How many slices are judged, one after the other.")
    slice: int = Field(1, ge=1, description="The one that is judged; `slices:` at the top of a file runs all.")
    judged: float = Field(0.5, gt=0, lt=1, description="Share of the interactions that the slices hold together.")
    valid: float = Field(0.1, gt=0, lt=1, description="Share of what came before that is validation.")

    @model_validator(mode="after")
    def _one_of_them(self) -> Prequential:
        if self.slice > self.slices:
            raise ValueError(f"slice: found {self.slice}, there are {self.slices}")
        return self


SplitSpec = Annotated[
    Temporal | LeaveLastOut | Ratio | Predefined | ColdItems | ColdUsers | Prequential,
    Field(discriminator="kind"),
]


def split(dataset: Dataset, spec: SplitSpec, seed: int = 0) -> SplitData:
    """Split a dataset and give users and items their integer ids.

    Args:
        dataset: the filtered data; users and items without interactions get no id.
        spec: the kind of split.
        seed: of the ids and of whatever the split draws.

    Raises:
        InputError: the split needs timestamps or parts that the dataset lacks, or a part is empty.
    """
    rows = dataset.interactions
    user, item = rows[USER].to_numpy(), rows[ITEM].to_numpy()
    rating = rows[RATING].to_numpy() if RATING in rows.columns else None
    time = rows[TIMESTAMP].to_numpy() if TIMESTAMP in rows.columns else None
    part = _assign(dataset, spec, seed)
    for number, name in enumerate(PARTS):
        if not (part == number).any():
            raise InputError(
                f"dataset {dataset.name}: the split {spec.kind} leaves '{name}' without interactions "
                f"(of {rows.height}); give it a larger share or loosen the filters"
            )

    user_ids, user_rows = _shuffled_ids(user, dataset.users.height, seed, _USER_IDS)
    item_ids, item_rows = _shuffled_ids(item, dataset.items.height, seed, _ITEM_IDS)

    def pick(number: int) -> Interactions:
        mask = part == number
        return Interactions.from_arrays(
            user_ids[user[mask]],
            item_ids[item[mask]],
            None if rating is None else rating[mask],
            None if time is None else time[mask],
            len(user_rows),
        )

    cold = isinstance(spec, ColdUsers)
    parts = [pick(number) for number in range(5 if cold else 3)]
    report = _report(parts, len(user_rows), len(item_rows), dataset.clock)
    if isinstance(spec, Prequential):
        assert time is not None
        report |= {f"train_ends_{s}": _cuts(time, spec, s)[0] for s in range(1, spec.slice + 1)}
    train_known = None
    if not cold and (part == ONLY_KNOWN).any():
        only = pick(ONLY_KNOWN)
        train_known = merged((parts[TRAIN], only), len(user_rows))
        report["n_known"] = float(len(only))
    return SplitData(
        train=parts[TRAIN],
        valid=parts[VALID],
        test=parts[TEST],
        users=dataset.users[user_rows],
        items=dataset.items[item_rows],
        report=report,
        graph=dataset.graph,
        links=dataset.links,
        valid_known=parts[VALID_KNOWN] if cold else None,
        test_known=parts[TEST_KNOWN] if cold else None,
        train_known=train_known,
        clock=dataset.clock,
        vectors={name: values[item_rows] for name, values in dataset.vectors.items()},
    )


def merged(parts: Sequence[Interactions], n_users: int) -> Interactions:
    """Return several parts as one, sorted by (user, time)."""

    def joined(name: str) -> np.ndarray | None:
        arrays = [getattr(rows, name) for rows in parts]
        return None if any(values is None for values in arrays) else np.concatenate(arrays)

    user, item = (np.concatenate([getattr(rows, name) for rows in parts]) for name in ("user", "item"))
    return Interactions.from_arrays(user, item, joined("rating"), joined("time"), n_users)


def known(data: SplitData, part: Literal["valid", "test"]) -> Interactions:
    """Return what is known when ``part`` is scored: seen items and histories are taken from it.

    For valid: train and the known interactions of valid's held-out users; for test: those, valid, and the known
    interactions of test's held-out users. Train is the whole of it here, whatever the budget. Who builds a history must
    still keep to rows strictly before the target.
    """
    parts = [data.complete_train, data.valid_known]
    if part == "test":
        parts += [data.valid, data.test_known]
    chosen = [rows for rows in parts if rows is not None]
    return chosen[0] if len(chosen) == 1 else merged(chosen, data.n_users)


def _assign(dataset: Dataset, spec: SplitSpec, seed: int) -> np.ndarray:
    """Return the (n,) uint8 part of each interaction: TRAIN ... TEST_KNOWN."""
    rows = dataset.interactions
    if isinstance(spec, Temporal | Prequential):
        if dataset.clock == "order":
            raise InputError(
                f"dataset {dataset.name} knows each user's order but no time, which the split {spec.kind} needs; use "
                "leave_last_out, ratio, cold_items or cold_users"
            )
        time = _time(dataset, spec)
        return _temporal(time, spec) if isinstance(spec, Temporal) else _sliced(time, spec)
    if isinstance(spec, LeaveLastOut):
        place, size = _places(rows, seed, _time(dataset, spec))
        part = np.where(place == size - 1, TEST, np.where(place == size - 2, VALID, TRAIN))
        return np.where(size < 3, TRAIN, part).astype(np.uint8)
    if isinstance(spec, Ratio):
        place, size = _places(rows, seed, None, together=spec.by == "all")
        return _by_share(place, size, spec)
    if isinstance(spec, Predefined):
        if PART not in rows.columns:
            raise InputError(
                f"dataset {dataset.name} has no predefined parts; give the source the files 'train', 'valid' "
                "and 'test' or columns.part, or use another split"
            )
        # TRAIN, VALID, TEST, ONLY_KNOWN
        return rows[PART].cast(pl.Enum((*PARTS, KNOWN))).to_physical().to_numpy().astype(np.uint8)
    if isinstance(spec, ColdItems):
        return _hold_out(rows[ITEM].to_numpy(), spec, seed, least=1)
    part = _hold_out(rows[USER].to_numpy(), spec, seed, least=2)
    place, size = _places(rows, seed, rows[TIMESTAMP].to_numpy() if dataset.has_time else None)
    first = np.clip(np.floor(size * spec.history), 1, np.maximum(size - 1, 1))
    part[(part == VALID) & (place < first)] = VALID_KNOWN
    part[(part == TEST) & (place < first)] = TEST_KNOWN
    return part


def _time(dataset: Dataset, spec: Temporal | LeaveLastOut | Prequential) -> np.ndarray:
    if not dataset.has_time:
        raise InputError(
            f"dataset {dataset.name} has no timestamps, which the split {spec.kind} needs; use ratio, "
            "cold_items or cold_users"
        )
    return dataset.interactions[TIMESTAMP].to_numpy()


def _temporal(time: np.ndarray, spec: Temporal) -> np.ndarray:
    ordered = np.sort(time)
    n = len(ordered)
    cut_test, cut_valid = (
        ordered[min(max(round(n * share), 0), n - 1)] for share in (1 - spec.test, 1 - spec.test - spec.valid)
    )
    return (time >= cut_valid).astype(np.uint8) + (time >= cut_test)


def _cuts(time: np.ndarray, spec: Prequential, number: int) -> tuple[float, float, float]:
    """Return where the training part of a slice ends, where the slice begins, and where it ends (exclusive)."""
    ordered, n = np.sort(time), len(time)

    def at(share: float) -> int:
        return min(max(round(n * share), 0), n - 1)

    begins = at(1 - spec.judged + spec.judged * (number - 1) / spec.slices)
    ends = at(1 - spec.judged + spec.judged * number / spec.slices)
    valid = at(begins / n * (1 - spec.valid))
    last = np.inf if number == spec.slices else float(ordered[ends])
    return float(ordered[valid]), float(ordered[begins]), last


def _sliced(time: np.ndarray, spec: Prequential) -> np.ndarray:
    trained, begins, ends = _cuts(time, spec, spec.slice)
    return np.select([time < trained, time < begins, time < ends], [TRAIN, VALID, TEST], LATER).astype(np.uint8)


def _places(
    rows: pl.DataFrame, seed: int, time: np.ndarray | None, together: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Return each row's place in its user's order, and the length of that order, both (n,) int64.

    The order is by time, if given, and then random; ``together`` puts all users into one order.
    """
    user = rows[USER].to_numpy()
    # a row's number depends on the row alone, so neither the order of files nor that of ids breaks a tie
    names = [name for name in (TIMESTAMP, RATING) if name in rows.columns]
    chance = mix(seed, _ROWS, user, rows[ITEM].to_numpy(), *(rows[name].to_numpy() for name in names))
    second = time if time is not None else (chance >> np.uint64(34)).astype(np.int64)
    order = order_by(*(() if together else (user,)), second, tie=chance)
    place = np.empty(len(user), np.int64)
    if together:
        place[order] = np.arange(len(user))
        return place, np.full(len(user), len(user))
    sizes = np.bincount(user)
    starts = np.cumsum(sizes) - sizes
    place[order] = np.arange(len(user)) - starts[user[order]]
    return place, sizes[user]


def _by_share(place: np.ndarray, size: np.ndarray, spec: _Shares) -> np.ndarray:
    """Return the part of each place: the first share is test, the next valid, the rest train; shares round down."""
    test = np.floor(size * spec.test + 1e-9)
    valid = np.floor(size * spec.valid + 1e-9)
    return np.where(place < test, TEST, np.where(place < test + valid, VALID, TRAIN)).astype(np.uint8)


def _hold_out(owner: np.ndarray, spec: ColdItems | ColdUsers, seed: int, least: int) -> np.ndarray:
    """Return the (n,) part of each row, drawn for the owners of rows (users or items) with ``least`` rows or more."""
    counts = np.bincount(owner)
    owners = np.flatnonzero(counts >= least)
    place = np.empty(len(owners), np.int64)
    place[np.argsort(mix(seed, _HELD_OUT, owners), kind="stable")] = np.arange(len(owners))
    part = np.full(len(counts), TRAIN, np.uint8)
    part[owners] = _by_share(place, np.full(len(owners), (counts > 0).sum()), spec)
    return part[owner]


def _shuffled_ids(used: np.ndarray, n_rows: int, seed: int, stream: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the (n_rows,) int32 new id of each row of a table (-1: not used), and the (n_ids,) row of each new id."""
    rows = np.flatnonzero(np.bincount(used, minlength=n_rows))
    rows = rows[permutation(len(rows), seed, stream)]
    ids = np.full(n_rows, -1, np.int32)
    ids[rows] = np.arange(len(rows), dtype=np.int32)
    return ids, rows


def _report(parts: list[Interactions], n_users: int, n_items: int, clock: str) -> dict[str, float]:
    """Return counts, shares and leaks; see the head of this module."""
    total = sum(map(len, parts))
    report: dict[str, float] = {"users": n_users, "items": n_items, "interactions": total}
    for name, rows in zip((*PARTS, "valid_known", "test_known"), parts, strict=False):
        report[f"n_{name}"] = len(rows)
        report[f"share_{name}"] = len(rows) / total
    train, valid, test = parts[:3]
    for name, rows in (("valid", valid), ("test", test)):
        for field, size, plural in (("user", n_users, "users"), ("item", n_items, "items")):
            here = np.bincount(getattr(rows, field), minlength=size) > 0
            there = np.bincount(getattr(train, field), minlength=size) > 0
            unseen = int((here & ~there).sum())
            report[f"{name}_unseen_{plural}"] = unseen
            report[f"{name}_unseen_{plural}_share"] = unseen / int(here.sum())
    if clock == "time" and test.time is not None and train.time is not None:
        report["test_older_than_train"] = float((test.time < train.time.max()).mean())
    return {name: float(value) for name, value in report.items()}
