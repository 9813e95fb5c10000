"""Candidates: which items are ranked for a user; the whole catalogue, or the relevant ones among drawn negatives."""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from benchmark.data.seeded import mix, unit

PAD = -1
_DENSE_CELLS = 1 << 22
_ROUNDS = 8


class Full(BaseModel):
    """Every item of the catalogue that the user has not seen."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["full"] = "full"


class Sampled(BaseModel):
    """The user's relevant items and ``n`` drawn items that the user has neither seen nor finds relevant.

    Sampled metrics are not those of the full catalogue and may order models otherwise (Krichene and Rendle, KDD 2020).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["sampled"] = "sampled"
    n: int = Field(99, ge=1, description="Negatives a user.")
    strategy: Literal["uniform", "popularity"] = Field(
        "uniform", description="Chance of an item: equal, or proportional to its training interactions plus one."
    )
    seed: int = Field(0, ge=0, description="Of the draw; it does not change with the seed of a run.")
    draws: int = Field(
        1, ge=1, description="Judge each user on so many draws (of the seeds seed, seed + 1, ...); the mean counts."
    )


Candidates = Annotated[Full | Sampled, Field(discriminator="kind")]
Lists = tuple[np.ndarray, np.ndarray]


def draw(
    candidates: Sampled,
    seen: Lists,
    relevant: Lists,
    n_items: int,
    popularity: np.ndarray,
    user_ids: np.ndarray | None = None,
) -> np.ndarray:
    """Draw the candidates of U users, without replacement.

    A user's draw depends on the seed, the user's id and lists, and the catalogue: neither on the other users nor on
    process, platform or numpy version. Items stand in ascending order, which tells nothing, as ids are shuffled.

    Args:
        candidates: how many, by which chance, with which seed.
        seen: ``(offsets, items)``: the items of user u are ``items[offsets[u]:offsets[u + 1]]``; offsets (U + 1,).
        relevant: ``(offsets, items)`` of what is to be found; always among the candidates, seen or not.
        n_items: size of the catalogue.
        popularity: (n_items,) training interactions of each item.
        user_ids: (U,) integers that name the users; None means 0..U-1.

    Returns:
        (U, C) int64, rows ascending and padded with -1 on the right, C the longest list. A user with fewer than ``n``
        items left gets all of them.
    """
    n_users = len(relevant[0]) - 1
    names = np.arange(n_users) if user_ids is None else np.asarray(user_ids)
    weight = np.ones(n_items, np.int64) if candidates.strategy == "uniform" else np.asarray(popularity, np.int64) + 1
    given = _pairs(relevant, n_items)
    taken = _distinct(np.concatenate([given, _pairs(seen, n_items)]))  # sorted keys user * n_items + item
    want = np.minimum(n_items - _count(taken, n_items, n_users), candidates.n)
    left = n_items - _count(taken, n_items, n_users)
    # who takes more than half of what is left would be refused too often
    active = np.flatnonzero((want > 0) & (left >= 2 * want))
    drawn = [given]
    have = np.zeros(n_users, np.int64)
    for attempt in range(_ROUNDS):
        if not len(active):
            break
        new = _attempt(candidates, weight, taken, names, active, (want - have)[active], attempt, n_items)
        drawn.append(new)
        taken = np.sort(np.concatenate([taken, new]))
        have += _count(new, n_items, n_users)
        active = active[have[active] < want[active]]
    rest = np.flatnonzero(have < want)
    step = max(1, _DENSE_CELLS // n_items)
    drawn += [
        _exact(candidates, weight, taken, names, rest[start : start + step], (want - have), n_items)
        for start in range(0, len(rest), step)
    ]
    return _table(np.sort(np.concatenate(drawn)), n_users, n_items)


def fingerprint(lists: np.ndarray) -> str:
    """Return the SHA-256 of drawn candidates, equal over processes and platforms."""
    digest = hashlib.sha256(str(lists.shape).encode())
    digest.update(np.ascontiguousarray(lists, dtype="<i8").tobytes())
    return digest.hexdigest()


def _pairs(lists: Lists, n_items: int) -> np.ndarray:
    """Return the sorted, unique keys ``user * n_items + item`` of ragged lists."""
    offsets, items = lists
    start, end = int(offsets[0]), int(offsets[-1])
    owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    return _distinct(owner * n_items + np.asarray(items[start:end], np.int64))


def _distinct(keys: np.ndarray) -> np.ndarray:
    """Return each key once, ascending; faster than numpy's own, which hashes."""
    keys = np.sort(keys)
    return keys[np.insert(keys[1:] != keys[:-1], 0, True)] if len(keys) else keys


def _count(keys: np.ndarray, n_items: int, n_users: int) -> np.ndarray:
    return np.bincount(keys // n_items, minlength=n_users)


def _absent(keys: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Return which ``keys`` do not stand in the sorted ``taken``."""
    if not len(taken):
        return np.ones(len(keys), bool)
    place = np.searchsorted(taken, keys)
    place[place == len(taken)] = 0
    return taken[place] != keys


def _attempt(
    candidates: Sampled,
    weight: np.ndarray,
    taken: np.ndarray,
    names: np.ndarray,
    users: np.ndarray,
    need: np.ndarray,
    attempt: int,
    n_items: int,
) -> np.ndarray:
    """Draw with replacement, refuse what is taken or repeated, and keep the first ``need`` of each of ``users``.

    That is the law of drawing one after the other without replacement. Returns keys ``user * n_items + item``.
    """
    width = candidates.n + 8  # the same for everybody, so that no user's draw depends on another's need
    cumulative = np.cumsum(weight)
    found = []
    step = max(1, _DENSE_CELLS // width)
    for start in range(0, len(users), step):
        some = users[start : start + step]
        chance = mix(candidates.seed, attempt, names[some][:, None], np.arange(width)[None, :])
        chance %= np.uint64(cumulative[-1])
        items = (
            chance.astype(np.int64)
            if candidates.strategy == "uniform"
            else np.searchsorted(cumulative, chance.astype(np.int64), side="right")
        )
        order = np.argsort(items, axis=1, kind="stable")
        keys = some[:, None] * n_items + np.take_along_axis(items, order, axis=1)  # ascending over all rows
        good = _absent(keys.ravel(), taken).reshape(keys.shape)
        good[:, 1:] &= keys[:, 1:] != keys[:, :-1]
        drawn = np.empty_like(good)
        np.put_along_axis(drawn, order, good, axis=1)  # back into the order of drawing
        drawn &= np.cumsum(drawn, axis=1) <= need[start : start + step, None]
        found.append(keys[np.take_along_axis(drawn, order, axis=1)])
    return np.concatenate(found)


def _exact(
    candidates: Sampled,
    weight: np.ndarray,
    taken: np.ndarray,
    names: np.ndarray,
    users: np.ndarray,
    need: np.ndarray,
    n_items: int,
) -> np.ndarray:
    """Draw the ``need`` smallest of exponential keys over all items of each of ``users`` (Efraimidis and Spirakis)."""
    keys = users[:, None] * n_items + np.arange(n_items)[None, :]
    order_key = -np.log(unit(mix(candidates.seed, _ROUNDS, names[users][:, None], np.arange(n_items)[None, :])))
    order_key /= weight
    order_key[~_absent(keys.ravel(), taken).reshape(keys.shape)] = np.inf
    want = need[users]
    width = min(int(want.max()), n_items)
    best = np.argsort(order_key, axis=1, kind="stable")[:, :width]
    return np.take_along_axis(keys, best, axis=1)[np.arange(width) < want[:, None]]


def _table(keys: np.ndarray, n_users: int, n_items: int) -> np.ndarray:
    """Return sorted keys as one row a user, padded with -1."""
    counts = _count(keys, n_items, n_users)
    out = np.full((n_users, int(counts.max(initial=0))), PAD, np.int64)
    out[np.arange(out.shape[1]) < counts[:, None]] = keys % n_items
    return out
