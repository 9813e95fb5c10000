"""MF: the contract with both losses, and which task each of them can do."""

import pytest
import torch

from baselines.mf import MF
from benchmark.errors import InputError
from benchmark.recommender import trainable_parameters
from tests.contract import RecommenderContract, fit
from tests.planted import planted

QUICK = {"learning_rate": 0.02, "batch_size": 256, "embedding_size": 16}


class TestMF(RecommenderContract):
    model = MF
    config = QUICK


class TestMFWithCrossEntropy(RecommenderContract):
    model = MF
    config = {**QUICK, "loss": "bce"}
    tasks = ("ranking", "preference")


class TestMFWithHardNegatives(RecommenderContract):
    in_two_processes = False
    model = MF
    config = {**QUICK, "loss": "bce", "negative_sampling": {"kind": "hard", "pool": 2}}
    floor = 0.65


def test_bpr_cannot_take_dislikes() -> None:
    data, task = planted("preference")
    with pytest.raises(InputError, match="MF cannot do a preference task"):
        fit(MF, {"loss": "bpr"}, data, task)


def test_who_is_unseen_is_the_average_user_and_unseen_items_have_no_random_luck() -> None:
    data, task = planted("preference")
    fitted = fit(MF, {**QUICK, "loss": "bce"}, data, task, epochs=2)
    model = fitted.model
    assert (model.item.weight[0] == 0).all()
    batch = fitted.batch()
    batch.user, batch.candidates = torch.tensor([0, 1]), None
    scores = fitted.score(batch)
    torch.testing.assert_close(scores[0], scores[1])
    factors, bias = (table.weight[model.known_user].mean(0) for table in (model.user, model.user_bias))
    torch.testing.assert_close(scores[0], model.item.weight @ factors + model.item_bias.weight[:, 0] + bias)


def test_without_biases_a_score_is_the_product_of_factors() -> None:
    data, task = planted("preference")
    fitted = fit(MF, {**QUICK, "loss": "bce", "biases": False}, data, task, epochs=2)
    batch = fitted.batch()
    assert batch.candidates is not None
    model = fitted.model
    user, item = model.user_embeddings(batch), model.item.weight[batch.candidates[:, 0]]
    torch.testing.assert_close(fitted.score(batch)[:, 0], (user * item).sum(1))
    assert trainable_parameters(model) == (data.n_users + data.n_items) * QUICK["embedding_size"]
