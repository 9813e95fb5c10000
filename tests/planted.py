"""Planted data: clusters, an order within them; titles, genres and a graph that tell the cluster; ratings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl

from benchmark.data.schema import Dataset, Interactions, SplitData
from benchmark.data.split import LeaveLastOut, Ratio, split
from benchmark.data.task import Task

WORDS = (
    "spaceship astronaut galaxy planet rocket",
    "kitchen recipe bread oven pastry",
    "football goal referee stadium league",
    "ghost haunted vampire graveyard horror",
)
TWINS, OTHER = (80, 81), 82  # ids of planted items that nobody has: two of one content, and one of another


def dataset(n_users: int = 120, n_items: int = 80, length: int = 14, seed: int = 0) -> Dataset:
    """Users walk round the cycle of their cluster's items, mostly to the next one, sometimes to a popular item.

    Ratings are 1 to 5: half the item's quality, half the user's leniency, some noise.
    """
    rng = np.random.default_rng(seed)
    n_clusters, size = len(WORDS), n_items // len(WORDS)
    cycles = rng.permutation(n_items).reshape(n_clusters, size)
    cluster = np.empty(n_items, np.int64)
    for number, items in enumerate(cycles):
        cluster[items] = number
    popular = 1 / (1 + rng.permutation(n_items))
    quality, leniency = rng.normal(size=n_items), rng.normal(size=n_users)
    rows = []
    for user in range(n_users):
        cycle, place, had = cycles[user % n_clusters], int(rng.integers(size)), set()
        for step in range(length):
            if rng.random() < 0.25:
                item = int(rng.choice(n_items, p=popular / popular.sum()))
            else:
                place = (place + 1) % size
                item = int(cycle[place])
            if item in had:
                continue
            had.add(item)
            rating = np.clip(np.round(3.2 + quality[item] + leniency[user] + 0.5 * rng.normal()), 1, 5)
            rows.append((user, item, rating, 1000.0 * step + user))
    user, item, rating, time = (np.array(column) for column in zip(*rows, strict=True))
    words = [WORDS[c].split() for c in cluster]
    titles = [f"The {w[rng.integers(5)]} and the {w[rng.integers(5)]}" for w in words]
    names = [f"i{i:04d}" for i in range(n_items)]
    return Dataset(
        "planted",
        pl.DataFrame(
            {
                "user": user.astype(np.int32),
                "item": item.astype(np.int32),
                "rating": rating.astype(np.float32),
                "timestamp": time.astype(np.float64),
            }
        ),
        pl.DataFrame({"user_id": [f"u{i:04d}" for i in range(n_users)], "age": rng.integers(18, 60, n_users)}),
        pl.DataFrame({"item_id": names, "title": titles, "genres": [f"{w[0]}, {w[1]}" for w in words]}),
        graph=pl.DataFrame(
            {
                "head": [f"e{name}" for name in names],
                "relation": ["made_in" if i % 5 == 0 else "is_a" for i in range(n_items)],
                "tail": [f"c{c}" for c in cluster],
            }
        ),
        links=pl.DataFrame({"item_id": names, "entity_id": [f"e{name}" for name in names]}),
    )


def planted(kind: str, seed: int = 0, unseen: bool = True) -> tuple[SplitData, Task]:
    """Return planted data and its task; users 0 and 1 (of one age) and items 0, ``TWINS`` and ``OTHER`` are unseen in
    training. The vectors "image" tell an item's cluster, with some noise.

    ranking: the next item of each walk is to be found among the whole catalogue; preference: a random fifth of the rows
    is to be told apart into likes and dislikes. Without ``unseen``, the items that nobody has are left out.
    """
    if kind == "ranking":
        task = Task(split=LeaveLastOut(), metrics=("auc", "ndcg@10", "recall@10", "mrr"))
    else:
        task = Task(kind="preference", split=Ratio(valid=0.1, test=0.2), metrics=("auc", "uauc", "log_loss"))
    data = split(dataset(seed=seed), task.split, seed)
    users = data.users.with_columns(age=pl.when(pl.int_range(pl.len()) == 1).then(pl.first("age")).otherwise("age"))
    data = replace(data, users=users, train=without(data.train, users=(0, 1), items=(0,)))
    return with_unseen(data) if unseen else data, task


def with_unseen(data: SplitData) -> SplitData:
    """Return the data with three more items that nobody has: two of one content, and one of another."""
    content = [(WORDS[0], "twin-1"), (WORDS[0], "twin-2"), (WORDS[1], "other")]
    words = [text.split() for text, _ in content]
    names = [name for _, name in content]
    new = pl.DataFrame(
        {
            "item_id": names,
            "title": [f"The {w[2]} and the {w[3]}" for w in words],
            "genres": [f"{w[0]}, {w[1]}" for w in words],
        }
    )
    assert data.graph is not None
    assert data.links is not None
    entities = [f"e{name}" for name in names]
    genres = pl.concat([data.items, new])["genres"]
    cluster = np.array([[text.startswith(w.split()[0]) for w in WORDS] for text in genres], np.float32)
    image = np.random.default_rng(0).normal(0, 0.3, (len(cluster), 6)).astype(np.float32)
    image[:, :4] += cluster
    image[TWINS[1]] = image[TWINS[0]]
    triples = {"head": entities, "relation": ["is_a"] * 3, "tail": ["c0", "c0", "c1"]}
    return replace(
        data,
        items=pl.concat([data.items, new]),
        graph=pl.concat([data.graph, pl.DataFrame(triples)]),
        links=pl.concat([data.links, pl.DataFrame({"item_id": names, "entity_id": entities})]),
        vectors={"image": image},
    )


def without(rows: Interactions, users: tuple[int, ...], items: tuple[int, ...]) -> Interactions:
    """Return the rows of all other users and items."""
    keep = ~np.isin(rows.user, users) & ~np.isin(rows.item, items)
    rating, time = (None if values is None else values[keep] for values in (rows.rating, rows.time))
    return Interactions.from_arrays(rows.user[keep], rows.item[keep], rating, time, rows.n_users)


def large(n_users: int, n_items: int, n_interactions: int, seed: int = 0) -> SplitData:
    """Skewed interactions without repetition, for clocks: about ``n_interactions`` in train, two a user held out."""
    rng = np.random.default_rng(seed)
    activity = rng.lognormal(0, 1, n_users)
    popularity = (1 / np.arange(1, n_items + 1) ** 0.7)[rng.permutation(n_items)]
    counts = np.clip(activity / activity.sum() * n_interactions, 20, n_items // 2).astype(np.int64)
    counts = (counts * (n_interactions / counts.sum())).astype(np.int64).clip(5, n_items // 2)
    noise = np.log(popularity)[None, :].astype(np.float32)
    user, item = [], []
    for start in range(0, n_users, 256):
        some = counts[start : start + 256]
        order = np.argsort(-(noise + rng.gumbel(size=(len(some), n_items)).astype(np.float32)), axis=1)
        keep = np.arange(n_items) < some[:, None]
        user.append(np.repeat(np.arange(start, start + len(some)), some))
        item.append(order[keep])
    users, items = np.concatenate(user), np.concatenate(item)
    time = rng.random(len(users))
    last = np.zeros(len(users), bool)
    last[np.cumsum(counts) - 1] = True

    def part(mask: np.ndarray) -> Interactions:
        return Interactions.from_arrays(users[mask], items[mask], None, time[mask] + last[mask], n_users)

    return SplitData(
        train=part(~last),
        valid=part(last),
        test=part(last),
        users=pl.DataFrame({"user_id": [f"u{i}" for i in range(n_users)]}),
        items=pl.DataFrame({"item_id": [f"i{i}" for i in range(n_items)]}),
        report={},
    )
