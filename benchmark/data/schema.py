"""Column names and the two shapes of data: the canonical Dataset and, after the split, flat Interactions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import polars as pl

from benchmark.data.seeded import mix
from benchmark.errors import InputError, nearest

# columns of raw frames, as a source returns them
USER_ID, ITEM_ID, RATING, TIMESTAMP, PART = "user_id", "item_id", "rating", "timestamp", "part"
TITLE = "title"
DOMAIN = "domain"  # of items, where several data sets are joined
# columns of canonical interactions: row numbers into Dataset.users and Dataset.items
USER, ITEM = "user", "item"
PARTS = ("train", "valid", "test")
KNOWN = "known"  # a part of the predefined split: history and nothing else
CLOCKS = ("time", "order")
# what a digest takes as numbers; everything else (wider integers and decimals too) it takes as text
_NUMBERS = (
    *(pl.Boolean, pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32),
    *(pl.Float32, pl.Float64),
)


@dataclass(frozen=True)
class Step:
    """What one step of preparation left over: counts after the step."""

    name: str
    interactions: int
    users: int
    items: int
    note: str = ""


@dataclass(frozen=True)
class Dataset:
    """Canonical data: what was interacted with, and what is known of items and users.

    Attributes:
        name: name of the source.
        interactions: ``user`` and ``item`` (Int32, row numbers into ``users`` and ``items``), and where the source has
            them ``rating`` (Float32), ``timestamp`` (Float64, in the source's unit) and ``part`` (Enum of "train",
            "valid", "test" and "known", for the predefined split; what is "known" is history and nothing else).
        users: ``user_id`` (String) and features, one row a user, sorted by ``user_id``.
        items: ``item_id`` (String), ``title`` where known, and features, one row an item, sorted by ``item_id``.
        graph: knowledge graph as ``head``, ``relation``, ``tail`` (String), or None; ``links`` maps items to entities.
        links: ``item_id``, ``entity_id`` (String), or None.
        steps: what each step of preparation left over.
        clock: what ``timestamp`` is: "time", or "order", a place in the user's own sequence, which tells nothing of
            what other users did earlier or later.
        vectors: by modality, (n_items, d) float32 vectors of the items, such as of their images; zeros where unknown.
    """

    name: str
    interactions: pl.DataFrame
    users: pl.DataFrame
    items: pl.DataFrame
    graph: pl.DataFrame | None = None
    links: pl.DataFrame | None = None
    steps: tuple[Step, ...] = field(default=())
    clock: str = "time"
    vectors: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def has_time(self) -> bool:
        return TIMESTAMP in self.interactions.columns

    @property
    def has_rating(self) -> bool:
        return RATING in self.interactions.columns

    def after(self, step: str, interactions: pl.DataFrame, note: str = "") -> Dataset:
        """Return a copy with other interactions and one more step in the report.

        Raises:
            InputError: nothing is left.
        """
        count = Step(step, interactions.height, interactions[USER].n_unique(), interactions[ITEM].n_unique(), note)
        if not interactions.height:
            before = f" (of {self.interactions.height} before it)" if self.interactions.height else ""
            raise InputError(f"dataset {self.name}: no interaction is left after '{step}'{before}; loosen it")
        return replace(self, interactions=interactions, steps=(*self.steps, count))

    def fingerprint(self) -> str:
        """Return the SHA-256 of the content; equal over processes, platforms and polars versions.

        The order of rows and columns does not matter: interactions are sorted first.
        """
        digest = hashlib.sha256()
        columns = [name for name in (USER, ITEM, RATING, TIMESTAMP, PART) if name in self.interactions.columns]
        digest.update(" ".join(columns).encode())
        # one 64-bit hash a row, sorted: a fifth of the memory of sorting the rows themselves
        rows = (self.interactions[name].to_physical().to_numpy() for name in columns)
        digest.update(np.sort(mix(*rows)).astype("<u8", copy=False).tobytes())
        frames = {
            "users": self.users,
            "items": self.items,
            "graph": self.graph,
            "links": self.links,
        }
        for name, frame in frames.items():
            digest.update(name.encode())
            if frame is not None:
                update_digest(digest, frame)
        _update_by_vectors(digest, self.vectors)
        return digest.hexdigest()


def _update_by_vectors(digest: hashlib._Hash, vectors: dict[str, np.ndarray]) -> None:
    for name in sorted(vectors):
        digest.update(f"{name} {vectors[name].shape}".encode())
        digest.update(np.ascontiguousarray(vectors[name], "<f4").tobytes())


def update_digest(digest: hashlib._Hash, frame: pl.DataFrame) -> None:
    """Feed a frame's content, column by column in the order of names, to ``digest`` in a fixed binary layout."""
    digest.update(str(frame.height).encode())
    for name in sorted(frame.columns):
        column = frame[name]
        digest.update(name.encode())
        digest.update(np.packbits(column.is_null().to_numpy()).tobytes())
        if column.dtype in _NUMBERS:
            values = column.fill_null(0).cast(pl.Float64 if column.dtype.is_float() else pl.Int64).to_numpy()
            digest.update(np.ascontiguousarray(values.astype(values.dtype.newbyteorder("<"), copy=False)).tobytes())
        else:
            if isinstance(column.dtype, pl.List):
                column = column.cast(pl.List(pl.String)).list.join("\x1f")
            text = column.cast(pl.String).fill_null("")
            digest.update(text.str.len_bytes().cast(pl.Int64).to_numpy().astype("<i8", copy=False).tobytes())
            digest.update("".join(text.to_list()).encode())


def order_by(*keys: np.ndarray, tie: np.ndarray | None = None) -> np.ndarray:
    """Return the (n,) order by the ``keys``, the first one first; rows equal in all of them by ``tie``.

    Where the keys fit into one 63-bit integer (ids and times in whole seconds do), one sort of it stands for all; that
    is several times faster than sorting by one key after the other.
    """
    packed = _pack(keys)
    if packed is None:
        return np.lexsort((*(() if tie is None else (tie,)), *reversed(keys)))
    order = np.argsort(packed)
    if tie is None:
        return order
    packed = packed[order]
    equal = packed[1:] == packed[:-1]
    if equal.any():
        places = np.flatnonzero(np.append(equal, False) | np.insert(equal, 0, False))
        rows = order[places]
        order[places] = rows[np.lexsort((tie[rows], packed[places]))]
    return order


def _pack(keys: tuple[np.ndarray, ...]) -> np.ndarray | None:
    """Return (n,) int64 that sort as the keys do, or None where they do not fit or have fractions."""
    n = len(keys[0])
    packed = np.zeros(n, np.int64)
    bits = 0
    for values in keys if n else ():
        low, high = values.min().item(), values.max().item()
        width = int(high - low).bit_length()
        bits += width
        if bits > 63 or (values.dtype.kind == "f" and not np.array_equal(np.rint(values), values)):
            return None
        packed <<= width
        packed += values if low == 0 and values.dtype.kind == "i" else (values - low).astype(np.int64)
    return packed


@dataclass(frozen=True)
class Interactions:
    """Interactions of one part as flat arrays, sorted by (user, time, item); n rows.

    Attributes:
        user: (n,) int32 user ids, 0 <= id < n_users.
        item: (n,) int32 item ids, 0 <= id < n_items.
        rating: (n,) float32, or None.
        time: (n,) float64, or None.
        offsets: (n_users + 1,) int64; the rows of user u are offsets[u]:offsets[u + 1].
    """

    user: np.ndarray
    item: np.ndarray
    rating: np.ndarray | None
    time: np.ndarray | None
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.user)

    @property
    def n_users(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def from_arrays(
        cls,
        user: np.ndarray,
        item: np.ndarray,
        rating: np.ndarray | None,
        time: np.ndarray | None,
        n_users: int,
    ) -> Interactions:
        """Sort flat arrays by (user, time, item), equal ones by rating, and index them by user."""
        order = order_by(*((user, item) if time is None else (user, time, item)), tie=rating)
        user = user[order].astype(np.int32, copy=False)
        offsets = np.zeros(n_users + 1, np.int64)
        np.cumsum(np.bincount(user, minlength=n_users), out=offsets[1:])
        return cls(
            user=user,
            item=item[order].astype(np.int32, copy=False),
            rating=None if rating is None else rating[order].astype(np.float32, copy=False),
            time=None if time is None else time[order].astype(np.float64, copy=False),
            offsets=offsets,
        )

    def take(self, index: np.ndarray) -> Interactions:
        """Return the rows at the ascending ``index``, which are sorted as they were."""
        rating, time = (None if values is None else values[index] for values in (self.rating, self.time))
        offsets = np.searchsorted(index, self.offsets)
        return Interactions(self.user[index], self.item[index], rating, time, offsets)

    def with_new_user(self) -> Interactions:
        """Return the same rows among one more user, who has none."""
        return replace(self, offsets=np.append(self.offsets, self.offsets[-1]))


@dataclass(frozen=True)
class Catalogue:
    """What a model may know before training: sizes, texts, features, and the training interactions.

    Attributes:
        n_users, n_items: number of ids; ``n_items`` is also the padding id of histories.
        items: row i describes item i (``item_id``, ``title`` ..., features).
        users: row u describes user u.
        train: the training interactions (never validation or test); under a budget only those it allows.
        graph, links: the knowledge graph of the source, if any.
        cache: folder in which what is derived from texts, such as tokens, is kept between runs; None: nowhere.
        vectors: by modality, (n_items, d) float32 vectors of the items; zeros where unknown.
    """

    n_users: int
    n_items: int
    items: pl.DataFrame
    users: pl.DataFrame
    train: Interactions
    graph: pl.DataFrame | None = None
    links: pl.DataFrame | None = None
    cache: Path | None = None
    vectors: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class SplitData:
    """The three parts with integer ids, the tables these ids point into, and what the split leaks.

    Ids are given after a seeded shuffle, so no model can lean on the order of a file.

    Attributes:
        train, valid, test: the parts; together with the two below they hold every interaction once, unless a budget
            leaves some of train out.
        users, items: row u describes user u, row i item i; only those that have an interaction.
        report: counts and shares of the parts, and what the split leaks (see ``benchmark.data.split``).
        graph, links: the knowledge graph of the source, if any.
        valid_known, test_known: under ``cold_users``, the first interactions of the held-out users of the part: known
            when the part is scored (history, seen items, fold-in), never trained on. None under other splits.
        train_known: under a budget (``benchmark.data.budget``), the whole training part, of which ``train`` is what is
            learned from: histories, seen items and the draws of negatives and candidates rest on it. Under the
            predefined split, with the rows that are "known" only. None without either.
        clock: of the dataset: whether the times of two users can be compared.
        learned: of a model that begins with the weights of another run: all that both learn from; else None.
        vectors: by modality, (n_items, d) float32 vectors of the items; zeros where unknown.
    """

    train: Interactions
    valid: Interactions
    test: Interactions
    users: pl.DataFrame
    items: pl.DataFrame
    report: dict[str, float]
    graph: pl.DataFrame | None = None
    links: pl.DataFrame | None = None
    valid_known: Interactions | None = None
    test_known: Interactions | None = None
    train_known: Interactions | None = None
    clock: str = "time"
    learned: Interactions | None = None
    vectors: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def n_users(self) -> int:
        return self.users.height

    @property
    def n_items(self) -> int:
        return self.items.height

    @property
    def complete_train(self) -> Interactions:
        """The training part as the split made it, whatever the budget, and what is known besides."""
        return self.train if self.train_known is None else self.train_known

    def with_new_user(self) -> SplitData:
        """Return the same data with one more user, the last one, of whom nothing is known."""
        users = pl.concat([self.users, pl.DataFrame({USER_ID: [""]})], how="diagonal")
        names = ("train", "valid", "test", "valid_known", "test_known", "train_known", "learned")
        parts = {name: getattr(self, name) for name in names}
        grown = {name: rows.with_new_user() for name, rows in parts.items() if rows is not None}
        return replace(self, users=users, **grown)

    def catalogue(self, cache: Path | None = None) -> Catalogue:
        """Return the part of the data that a model may see; ``cache``: see Catalogue."""
        train = self.train if self.learned is None else self.learned
        known = self.items, self.users, train, self.graph, self.links
        return Catalogue(self.n_users, self.n_items, *known, cache, self.vectors)

    def of_domains(self, names: Sequence[str]) -> np.ndarray:
        """Return the (n_items,) mask of the items of some domains of joined data sets.

        Raises:
            InputError: the data have no such domain.
        """
        if DOMAIN not in self.items.columns:
            raise InputError(f"domain '{names[0]}': the items have no '{DOMAIN}'; a joined source gives it to them")
        known = self.items[DOMAIN]
        for name in names:
            if name not in known:
                raise InputError(f"unknown domain '{name}'{nearest(name, known.unique().sort().to_list())}")
        return known.is_in(list(names)).to_numpy()

    def fingerprint(self) -> str:
        """Return the SHA-256 of the three parts with their raw ids' order; stable over processes and platforms."""
        digest = hashlib.sha256()
        known = [part for part in (self.valid_known, self.test_known, self.train_known) if part is not None]
        for part in (self.train, self.valid, self.test, *known):
            digest.update(str(len(part)).encode())
            for values, kind in ((part.user, "<i4"), (part.item, "<i4"), (part.rating, "<f4"), (part.time, "<f8")):
                digest.update(b"-" if values is None else values.astype(kind, copy=False).tobytes())
        for ids in (self.users[USER_ID], self.items[ITEM_ID]):
            update_digest(digest, ids.to_frame())
        _update_by_vectors(digest, self.vectors)
        return digest.hexdigest()
