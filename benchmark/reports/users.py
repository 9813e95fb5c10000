"""Any two models user by user: who wins where, by how much, and example users with their history and lists."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import polars as pl

from benchmark.data.batch import BatchSpec
from benchmark.data.datamodule import RecDataModule
from benchmark.data.schema import ITEM_ID, TITLE, USER_ID, SplitData
from benchmark.evaluation.metrics import higher_is_better, parse_metric
from benchmark.evaluation.significance import bootstrap_intervals
from benchmark.reports.comparison import p_values
from benchmark.reports.names import title
from benchmark.reports.part import Part
from benchmark.runs.lists import places
from benchmark.runs.record import TOP, RunStore

Array = np.ndarray
LONGEST = 15  # items of a history that are shown, the newest
HELD_OUT = 10  # held-out items (rows) that are shown
LISTED = 5  # of what a model ranks first
LOOKED_AT = 20_000  # users among whom examples are looked for
RANDOM, MOST = 40, 400  # example users: drawn at random, and in all
_AT_ONCE = 1 << 24  # differences of pairs held at once
TELLING = 100  # a feature with more values, such as a zip code, tells who somebody is, not what
_TEXT = 60  # longest feature of a user that is shown


def compared(p: Part, split: SplitData, store: RunStore) -> dict[str, Any] | None:
    """Return what the page shows of any two models, as JSON values; None where fewer than two can be compared.

    By the task's first metric of which two models have values per user; other models are left out. Of a pooled metric
    these are the users' shares in it (``benchmark.evaluation.user_values``), which ``pooled`` tells.
    """
    outcomes = p.outcomes
    if outcomes.targets is None:
        return None
    for metric in outcomes.metrics:
        labels = [label for label in outcomes.labels if np.isfinite(outcomes.values[label, metric]).any()]
        if len(labels) > 1:
            break
    else:
        return None
    values = outcomes.matrix(metric, labels)
    name = parse_metric(metric).name
    higher = higher_is_better(name)
    pairs = list(combinations(range(len(labels)), 2))
    chosen = _examples(values if higher else -values, pairs)
    told = {"models": labels, "metric": title(metric), "lower": not higher, **_pairs(values, pairs, higher)}
    told["pooled"] = p.experiment.task.kind != "ranking" and name != "uauc"
    told["p"] = _p_values(p, metric, labels)
    items = _Items(split)
    users = _users(p, split, chosen, items, labels)
    if p.experiment.task.kind == "ranking":
        _lists(p, split, store, chosen, items, users, labels)
    for user, row in zip(users, values[chosen], strict=True):
        user["values"] = [_rounded(v) for v in row]
    return {**told, "items": items.titles(), "users": users}


def _pairs(values: Array, pairs: Sequence[tuple[int, int]], higher: bool) -> dict[str, Any]:
    """Return wins, mean differences (a - b) with interval, and their histograms, over all users."""
    n = values.shape[1]
    out = {name: np.zeros((n, n)) for name in ("difference", "low", "high")}
    wins, users = np.zeros((n, n), np.int64), np.zeros((n, n), np.int64)
    span = float(np.nanmax(values) - np.nanmin(values)) or 1.0
    edges = np.linspace(-span, span, 21)
    histogram = {}
    step = max(1, _AT_ONCE // len(values))
    by_model = np.ascontiguousarray(values.T)
    for start in range(0, len(pairs), step):
        a, b = np.array(pairs[start : start + step]).T
        difference = (by_model[a] - by_model[b]).T
        intervals = bootstrap_intervals(difference, n=1000)
        mean = np.nanmean(difference, axis=0)
        for k, (i, j) in enumerate(zip(a, b, strict=True)):
            column = difference[:, k]
            above, below = int((column > 0).sum()), int((column < 0).sum())
            wins[i, j], wins[j, i] = (above, below) if higher else (below, above)
            users[[i, j], [j, i]] = np.isfinite(column).sum()
            out["difference"][[i, j], [j, i]] = mean[k], -mean[k]
            out["low"][[i, j], [j, i]] = intervals[k, 0], -intervals[k, 1]
            out["high"][[i, j], [j, i]] = intervals[k, 1], -intervals[k, 0]
            moved = column[np.isfinite(column) & (column != 0)]
            histogram[f"{i},{j}"] = np.histogram(moved, edges)[0].tolist()
    matrices = {name: [[_rounded(v, 5) for v in row] for row in matrix] for name, matrix in out.items()}
    return {
        "n": users.tolist(),
        "wins": wins.tolist(),
        **matrices,
        "edges": [_rounded(e) for e in edges],
        "histogram": histogram,
    }


def _p_values(p: Part, metric: str, labels: Sequence[str]) -> list[list[float | None]]:
    """Return the p-values of all pairs, which count users and seeds; not corrected."""
    out = np.ones((len(labels), len(labels)))
    for i in range(len(labels) - 1):
        out[i, i + 1 :] = out[i + 1 :, i] = p_values(p, metric, labels[i + 1 :], labels[i])
    return [[_rounded(value, 5) for value in row] for row in out]


def _rounded(value: float, digits: int = 4) -> float | None:
    return round(float(value), digits) if np.isfinite(value) else None


def _examples(values: Array, pairs: Sequence[tuple[int, int]]) -> Array:
    """Return positions of users worth a look: some at random, and where one of a pair wins most, pair by pair."""
    some = np.random.default_rng(0).permutation(len(values))[:LOOKED_AT]
    values = np.ascontiguousarray(values[some].T)
    chosen = dict.fromkeys(some[:RANDOM].tolist())
    each = 3 if len(pairs) <= 45 else 1
    for k in np.random.default_rng(1).permutation(len(pairs)):  # where there are too many, none comes last for its name
        i, j = pairs[k]
        difference = np.nan_to_num(values[i] - values[j])
        for gain in (difference, -difference):
            most = np.argpartition(-gain, min(each, len(gain) - 1))[:each]
            chosen.update(dict.fromkeys(int(some[u]) for u in most if gain[u] > 0))
        if len(chosen) >= MOST:
            break
    return np.sort(np.array(list(chosen), dtype=np.int64)[:MOST])


class _Items:
    """Numbers the items that are shown, in the order in which they come, and keeps their titles."""

    def __init__(self, split: SplitData) -> None:
        self.frame, self.number = split.items, dict[int, int]()

    def __call__(self, items: Array) -> list[int]:
        return [self.number.setdefault(int(item), len(self.number)) for item in items]

    def titles(self) -> list[str]:
        rows = self.frame[list(self.number)]
        ids = rows[ITEM_ID]
        return (rows[TITLE].fill_null(ids) if TITLE in rows.columns else ids).to_list()


def _users(p: Part, split: SplitData, chosen: Array, items: _Items, labels: Sequence[str]) -> list[dict[str, Any]]:
    """Return who the chosen users are, what is known of them, and what was held out."""
    outcomes, task = p.outcomes, p.experiment.task
    assert outcomes.targets is not None
    ids = outcomes.users[chosen]
    inner = places(split.users[USER_ID], ids)
    rows = RecDataModule(split, task, BatchSpec("pointwise", max_history=1)).rows("test")
    row_user = rows.user.numpy()
    first = np.zeros(split.users.height, np.int64)
    first[row_user[::-1]] = np.arange(len(row_user))[::-1]  # of a user's rows the first
    telling = [n for n in split.users.columns if n != USER_ID and split.users[n].n_unique() <= TELLING]
    about = split.users[inner].select(telling).to_dicts() if telling else [{}] * len(inner)
    bounds = np.searchsorted(outcomes.targets["user"].to_numpy(), [chosen, chosen + 1])
    out = []
    for k, user in enumerate(inner):
        history = rows.sequences.item.numpy()[rows.start[first[user]] : rows.stop[first[user]]]
        features = [(name, value) for name, value in about[k].items() if _plain(value)]
        told = {
            "id": ids[k],
            "about": " · ".join(f"{name.replace('_', ' ')} {value}" for name, value in features),
            "history": items(history[-LONGEST:]),
            "n_history": len(history),
        }
        if task.kind == "ranking":
            at = np.arange(bounds[0, k], bounds[1, k])
            ranks = np.stack([outcomes.target_ranks[name][at] for name in labels])
            at, ranks = (a[..., np.argsort(ranks.min(0), kind="stable")[:HELD_OUT]] for a in (at, ranks))
            told["held_out"] = items(places(split.items[ITEM_ID], outcomes.targets["item"].gather(at)))
            told["ranks"] = ranks.round(1).tolist()
            told["n_held_out"] = int(bounds[1, k] - bounds[0, k])
        else:
            at = np.arange(bounds[0, k], min(bounds[1, k], bounds[0, k] + HELD_OUT))
            assert rows.candidates is not None
            item = rows.candidates[outcomes.targets["row"].to_numpy()[at], 0].numpy()
            label = outcomes.targets["label"].to_numpy()[at]
            scores = np.column_stack([outcomes.target_scores[name][0][at] for name in labels])
            told["rows"] = [
                {"item": number, "label": int(like > 0.5), "scores": [_rounded(v) for v in row]}
                for number, like, row in zip(items(item), label, scores, strict=True)
            ]
        out.append(told)
    return out


def _plain(value: Any) -> bool:
    return isinstance(value, (str, int, float, bool)) and 0 < len(str(value)) <= _TEXT


def _lists(
    p: Part,
    split: SplitData,
    store: RunStore,
    chosen: Array,
    items: _Items,
    users: list[dict[str, Any]],
    labels: Sequence[str],
) -> None:
    """Add what each model (its first seed) ranks first, and which of that was held out (``hits``)."""
    outcomes = p.outcomes
    assert outcomes.targets is not None
    ids = outcomes.users[chosen]
    order = pl.DataFrame({"user": ids, "k": np.arange(len(ids)), "position": chosen})
    held = outcomes.targets.select(pl.col("user").cast(pl.Int64).alias("position"), "item", hit=True)
    for user in users:
        user["top"], user["hits"] = [], []
    for label in labels:
        path = store.folder(p.finished(label)[0].key) / TOP
        frame = pl.scan_parquet(path).filter(pl.col("rank") < LISTED, pl.col("user").is_in(ids.implode())).collect()
        frame = frame.join(order, on="user").join(held, on=["position", "item"], how="left").sort("k", "rank")
        item = places(split.items[ITEM_ID], frame["item"])
        bounds = np.searchsorted(frame["k"].to_numpy(), np.arange(len(ids) + 1))
        hits = frame["hit"].is_not_null().to_numpy().astype(int)
        for k, user in enumerate(users):
            user["top"].append(items(item[bounds[k] : bounds[k + 1]]))
            user["hits"].append(hits[bounds[k] : bounds[k + 1]].tolist())
