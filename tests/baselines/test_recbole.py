"""RecBole: the contract, RecBole's own numbers beside ours, its breaks mended, the interpreter as it was found."""

from __future__ import annotations

import copy
import logging
import os
import random
import sys
import warnings
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
from benchmark.data.rows import take, unique_pairs
from benchmark.data.schema import SplitData
from benchmark.data.sources.movielens_100k import MovieLens100K
from benchmark.data.split import LeaveLastOut, split
from benchmark.errors import InputError
from benchmark.experiment import model_config
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


# --- the interpreter -----------------------------------------------------------------------------------------------


def interpreter() -> dict[str, Any]:
    python, numpy = random.getstate(), np.random.get_state(legacy=False)["state"]
    root = logging.getLogger()
    return {
        "argv": list(sys.argv),
        "environment": dict(os.environ),
        "streams": (sys.stdout, sys.stderr),
        "handlers": (list(root.handlers), root.level),
        "filters": list(warnings.filters),
        "python": python,
        "numpy": (numpy["key"].tolist(), numpy["pos"]),
        "torch": torch.get_rng_state().tolist(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "numpy names": {name: vars(np).get(name) for name in compat._NUMPY},
        "dok": "_update" in vars(sp.dok_matrix),
        "tensorboard": "torch.utils.tensorboard" in sys.modules,
        "ray": "ray" in sys.modules,
    }


@pytest.fixture
def our_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["levelfield", "run", "--embedding_size=3", "--model=Pop"])


@pytest.mark.usefixtures("our_command_line")
def test_the_interpreter_is_left_as_it_was_found() -> None:
    data, _ = planted("ranking")
    before = interpreter()
    config = compat.load("config").Config  # RecBole's own, which sets all of it
    with compat.undisturbed():
        real = config(model="BPR", dataset="none", config_dict={"embedding_size": 5})
        compat.load("utils").init_seed(1, False)
        logging.basicConfig()
        assert real["embedding_size"] == 5
    assert interpreter() == before
    closed = RecBole(RecBole.Config(model="EASE"), data.catalogue())
    train = Batch(user=torch.from_numpy(data.train.user).long(), item=torch.from_numpy(data.train.item).long())
    closed.training_step(train, 0)
    assert interpreter() == before
    RecBole(RecBole.Config(model="LightGCN"), data.catalogue())  # draws its weights from the seed alone
    assert interpreter() == before


@pytest.mark.usefixtures("our_command_line")
def test_settings_do_not_come_from_the_command_line() -> None:
    data, _ = planted("ranking")
    assert RecBole(RecBole.Config(model="BPR"), data.catalogue()).settings["embedding_size"] == 64


def test_a_failure_inside_is_cleaned_up_too() -> None:
    before = interpreter()

    def fails() -> None:
        with compat.undisturbed():
            np.random.seed(3)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert interpreter() == before


# --- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "models.x.model: required, and not there"),
        ({"model": "LightGNC"}, "models.x.model: RecBole has no model 'LightGNC'; did you mean 'LightGCN'?"),
        ({"model": "lightgcn"}, "models.x.model: RecBole has no model 'lightgcn'; did you mean 'LightGCN'?"),
        ({"model": "KSR"}, "models.x.model: RecBole's KSR cannot be adapted: it reads pre-trained entity and relation"),
        (
            {"model": "LightGCN", "parameters": {"n_layer": 2}},
            "models.x.parameters: RecBole's LightGCN has no parameter 'n_layer'; did you mean 'n_layers'?",
        ),
        (
            {"model": "LightGCN", "parameters": {"n_layers": 1.5}},
            "models.x.parameters: 'n_layers': found 1.5, expected something like 2",
        ),
        (
            {"model": "BPR", "parameters": {"embedding_size": "64"}},
            "models.x.parameters: 'embedding_size': found '64', expected something like 64",
        ),
        (
            {"model": "BPR", "parameters": {"topk": [10]}},
            "models.x.parameters: 'topk' is no parameter of the model here: set task.metrics instead",
        ),
        (
            {"model": "BPR", "parameters": {"eval_args": {"mode": "full"}}},
            "models.x.parameters: 'eval_args' is no parameter of the model here: set task.split and task.candidates",
        ),
        ({"model": "BPR", "parameters": {"epochs": 5}}, "set trainer.max_epochs instead"),
        (
            {"model": "BPR", "parameters": {"learner": "adan"}},
            "models.x.parameters: 'learner': found 'adan'; did you mean 'adam'?",
        ),
        (
            {"model": "BPR", "parameters": {"train_neg_sample_args": {"distribution": "popularity"}}},
            "negatives are drawn uniformly for every model",
        ),
        ({"model": "NeuMF", "parameters": {"mf_pretrain_path": "x.pth"}}, "RecBole's checkpoints are pickles"),
        (
            {"model": "BPR", "batch_size": 8, "parameters": {"train_batch_size": 8}},
            "models.x: batch_size and parameters.train_batch_size are both given; keep one",
        ),
    ],
)
def test_mistakes_are_named(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        model_config(RecBole, parameters, "models.x")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_recbole_missing_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat.importlib.util, "find_spec", lambda name: None)
    compat.models.cache_clear()
    with pytest.raises(InputError, match=r"pip install --no-deps recbole==1\.2\.1 .*levelfield\[recbole\]"):
        model_config(RecBole, {"model": "BPR"}, "models.x")


def test_weights_of_another_data_set_are_refused(tmp_path: Any) -> None:
    data, task = planted("ranking")
    fitted: Fitted = fit(RecBole, {"model": "EASE"}, data, task)
    fitted.model.save(tmp_path)
    other = planted("ranking", seed=1)[0].catalogue()
    smaller = RecBole(fitted.model.config, copy.copy(other))
    object.__setattr__(smaller.catalogue, "n_items", 79)
    with pytest.raises(InputError, match="fitted on 120 users and 80 items, expected 120 and 79"):
        smaller.restore(tmp_path)
