"""Duplicates: what stands in two parts of the split, as a pair, as an item of the same text, as a doubled account."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import polars as pl

from benchmark.audit.finding import Finding, percent
from benchmark.audit.material import Material
from benchmark.data.schema import TITLE, Interactions
from benchmark.data.seeded import mix

CHECK = "duplicates"
LEAST = 5  # items that two users must share before they may be one person


def pairs(material: Material) -> list[Finding]:
    """Check that no user-item pair stands in two parts."""
    split, title = material.split, "User-item pairs in two parts"
    parts = {"train": split.complete_train, "validation": split.valid, "test": split.test}
    keys = {name: _pairs(rows, split.n_items) for name, rows in parts.items()}
    twice = {
        f"{a} and {b}": len(np.intersect1d(keys[a], keys[b], assume_unique=True)) for a, b in combinations(keys, 2)
    }
    numbers = {name.replace(" and ", "_"): float(n) for name, n in twice.items()}
    found = [f"{n:,} in {name}" for name, n in twice.items() if n]
    if not found:
        return [Finding(CHECK, title, "fine", "Every user-item pair stands in one part only.", numbers)]
    if material.experiment.task.allow_repeats:
        said = f"Pairs in two parts: {', '.join(found)}; task.allow_repeats says that they are meant."
        return [Finding(CHECK, title, "fine", said, numbers)]
    said = (
        f"Pairs stand in two parts: {', '.join(found)}. Deduplicate the data, or set task.allow_repeats if it is meant."
    )
    return [Finding(CHECK, title, "fault", said, numbers)]


def items(material: Material) -> list[Finding]:
    """Check that no item of the test stands in training under another id."""
    split, title = material.split, "Items of one text under two ids"
    if TITLE not in split.items.columns:
        return [Finding(CHECK, title, "unknown", "The items have no titles by which doubles could be seen.")]
    names = [TITLE, *(["year"] if "year" in split.items.columns else [])]
    title_words = pl.col(TITLE).cast(pl.String).str.strip_chars().str.to_lowercase()
    text = split.items.select(
        pl.when(title_words != "").then(
            pl.concat_str(
                title_words,
                *(pl.col(name).cast(pl.String).fill_null("") for name in names[1:]),
                separator="\t",
            )
        )
    ).to_series()
    known = text.is_not_null().to_numpy()
    group = text.fill_null("").rank("dense").to_numpy().astype(np.int64)
    trained = known & (material.popularity > 0)
    ids = np.bincount(group[trained], minlength=int(group.max()) + 1)  # trained ids of each text
    others = ids[group] - trained
    test = np.bincount(split.test.item, minlength=split.n_items)
    doubled = known & (test > 0) & (others > 0)
    share = float(test[doubled].sum() / len(split.test))
    numbers = {"items": float(doubled.sum()), "test_share": share}
    by = " and year" if len(names) > 1 else ""
    if not doubled.any():
        said = f"No item of the test stands in training under another id with the same title{by}."
        return [Finding(CHECK, title, "fine", said, numbers)]
    example = split.items[TITLE][int(np.flatnonzero(doubled)[np.argmax(test[doubled])])]
    said = (
        f"{int(doubled.sum()):,} items of the test, with {percent(share)} of its interactions, have the title{by} "
        f"of another item of the training part, such as '{example}': what a user knows may come back as new."
    )
    return [Finding(CHECK, title, "warning", said, numbers)]


def users(material: Material) -> list[Finding]:
    """Check that no user of the test has just the training items of another user."""
    split, title = material.split, "Users with the same training items"
    size, digest = _sets(split.complete_train, split.n_items)
    enough = size >= LEAST
    tested = np.bincount(split.test.user, minlength=split.n_users) > 0
    _, group, count = np.unique(digest[enough], return_inverse=True, return_counts=True)
    doubled = np.zeros(split.n_users, bool)
    doubled[np.flatnonzero(enough)] = count[group] > 1
    n = int((doubled & tested).sum())
    numbers = {"users": float(n), "compared": float((enough & tested).sum())}
    if not n:
        said = f"No user of the test with at least {LEAST} training items has exactly those of another user."
        return [Finding(CHECK, title, "fine", said, numbers)]
    said = (
        f"{n:,} of {int((enough & tested).sum()):,} users of the test with at least {LEAST} training items have "
        "exactly those of another user: doubled accounts tell each other's test items."
    )
    return [Finding(CHECK, title, "warning", said, numbers)]


def _pairs(rows: Interactions, n_items: int) -> np.ndarray:
    """Return each pair of a part once, as ``user * n_items + item``, ascending; faster than by hashing."""
    keys = np.sort(rows.user.astype(np.int64) * n_items + rows.item)
    return keys[np.insert(keys[1:] != keys[:-1], 0, True)]


def _sets(rows: Interactions, n_items: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the size and a 64-bit digest of each user's set of items, (n_users,) both."""
    keys = _pairs(rows, n_items)
    user, item = keys // n_items, keys % n_items
    digest = np.zeros(rows.n_users, np.uint64)
    np.add.at(digest, user, mix(item))  # a sum wraps around and knows no order
    return np.bincount(user, minlength=rows.n_users), digest
