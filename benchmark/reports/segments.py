"""Parts the judged users and the held-out items into segments, and measures every model in each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from benchmark.data.schema import ITEM_ID, USER_ID, SplitData
from benchmark.data.split import known
from benchmark.errors import InputError, nearest
from benchmark.evaluation.metrics import higher_is_better, parse_metric, preference_metric
from benchmark.evaluation.significance import bootstrap_intervals
from benchmark.evaluation.user_values import preference_user_values
from benchmark.reports.groups import FEW_VALUES, groups_of
from benchmark.reports.names import title
from benchmark.reports.part import Part
from benchmark.runs.lists import places
from benchmark.runs.outcomes import Outcomes

Array = np.ndarray
COLD = 5  # known interactions below which a user is cold
SHARES = ((0.5, "popular"), (0.8, "middle"), (1.0, "rare"))  # of the training interactions, most popular items first


@dataclass(frozen=True)
class Segmentation:
    """One way to part users (or targets): S segments, L models.

    Attributes:
        title, note: what it is; how the segments are cut.
        of: what the sizes count: users, items or rows.
        names, sizes: (S,) of the segments.
        labels: (L,) of the models.
        values, low, high: (L, S) metric and its 95 % interval; nan where undefined.
    """

    title: str
    note: str
    of: str
    metric_title: str
    higher: bool
    names: list[str]
    sizes: list[int]
    labels: list[str]
    values: list[list[float]]
    low: list[list[float]]
    high: list[list[float]]


def segmentations(p: Part, split: SplitData) -> list[Segmentation]:
    """Return the segmentations that the data allow, of the first metric: history, target popularity, user groups.

    Raises:
        InputError: ``report.user_groups`` names a column that the users do not have.
    """
    outcomes, kind = p.outcomes, p.experiment.task.kind
    if not outcomes.metrics or not outcomes.labels:
        return []
    metric = outcomes.metrics[0]
    inner = places(split.users[USER_ID], outcomes.users)
    history = np.bincount(known(split, "test").user, minlength=split.users.height)[inner]
    out = []
    for name, note, codes, names in _of_users(history, split.users[inner], p.experiment.report.user_groups):
        measured = (
            _by_user(outcomes, codes, len(names)) if kind == "ranking" else _by_rows(outcomes, metric, codes, names)
        )
        out.append(_made(outcomes, metric, name, note, "users", codes, names, measured))
    if kind == "ranking" and outcomes.targets is not None:
        items = places(split.items[ITEM_ID], outcomes.targets["item"])
        trained, domain = split.train.item, p.experiment.task.domain
        if domain is not None:  # popular is what is popular there
            trained = trained[split.of_domains([domain])[trained]]
        codes, names = _popularity(np.bincount(trained, minlength=split.items.height), items)
        note = (
            "Each held-out item on its own. Popular items hold half of the training interactions, middle ones the next "
            "30 %, rare ones the rest; new ones have none."
        )
        measured = _by_target(outcomes, codes, len(names))
        out.append(_made(outcomes, metric, "Popularity of the held-out item", note, "items", codes, names, measured))
    return [s for s in out if len(s.names) > 1]


def _of_users(
    history: Array, users: pl.DataFrame, columns: Sequence[str] | None
) -> Iterator[tuple[str, str, Array, list[str]]]:
    """Yield (title, note, (U,) codes with -1 for none, names of the segments)."""
    rest = history[history >= COLD]
    middle = int(np.median(rest)) if len(rest) else COLD
    codes = np.where(history < COLD, 0, np.where(history <= middle, 1, 2))
    names = [f"cold, under {COLD}", f"light, {COLD} to {middle}", f"heavy, over {middle}"]
    yield (
        "History of the user",
        "By the number of known interactions; light and heavy part at the median.",
        codes,
        names,
    )
    features = [name for name in users.columns if name != USER_ID]
    for name in columns or ():
        if name not in features:
            raise InputError(f"report.user_groups: users have no '{name}'{nearest(name, features)}")
    for name in features if columns is None else columns:
        column = users[name]
        if columns is None and not column.dtype.is_numeric() and column.n_unique() - column.has_nulls() > FEW_VALUES:
            continue
        if (groups := groups_of(column)) is not None:
            yield name.replace("_", " ").capitalize(), groups.note, groups.codes, groups.names


def _popularity(counts: Array, items: Array) -> tuple[Array, list[str]]:
    order = np.argsort(-counts, kind="stable")
    before = np.zeros(len(counts))  # share of the interactions with more popular items
    before[order] = np.concatenate([[0], counts[order].cumsum()[:-1]]) / max(counts.sum(), 1)
    codes = np.searchsorted([share for share, _ in SHARES], before, side="right")
    codes = np.minimum(codes, len(SHARES) - 1)
    codes[counts == 0] = len(SHARES)
    return codes[items], [*(name for _, name in SHARES), "new"]


def _by_user(outcomes: Outcomes, codes: Array, n: int) -> list[tuple[Array, Array]]:
    """Return, a segment, (L,) means and (L, 2) intervals."""
    matrix = outcomes.matrix(outcomes.metrics[0])
    return [_mean(matrix[codes == s]) for s in range(n)]


def _by_target(outcomes: Outcomes, codes: Array, n: int) -> list[tuple[Array, Array]]:
    assert outcomes.targets is not None
    user = outcomes.targets["user"].to_numpy()
    matrix = np.column_stack([outcomes.target_values[label] for label in outcomes.labels])
    out = []
    for s in range(n):
        # a user's items stay together: users are what is drawn, so their sums are
        users, inverse = np.unique(user[codes == s], return_inverse=True)
        count = np.bincount(inverse, minlength=len(users))
        rows = matrix[codes == s]
        sums = np.column_stack([np.bincount(inverse, weights=column, minlength=len(users)) for column in rows.T])
        if not len(users):
            out.append(_mean(sums))
            continue
        mean = sums.sum(0) / count.sum()
        linear = mean + len(users) * (sums - mean * count[:, None]) / count.sum()  # a ratio's first-order values
        out.append((mean, bootstrap_intervals(linear, n=1000)))
    return out


def _by_rows(outcomes: Outcomes, metric: str, codes: Array, names: Sequence[str]) -> list[tuple[Array, Array]]:
    """Return the metric of a preference task on the rows of each segment's users."""
    assert outcomes.targets is not None
    parsed = parse_metric(metric)
    user, label = outcomes.targets["user"].to_numpy(), outcomes.targets["label"].to_numpy()
    out = []
    for s in range(len(names)):
        rows = codes[user] == s
        mean, values = [], []
        for model in outcomes.labels:
            undefined = np.isnan(outcomes.seeds[model, metric]).any()  # a probability is asked for, and there is none
            scores = [np.where(undefined, np.nan, score[rows]) for score in outcomes.target_scores[model]]
            seeds = [(user[rows], label[rows], score, None if undefined else score) for score in scores]
            mean.append(np.mean([preference_metric(parsed, *seed) for seed in seeds]))
            values.append(np.mean([preference_user_values(parsed, *seed)[1] for seed in seeds], axis=0))
        out.append((np.array(mean), bootstrap_intervals(np.column_stack(values), n=1000)))
    return out


def _mean(matrix: Array) -> tuple[Array, Array]:
    there = ~np.isnan(matrix)
    n = there.sum(0)
    mean = np.where(n > 0, np.where(there, matrix, 0).sum(0) / np.maximum(n, 1), np.nan)
    return mean, bootstrap_intervals(matrix, n=1000)


def _made(
    outcomes: Outcomes,
    metric: str,
    name: str,
    note: str,
    of: str,
    codes: Array,
    names: Sequence[str],
    measured: Sequence[tuple[Array, Array]],
) -> Segmentation:
    sizes = np.bincount(codes[codes >= 0], minlength=len(names))
    there = [s for s in range(len(names)) if sizes[s]]
    return Segmentation(
        name,
        note,
        of,
        title(metric),
        higher_is_better(parse_metric(metric).name),
        [names[s] for s in there],
        [int(sizes[s]) for s in there],
        outcomes.labels,
        np.column_stack([measured[s][0] for s in there]).tolist(),
        np.column_stack([measured[s][1][:, 0] for s in there]).tolist(),
        np.column_stack([measured[s][1][:, 1] for s in there]).tolist(),
    )
