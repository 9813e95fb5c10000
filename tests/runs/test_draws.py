"""Several draws of candidates: the mean is what the full ranking says in closed form; tables count users."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from scipy.special import comb

from benchmark.evaluation.evaluator import RankingEvaluator
from benchmark.evaluation.metrics import parse_metric, ranking_metric
from benchmark.experiment import Experiment
from benchmark.reports.part import part
from benchmark.reports.table import protocol
from benchmark.runs.outcomes import read
from benchmark.runs.record import RunRecord, RunStore
from benchmark.runs.run import run
from tests.conftest import write_tiny_csv, write_tiny_experiment

N, DRAWS = 5, 400


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunStore, RunRecord, RunRecord, Experiment]:
    """EASE, judged on the full catalogue and on many draws of few candidates."""
    file = write_tiny_experiment(write_tiny_csv(tmp_path_factory.mktemp("data")))
    store = RunStore(tmp_path_factory.mktemp("draws") / "runs")
    said = ["task.split={kind: leave_last_out}", "task.metrics=[hit@1, ndcg@3, mrr]", "seeds=[0]"]
    full = Experiment.load(file, said).only(["ease"])
    drawn = Experiment.load(file, [*said, f"task.candidates={{kind: sampled, n: {N}, draws: {DRAWS}}}"])
    drawn = drawn.only(["ease", "popularity"])
    return store, run(full, store.root)[0], run(drawn, store.root)[1], drawn


def test_the_mean_over_draws_is_the_expectation_under_the_full_ranking(
    runs: tuple[RunStore, RunRecord, RunRecord, Experiment],
) -> None:
    """An item with ``a`` of M others above it is first among N drawn ones with probability C(M - a, N) / C(M, N)."""
    store, full, drawn, _ = runs
    ranks = store.ranks(full.key).sort("user")
    others, above = ranks["n_candidates"].to_numpy() - 1, ranks["above"].to_numpy()
    assert (ranks["ties"] == 0).all()
    expected = comb(others - above, N) / comb(others, N)
    evaluator = RankingEvaluator.from_table(store.ranks(drawn.key), ["hit@1"])
    found = evaluator.per_user("hit@1")  # raw ids are numbered in ascending order, as the ranks are sorted
    assert len(found) == len(expected)
    error = np.sqrt(expected * (1 - expected) / DRAWS)
    assert (np.abs(found - expected) <= 4.5 * error + 1e-12).all()
    assert expected.std() > 0.05
    assert drawn.metrics["test"]["hit@1"] == pytest.approx(found.mean())
    of_mean = np.sqrt((error**2).sum()) / len(error)
    assert drawn.metrics["test"]["hit@1"] == pytest.approx(expected.mean(), abs=4 * of_mean)


def test_draw_number_d_is_that_of_the_seed_plus_d(runs: tuple[RunStore, RunRecord, RunRecord, Experiment]) -> None:
    store, _, drawn, experiment = runs
    third = Experiment.model_validate(
        {**experiment.model_dump(by_alias=True), "task": {**experiment.task.model_dump(), "candidates": {
            "kind": "sampled", "n": N, "seed": 3}}}
    ).only(["ease"])  # fmt: skip
    alone = store.ranks(run(third, store.root)[0].key)
    assert "draw" not in alone.columns
    among = store.ranks(drawn.key).filter(pl.col("draw") == 3).drop("draw")
    assert among.equals(alone)


def test_a_table_counts_users(runs: tuple[RunStore, RunRecord, RunRecord, Experiment]) -> None:
    store, _, drawn, experiment = runs
    assert drawn.judged["test"] == 60
    outcomes = read([drawn], experiment.task.metrics, "ranking", store, targets=True)
    assert len(outcomes.users) == 60
    assert outcomes.targets is not None
    assert outcomes.targets.height == len(outcomes.target_ranks["ease"]) == len(outcomes.target_values["ease"]) == 60
    evaluator = RankingEvaluator.from_table(store.ranks(drawn.key), ["mrr"])
    every = ranking_metric(parse_metric("mrr"), evaluator.ranks()).reshape(60, DRAWS)
    order = np.argsort(outcomes.users.to_numpy())  # from_table numbers raw ids in ascending order
    np.testing.assert_allclose(outcomes.values["ease", "mrr"][order], every.mean(1))
    assert outcomes.target_values["ease"].mean() == pytest.approx(drawn.metrics["test"]["hit@1"])
    records = run(experiment, store.root)
    assert "60 test users ranked against 5 sampled negatives (mean of 400 draws)" in protocol(
        part(experiment, records, store)
    )
