"""MarkovChain: the contract, counts by hand, and what orders equal counts."""

import numpy as np
import pytest
import torch

from baselines.item_knn import ItemKNN
from baselines.markov_chain import MarkovChain
from tests.contract import RecommenderContract, fit
from tests.planted import planted


class TestMarkovChain(RecommenderContract):
    model = MarkovChain
    floor = 0.75


@pytest.mark.parametrize("ties", [None, "knn"])
def test_counts_successors_of_the_last_item(ties: str | None) -> None:
    data, task = planted("ranking")
    knn = fit(ItemKNN, {}, data, task)
    fitted = fit(MarkovChain, {"ties": ties}, data, task, stages={"ties": knn.model} if ties else None)
    counts = np.zeros((data.n_items, data.n_items))
    for user in range(data.n_users):
        walk = data.train.item[data.train.offsets[user] : data.train.offsets[user + 1]]
        np.add.at(counts, (walk[:-1], walk[1:]), 1)
    batch = fitted.batch()
    assert batch.history is not None
    expected = counts[batch.history[:, 0].numpy()]
    found = fitted.score(batch).numpy()
    np.testing.assert_array_equal(np.floor(found), expected)
    second = knn.score(batch).numpy() if ties else np.bincount(data.train.item, minlength=data.n_items)[None, :]
    for scores, count, other in zip(found, expected, np.broadcast_to(second, found.shape), strict=True):
        equal = np.flatnonzero(count == 0)
        order = equal[np.argsort(scores[equal], kind="stable")]
        assert (np.diff(other[order]) >= -1e-4).all()


def test_a_user_without_history_gets_what_orders_equal_counts() -> None:
    data, task = planted("ranking")
    fitted = fit(MarkovChain, {}, data, task)
    batch = fitted.batch()
    batch.history, batch.history_length = torch.full((len(batch), 1), data.n_items), torch.zeros(len(batch)).long()
    popularity = torch.from_numpy(np.bincount(data.train.item, minlength=data.n_items)).float()
    torch.testing.assert_close(fitted.score(batch)[0], popularity / (popularity.max() + 1))
