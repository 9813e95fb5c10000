"""EASE: the contract, and the closed form in float64."""

import numpy as np

from baselines.ease import EASE
from tests.contract import RecommenderContract, fit
from tests.planted import planted


class TestEASE(RecommenderContract):
    model = EASE
    config = {"l2": 5.0}
    floor = 0.85


def test_equals_the_closed_form_in_float64() -> None:
    data, task = planted("ranking")
    fitted = fit(EASE, {"l2": 5.0}, data, task)
    x = np.zeros((data.n_users, data.n_items))
    x[data.train.user, data.train.item] = 1
    p = np.linalg.inv(x.T @ x + 5.0 * np.eye(data.n_items))
    b = -p / np.diag(p)
    np.fill_diagonal(b, 0)
    np.testing.assert_allclose(fitted.model.weight.numpy(), b, atol=1e-5)
    x[data.valid.user, data.valid.item] = 1  # known at test
    batch = fitted.batch()
    np.testing.assert_allclose(fitted.score(batch).numpy(), (x @ b)[batch.user.numpy()], atol=1e-5)
