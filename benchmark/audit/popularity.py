"""Popularity: how much of a score is that popular items (or generally liked ones) stand on top."""

from __future__ import annotations

import statistics

import numpy as np
import polars as pl
import torch
from scipy import stats

from benchmark.audit.finding import Finding, percent
from benchmark.audit.material import Material, ranked
from benchmark.data.schema import ITEM_ID, USER_ID
from benchmark.data.sequences import likes
from benchmark.evaluation.metrics import (
    higher_is_better,
    mean,
    parse_metric,
    pooled_auc,
    ranking_metric,
)

CHECK, TITLE = "popularity", "Share of the score that popularity explains"
MOST = 0.8
_CELLS = 1 << 24  # scores at once
_PRIOR = 5.0  # rows of the mean label that an item's own mean is smoothed with


def popularity(material: Material) -> list[Finding]:
    """Compare the best model with what the popularity (the mean label) of the items alone reaches."""
    outcomes = material.outcomes
    labels = [label for label in outcomes.labels if material.groups.get(label) != "trivial"]
    if not labels or not outcomes.metrics:
        said = "No model but trivial ones has been run yet: levelfield run comes first."
        return [Finding(CHECK, TITLE, "unknown", said)]
    return _ranking(material, labels) if material.ranking else _preference(material, labels)


def _ranking(material: Material, labels: list[str]) -> list[Finding]:
    outcomes, metric, note = material.outcomes, material.outcomes.metrics[0], material.note()
    alone, users = _alone(material, metric)
    place = {user: i for i, user in enumerate(outcomes.users.to_list())}
    raw = material.split.users[USER_ID].cast(pl.String).gather(users).to_list()
    judged = np.array([place.get(user, -1) for user in raw])
    if (judged < 0).any():
        said = "The stored runs were judged on other users than this split has; run them again."
        return [Finding(CHECK, TITLE, "unknown", said)]
    value = {label: mean(outcomes.values[label, metric][judged]) for label in labels}
    sign = 1 if higher_is_better(parse_metric(metric).name) else -1
    best = max(value, key=lambda label: sign * value[label])
    follows = _correlations(material, labels, judged)
    numbers = {"alone": alone, "best": value[best]} | {f"{label}_spearman": r for label, r in follows.items()}
    if not value[best] > 0 or np.isnan(alone):
        said = f"The best model ({best}) has {metric} {value[best]:.4f}, of which no share can be told."
        return [Finding(CHECK, TITLE, "unknown", said, {k: v for k, v in numbers.items() if v == v})]
    share = alone / value[best]
    numbers["share"] = share
    said = (
        f"Ranking by training popularity alone reaches {metric} {alone:.4f}, {percent(share)} of the best model "
        f"({best}, {value[best]:.4f}){note}."
    )
    if follows:
        most, least = max(follows, key=lambda label: follows[label]), min(follows, key=lambda label: follows[label])
        said += (
            f" How high a model ranks the relevant items goes with their popularity: Spearman {follows[best]:.2f} for "
            f"{best}"
        )
        said += (
            f"; highest {most} {follows[most]:.2f}, lowest {least} {follows[least]:.2f}." if len(follows) > 1 else "."
        )
    return [Finding(CHECK, TITLE, "warning" if share >= MOST else "fine", said, numbers)]


def _alone(material: Material, metric: str) -> tuple[float, np.ndarray]:
    """Return the metric of the ranking by popularity, and the users (ids) it was computed for."""
    rows = material.drawn
    _, order = np.unique(material.popularity, return_inverse=True)  # no count is too large for float32 then
    weight = torch.from_numpy(order).float()
    values = []
    step = max(1, _CELLS // material.split.n_items)
    draws = [material.sampled + number * rows.n_judged for number in range(rows.draws)]
    for index in torch.cat(draws).split(step):
        batch = rows[index]
        score = weight.expand(len(index), -1) if batch.candidates is None else weight[batch.candidates]
        values.append(ranking_metric(parse_metric(metric), ranked(batch, score)))
    of_users = np.concatenate(values).reshape(rows.draws, -1).mean(0)
    return mean(of_users), rows.user[material.sampled].numpy()


def _correlations(material: Material, labels: list[str], judged: np.ndarray) -> dict[str, float]:
    """Return each model's Spearman correlation of the relevant items' popularity with how high it ranks them."""
    outcomes = material.outcomes
    if outcomes.targets is None:
        return {}
    counts = material.split.items.select(item=pl.col(ITEM_ID).cast(pl.String)).with_columns(n=material.popularity)
    known = outcomes.targets.with_columns(pl.col("item").cast(pl.String)).join(counts, on="item", how="left")
    chosen = np.zeros(len(outcomes.users), bool)
    chosen[judged] = True
    keep = chosen[known["user"].to_numpy()] & known["n"].is_not_null().to_numpy()
    popular = stats.rankdata(known["n"].to_numpy()[keep])
    out = {}
    for label in labels:
        if label in outcomes.target_ranks:
            height = stats.rankdata(-outcomes.target_ranks[label][keep])
            if len(height) > 1 and popular.std() > 0 and height.std() > 0:
                out[label] = float(np.corrcoef(popular, height)[0, 1])
    return out


def _preference(material: Material, labels: list[str]) -> list[Finding]:
    """Compare AUCs above .5 with that of the items' mean label in training, drawn towards the mean of all."""
    rows, train = material.test, material.split.train
    assert rows.candidates is not None
    assert rows.label is not None
    label = likes(train, material.experiment.task)
    n = np.bincount(train.item, minlength=material.split.n_items)
    liked = np.bincount(train.item, weights=label, minlength=material.split.n_items)
    score = (liked + _PRIOR * label.mean()) / (n + _PRIOR)
    alone = pooled_auc(rows.label.numpy(), score[rows.candidates[:, 0].numpy()])
    value = {name: _auc(material, name) for name in labels}
    value = {name: auc for name, auc in value.items() if auc == auc}
    best = max(value, key=lambda name: value[name], default=None)
    if best is None or np.isnan(alone) or value[best] <= 0.5:
        said = "No model tells likes from dislikes better than chance, so popularity explains no share of it."
        return [Finding(CHECK, TITLE, "unknown", said)]
    share = (alone - 0.5) / (value[best] - 0.5)
    said = (
        f"The share of likes an item has in training alone gives AUC {alone:.4f}: {percent(max(share, 0.0))} of "
        f"what the best model ({best}, {value[best]:.4f}) has above 0.5."
    )
    numbers = {"alone": alone, "best": value[best], "share": share}
    return [Finding(CHECK, TITLE, "warning" if share >= MOST else "fine", said, numbers)]


def _auc(material: Material, label: str) -> float:
    """Return the pooled AUC of a model, the mean over its seeds."""
    outcomes = material.outcomes
    if (label, "auc") in outcomes.seeds:
        return statistics.fmean(outcomes.seeds[label, "auc"])
    if outcomes.targets is None or label not in outcomes.target_scores:
        return float("nan")
    truth = outcomes.targets["label"].to_numpy()
    return statistics.fmean(pooled_auc(truth, score) for score in outcomes.target_scores[label])
