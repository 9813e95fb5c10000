"""`make statistics`: do intervals hold the truth, and do tests err, as often as they say? On simulations and on MF.

Writes results/statistics/statistics.json and README.md; about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from benchmark.data.split import Ratio
from benchmark.evaluation.evaluator import RankingEvaluator
from benchmark.evaluation.significance import paired_p_values
from benchmark.experiment import Experiment, load_all
from benchmark.runs.environment import environment
from benchmark.runs.record import RunStore
from benchmark.runs.run import run
from tests.statistics.report import LEVEL, markdown
from tests.statistics.simulations import (
    DISTRIBUTIONS,
    any_mark,
    any_mark_of_the_best,
    coverage,
    equal_models,
    moving_seeds,
    p_values_of_equals,
    p_values_of_seeds,
)

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "results" / "statistics"
Test = Literal["permutation", "wilcoxon"]
TABLES = 4000
GROUPS = (2, 3, 5)  # seeds a side
METRICS = ("ndcg@10", "recall@10", "auc")


def say(text: str) -> None:
    print(text, flush=True)


def simulate_coverage(tables: int) -> list[dict[str, Any]]:
    rows = []
    for name, values in DISTRIBUTIONS.items():
        for users in (50, 200, 1000):
            found = coverage(values, users, tables)
            rows.append({"values": name, "users": users, "tables": tables, "truth": values.mean, **found})
            say(f"{name:<36}{users:>6} users  covered {found['covered']:.4f}  Student {found['student']:.4f}")
    return rows


def simulate_equals(tables: int) -> list[dict[str, Any]]:
    """40,000 users are so many that the permutation test takes its normal limit."""
    rows = []
    for test in get_args(Test):
        for users, n in ((50, tables), (200, tables), (1000, tables), (40_000, tables // 4)):
            share = float((p_values_of_equals(test, users, n) <= LEVEL).mean())
            rows.append({"test": test, "users": users, "tables": n, "called different": share})
            say(f"{test:<12} {users:>6} users  two runs called different {share:.4f}")
    return rows


def simulate_tables(tables: int) -> list[dict[str, Any]]:
    rows = []
    for test in get_args(Test):
        for users in (50, 200, 1000):
            p = p_values_of_equals(test, users, tables, models=10)
            marks = {"holm": any_mark(p, "holm"), "bh": any_mark(p, "bh"), "none": float((p <= LEVEL).any(1).mean())}
            rows.append({"test": test, "users": users, "tables": tables, **marks})
            say(f"{test:<12} {users:>6} users  any mark among ten: {marks}")
    return rows


def simulate_best(tables: int) -> list[dict[str, Any]]:
    rows = []
    for users in (50, 200, 1000):
        values = equal_models(np.random.default_rng(users), users, tables, models=9)
        for method in ("holm", "bh"):
            every, own = any_mark_of_the_best(values, method)
            rows.append({"users": users, "method": method, "tables": tables, "all pairs": every, "own pairs": own})
            say(f"{users} users, ten equal models, a mark against the best, {method}: {every:.4f}, own {own:.4f}")
    return rows


def simulate_seeds(tables: int) -> list[dict[str, Any]]:
    rows = []
    for seeds in (1, 2, 3, 5):
        for moved in (0, 1, 3):
            alone, counted = (p_values_of_seeds(moving_seeds(200, tables, seeds, moved)) <= LEVEL).mean(axis=0)
            rows.append({"seeds": seeds, "moved": moved, "tables": tables, "alone": alone, "counted": counted})
            say(f"{seeds} seeds moved by {moved}: users alone {alone:.4f}, seeds counted {counted:.4f}")
    return rows


def groups_of_seeds(values: np.ndarray, size: int, tables: int) -> dict[str, float]:
    """Compare disjoint groups of ``size`` seeds of the (users, seeds) values, drawn ``tables`` times."""
    rng = np.random.default_rng(size)
    drawn = np.array([rng.permutation(values.shape[1])[: 2 * size].reshape(2, size) for _ in range(tables)])
    alone, counted = (p_values_of_seeds(values[:, drawn]) <= LEVEL).mean(axis=0)
    return {"alone": float(alone), "counted": float(counted)}


def real_seeds(seeds: int) -> list[dict[str, Any]]:
    """Train MF of experiments/quickstart.yaml with many seeds; compare all pairs of them over the test users."""
    quickstart = load_all(ROOT / "experiments" / "quickstart.yaml")[0]
    label = "mf-bpr"
    base = quickstart.model_copy(
        update={"models": {label: quickstart.models[label]}, "seeds": tuple(range(seeds)), "name": "seeds"}
    )
    by_ratio = base.task.model_copy(update={"split": Ratio()})
    splits = {
        "temporal, as in the quickstart": base,
        "ratio 8:1:1": base.model_copy(update={"task": by_ratio}),
    }
    rows = []
    for split, experiment in splits.items():
        values = user_values(experiment)
        for metric in METRICS:
            column = values[metric]
            # each pair once: a column against the columns behind it
            pairs = [(column[:, i + 1 :], column[:, i]) for i in range(seeds - 1)]
            spread = np.concatenate([(others - one[:, None]).std(axis=0, ddof=1) for others, one in pairs])
            row: dict[str, Any] = {
                "split": split,
                "metric": metric,
                "users": len(column),
                "seeds": seeds,
                "mean": float(column.mean()),
                "sd of a difference": float(math.sqrt(2) * column.mean(axis=0).std(ddof=1)),
                "standard error by users": float(spread.mean() / math.sqrt(len(column))),
            }
            for test in get_args(Test):
                p = np.concatenate([paired_p_values(others, one, test) for others, one in pairs])
                row[test] = float((p <= LEVEL).mean())
            row["groups"] = {str(size): groups_of_seeds(column, size, 500) for size in GROUPS}
            rows.append(row)
            say(f"MF, {split}, {metric}: {row['permutation']:.3f} permutation, {row['wilcoxon']:.3f} wilcoxon")
    return rows


def user_values(experiment: Experiment) -> dict[str, np.ndarray]:
    """Return the (users, seeds) values of each metric at test."""
    with tempfile.TemporaryDirectory() as folder:
        records = run(experiment, folder)
        failed = [record.error for record in records if record.status != "finished"]
        if failed:
            raise RuntimeError(failed[0])
        store = RunStore(folder)
        evaluators = [RankingEvaluator.from_table(store.ranks(record.key), METRICS) for record in records]
    return {metric: np.stack([e.per_user(metric) for e in evaluators], axis=1) for metric in METRICS}


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    warnings.simplefilter("ignore")
    begin = time.perf_counter()
    body: dict[str, Any] = {
        "coverage": simulate_coverage(TABLES),
        "equals": simulate_equals(TABLES),
        "tables": simulate_tables(TABLES),
        "best": simulate_best(TABLES // 4),
        "moving": simulate_seeds(TABLES // 2),
        "seeds": real_seeds(40),
    }
    minutes = (time.perf_counter() - begin) / 60
    body = {"date": time.strftime("%Y-%m-%d"), "minutes": minutes, "environment": environment(), **body}
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "statistics.json").write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    (FOLDER / "README.md").write_text(markdown(body), encoding="utf-8")


if __name__ == "__main__":
    main()
