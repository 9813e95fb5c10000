"""Measures what `report.beyond` asks for, model by model and seed by seed, and says what a reader must know of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl
from scipy.sparse import csr_array

from benchmark.data.schema import ITEM_ID, USER_ID, Interactions, SplitData
from benchmark.data.split import known as known_interactions
from benchmark.data.text import text_vectors
from benchmark.evaluation import beyond as values_of
from benchmark.evaluation.metrics import mean, parse_metric, preference_metric
from benchmark.evaluation.user_values import preference_user_values
from benchmark.experiment import EXPOSURE, GAP, Beyond, Experiment, check_columns
from benchmark.reports.groups import Groups, groups_of
from benchmark.reports.names import beyond_title
from benchmark.runs.lists import places, top_lists
from benchmark.runs.outcomes import Outcomes
from benchmark.runs.record import RunRecord, RunStore

Array = np.ndarray


@dataclass(frozen=True)
class Measured:
    """One column of one model.

    Attributes:
        seeds: (S,) of each seed's run; empty where there is none.
        values: (U,) user values averaged over the seeds, whose spread is that of the mean; None: there are none.
        reason: why there is no number.
    """

    seeds: Sequence[float] = ()
    values: Array | None = None
    reason: str = ""


@dataclass(frozen=True)
class BeyondAccuracy:
    """What was measured.

    Attributes:
        cells: by (label, text of the column).
        by_chance: by text of a gap and label, what it would be on average if the groups were dealt out to the users at
            random; without models that have no gap.
        providers: by text of an exposure, over how many values of the column it is told.
    """

    cells: Mapping[tuple[str, str], Measured] = field(default_factory=dict)
    by_chance: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    providers: Mapping[str, int] = field(default_factory=dict)


def measure(
    experiment: Experiment,
    records: Sequence[RunRecord | None],
    outcomes: Outcomes,
    split: SplitData,
    store: RunStore,
) -> BeyondAccuracy:
    """Return what `report.beyond` asks for of the finished ones among ``records``.

    Args:
        experiment: with what it asks for.
        records: of its runs.
        outcomes: of the records; with the values of each seed, or the targets of a preference task, for gaps.
        split: the data of the runs.
        store: holds the lists.

    Raises:
        InputError: the data have no such column, or lists cannot be read.
    """
    done = [r for r in records if r is not None and r.status == "finished"]
    asked = experiment.beyond
    check_columns(asked, split.users, split.items)
    if not asked or not done:
        return BeyondAccuracy()
    split = _of_domain(split, experiment.task.domain)
    inner = places(split.users[USER_ID], outcomes.users)
    cells: dict[tuple[str, str], Measured] = {}
    by_chance: dict[str, dict[str, float]] = {}
    for one in asked:
        if one.name == GAP:
            groups = groups_of(split.users[str(one.column)][inner])
            for label in outcomes.labels:
                cells[label, one.text] = _gap(outcomes, label, str(one.metric), groups)
            if groups is not None:
                matrix = outcomes.matrix(str(one.metric))
                found = values_of.gap_by_chance(matrix, groups.codes, len(groups.names)).tolist()
                known = {k: v for k, v in zip(outcomes.labels, found, strict=True) if np.isfinite(v)}
                by_chance[one.text] = known
    if of_lists := [one for one in asked if one.name != GAP]:
        cells |= _of_lists(of_lists, done, outcomes.users, inner, split, store)
    exposed = [one for one in asked if one.name == EXPOSURE]
    providers = {one.text: item_shares(split.items[str(one.column)]).shape[1] for one in exposed}
    return BeyondAccuracy(cells, by_chance, providers)


def legend(experiment: Experiment, measured: BeyondAccuracy, dataset: str) -> list[str]:
    """Return what a reader must know of the columns: one line, and one a gap that says what it would be by luck."""
    asked, candidates = experiment.beyond, experiment.task.candidates
    if not asked:
        return []
    first = f"{beyond_title(asked[0])} and the columns behind it are neither ranked nor tested"
    if experiment.task.kind == "ranking":
        first += ": a random order covers most, and that is no merit"
    if candidates.kind != "full":
        first += f"; the lists are of the held-out items and {candidates.n} sampled ones"
    if experiment.task.domain is not None and any(one.name != GAP for one in asked):
        first += f"; the catalogue, its popularity and the users who know it are those of {experiment.task.domain}"
    lines = [first]
    for one in asked:
        if by_luck := measured.by_chance.get(one.text):
            low, high = min(by_luck, key=lambda k: by_luck[k]), max(by_luck, key=lambda k: by_luck[k])
            lines.append(
                f"{beyond_title(one)}: with '{one.column}' dealt out to the users at random it would be "
                f"{np.mean(list(by_luck.values())):.4f} on average, {by_luck[low]:.4f} ({low}) to {by_luck[high]:.4f} "
                f"({high})"
            )
        if (n := measured.providers.get(one.text)) is not None:
            values = f"{n} values" if n != 1 else "1 value"
            lines.append(f"{beyond_title(one)}: over {values}; an item with several counts for each in equal parts")
    return [f"{dataset}: {line}." if dataset else f"{line}." for line in lines]


def _of_domain(split: SplitData, domain: str | None) -> SplitData:
    """Return the data with the items of the judged domain alone, numbered anew, and the interactions with them."""
    if domain is None:
        return split
    inside = split.of_domains([domain])
    number = np.cumsum(inside, dtype=np.int32) - 1

    def within(rows: Interactions) -> Interactions:
        mine = rows.take(np.flatnonzero(inside[rows.item]))
        return replace(mine, item=number[mine.item])

    names = ("train", "valid", "test", "valid_known", "test_known", "train_known")
    parts: dict[str, Any] = {name: within(rows) for name in names if (rows := getattr(split, name)) is not None}
    return replace(split, items=split.items.filter(inside), vectors={}, **parts)


def _gap(outcomes: Outcomes, label: str, metric: str, groups: Groups | None) -> Measured:
    seeds = outcomes.seeds[label, metric]
    if np.isnan(seeds).any():
        return Measured(seeds)
    if groups is None:
        return Measured(reason="one group")
    if (by_seed := outcomes.by_seed.get((label, metric))) is not None:
        found = values_of.gap(np.stack(by_seed), groups.codes, len(groups.names))
    else:
        values, means = _of_rows(outcomes, label, metric, groups)
        found = values_of.gap(values, groups.codes, len(groups.names), means)
    if found is None:
        return Measured(reason="one group")
    return Measured(found.seeds.tolist(), found.values)


def _of_rows(outcomes: Outcomes, label: str, metric: str, groups: Groups) -> tuple[Array, Array]:
    """Return the (S, U) user values and the (S, G) metric of a preference task, each group's on its own users' rows."""
    assert outcomes.targets is not None
    parsed, scores = parse_metric(metric), outcomes.target_scores[label]
    user, truth = outcomes.targets["user"].to_numpy(), outcomes.targets["label"].to_numpy()
    values = np.full((len(scores), len(outcomes.users)), np.nan)
    means = np.full((len(scores), len(groups.names)), np.nan)
    for g in range(len(groups.names)):
        rows = groups.codes[user] == g
        for s, score in enumerate(scores):
            told = user[rows], truth[rows], score[rows], score[rows]
            means[s, g] = preference_metric(parsed, *told)
            users, own = preference_user_values(parsed, *told)
            values[s, users] = own
    return values, means


def _of_lists(
    asked: Sequence[Beyond],
    done: Sequence[RunRecord],
    users: pl.Series,
    inner: Array,
    split: SplitData,
    store: RunStore,
) -> dict[tuple[str, str], Measured]:
    """Return what is read of lists; ``inner`` holds the row of each of the (U,) users in the users table."""
    popularity = np.bincount(split.train.item, minlength=split.n_items)
    value_of = {one: _measure_of(one, inner, split, popularity) for one in asked}
    longest = max(one.k or 0 for one in asked)
    seeds: dict[tuple[str, str], list[float]] = {}
    sums: dict[tuple[str, str], Array] = {}
    for record in done:
        lists = top_lists(record, users, split.items[ITEM_ID], longest, store)
        for one, value in value_of.items():
            name = (record.label, one.text)
            if value is None:
                continue
            if isinstance(found := value(lists), float):
                seeds.setdefault(name, []).append(found)
            else:
                seeds.setdefault(name, []).append(mean(found))
                sums[name] = sums[name] + found if name in sums else found
    out = {}
    for label in dict.fromkeys(record.label for record in done):
        for one, value in value_of.items():
            name = (label, one.text)
            if value is None:
                out[name] = Measured(reason="no item text")
            else:
                out[name] = Measured(seeds[name], sums[name] / len(seeds[name]) if name in sums else None)
    return out


def _measure_of(
    one: Beyond, inner: Array, split: SplitData, popularity: Array
) -> Callable[[Array], Array | float] | None:
    """Return the function of the lists that gives (U,) user values, or one number; None without the texts it needs."""
    k, n_items = int(one.k or 0), split.n_items
    if one.name == "coverage":
        return lambda lists: values_of.coverage(lists, k, n_items)
    if one.name == "gini":
        return lambda lists: values_of.gini_values(lists, k, n_items)
    if one.name == "novelty":
        pairs = np.sort(split.train.user.astype(np.int64) * n_items + split.train.item)
        pairs = pairs[np.diff(pairs, prepend=-1) > 0]  # who came back counts once
        knowing = np.bincount(pairs % n_items, minlength=n_items)
        n_users = int(np.count_nonzero(np.diff(split.train.offsets)))
        return lambda lists: values_of.novelty(lists, k, knowing, n_users)
    if one.name == "popularity_bias":
        history = _history_popularity(split, popularity)[inner]
        return lambda lists: values_of.popularity_bias_values(lists, k, popularity, history)
    if one.name == EXPOSURE:
        shares = item_shares(split.items[str(one.column)])
        reference = shares.T @ (popularity / popularity.sum())
        return lambda lists: values_of.exposure_values(lists, k, shares, reference)
    vectors = text_vectors(split.items)
    return None if vectors is None else lambda lists: values_of.diversity_values(lists, k, vectors)


def _history_popularity(split: SplitData, popularity: Array) -> Array:
    """Return (n_users,) the mean training popularity of what is known of each user at test; nan of nothing."""
    rows = known_interactions(split, "test")
    total = np.bincount(rows.user, weights=popularity[rows.item], minlength=split.n_users)
    n = np.bincount(rows.user, minlength=split.n_users)
    return np.where(n > 0, total / np.maximum(n, 1), np.nan)


def item_shares(column: pl.Series) -> csr_array:
    """Return (n_items, J) sparse: how the exposure of each item is split over the J values of a column.

    A list is split evenly over its values; items without a value are a value of their own. Rows add up to 1. Text with
    commas is a list where that leaves fewer different values: genres recur in other company, names of firms do not.
    """
    if column.dtype in (pl.String, pl.Categorical, pl.Enum):
        column = column.cast(pl.String).replace("", None)
        words = column.str.split(",").list.eval(pl.element().str.strip_chars().replace("", None))
        column = words if words.explode().n_unique() < column.n_unique() else column
    frame = pl.DataFrame({"item": np.arange(len(column)), "value": column})
    if isinstance(column.dtype, pl.List):
        values = pl.col("value").list.drop_nulls().list.unique()
        frame = frame.with_columns(pl.when(values.list.len() > 0).then(values).alias("value")).explode("value")
    n = frame.select(pl.len().over("item")).to_series().to_numpy()
    code = frame["value"].rank("dense").fill_null(0).to_numpy().astype(np.int64)
    used, code = np.unique(code, return_inverse=True)
    return csr_array((1 / n, (frame["item"].to_numpy(), code)), shape=(len(column), len(used)))
