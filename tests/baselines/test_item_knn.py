"""ItemKNN: the contract, and cosine by brute force."""

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_similarity

from baselines.item_knn import ItemKNN
from benchmark.data.batch import Ragged
from tests.contract import RecommenderContract, fit
from tests.planted import planted


class TestItemKNN(RecommenderContract):
    model = ItemKNN
    config = {"n_neighbors": 20, "shrinkage": 1.0, "weighting": "bm25"}
    floor = 0.85


def test_equals_brute_force_cosine() -> None:
    data, task = planted("ranking")
    fitted = fit(ItemKNN, {"n_neighbors": data.n_items}, data, task)
    x = np.zeros((data.n_users, data.n_items))
    x[data.train.user, data.train.item] = 1
    similarity = cosine_similarity(x.T)
    np.fill_diagonal(similarity, 0)
    x[data.valid.user, data.valid.item] = 1  # known at test
    batch = fitted.batch()
    np.testing.assert_allclose(fitted.score(batch).numpy(), (x @ similarity)[batch.user.numpy()], atol=1e-5)


def test_of_a_short_memory_only_the_newest_items_count() -> None:
    data, task = planted("ranking")
    fitted = fit(ItemKNN, {"max_history": 3}, data, task)
    whole = fit(ItemKNN, {}, data, task)
    batch = fitted.batch()
    assert batch.history is not None
    lists = [h[h < data.n_items].sort().values for h in batch.history]
    offsets = torch.tensor([0, *np.cumsum([len(items) for items in lists])])
    batch.seen = Ragged(offsets, torch.cat(lists))
    assert max(map(len, lists)) == 3
    torch.testing.assert_close(fitted.score(batch), whole.score(batch))


@pytest.mark.parametrize(("k", "shrinkage"), [(5, 0.0), (3, 10.0)])
def test_keeps_the_nearest_and_shrinks_rare_items(k: int, shrinkage: float) -> None:
    data, task = planted("ranking")
    model = fit(ItemKNN, {"n_neighbors": k, "shrinkage": shrinkage}, data, task).model
    x = np.zeros((data.n_users, data.n_items))
    x[data.train.user, data.train.item] = 1
    norm = np.linalg.norm(x, axis=0)
    similarity = (x.T @ x) / np.maximum(np.outer(norm, norm) + shrinkage, 1e-9)
    np.fill_diagonal(similarity, 0)
    np.testing.assert_allclose(model.similarity.numpy(), -np.sort(-similarity, axis=1)[:, :k], atol=1e-6)
    found = np.take_along_axis(similarity, model.neighbors.numpy(), 1)
    np.testing.assert_allclose(found, model.similarity.numpy(), atol=1e-6)
