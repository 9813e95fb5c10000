"""Two models user by user: wins, differences, examples with history, lists and ranks that are those of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from benchmark.experiment import Experiment
from benchmark.reports.part import Part, part
from benchmark.reports.users import compared
from benchmark.runs.execute import PreparedData
from benchmark.runs.record import RunStore
from benchmark.runs.run import prepare, run


def told(file: Path, *overrides: str) -> tuple[dict[str, Any], Part, PreparedData, RunStore]:
    experiment = Experiment.load(file, overrides)
    store = RunStore(file.parent / "runs")
    p = part(experiment, run(experiment, store.root), store, targets=True)
    data = prepare(experiment, store.root)
    found = compared(p, data.split, store)
    assert found is not None
    return found, p, data, store


def test_wins_and_differences_are_those_of_the_users(tiny_experiment: Path) -> None:
    found, p, _, _ = told(tiny_experiment)
    assert found["models"] == ["popularity", "ease", "mf"]
    matrix = p.outcomes.matrix("ndcg@10")
    for a in range(3):
        for b in range(3):
            difference = matrix[:, a] - matrix[:, b]
            assert found["n"][a][b] == len(matrix) * (a != b)
            assert found["wins"][a][b] == (difference > 0).sum()
            assert found["difference"][a][b] == pytest.approx(difference.mean(), abs=1e-5)
            assert found["low"][a][b] <= found["difference"][a][b] <= found["high"][a][b]
            assert found["low"][a][b] == -found["high"][b][a]
            assert found["p"][a][b] == found["p"][b][a]
    for pair, counts in found["histogram"].items():
        a, b = map(int, pair.split(","))
        assert sum(counts) == found["wins"][a][b] + found["wins"][b][a]


def test_where_less_is_better_less_wins(tiny_experiment: Path) -> None:
    text = tiny_experiment.read_text(encoding="utf-8").replace("popularity.Popularity", "bias.Bias")
    tiny_experiment.write_text(text, encoding="utf-8")
    over = ["task.kind=preference", "task.metrics=[log_loss]", "models.mf.loss=bce", "seeds=[0]"]
    found, p, _, _ = told(tiny_experiment, *over)
    matrix = p.outcomes.matrix("log_loss")
    assert found["wins"][0][1] == (matrix[:, 0] < matrix[:, 1]).sum()
    assert "top" not in found["users"][0]
    user = found["users"][0]
    assert {row["label"] for u in found["users"] for row in u["rows"]} == {0, 1}
    assert all(0 < score < 1 for row in user["rows"] for score in row["scores"])


def test_the_history_of_a_preference_row_is_what_the_model_read(tiny_experiment: Path) -> None:
    over = [
        "task.kind=preference",
        "task.metrics=[auc]",
        "task.history=before_target",
        "models.mf.loss=bce",
        "seeds=[0]",
    ]
    found, _, data, _ = told(tiny_experiment, *over)
    split = data.split
    for user in found["users"]:
        inner = split.users["user_id"].to_list().index(user["id"])
        first = split.test.time[split.test.user == inner].min()
        earlier = sum(int((rows.time[rows.user == inner] < first).sum()) for rows in (split.train, split.valid))
        assert user["n_history"] == earlier


def test_examples_show_what_was_known_held_out_and_recommended(tiny_experiment: Path) -> None:
    found, p, data, store = told(tiny_experiment)
    split, items = data.split, found["items"]
    titles = dict(zip(split.items["item_id"], split.items["title"], strict=True))
    assert found["users"]
    for user in found["users"]:
        inner = split.users["user_id"].to_list().index(user["id"])
        known = sorted(
            (time, titles[split.items["item_id"][int(item)]])
            for rows in (split.train, split.valid)
            for item, time in zip(rows.item[rows.user == inner], rows.time[rows.user == inner], strict=True)
        )
        assert [items[i] for i in user["history"]][-1:] == [title for _, title in known][-1:]
        assert user["n_history"] == len(known)
        held = {titles[split.items["item_id"][int(item)]] for item in split.test.item[split.test.user == inner]}
        assert {items[i] for i in user["held_out"]} <= held
        for m, label in enumerate(found["models"]):
            key = p.finished(label)[0].key
            top = pl.read_parquet(store.folder(key) / "top.parquet").filter(pl.col("user") == user["id"]).sort("rank")
            assert [items[i] for i in user["top"][m]] == [titles[i] for i in top["item"].to_list()[:5]]
            ranks = store.ranks(key).filter(pl.col("user") == user["id"])
            place = {titles[row["item"]]: row["above"] + row["ties"] / 2 + 1 for row in ranks.iter_rows(named=True)}
            assert [place[items[i]] for i in user["held_out"]] == user["ranks"][m]
            assert user["hits"][m] == [int(items[i] in place) for i in user["top"][m]], "also of what is not shown"
        for m, label in enumerate(found["models"]):
            at = p.outcomes.users.to_list().index(user["id"])
            assert user["values"][m] == pytest.approx(p.outcomes.values[label, "ndcg@10"][at], abs=1e-4)


def test_the_greatest_wins_of_a_pair_are_among_the_examples(tiny_experiment: Path) -> None:
    found, p, _, _ = told(tiny_experiment)
    matrix = p.outcomes.matrix("ndcg@10")
    ids = {user["id"] for user in found["users"]}
    assert p.outcomes.users[int(np.argmax(matrix[:, 1] - matrix[:, 2]))] in ids
    assert p.outcomes.users[int(np.argmax(matrix[:, 2] - matrix[:, 1]))] in ids


def test_one_model_is_compared_with_nobody(tiny_experiment: Path) -> None:
    experiment = Experiment.load(tiny_experiment, ["seeds=[0]"])
    one = experiment.model_copy(update={"models": {"ease": experiment.models["ease"]}})
    store = RunStore(tiny_experiment.parent / "runs")
    p = part(one, run(one, store.root), store, targets=True)
    assert compared(p, prepare(one, store.root).split, store) is None
