"""The evaluators over batches, over processes, and from what was stored."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
import torch.multiprocessing as mp
from torch import Tensor

from benchmark.errors import InputError
from benchmark.evaluation import metrics as M
from benchmark.evaluation.evaluator import PreferenceEvaluator, RankingEvaluator

RANKING = ["auc", "mrr", "ndcg@5", "recall@5", "map@5", "precision@5", "hit@5", "mrr@5"]
PREFERENCE = list(M.PREFERENCE_METRICS)
N_ITEMS, TOP = 60, 7


def ranking_batch(users: list[int]) -> dict[str, Tensor]:
    """Return one batch whose content depends on the user alone; user 3 has no relevant item."""
    scores, relevant, excluded = [], [], []
    for user in users:
        rng = np.random.default_rng(user)
        scores.append(rng.integers(-20, 20, N_ITEMS))
        columns = rng.permutation(N_ITEMS)
        n = 0 if user == 3 else 1 + user % 6
        relevant.append(columns[:n])
        excluded.append(columns[n : n + user % 9])
    lengths = [[0, *np.cumsum([len(row) for row in rows]).tolist()] for rows in (relevant, excluded)]
    return {
        "user": torch.tensor(users, dtype=torch.int64),
        "scores": torch.tensor(np.array(scores).reshape(len(users), N_ITEMS), dtype=torch.float32),
        "relevant_offsets": torch.tensor(lengths[0]),
        "relevant_columns": torch.tensor(np.concatenate([[], *relevant]), dtype=torch.int64),
        "excluded_offsets": torch.tensor(lengths[1]),
        "excluded_columns": torch.tensor(np.concatenate([[], *excluded]), dtype=torch.int64),
    }


def preference_batch(rows: list[int]) -> dict[str, Tensor]:
    row = torch.tensor(rows, dtype=torch.int64)
    score = torch.sin(row * 12.9898) * 3
    return {"user": row % 5, "label": (torch.cos(row * 7.1) > 0).float(), "score": score, "row_id": row}


def ranking(parts: list[list[int]], metrics: list[str] = RANKING) -> RankingEvaluator:
    evaluator = RankingEvaluator(metrics, top_k=TOP)
    for part in parts:
        evaluator.update(**ranking_batch(part))
    return evaluator


def test_batches_do_not_matter() -> None:
    whole, parts = ranking([list(range(20))]), ranking([[19, 4], [], [0, 1, 2, 3], list(range(5, 19))])
    assert parts.compute() == pytest.approx(whole.compute(), abs=1e-12)
    assert parts.users().tolist() == list(range(20))
    for name, column in whole.table().items():
        np.testing.assert_array_equal(column, parts.table()[name])
    np.testing.assert_array_equal(whole.top_lists()[1], parts.top_lists()[1])


def test_the_mean_is_over_users_with_a_relevant_item() -> None:
    evaluator = ranking([[1, 2, 3]])
    values = evaluator.per_user("ndcg@5")
    assert np.isnan(values).tolist() == [False, False, True]
    assert evaluator.compute()["ndcg@5"] == np.nanmean(values)
    assert len(evaluator.per_user("recall@50")) == 3  # a metric that was not asked for in advance


def test_a_user_who_comes_twice_counts_once() -> None:
    once, twice = ranking([[0, 1, 2, 8]]), ranking([[0, 1], [2, 1, 8], [0]])
    assert once.compute() == twice.compute()
    assert len(once.table()["user"]) == len(twice.table()["user"])


def test_metrics_follow_from_the_stored_ranks_alone(tmp_path: Path) -> None:
    evaluator = ranking([list(range(30))])
    pl.DataFrame(evaluator.table()).sample(fraction=1, shuffle=True, seed=0).write_parquet(tmp_path / "ranks.parquet")
    frame = pl.read_parquet(tmp_path / "ranks.parquet")
    assert frame.columns == ["user", "item", "above", "ties", "n_candidates"]
    again = RankingEvaluator.from_table(frame, RANKING)
    assert again.compute() == pytest.approx(evaluator.compute(), abs=1e-12)
    np.testing.assert_allclose(again.per_user("recall@9"), np.delete(evaluator.per_user("recall@9"), 3))
    named = frame.with_columns(user=pl.lit("u") + pl.col("user").cast(pl.String))
    assert RankingEvaluator.from_table(named, RANKING).compute() == pytest.approx(evaluator.compute(), abs=1e-12)


def test_the_table_says_where_each_relevant_item_stands() -> None:
    batch = ranking_batch(list(range(12)))
    table = ranking([list(range(12))]).table()
    found = dict(zip(zip(table["user"], table["item"], strict=True), table["above"], strict=True))
    assert len(found) == len(table["item"]) == len(batch["relevant_columns"])
    excluded = np.split(batch["excluded_columns"].numpy(), batch["excluded_offsets"].numpy()[1:-1])
    for user, items in enumerate(np.split(batch["relevant_columns"].numpy(), batch["relevant_offsets"].numpy()[1:-1])):
        scores = np.delete(batch["scores"][user].numpy(), excluded[user])
        for item in items:
            assert found[user, item] == (scores > batch["scores"][user, item].item()).sum()


def test_items_of_equal_rank_stand_in_one_order() -> None:
    user, scores, offsets = torch.tensor([0]), torch.zeros(1, 5), torch.tensor([0, 3])
    tables = []
    for columns in ([4, 1, 2], [2, 4, 1]):
        evaluator = RankingEvaluator(["auc"])
        evaluator.update(user, scores, offsets, torch.tensor(columns))
        tables.append(evaluator.table()["item"].tolist())
    assert tables == [[1, 2, 4], [1, 2, 4]]


def test_stored_tables_keep_their_items_or_have_none() -> None:
    table = ranking([list(range(12))]).table()
    frame = pl.DataFrame(table).sample(fraction=1, shuffle=True, seed=0)
    for again in (frame, {name: column[::-1] for name, column in table.items()}):
        np.testing.assert_array_equal(RankingEvaluator.from_table(again, RANKING).table()["item"], table["item"])
    raw = frame.with_columns(item=pl.format("i{}", pl.col("item").cast(pl.String).str.zfill(3)))
    numbered = np.unique(table["item"], return_inverse=True)[1]
    np.testing.assert_array_equal(RankingEvaluator.from_table(raw, RANKING).table()["item"], numbered)
    older = RankingEvaluator.from_table(frame.drop("item"), RANKING)
    assert set(older.table()["item"]) == {-1}
    assert older.compute() == RankingEvaluator.from_table(frame, RANKING).compute()


def test_lists_hold_item_ids_of_sampled_candidates() -> None:
    evaluator = RankingEvaluator(["auc"], top_k=4)
    scores, candidates = torch.tensor([[0.1, 0.9, 0.5]]), torch.tensor([[70, 80, 90]])
    offsets, columns = torch.tensor([0, 1]), torch.tensor([2])
    evaluator.update(torch.tensor([6]), scores, offsets, columns, offsets, torch.tensor([0]), candidates=candidates)
    users, lists = evaluator.top_lists()
    assert users.tolist() == [6]
    assert lists.tolist() == [[80, 90, -1, -1]]
    assert evaluator.table()["item"].tolist() == [90]


def test_nothing_seen_gives_nan_and_reset_forgets() -> None:
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert all(np.isnan(v) for v in RankingEvaluator(RANKING).compute().values())
    evaluator = ranking([[1, 2]])
    evaluator.compute()
    evaluator.reset()
    evaluator.update(**ranking_batch([5]))
    assert evaluator.users().tolist() == [5]
    assert evaluator.compute() == ranking([[5]]).compute()


def test_unfit_requests_are_refused() -> None:
    for make in (
        lambda: RankingEvaluator(["brier"]),
        lambda: RankingEvaluator(["coverage@5"]),
        lambda: PreferenceEvaluator(["ndcg@5"]),
    ):
        with pytest.raises(InputError, match="does not fit this evaluator"):
            make()
    with pytest.raises(ValueError, match="no lists were kept"):
        RankingEvaluator(["auc"]).top_lists()
    with pytest.raises(ValueError, match="users but"):
        RankingEvaluator(["auc"]).update(torch.arange(3), torch.zeros(2, 4), torch.tensor([0, 0, 0]), torch.arange(0))


def test_it_keeps_no_scores() -> None:
    evaluator = RankingEvaluator(["auc"])
    evaluator.update(**ranking_batch(list(range(50))))
    kept = sum(t.numel() for name in evaluator._empty for t in getattr(evaluator, name))
    assert kept == 4 * 50 + 3 * len(ranking_batch(list(range(50)))["relevant_columns"])


def test_preference_from_batches_and_from_the_table() -> None:
    whole, parts = PreferenceEvaluator(PREFERENCE), PreferenceEvaluator(PREFERENCE)
    whole.update(**preference_batch(list(range(100))))
    for part in (range(60, 100), range(61), range(0)):
        parts.update(**preference_batch(list(part)))
    expected = whole.compute()
    assert not any(np.isnan(v) for v in expected.values())
    assert parts.compute() == expected
    frame = pl.DataFrame(whole.table())
    assert frame.columns == ["row", "user", "label", "score"]
    assert PreferenceEvaluator.from_table(frame, PREFERENCE).compute() == expected
    assert M.mean(whole.per_user("uauc")) == pytest.approx(expected["uauc"])
    assert M.mean(whole.per_user("brier")) == pytest.approx(expected["brier"])  # every user has 20 rows
    assert len(whole.users()) == len(whole.per_user("auc")) == 5
    with pytest.raises(InputError, match="no value per user"):
        whole.per_user("ece")


def test_scores_that_are_no_probability_have_only_auc() -> None:
    evaluator = PreferenceEvaluator(PREFERENCE, probability=False)
    evaluator.update(**preference_batch(list(range(50))))
    found = evaluator.compute()
    assert {name for name, v in found.items() if np.isnan(v)} == {"log_loss", "brier", "ece", "accuracy", "f1"}
    assert np.isnan(evaluator.per_user("brier")).all()


def test_preference_refuses_scores_that_are_no_numbers() -> None:
    batch = preference_batch([1, 2])
    batch["score"][1] = float("nan")
    with pytest.raises(ValueError, match="NaN/inf"):
        PreferenceEvaluator(["auc"]).update(**batch)


# Two processes --------------------------------------------------------------------------------------------------------

SHARES = [[[0, 1, 2, 3, 4], [5, 6, 7, 8]], [[9, 10, 0]]]  # uneven; user 0 comes to both
ROWS = [[list(range(40)), list(range(40, 70))], [list(range(70, 81)), [3]]]
NOTHING = [SHARES[0], []]  # the second process sees no batch


def work(rank: int, port: int, folder: str) -> None:
    """Evaluate one process's share and store what it believes the result of both to be."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    by_ranks, one_idle = ranking(SHARES[rank]), ranking(NOTHING[rank])
    by_rows = PreferenceEvaluator(PREFERENCE)
    for part in ROWS[rank]:
        by_rows.update(**preference_batch(part))
    result: dict[str, Any] = {
        "before": {name: column.tolist() for name, column in one_idle.table().items()},  # gathers without compute
        "ranking": by_ranks.compute(),
        "table": {name: column.tolist() for name, column in by_ranks.table().items()},
        "lists": by_ranks.top_lists()[1].tolist(),
        "preference": by_rows.compute(),
        "local": len(torch.cat(list(by_ranks.user))),  # the states are the process's own again
    }
    Path(folder, f"{rank}.json").write_text(json.dumps(result))
    torch.distributed.destroy_process_group()


def test_two_processes_equal_one(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(work, (port, str(tmp_path)), nprocs=2)
    one = ranking([list(range(11))])
    rows = PreferenceEvaluator(PREFERENCE)
    rows.update(**preference_batch(list(range(81))))
    for rank, local in ((0, 9), (1, 3)):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found["ranking"] == pytest.approx(one.compute(), abs=1e-12)
        assert found["preference"] == pytest.approx(rows.compute(), abs=1e-12)
        assert found["local"] == local
        np.testing.assert_array_equal(found["lists"], one.top_lists()[1])
        for name, column in one.table().items():
            np.testing.assert_array_equal(found["table"][name], column)
        for name, column in ranking(SHARES[0]).table().items():
            np.testing.assert_array_equal(found["before"][name], column)
