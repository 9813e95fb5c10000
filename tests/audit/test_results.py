"""What the audit says of results: power, popularity's share, budgets, trivial rows; each with a planted fault."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats

from benchmark.audit.budget import budget, trivial
from benchmark.audit.finding import Finding
from benchmark.audit.material import Material
from benchmark.audit.popularity import popularity
from benchmark.audit.power import power
from benchmark.experiment import Experiment
from benchmark.runs.outcomes import read
from benchmark.runs.record import RunStore
from benchmark.runs.run import prepare, run
from tests.audit.small import frame, material, only
from tests.reports.made import ranks, stored

SEARCH = {"search": {"l2": {"low": 1.0, "high": 1000.0, "log": True}}}


def made(root: Path, users: int, spread: float = 0.0, by_seed: float = 0.0, **changes: Any) -> Material:
    """Return made-up runs: two baselines and a language model, on so many users; better by ``by_seed`` a seed."""

    def frames(label: str) -> Callable[[int], pl.DataFrame]:
        quality = {"popularity": 0.0, "ease": 1.0, "llm": 1.2}[label]
        noise = int(1 + 100 * spread * quality)
        return lambda seed: ranks(quality + by_seed * seed * (label == "llm"), users=users, noise=noise)

    labels = ("popularity", "ease", "llm")
    experiment, records, store = stored(root, {k: frames(k) for k in labels}, {"seeds": [0], **changes})
    found = material(root / "data")
    found.experiment = experiment
    found.outcomes = read(records, experiment.task.metrics, "ranking", store, targets=True)
    return found


def test_few_users_cannot_tell_models_apart(tmp_path: Path) -> None:
    finding = only(power(made(tmp_path / "few", 60, spread=1.0)))
    assert finding.level == "warning"
    assert "With 60 users" in finding.said
    many = only(power(made(tmp_path / "many", 60_000, spread=1.0)))
    assert many.level == "fine"
    ratio = finding.numbers["ndcg@10_smallest"] / many.numbers["ndcg@10_smallest"]
    assert ratio == pytest.approx(np.sqrt(1000), rel=0.3)


def test_two_seeds_far_apart_may_be_able_to_decide_nothing(tmp_path: Path) -> None:
    finding = only(power(made(tmp_path, 200, by_seed=3.0, seeds=[0, 1])))
    assert finding.numbers["ndcg@10_smallest"] > 1
    assert "only beyond the range of the metric" in finding.said
    assert finding.level == "warning"


def test_the_smallest_difference_is_found_in_four_of_five_tables(tmp_path: Path) -> None:
    found = made(
        tmp_path,
        400,
        spread=1.0,
        models={"ease": {"class": "baselines.ease.EASE"}, "popularity": {"class": "baselines.popularity.Popularity"}},
    )
    finding = only(power(found))
    difference = found.outcomes.values["popularity", "ndcg@10"] - found.outcomes.values["ease", "ndcg@10"]
    smallest, deviation = finding.numbers["ndcg@10_smallest"], float(difference.std(ddof=1))
    assert finding.numbers["comparisons"] == 1
    assert smallest == pytest.approx(2.8016 * deviation / 20, rel=1e-3)
    rng = np.random.default_rng(0)
    drawn = rng.choice(difference - difference.mean() + smallest, (2000, 400))
    marked = stats.ttest_1samp(drawn, 0, axis=1).pvalue < 0.05
    assert marked.mean() == pytest.approx(0.8, abs=0.05)


def test_nothing_run_yet_is_unknown(tmp_path: Path) -> None:
    found = material(tmp_path)
    assert only(power(found)).level == only(popularity(found)).level == "unknown"


def real(tmp_path: Path, rows: pl.DataFrame, models: dict[str, Any], **task: Any) -> Finding:
    """Run real models on some rows and return what is said of popularity."""
    tmp_path.mkdir(exist_ok=True)
    csv = tmp_path / "rows.csv"
    rows.write_csv(csv)
    told = {
        "name": "real",
        "dataset": {"source": "csv", "interactions": str(csv)},
        "task": {"metrics": ["ndcg@10"], "split": {"kind": "leave_last_out"}, **task},
        "models": models,
        "trainer": {"max_epochs": 3},
    }
    experiment = Experiment.model_validate(told)
    records = run(experiment, tmp_path / "runs")
    outcomes = read(records, experiment.task.metrics, experiment.task.kind, RunStore(tmp_path / "runs"), targets=True)
    return only(popularity(Material(experiment, prepare(experiment, tmp_path / "runs"), outcomes, tmp_path)))


MODELS = {"popularity": {"class": "baselines.popularity.Popularity"}, "knn": {"class": "baselines.item_knn.ItemKNN"}}


def tastes(users: int = 100, each: int = 12) -> pl.DataFrame:
    """Return users of two tastes that share no item: popularity knows nothing of them."""
    rng = np.random.default_rng(1)
    rows = [
        (f"u{u}", f"i{item + 30 * (u % 2)}", 3.0, 1000.0 * k + u)
        for u in range(users)
        for k, item in enumerate(rng.choice(30, each, replace=False))
    ]
    return pl.DataFrame(rows, schema=["user_id", "item_id", "rating", "timestamp"], orient="row")


def test_a_score_that_popularity_explains(tmp_path: Path) -> None:
    finding = real(tmp_path / "a", frame(users=200, n_items=60, skew=1.3), MODELS)
    assert finding.level == "warning"
    assert finding.numbers["share"] >= 0.8
    assert finding.numbers["knn_spearman"] > 0.5
    own = real(tmp_path / "b", tastes(), MODELS)
    assert own.level == "fine"
    assert own.numbers["share"] < 0.8


@pytest.mark.parametrize("draws", [1, 5])
def test_popularity_alone_is_what_the_popularity_row_measures(draws: int, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    rows = frame(users=80, skew=1.0)
    finding = real(tmp_path, rows, MODELS, candidates={"kind": "sampled", "n": 15, "draws": draws})
    record = next(p for p in root.glob("*/record.json") if '"label": "popularity"' in p.read_text())
    assert finding.numbers["alone"] == pytest.approx(json.loads(record.read_text())["metrics"]["test"]["ndcg@10"])


def test_likes_that_the_items_alone_explain(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = frame(users=150)
    quality = pl.col("item_id").str.slice(1).cast(int) / 40
    item_made = rows.with_columns(
        rating=pl.when(quality + pl.Series(rng.random(rows.height)) * 0.4 > 0.7).then(5).otherwise(1)
    )
    learned = {"class": "baselines.mf.MF", "loss": "bce", "learning_rate": 0.05, "batch_size": 128}
    models = {"bias": {"class": "baselines.bias.Bias"}, "mf": learned}
    task = {"kind": "preference", "metrics": ["auc"], "split": {"kind": "ratio"}}
    finding = real(tmp_path / "a", item_made, models, **task)
    assert finding.level == "warning"
    assert finding.numbers["alone"] > 0.8
    user = pl.col("user_id").str.slice(1).cast(int) / 150
    user_made = rows.with_columns(
        rating=pl.when(user + pl.Series(rng.random(rows.height)) * 0.4 > 0.7).then(5).otherwise(1)
    )
    models["mf"] |= {"learning_rate": 0.1, "trainer": {"max_epochs": 20}}
    assert real(tmp_path / "b", user_made, models, **task).level == "fine"


def budgets(tmp_path: Path, trials: dict[str, int], models: dict[str, Any], **settings: Any) -> Finding:
    found = material(tmp_path, models=models, **settings)
    found.budgets = trials
    return only(budget(found))


def test_a_baseline_with_fewer_trials_than_what_is_proposed(tmp_path: Path) -> None:
    models = {
        "popularity": {"class": "baselines.popularity.Popularity"},
        "ease": {"class": "baselines.ease.EASE", **SEARCH},
        "knn": {"class": "baselines.item_knn.ItemKNN"},
        "llm": {"class": "benchmark.llm.two_tower.TwoTower", "search": {"peft.rank": {"choices": [2, 4]}}},
    }
    finding = budgets(tmp_path, {"llm": 20, "ease": 5}, models)
    assert finding.level == "warning"
    assert "llm is proposed and was given 20 trials; baselines with fewer: ease 5 and knn none" in finding.said
    assert "popularity" not in finding.said, "nothing to tune"
    waiting = budgets(tmp_path, {"llm": 20}, models)
    assert "The search of ease is planned but not made yet" in waiting.said
    models["knn"] |= {"search": {"neighbours": {"choices": [5, 10]}}}
    assert budgets(tmp_path, {"llm": 20, "ease": 20, "knn": 20}, models).level == "fine"
    del models["ease"]["search"], models["knn"]["search"], models["llm"]["search"]
    assert budgets(tmp_path, {}, models).level == "fine"


def test_what_is_proposed_may_be_named(tmp_path: Path) -> None:
    models = {"ease": {"class": "baselines.ease.EASE", **SEARCH}, "knn": {"class": "baselines.item_knn.ItemKNN"}}
    assert budgets(tmp_path, {"ease": 9}, models).level == "fine"
    finding = budgets(tmp_path, {"ease": 9}, models, report={"proposed": ["ease"]})
    assert finding.level == "warning"
    assert "baselines with fewer: knn none" in finding.said
    with pytest.raises(ValueError, match=r"report.proposed: no model 'eese'; did you mean 'ease'?"):
        budgets(tmp_path, {}, models, report={"proposed": ["eese"]})


def test_a_table_without_a_trivial_row(tmp_path: Path) -> None:
    assert only(trivial(material(tmp_path))).level == "fine"
    assert only(trivial(material(tmp_path, models={"ease": {"class": "baselines.ease.EASE"}}))).level == "warning"
