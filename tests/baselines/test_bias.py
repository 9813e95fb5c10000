"""Bias: the contract, the order of item mean + user mean, and ratings in a ranking task."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from baselines.bias import Bias
from benchmark.errors import InputError
from tests.contract import RecommenderContract, fit
from tests.planted import planted


class TestBias(RecommenderContract):
    model = Bias
    tasks = ("preference",)
    floor = 0.85


def damped(ids: np.ndarray, y: np.ndarray, n: int, k: float) -> np.ndarray:
    mean = [(y[ids == i].sum() + k * y.mean()) / ((ids == i).sum() + k) for i in range(n)]
    return np.array(mean)


@pytest.mark.parametrize("kind", ["preference", "ranking"])
def test_keeps_the_order_of_item_mean_plus_user_mean(kind: str) -> None:
    data, task = planted(kind)
    fitted = fit(Bias, {"smoothing": 0.5}, data, task)
    assert data.train.rating is not None
    y = data.train.rating.astype(float)
    y = (y >= task.positive_rating).astype(float) if kind == "preference" else y
    plain = damped(data.train.user, y, data.n_users, 0.5)[:, None] + damped(data.train.item, y, data.n_items, 0.5)
    batch = fitted.batch()
    scores = fitted.score(batch).double().numpy()
    expected = plain[batch.user.numpy()]
    if batch.candidates is not None:
        expected = np.take_along_axis(expected, batch.candidates.numpy(), 1)
        assert fitted.metrics["auc"] == pytest.approx(roc_auc_score(batch.label, expected[:, 0]), abs=1e-3)
    order = np.argsort(expected.ravel())
    clearly = np.diff(expected.ravel()[order]) > 1e-4
    assert (np.diff(scores.ravel()[order])[clearly] > 0).all()


def test_a_user_and_an_item_unseen_in_training_score_the_overall_mean() -> None:
    data, task = planted("preference")
    model = fit(Bias, {}, data, task).model
    assert model.item[0] == model.mean
    assert model.user[0] == model.mean


def test_needs_ratings() -> None:
    data, _ = planted("ranking")
    data = replace(data, train=replace(data.train, rating=None))
    with pytest.raises(InputError, match="needs ratings"):
        Bias(Bias.Config(), data.catalogue())
