"""RecBole: the contract, RecBole's own numbers beside ours, its breaks mended, the interpreter as it was found."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch import Tensor

from baselines.ease import EASE
from baselines.item_knn import ItemKNN
from baselines.recbole import RecBole, compat
from baselines.recbole.dataset import MemoryDataset
from benchmark.data.batch import Batch, Ragged
from benchmark.data.datamodule import RecDataModule
from benchmark.data.schema import SplitData
from benchmark.data.sequences import take, unique_pairs
from benchmark.data.sources.movielens_100k import MovieLens100K
from benchmark.data.split import LeaveLastOut, split
from benchmark.errors import InputError
from tests.contract import Fitted, RecommenderContract, fit
from tests.planted import planted


class TestLightGCN(RecommenderContract):
    model = RecBole
    config = {
        "model": "LightGCN",
        "parameters": {"embedding_size": 16, "learning_rate": 0.02, "train_batch_size": 256},
    }
    floor = 0.8


class TestBPR(RecommenderContract):
    model = RecBole
    config = {
        "model": "BPR",
        "parameters": {"embedding_size": 16, "learning_rate": 0.02, "train_batch_size": 256},
    }


class TestPairsOnly(RecommenderContract):
    """A pointwise model that RecBole can only ask for pairs of user and item."""

    model = RecBole
    config = {
        "model": "NeuMF",
        "parameters": {
            "mf_embedding_size": 8,
            "mlp_embedding_size": 8,
            "mlp_hidden_size": [16],
            "learning_rate": 0.02,
            "train_batch_size": 256,
        },
    }


class TestUserRows(RecommenderContract):
    model = RecBole
    config = {"model": "MultiDAE", "parameters": {"learning_rate": 0.01, "train_batch_size": 32}}
    epochs = 10


class TestSequential(RecommenderContract):
    """A softmax over all items, on prefixes."""

    model = RecBole
    config = {
        "model": "GRU4Rec",
        "parameters": {
            "MAX_ITEM_LIST_LENGTH": 8,
            "embedding_size": 16,
            "hidden_size": 16,
            "learning_rate": 0.02,
            "train_batch_size": 128,
        },
    }
    floor = 0.8


class TestPairwiseSequential(RecommenderContract):
    model = RecBole
    config = {
        "model": "FPMC",
        "parameters": {
            "MAX_ITEM_LIST_LENGTH": 8,
            "embedding_size": 16,
            "learning_rate": 0.05,
            "train_batch_size": 128,
        },
    }


class TestContextAware(RecommenderContract):
    """Features of users and items; labelled rows, or drawn negatives."""

    model = RecBole
    config = {"model": "FM", "parameters": {"learning_rate": 0.05, "train_batch_size": 128}}
    tasks = ("ranking", "preference")


class TestSequenceAndContext(RecommenderContract):
    model = RecBole
    config = {
        "model": "DIN",
        "parameters": {
            "MAX_ITEM_LIST_LENGTH": 6,
            "mlp_hidden_size": [16],
            "learning_rate": 0.01,
            "train_batch_size": 128,
        },
    }
    tasks = ("ranking", "preference")
    epochs = 8
    floor = 0.6


class TestKnowledgeAware(RecommenderContract):
    """Rows and triples in one loss."""

    model = RecBole
    config = {
        "model": "CFKG",
        "parameters": {"embedding_size": 16, "learning_rate": 0.02, "train_batch_size": 256},
    }


class TestKnowledgePhases(RecommenderContract):
    """Triples after the rows of an epoch, and an attention that follows from the weights."""

    model = RecBole
    config = {
        "model": "KGAT",
        "parameters": {
            "embedding_size": 16,
            "kg_embedding_size": 16,
            "layers": [16],
            "learning_rate": 0.02,
            "train_batch_size": 256,
        },
    }
    floor = 0.65


class TestStages(RecommenderContract):
    """Pre-training, then fine-tuning, in one run."""

    model = RecBole
    config = {
        "model": "RaCT",
        "parameters": {
            "mlp_hidden_size": [32],
            "latent_dimension": 16,
            "pretrain_epochs": 5,
            "metrics_k": 20,
            "learning_rate": 0.01,
            "train_batch_size": 32,
        },
    }
    epochs = 3


class TestTrees(RecommenderContract):
    model = RecBole
    config = {"model": "LightGBM", "parameters": {"lgb_num_boost_round": 30}}
    tasks = ("preference",)  # a ranking asks for what pairs have in common, and ids alone do not tell trees
    floor = 0.6


class TestClosedForm(RecommenderContract):
    model = RecBole
    config = {"model": "EASE", "parameters": {"reg_weight": 5.0}}
    floor = 0.8


@pytest.mark.parametrize("name", ["ADMMSLIM", "AsymKNN", "ItemKNN", "NCEPLRec", "Pop", "SLIMElastic"])
def test_closed_forms_come_back_without_being_fitted_again(
    name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, task = planted("ranking")
    fitted = fit(RecBole, {"model": name}, data, task)
    batch = fitted.batch()
    fitted.model.save(tmp_path)
    other = RecBole(fitted.model.config, data.catalogue())
    assert not other.eval().score(batch).any()
    monkeypatch.delattr(other.model_class, "__init__")  # where RecBole computes them
    other.restore(tmp_path)
    torch.testing.assert_close(other.score(batch), fitted.score(batch), atol=1e-5, rtol=0)


def test_pop_counts_every_interaction() -> None:
    """RecBole's own trainer counts an item once a batch, however often it stands there."""
    data, task = planted("ranking")
    fitted = fit(RecBole, {"model": "Pop"}, data, task)
    counts = np.bincount(data.train.item, minlength=data.n_items)
    np.testing.assert_allclose(fitted.score(fitted.batch())[0].numpy(), counts / counts.max(), rtol=1e-6)


def test_a_batch_of_recbole_holds_its_negatives() -> None:
    data, task = planted("ranking")

    def spec(model: str, **options: Any) -> tuple[str, int, int]:
        spec = RecBole(RecBole.Config(model=model, **options), data.catalogue()).batch_spec()
        first = next(iter(RecDataModule(data, task, spec).train_dataloader()))
        rows = {"pairwise": first.negative, "pointwise": first.label}[spec.kind]
        return spec.kind, rows.numel(), spec.negatives

    four = {"train_neg_sample_args": {"sample_num": 4}, "train_batch_size": 100}
    assert spec("BPR", parameters={"train_batch_size": 256}) == ("pairwise", 256, 1)
    assert spec("BPR", parameters=four) == ("pairwise", 100, 4)
    assert spec("FISM", parameters=four) == ("pointwise", 100, 4)
    assert spec("FISM", batch_size=64) == ("pointwise", 128, 1)
    data, task = planted("preference")
    context = {"train_batch_size": 100}
    assert spec("FM", parameters=context) == ("pointwise", 100, 1)  # labelled rows bring no negatives


def test_loss_is_recboles_own_on_shifted_ids() -> None:
    data, _ = planted("ranking")
    model = RecBole(RecBole.Config(model="BPR", parameters={"embedding_size": 4}), data.catalogue())
    batch = Batch(user=torch.tensor([3, 4]), item=torch.tensor([5, 6]), negative=torch.tensor([[7, 8], [9, 10]]))
    loss = model.training_step(batch, 0)
    user, item = model.recbole.user_embedding.weight, model.recbole.item_embedding.weight
    u, p, n = user[[4, 5, 4, 5]], item[[6, 7, 6, 7]], item[[8, 10, 9, 11]]
    margin = ((p - n) * u).sum(1)
    expected = -torch.log(1e-10 + torch.sigmoid(margin)).mean()  # as in recbole.model.loss.BPRLoss
    torch.testing.assert_close(loss, expected)


def test_recboles_optimiser() -> None:
    data, _ = planted("ranking")

    def optimiser(**parameters: Any) -> Any:
        model = RecBole(RecBole.Config(model="BPR", parameters=parameters), data.catalogue())
        return model.configure_optimizers()

    usual = optimiser()
    assert type(usual) is torch.optim.Adam
    assert (usual.defaults["lr"], usual.defaults["weight_decay"]) == (0.001, 0.0)
    other = optimiser(learner="sgd", learning_rate=0.5, weight_decay=0.1)
    assert type(other) is torch.optim.SGD
    assert (other.defaults["lr"], other.defaults["weight_decay"]) == (0.5, 0.1)


# --- RecBole's own numbers -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def movielens() -> SplitData:
    return split(MovieLens100K().load(), LeaveLastOut())


def scores_of_recbole(name: str, data: SplitData, **parameters: Any) -> Tensor:
    """All scores (n_users, n_items) of RecBole's own class on the training matrix, without our adapter's scoring."""
    adapter = RecBole(RecBole.Config(model=name, parameters=parameters), data.catalogue())
    train = data.train
    memory = MemoryDataset(adapter.settings, train, data.n_users, data.n_items)
    with compat.undisturbed():
        model: Any = compat.model_class(name)(adapter.settings, memory)
        rows = {"user_id": torch.arange(1, data.n_users + 1)}
        scores = model.full_sort_predict(compat.load("data.interaction").Interaction(rows))
    return scores.view(data.n_users, -1)[:, 1:].float()


def scores_of_ours(model: Any, data: SplitData) -> tuple[Tensor, Ragged]:
    """All scores of a closed form of ours, fitted on and given the training matrix; and the training lists."""
    train = data.train
    user, item = torch.from_numpy(train.user).long(), torch.from_numpy(train.item).long()
    model.training_step(Batch(user=user, item=item), 0)
    seen = unique_pairs(train.user, train.item, data.n_users, data.n_items)
    everyone = torch.arange(data.n_users)
    return model.score(Batch(user=everyone, seen=take(seen, everyone))), seen


def assert_same_top(ours: Tensor, theirs: Tensor, seen: Ragged, tolerance: float, k: int = 20) -> None:
    """The scores at each of the first k places are equal, and so are the items, except among equal scores."""
    mask = seen.dense(ours.shape[1]).bool()
    ours, theirs = ours.masked_fill(mask, -torch.inf), theirs.masked_fill(mask, -torch.inf)
    a, b = ours.topk(k + 1), theirs.topk(k + 1)
    torch.testing.assert_close(a.values, b.values, atol=tolerance, rtol=0)
    for user in range(len(ours)):
        end = b.values[user, k]
        clear = theirs[user] > end + 2 * tolerance  # not tied with what falls off the list
        assert clear[a.indices[user, :k]].sum() == clear.sum(), f"user {user} has another list"
        assert (ours[user][clear] >= a.values[user, k] - tolerance).all()


def test_ease_is_recboles(movielens: SplitData) -> None:
    ours, seen = scores_of_ours(EASE(EASE.Config(l2=250.0), movielens.catalogue()), movielens)
    theirs = scores_of_recbole("EASE", movielens, reg_weight=250.0)
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)
    assert_same_top(ours, theirs, seen, 2e-5)


@pytest.mark.parametrize(("k", "shrink", "share"), [(100, 0.0, 0.6), (100, 10.0, 0.75), (1682, 10.0, 1.0)])
def test_item_knn_is_recboles(movielens: SplitData, k: int, shrink: float, share: float) -> None:
    model = ItemKNN(ItemKNN.Config(n_neighbors=k, shrinkage=shrink), movielens.catalogue())
    ours, seen = scores_of_ours(model, movielens)
    theirs = scores_of_recbole("ItemKNN", movielens, k=k, shrink=shrink)
    # where the last neighbour kept ties with the first one dropped, either choice is right: leave such items out
    x = sp.csr_matrix(
        (np.ones(len(movielens.train)), (movielens.train.user, movielens.train.item)),
        shape=(movielens.n_users, movielens.n_items),
    )
    norm = np.sqrt(np.asarray(x.sum(0)).ravel())
    similarity = (x.T @ x).toarray() / np.maximum(np.outer(norm, norm) + shrink, 1e-9)
    np.fill_diagonal(similarity, 0)
    ordered = np.c_[-np.sort(-similarity, axis=1), np.zeros(movielens.n_items)]
    clear = torch.from_numpy((ordered[:, k - 1] - ordered[:, k] > 1e-5) | (ordered[:, k - 1] == 0))
    assert clear.float().mean() >= share
    # float32, and RecBole adds 1e-6 to each product of norms
    tolerance = 5e-6 * float(theirs.max())
    torch.testing.assert_close(ours[:, clear], theirs[:, clear], atol=tolerance, rtol=0)
    ours, theirs = ours.masked_fill(~clear, -1), theirs.masked_fill(~clear, -1)
    assert_same_top(ours, theirs, seen, tolerance)


def test_weights_of_another_data_set_are_refused(tmp_path: Any) -> None:
    data, task = planted("ranking")
    fitted: Fitted = fit(RecBole, {"model": "EASE"}, data, task)
    fitted.model.save(tmp_path)
    other = planted("ranking", seed=1)[0].catalogue()
    smaller = RecBole(fitted.model.config, copy.copy(other))
    object.__setattr__(smaller.catalogue, "n_items", 79)
    with pytest.raises(InputError, match="fitted on 120 users and 83 items, expected 120 and 79"):
        smaller.restore(tmp_path)
