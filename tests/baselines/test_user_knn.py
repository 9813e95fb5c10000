"""UserKNN: the contract, and cosine by brute force."""

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity

from baselines import user_knn
from baselines.user_knn import UserKNN
from tests.contract import RecommenderContract, fit
from tests.planted import planted


class TestUserKNN(RecommenderContract):
    model = UserKNN
    config = {"n_neighbors": 20, "weighting": "tfidf"}
    floor = 0.85


@pytest.mark.parametrize("block", [1 << 24, 500])
def test_equals_brute_force_cosine(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_knn, "BLOCK", block)  # also in several blocks of users
    data, task = planted("ranking")
    fitted = fit(UserKNN, {"n_neighbors": 15}, data, task)
    train = np.zeros((data.n_users, data.n_items))
    train[data.train.user, data.train.item] = 1
    known = train.copy()
    known[data.valid.user, data.valid.item] = 1
    similarity = cosine_similarity(known, train)
    np.fill_diagonal(similarity, 0)
    similarity += np.arange(data.n_users) * -1e-12  # equal neighbours: which of them vote is left open
    kept = -np.sort(-similarity, axis=1)[:, :15]
    batch = fitted.batch()
    scores = fitted.score(batch).numpy()
    # the sum over items of a user's votes needs no choice among equals when their rows are of one length
    clear = [row for row, u in enumerate(batch.user) if _unambiguous(similarity[u], 15)]
    assert len(clear) > 5
    for row in clear:
        u = int(batch.user[row])
        votes = np.where(similarity[u] >= kept[u, -1], similarity[u], 0)
        np.testing.assert_allclose(scores[row], votes @ train, atol=1e-5)


def _unambiguous(similarity: np.ndarray, k: int) -> bool:
    ordered = -np.sort(-similarity)
    return ordered[k - 1] - ordered[k] > 1e-6
