"""RecBole by itself sees our split: the same rows, the same seen items, the same features, the same metrics."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from benchmark.data.schema import SplitData
from benchmark.data.split import LeaveLastOut, Ratio, known, split
from benchmark.data.task import Task
from tests.contract import fit, quiet
from tests.planted import dataset, planted

pytest.importorskip("recbole")
own = pytest.importorskip("tests.fidelity.own")

RANKING = ("ndcg@10", "recall@10", "hit@10", "mrr@10")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quiet():
        yield


@pytest.fixture(scope="module")
def last_out() -> SplitData:
    """Everybody's last item is to be found; nobody is unseen in training, which RecBole's own split cannot be told."""
    return split(dataset(), LeaveLastOut(), 0)


@pytest.fixture(scope="module")
def described() -> SplitData:
    """Rows at random, with features of users and items, some of them unknown, and a graph."""
    data = dataset()
    n = data.items.height
    items = data.items.with_columns(
        pl.Series("year", [None if i % 7 == 0 else 1990 + i % 3 for i in range(n)], dtype=pl.Int64),
        pl.Series("genres", [None if i % 5 == 0 else ("Film Noir, Drama" if i % 2 else "Drama") for i in range(n)]),
    )
    users = data.users.with_columns(
        pl.Series("age", [20 + i % 4 for i in range(data.users.height)]),
        pl.Series("gender", ["MF"[i % 2] for i in range(data.users.height)]),
        pl.Series("occupation", [None if i % 3 == 0 else "none" for i in range(data.users.height)], dtype=pl.String),
    )
    graph = pl.DataFrame(
        {"head": [f"e{i}" for i in range(n)], "relation": ["of"] * n, "tail": [f"t{i % 4}" for i in range(n)]}
    )
    # the last item's entity is not in the graph
    links = pl.DataFrame(
        {"item_id": data.items["item_id"], "entity_id": [f"e{i if i < n - 1 else n}" for i in range(n)]}
    )
    data = replace(data, items=items, users=users, graph=graph, links=links)
    return split(own.linked_only(data), Ratio(valid=0.1, test=0.2), 0)


def sane(metrics: dict[str, float], names: tuple[str, ...]) -> bool:
    return set(metrics) == set(names) and all(0 <= metrics[name] <= 1 for name in names)


def test_general_models_leave_no_trace() -> None:
    data, _ = planted("ranking", unseen=False)  # RecBole knows no item that nobody has
    before = os.getcwd(), dict(os.environ), logging.getLogger().level, torch.get_rng_state(), np.random.get_state()[1]
    metrics = own.train_own("BPR", data, "ranking", {"embedding_size": 16}, epochs=1, seed=3)
    assert sane(metrics, RANKING)
    after = os.getcwd(), dict(os.environ), logging.getLogger().level, torch.get_rng_state(), np.random.get_state()[1]
    assert before[:3] == after[:3]
    assert torch.equal(before[3], after[3])
    assert np.array_equal(before[4], after[4])
    assert own.train_own("BPR", data, "ranking", {"embedding_size": 16}, epochs=1, seed=3) == metrics


@pytest.mark.parametrize("loss", ["CE", "BPR"])
def test_sequential_models(last_out: SplitData, loss: str) -> None:
    parameters = {"MAX_ITEM_LIST_LENGTH": 10, "embedding_size": 8, "hidden_size": 8, "loss_type": loss}
    assert sane(own.train_own("GRU4Rec", last_out, "ranking", parameters, epochs=1, seed=0), RANKING)


def test_more_epochs_train_longer(last_out: SplitData) -> None:
    parameters = {"embedding_size": 16, "learning_rate": 0.02, "train_batch_size": 256}
    one, many = (own.train_own("BPR", last_out, "ranking", parameters, epochs, seed=0) for epochs in (1, 20))
    assert many["ndcg@10"] > one["ndcg@10"]


@pytest.mark.parametrize("model", ["BPR", "FPMC"])
def test_what_is_seen_is_removed(last_out: SplitData, model: str) -> None:
    """Train and valid at the test, for sequential models too, whose loader has no history of its own."""
    before = known(last_out, "test")
    seen = {u: set(before.item[before.offsets[u] : before.offsets[u + 1]].tolist()) for u in range(last_out.n_users)}
    judged: dict[int, tuple[set[int], set[int]]] = {}
    with own.prepared(model, last_out, "ranking", {}) as loaders:
        data = loaders.test._dataset
        users, items = (own._ours(data, name) for name in (data.uid_field, data.iid_field))
        for interaction, (row, column), positive_row, positive in loaders.test:
            for number, user in enumerate(users[interaction[data.uid_field].numpy()].tolist()):
                pairs = ((row, column), (positive_row, positive))
                judged[user] = tuple(set(items[c[r == number].numpy()].tolist()) for r, c in pairs)  # type: ignore[assignment]
    assert judged == {u: (seen[u], {i}) for u, i in zip(last_out.test.user, last_out.test.item, strict=True)}


def test_a_closed_form_has_our_metrics() -> None:
    from baselines.recbole import RecBole

    data = split(dataset(), Ratio(valid=0.1, test=0.2), 0)
    theirs = own.train_own("EASE", data, "ranking", {"reg_weight": 50.0}, epochs=1, seed=0)
    task = Task(split=Ratio(valid=0.1, test=0.2), metrics=RANKING)
    ours = fit(RecBole, {"model": "EASE", "parameters": {"reg_weight": 50.0}}, data, task).metrics
    assert {name: ours[name] for name in RANKING} == pytest.approx(theirs, abs=1e-6)
    assert theirs["ndcg@10"] > 0.1


@pytest.mark.parametrize("model", ["FM", "XGBoost", "LightGBM"])
def test_likes_and_features(described: SplitData, model: str) -> None:
    if model != "FM":
        pytest.importorskip(model.lower())
        pytest.importorskip("xgboost")  # RecBole imports both for either
        pytest.importorskip("lightgbm")
    metrics = own.train_own(model, described, "preference", {}, epochs=1, seed=0)
    assert sane(metrics | {"log_loss": 0.0}, ("auc", "log_loss"))
    assert 0 < metrics["log_loss"] < 2


def test_features_are_read_as_they_are(described: SplitData) -> None:
    assert described.train.rating is not None
    with own.prepared("FM", described, "preference", {}) as loaders:
        data = loaders.train._dataset
        assert set(data.fields()) == {"user_id", "item_id", *own.USER_FEATURES, *own.ITEM_FEATURES, "label"}
        for frame, field, features in (
            (described.items, data.iid_field, own.ITEM_FEATURES),
            (described.users, data.uid_field, own.USER_FEATURES),
        ):
            table = data.item_feat if field == data.iid_field else data.user_feat
            order = own._ours(data, field)
            for name in features:
                assert not table[name][0].any()  # padding
                tokens, values = data.field2id_token[name], table[name][1:].reshape(len(order) - 1, -1).tolist()
                theirs = [" ".join(tokens[v] for v in row if v) for row in values]
                ours = [str(v).replace("Film Noir,", "Film-Noir") if v is not None else "" for v in frame[name]]
                assert theirs == [ours[i] for i in order[1:]]
        assert loaders.train._dataset.inter_feat["label"].mean() == pytest.approx((described.train.rating >= 4).mean())


def test_knowledge_aware_models(described: SplitData) -> None:
    assert described.links is not None
    assert described.links["item_id"][-1] not in described.items["item_id"].to_list()
    parameters = {"embedding_size": 8, "kg_embedding_size": 8}
    assert sane(own.train_own("CKE", described, "ranking", parameters, epochs=1, seed=0), RANKING)


def test_what_recbole_cannot_be_given(last_out: SplitData) -> None:
    with pytest.raises(NotImplementedError, match="ranks nothing"):
        own.train_own("XGBoost", last_out, "ranking", {}, 1, 0)
    with pytest.raises(ValueError, match="no knowledge graph"):
        own.train_own("CKE", replace(last_out, graph=None), "ranking", {}, 1, 0)
    # two users without training rows: RecBole's own split would train on what they are tested on
    with pytest.raises(ValueError, match="differs from ours"):
        own.train_own("FPMC", planted("ranking")[0], "ranking", {}, 1, 0)
    assert last_out.train.time is not None
    tied = replace(last_out, train=replace(last_out.train, time=np.zeros_like(last_out.train.time)))
    with pytest.raises(ValueError, match="two rows of one time"):
        own.train_own("FPMC", tied, "ranking", {}, 1, 0)
