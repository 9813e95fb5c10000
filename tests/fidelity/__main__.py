"""`make fidelity`: RecBole's own trainer against ours; one split, one set of hyper-parameters, three seeds.

For each model and seed both sides train the same number of epochs on the same rows, and the weights of the last epoch
are tested, by RecBole's evaluator there and by ours here. A pair of means agrees where their difference lies inside the
95 % interval of the pooled standard deviation (two-sided t test, 4 degrees of freedom); a model without randomness must
agree to 1e-6. What is done is kept in results/recbole-fidelity/fidelity.json, so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
import warnings
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import numpy as np
import polars as pl
from rich.console import Console
from scipy import stats

from baselines.recbole import RecBole, compat
from benchmark.data.schema import TIMESTAMP, USER, Dataset, Interactions, SplitData
from benchmark.data.sources.movielens_100k import MovieLens100K
from benchmark.data.split import LeaveLastOut, Ratio, split
from benchmark.data.task import Task
from benchmark.runs.environment import commit, environment
from tests.contract import fit
from tests.fidelity.own import linked_only, train_own

FOLDER = Path(__file__).parents[2] / "results" / "recbole-fidelity"
SEEDS = (0, 1, 2)
RANKING, CLICKS = ("ndcg@10", "recall@10"), ("auc",)


@dataclass(frozen=True)
class Case:
    """A model, its hyper-parameters, and the data it is compared on."""

    model: str
    epochs: int
    parameters: dict[str, Any] = field(default_factory=dict)
    data: Literal["ratio", "linked", "sequences", "clicks", "ids"] = "ratio"
    note: str = ""
    as_is: bool = False  # ours too with RecBole's class unchanged: see ``compat.adapted``

    @property
    def name(self) -> str:
        return f"{self.model} ({self.note})" if self.note else self.model

    @property
    def metrics(self) -> tuple[str, ...]:
        return CLICKS if self.data in ("clicks", "ids") else RANKING


SHORT = {"MAX_ITEM_LIST_LENGTH": 10, "learning_rate": 0.003}
CONTEXT = {"learning_rate": 0.002}
TURNS = {"learning_rate": 0.005, "train_rec_step": 3, "train_kg_step": 1}
CASES = (
    Case("BPR", 20, {"learning_rate": 0.005}),
    Case("LightGCN", 15, {"learning_rate": 0.005}),
    Case("NeuMF", 8, {"learning_rate": 0.003}),
    Case("MultiVAE", 60, {"learning_rate": 0.002, "train_batch_size": 256}),
    Case("ENMF", 30, {"learning_rate": 0.005, "train_batch_size": 256}),
    Case("EASE", 1),
    Case("ItemKNN", 1),
    Case("GRU4Rec", 5, SHORT, "sequences"),
    Case("SASRec", 3, SHORT, "sequences"),
    Case("FPMC", 15, {"MAX_ITEM_LIST_LENGTH": 10, "learning_rate": 0.01}, "sequences"),
    Case("STAMP", 8, SHORT, "sequences"),
    Case("CKE", 8, {"learning_rate": 0.005}, "linked"),
    Case("CFKG", 8, {"learning_rate": 0.005}, "linked"),
    Case("KTUP", 8, TURNS, "linked"),
    Case("KTUP", 8, TURNS, "linked", "with RecBole's noise in scoring", as_is=True),
    Case("FM", 8, CONTEXT, "clicks"),
    Case("DeepFM", 6, CONTEXT, "clicks"),
    Case("WideDeep", 6, CONTEXT, "clicks"),
    Case("LightGBM", 1, {}, "ids"),
    Case("XGBoost", 1, {}, "ids"),
)
COLUMNS = {"user": ["age", "gender", "occupation"], "item": ["year", "genres"]}


@cache
def data(kind: str) -> tuple[SplitData, Task]:
    """Return MovieLens-100K as one of five splits.

    Ids are given in the order of appearance, as RecBole gives them: neighbours of equal weight and the thresholds of
    trees depend on them. sequences: 300 users, with a user's equal times put into one fixed order, since RecBole orders
    them as they come. ids: without features, whose codes RecBole also gives in the order of appearance.
    """
    made, task = _made(kind)
    return _in_order(made), task


def _made(kind: str) -> tuple[SplitData, Task]:
    source = MovieLens100K().load()
    if kind == "sequences":
        users = np.random.default_rng(0).choice(source.users.height, 300, replace=False)
        task = Task(split=LeaveLastOut(), metrics=RANKING)
        return split(_distinct_times(_of(source, users)), task.split), task
    task = Task(split=Ratio(), metrics=RANKING)
    if kind == "linked":
        return split(linked_only(source), task.split), task
    if kind in ("clicks", "ids"):
        task = Task(kind="preference", split=Ratio(), metrics=CLICKS)
    if kind == "ids":
        source = replace(source, users=source.users.select("user_id"), items=source.items.select("item_id"))
    return split(source, task.split), task


def _of(source: Dataset, users: np.ndarray) -> Dataset:
    return source.after("sample of users", source.interactions.filter(pl.col(USER).is_in(users)))


def _in_order(made: SplitData) -> SplitData:
    """Return the split with items numbered by their first appearance in the parts, rows by user and time."""
    parts = (made.train, made.valid, made.test)
    items = np.concatenate([part.item for part in parts])
    distinct, first = np.unique(items, return_index=True)
    order = distinct[np.argsort(first)]
    number = np.empty(made.n_items, np.int64)
    number[order] = np.arange(len(order))

    def renumbered(part: Interactions) -> Interactions:
        return Interactions.from_arrays(part.user, number[part.item], part.rating, part.time, made.n_users)

    train, valid, test = map(renumbered, parts)
    return replace(made, train=train, valid=valid, test=test, items=made.items[order])


def _distinct_times(source: Dataset) -> Dataset:
    rows = source.interactions.sort(USER, TIMESTAMP, "item")
    return replace(source, interactions=rows.with_columns(pl.int_range(pl.len()).cast(pl.Float64).alias(TIMESTAMP)))


def train_ours(case: Case, seed: int) -> dict[str, float]:
    """Train the adapted model through Lightning; its metrics at test, of the last epoch's weights."""
    split_data, task = data(case.data)
    parameters = dict(case.parameters)
    if case.data == "clicks":
        parameters["load_col"] = COLUMNS
    with mock.patch.object(compat, "adapted", lambda model: model) if case.as_is else contextlib.nullcontext():
        fitted = fit(RecBole, {"model": case.model, "parameters": parameters}, split_data, task, case.epochs, seed)
    return {name: fitted.model.metrics["test"][name] for name in case.metrics}


def train_theirs(case: Case, seed: int) -> dict[str, float]:
    """Train with RecBole's own trainer."""
    split_data, task = data(case.data)
    found = train_own(case.model, split_data, task.kind, dict(case.parameters), case.epochs, seed)
    return {name: found[name] for name in case.metrics}


def compare(ours: list[float], theirs: list[float]) -> tuple[float, float, bool]:
    """Return the difference of means, half of its 95 % interval, and whether the means agree."""
    a, b = np.array(ours), np.array(theirs)
    difference = float(a.mean() - b.mean())
    pooled = np.sqrt((a.var(ddof=1) + b.var(ddof=1)) / 2)
    half = float(stats.t.ppf(0.975, len(a) + len(b) - 2) * pooled * np.sqrt(1 / len(a) + 1 / len(b)))
    return difference, half, abs(difference) <= max(half, 1e-6)


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return the table, one line a model and metric."""
    lines = [
        "| Model | Family | Metric | RecBole's own trainer | through Lightning | Difference | 95 % interval | Agrees |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        theirs, ours = np.array(row["theirs"]), np.array(row["ours"])
        difference, half, agrees = compare(row["ours"], row["theirs"])
        lines.append(
            f"| {row['model']} | {row['family'].replace('_', '-')} | {row['metric']} "
            f"| {theirs.mean():.4f} ± {theirs.std(ddof=1):.4f} | {ours.mean():.4f} ± {ours.std(ddof=1):.4f} "
            f"| {difference:+.4f} | ±{half:.4f} | {'yes' if agrees else 'no'} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help="which models; all by default")
    parser.add_argument("--again", action="store_true", help="forget what is stored of these models")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    file = FOLDER / "fidelity.json"
    stored = json.loads(file.read_text()) if file.exists() else {"runs": {}}
    runs: dict[str, dict[str, float]] = stored["runs"]
    console = Console(width=160)
    cases = [case for case in CASES if not arguments.models or case.model in arguments.models]
    for case in cases:
        for seed in SEEDS:
            for side, train in (("theirs", train_theirs), ("ours", train_ours)):
                key = f"{case.name}/{seed}/{side}"
                if key in runs and not arguments.again:
                    continue
                begin = time.perf_counter()
                runs[key] = train(case, seed)
                seconds = time.perf_counter() - begin
                console.print(f"{key:<24} {runs[key]}  {seconds:.1f} s", highlight=False)
                body = {
                    "date": time.strftime("%Y-%m-%d"),
                    "environment": environment(),
                    "commit": commit(),
                    "cases": {c.name: vars(c) for c in CASES},
                    "runs": runs,
                }
                FOLDER.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps(body, indent=1, default=str) + "\n", encoding="utf-8")
    rows = [
        {
            "model": case.name,
            "family": compat.models()[case.model],
            "metric": metric,
            **{side: [runs[f"{case.name}/{seed}/{side}"][metric] for seed in SEEDS] for side in ("ours", "theirs")},
        }
        for case in CASES
        if all(f"{case.name}/{seed}/{side}" in runs for seed in SEEDS for side in ("ours", "theirs"))
        for metric in case.metrics
    ]
    (FOLDER / "table.md").write_text(markdown(rows), encoding="utf-8")
    console.print(markdown(rows), highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
