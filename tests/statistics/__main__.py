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
LEVEL = 0.05
COVERAGE_OFF, FALSE_OFF = 0.01, 0.015  # how far from 95 % and from 5 % we accept
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


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def marked(share: float, misses: bool) -> str:
    return f"**{percent(share)}**" if misses else percent(share)


def markdown(body: dict[str, Any]) -> str:
    """Return the report; what misses its goal is bold and counted."""
    missed: list[str] = []

    def judge(share: float, goal: float, off: float, one_sided: bool, what: str) -> str:
        far = share - goal if one_sided else abs(share - goal)
        if far > off + 1e-9:
            missed.append(f"{what}: {percent(share)}")
        return marked(share, far > off + 1e-9)

    lines = [
        "# Do the intervals and the tests keep what they say?",
        "",
        f"{body['date']}, `make statistics` (`python -m tests.statistics`), {body['minutes']:.0f} minutes; all figures "
        "with more digits, and what they ran on, in `statistics.json`. What misses its goal is bold.",
        "",
        "## Coverage of the 95 % interval",
        "",
        "Share of simulated tables whose interval (`bootstrap_intervals`, 2,000 draws of users, expanded percentiles) "
        "holds the true mean. Goal: 95 ± 1 %. *Above* and *below*: the share of intervals that lie wholly above and "
        "below the truth (2.5 % each would be even). *Student*: the coverage of the t interval on the same tables. "
        f"With {body['coverage'][0]['tables']:,} tables a figure is known to about ± 0.7 %.",
        "",
        "| Values of a user | Users | Covered | Above | Below | Student |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in body["coverage"]:
        what = f"coverage, {row['values']}, {row['users']:,} users"
        lines.append(
            f"| {row['values']} | {row['users']:,} | {judge(row['covered'], 1 - LEVEL, COVERAGE_OFF, False, what)} "
            f"| {percent(row['above'])} | {percent(row['below'])} | {percent(row['student'])} |"
        )
    lines += [
        "",
        "## Two runs of one model, simulated",
        "",
        "Both have the same quality; how hard a user is, is shared, and each run adds noise of its own to every user's "
        "rank; nDCG@10, three quarters of it zero. Share of tables in which the two are called different at .05 "
        "(`paired_p_values`). Goal: 5 ± 1.5 %. At 40,000 users the permutation test is its normal limit.",
        "",
        "| Test | Users | Tables | Called different |",
        "| --- | ---: | ---: | ---: |",
    ]
    for row in body["equals"]:
        what = f"two equal runs, {row['test']}, {row['users']:,} users"
        share = judge(row["called different"], LEVEL, FALSE_OFF, False, what)
        lines.append(f"| {row['test']} | {row['users']:,} | {row['tables']:,} | {share} |")
    lines += [
        "",
        "## A table of a reference and ten equal models, simulated",
        "",
        "Share of tables with any false mark at .05 after Holm's correction (goal: at most 6.5 %), after Benjamini's "
        "and Hochberg's (with nothing to find it promises the same), and without correction, as a warning. Holm's lies "
        "below 5 % because the ten comparisons share the reference, for which it makes no allowance.",
        "",
        "| Test | Users | Holm | BH | No correction |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for row in body["tables"]:
        shares = [
            judge(row[name], LEVEL, FALSE_OFF, True, f"any mark, {name}, {row['test']}, {row['users']:,} users")
            for name in ("holm", "bh")
        ]
        lines.append(f"| {row['test']} | {row['users']:,} | {' | '.join(shares)} | {percent(row['none'])} |")
    lines += [
        "",
        "## A table of ten equal models, each compared with the best, simulated",
        "",
        "Share of tables with any mark when the best of the ten is picked by looking: corrected for all 45 pairs, as "
        "the tables do (goal: at most 6.5 %), and, as a warning, for the nine comparisons with the best alone.",
        "",
        "| Users | Correction | All pairs | Its own pairs alone |",
        "| ---: | --- | ---: | ---: |",
    ]
    for row in body["best"]:
        what = f"any mark against the best, {row['method']}, {row['users']:,} users"
        share = judge(row["all pairs"], LEVEL, FALSE_OFF, True, what)
        lines.append(f"| {row['users']:,} | {row['method']} | {share} | {percent(row['own pairs'])} |")
    lines += [
        "",
        "## Two models of several seeds, simulated",
        "",
        "Both are one model, whose seeds move it as a whole: by 0, 1 or 3 times what the users' noise makes one expect "
        "of the difference of two runs; 200 users. *Users alone* is the test over users; *seeds counted* is what the "
        "tables use (`counting_seeds`). Goal: 5 ± 1.5 %. Of one seed nothing can be counted.",
        "",
        "| Seeds | Moved by | Users alone | Seeds counted |",
        "| ---: | ---: | ---: | ---: |",
    ]
    for row in body["moving"]:
        what = f"{row['seeds']} seeds moved by {row['moved']}"
        share = judge(row["counted"], LEVEL, FALSE_OFF, False, what)
        lines.append(f"| {row['seeds']} | {row['moved']} | {percent(row['alone'])} | {share} |")
    lines += [
        "",
        "## Seeds of a real model",
        "",
        f"MF of `experiments/quickstart.yaml` on MovieLens-100K, {body['seeds'][0]['seeds']} seeds: share of all pairs "
        "of seeds that are called different at .05 by a test over users. A seed moves a model as a whole, for all "
        "users in one direction, and no test over users knows that another would have moved it elsewhere. *Spread* is "
        "the standard deviation of the difference of two seeds, *s.e. by users* what the users alone make one expect "
        "of it. With one seed a mark says that these two runs differ; that the models do, only several can say.",
        "",
        "| Split | Metric | Users | Mean | Spread | s.e. by users | Permutation | Wilcoxon |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row['split']} | {row['metric']} | {row['users']:,} | {row['mean']:.4f} | {row['sd of a difference']:.4f} "
        f"| {row['standard error by users']:.4f} | {percent(row['permutation'])} | {percent(row['wilcoxon'])} |"
        for row in body["seeds"]
    ]
    lines += [
        "",
        "The same runs as a table would compare them: two groups of seeds, drawn 500 times, with the permutation test "
        "over users alone and with the seeds counted. Goal of the latter: 5 ± 1.5 %. The draws share 40 seeds, so "
        "that a figure is known to a few percent only.",
        "",
        "| Split | Metric | " + " | ".join(f"{n} seeds, alone | {n} seeds, counted" for n in GROUPS) + " |",
        "| --- | --- |" + " ---: | ---: |" * len(GROUPS),
    ]
    for row in body["seeds"]:
        shown = []
        for size, found in row["groups"].items():
            what = f"MF, {row['split']}, {row['metric']}, groups of {size} seeds"
            shown += [percent(found["alone"]), judge(found["counted"], LEVEL, FALSE_OFF, False, what)]
        lines.append(f"| {row['split']} | {row['metric']} | {' | '.join(shown)} |")
    lines += ["", "## What misses its goal", ""]
    lines += [f"- {text}" for text in missed] or ["Nothing."]
    if missed:
        lines += [
            "",
            "Few hits take few values, so that no interval of their mean can have every coverage; a mean of many zeros "
            "is skewed (*above* and *below* are uneven); and where some users have many more rows than others, few of "
            "them decide how wide the interval of a pooled AUC is. With few users Student's interval misses on the "
            "same tables too. An interval that covers 92.5 % is a tenth too narrow: read those of 50 users so.",
            "",
            "With the seeds counted, figures below 3.5 % are those of a cautious test: how much a seed moves a model "
            "is guessed from two to five of them, and where it moves nothing some movement is seen all the same. Those "
            "of one seed are what a test over users does, which cannot know better: a table of one seed says so.",
        ]
    return "\n".join(lines) + "\n"


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
