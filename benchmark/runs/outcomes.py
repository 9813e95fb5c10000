"""Stored ranks and scores of the runs of one data set -> the values of every user, all runs over the same users."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from scipy.special import expit

from benchmark.errors import InputError
from benchmark.evaluation.metrics import (
    GENERATION_METRICS,
    Metric,
    UserRanks,
    higher_is_better,
    mean,
    parse_metric,
    preference_metric,
    ranking_metric,
)
from benchmark.evaluation.significance import seed_variance
from benchmark.evaluation.user_values import preference_user_values
from benchmark.runs.record import RunRecord, RunStore

Array = np.ndarray


@dataclass
class Outcomes:
    """What the finished runs did for each of the U judged users, by label; averaged over seeds if nothing else is said.

    Attributes:
        metrics: those that follow from ranks or scores, in the order asked for.
        users: (U,) raw user ids.
        seeds: by (label, metric), the metric of each seed's run.
        values: by (label, metric), (U,) values whose mean over users is the metric; nan where it is undefined.
        by_seed: by (label, metric), of the metrics that are kept, one (U,) a seed.
        within: by (label, metric), the mean over users of the variance of their values over the seeds; 0 of one seed.
        targets: columns ``user`` (position in ``users``) and ``item`` (raw id): the (N,) relevant items of a ranking,
            or the labelled rows of a preference task with ``label``; None where older records do not tell the item.
        target_values: of a ranking, by label, (N,): the first metric of each relevant item on its own.
        target_ranks: of a ranking, by label, (N,) 1-based mid-ranks of the first seed.
        target_scores: of a preference task, by label and seed, the (N,) scores: probabilities where they are some.
    """

    metrics: tuple[str, ...]
    users: pl.Series = field(default_factory=lambda: pl.Series("user", [], dtype=pl.String))
    seeds: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    values: dict[tuple[str, str], Array] = field(default_factory=dict)
    by_seed: dict[tuple[str, str], list[Array]] = field(default_factory=dict)
    within: dict[tuple[str, str], float] = field(default_factory=dict)
    targets: pl.DataFrame | None = None
    target_values: dict[str, Array] = field(default_factory=dict)
    target_ranks: dict[str, Array] = field(default_factory=dict)
    target_scores: dict[str, list[Array]] = field(default_factory=dict)

    @property
    def labels(self) -> list[str]:
        """The labels that have a finished run, in the order of the records."""
        return list(dict.fromkeys(label for label, _ in self.seeds))

    def matrix(self, metric: str, labels: Iterable[str] | None = None) -> Array:
        """Return (U, L) values of a metric, a column a label."""
        return np.stack([self.values[label, metric] for label in (labels or self.labels)]).T


def read(
    records: Sequence[RunRecord | None],
    metrics: Sequence[str],
    kind: str,
    store: RunStore,
    targets: bool = False,
    keep: Collection[str] = (),
) -> Outcomes:
    """Return the outcomes of the finished ones among ``records``.

    Args:
        records: of one experiment.
        metrics: of the task; those that models count themselves are left out.
        kind: of the task, ranking or preference.
        store: holds the ranks.
        targets: read what the relevant items tell too.
        keep: metrics of a ranking of which the values of each seed are kept.

    Raises:
        InputError: runs of different protocols, which no table may hold, or ranks that cannot be read.
    """
    done = [r for r in records if r is not None and r.status == "finished"]
    _of_one_protocol(done)
    ranked = tuple(m for m in metrics if parse_metric(m).name not in GENERATION_METRICS)
    out = Outcomes(ranked)
    known: tuple[pl.Series, pl.Series] | None = None
    for record in done:
        frame = store.ranks(record.key)
        if not len(out.users):
            out.users = frame["user"].unique(maintain_order=True)
        if known is not None and frame["user"].equals(known[0]):  # as a rule: what a join would find again
            frame = frame.with_columns(known[1])
        else:
            users = frame["user"]
            frame = _placed(frame, out.users, record, done[0])
            known = (users, frame["place"]) if frame["user"].equals(users) else known
        if kind == "ranking":
            _add_ranking(out, record, frame, targets, keep)
        else:
            _add_preference(out, record, frame, targets)
    runs = {label: len(out.seeds[label, ranked[0]]) for label in out.labels} if ranked else {}
    for (label, metric), values in out.values.items():
        n = runs[label]
        values /= n
        squares = out.within[label, metric] / n  # mean square, so far
        variance = (squares - _mean_square(values)) * n / max(n - 1, 1)
        out.within[label, metric] = max(variance, 0.0) if n > 1 else 0.0
    for label, values in out.target_values.items():
        values /= runs[label]
    return out


def best_baseline(outcomes: Outcomes, proposed: Collection[str], metric: str) -> str | None:
    """Return the best row of a metric that is none of the ``proposed`` ones, None where there is none."""
    sign = 1 if higher_is_better(parse_metric(metric).name) else -1
    means = {label: statistics.fmean(outcomes.seeds[label, metric]) for label in comparable(outcomes, metric)}
    baselines = [label for label in means if label not in proposed]
    return max(baselines, key=lambda label: sign * means[label], default=None)


def comparable(outcomes: Outcomes, metric: str) -> list[str]:
    """Return the labels that have the metric for two users at least: fewer tell nothing of the spread."""
    if metric not in outcomes.metrics:
        return []
    return [label for label in outcomes.labels if np.isfinite(outcomes.values[label, metric]).sum() > 1]


@dataclass(frozen=True)
class Differences:
    """What is known of the differences of L models to another one, paired over users.

    Attributes:
        mean: (L,) mean difference over the users that have a value of both.
        users: (L,) how many these are.
        by_users: (L,) variance of the mean because of the users.
        by_seeds: (L,) variance of it because a seed moves a model as a whole, see ``seed_variance``; 0: not known.
        doubt: (L,) variance of ``by_seeds``.
    """

    mean: Array
    users: Array
    by_users: Array
    by_seeds: Array
    doubt: Array


def differences(outcomes: Outcomes, metric: str, labels: Sequence[str], other: str) -> Differences:
    """Return what is known of the differences of some models to another one."""
    against = outcomes.values[other, metric]
    difference = outcomes.matrix(metric, labels) - against[:, None]
    known = ~np.isnan(difference)
    n = np.maximum(np.count_nonzero(known, axis=0), 1)
    difference[~known] = 0.0
    mean = difference.sum(0) / n
    squares = np.einsum("um,um->m", difference, difference) - n * mean**2
    by_users = np.maximum(squares, 0.0) / np.maximum(n - 1, 1) / n

    def moved(label: str, beside: str) -> Array:
        mine, theirs = outcomes.seeds[label, metric], outcomes.seeds[beside, metric]
        lent = len(mine) < 2 <= len(theirs)  # of one seed nothing is known: it is taken to move as much as the other's
        source = beside if lent else label
        found = np.array(seed_variance(outcomes.seeds[source, metric], outcomes.within[source, metric], len(against)))
        return found * ([len(theirs), len(theirs) ** 2] if lent else 1)

    by_seeds, doubt = np.array([moved(label, other) + moved(other, label) for label in labels]).T
    return Differences(mean, n, by_users, by_seeds, doubt)


def _of_one_protocol(records: Sequence[RunRecord]) -> None:
    def facts(record: RunRecord) -> dict[str, object]:
        task = {f"task.{name}": value for name, value in record.spec["task"].items()}
        prints = {name: getattr(record, f"{name}_fingerprint") for name in ("data", "split", "candidates")}
        return {**task, **prints, "judged users or rows": record.judged.get("test")}

    for record in records[1:]:
        for name, value in facts(record).items():
            other = facts(records[0]).get(name)
            if value != other:
                raise InputError(
                    f"runs of different protocols cannot stand in one table: {name} is {_short(other)} for "
                    f"{records[0].label} (run {records[0].key[:8]}) and {_short(value)} for {record.label} "
                    f"(run {record.key[:8]})"
                )


def _short(value: object) -> str:
    text = str(value)
    return text[:8] if len(text) == 64 else text


def _placed(frame: pl.DataFrame, users: pl.Series, record: RunRecord, first: RunRecord) -> pl.DataFrame:
    """Return the frame with the position of each row's user, sorted by it."""
    places = pl.DataFrame({"user": users, "place": np.arange(len(users))})
    placed = frame.join(places, on="user", how="left", maintain_order="left")
    if placed["place"].null_count() or placed["place"].n_unique() != len(users):
        raise InputError(
            f"runs of different protocols cannot stand in one table: {record.label} (run {record.key[:8]}) was judged "
            f"on other users than {first.label} (run {first.key[:8]})"
        )
    return placed if placed["place"].is_sorted() else placed.sort("place", maintain_order=True)


def user_ranks(frame: pl.DataFrame, n_users: int) -> tuple[UserRanks, int]:
    """Return the ranks of a stored table with positions (``place``), sorted by them, and the number of draws.

    Of several draws of candidates each is a user of its own there, those of one user behind each other.
    """
    place, draws = frame["place"].to_numpy(), 1
    if "draw" in frame.columns:
        draw = frame["draw"].to_numpy()
        draws = int(draw.max()) + 1
        place = place * draws + draw
    n_users *= draws
    offsets = np.concatenate([[0], np.bincount(place, minlength=n_users).cumsum()])
    n_candidates = frame["n_candidates"].to_numpy()[offsets[:-1]]
    return UserRanks(frame["above"].to_numpy(), frame["ties"].to_numpy(), offsets, n_candidates), draws


def _add_ranking(out: Outcomes, record: RunRecord, frame: pl.DataFrame, targets: bool, keep: Collection[str]) -> None:
    ranks, draws = user_ranks(frame, len(out.users))
    for metric in out.metrics:
        values = ranking_metric(parse_metric(metric), ranks).reshape(len(out.users), draws).mean(1)
        _add(out, record.label, metric, mean(values), values)
        if metric in keep:
            out.by_seed.setdefault((record.label, metric), []).append(values)
    if targets and "item" in frame.columns:
        frame = frame.sort("place", "item", maintain_order=True)  # ranks are in the order of each model's own
        if out.targets is None:
            out.targets = frame[::draws].select(user="place", item="item")
        above, ties, n_candidates = (frame[name].to_numpy() for name in ("above", "ties", "n_candidates"))
        alone = UserRanks(above, ties, np.arange(len(above) + 1), n_candidates)
        values = ranking_metric(parse_metric(out.metrics[0]), alone).reshape(-1, draws).mean(1)
        earlier = out.target_values.get(record.label)
        out.target_values[record.label] = values if earlier is None else earlier + values
        out.target_ranks.setdefault(record.label, alone.midrank.reshape(-1, draws).mean(1) + 1)


def _add_preference(out: Outcomes, record: RunRecord, frame: pl.DataFrame, targets: bool) -> None:
    user, label = frame["place"].to_numpy(), frame["label"].to_numpy()
    score = frame["score"].to_numpy().astype(np.float64)
    probability = expit(score) if record.probability else None
    for metric in out.metrics:
        parsed: Metric = parse_metric(metric)
        _, values = preference_user_values(parsed, user, label, score, probability)
        _add(out, record.label, metric, preference_metric(parsed, user, label, score, probability), values)
    if targets:
        frame = frame.select("row", "label", user="place")
        if out.targets is None:
            out.targets = frame
        out.target_scores.setdefault(record.label, []).append(score if probability is None else probability)


def _add(out: Outcomes, label: str, metric: str, seed: float, values: Array) -> None:
    out.seeds.setdefault((label, metric), []).append(seed)
    out.within[label, metric] = out.within.get((label, metric), 0.0) + _mean_square(values)
    earlier = out.values.get((label, metric))
    out.values[label, metric] = values.copy() if earlier is None else earlier + values


def _mean_square(values: Array) -> float:
    return mean(values**2)
