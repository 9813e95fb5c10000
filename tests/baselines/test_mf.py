"""MF: the contract with both losses, and which task each of them can do."""

import pytest
import torch

from baselines.mf import MF
from benchmark.errors import InputError
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
    mean = model.user.weight[model.known_user].mean(0)
    torch.testing.assert_close(scores[0], model.item.weight @ mean[:-1] + model.item_bias.weight[:, 0] + mean[-1])
