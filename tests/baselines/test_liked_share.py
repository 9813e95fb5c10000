"""LikedShare: the contract, and the damped share by hand."""

import pytest
import torch

from baselines.liked_share import LikedShare
from tests.contract import RecommenderContract, fit
from tests.planted import planted


class TestLikedShare(RecommenderContract):
    model = LikedShare
    tasks = ("preference",)
    floor = 0.6


@pytest.mark.parametrize("item_mean", [False, True])
def test_is_the_damped_share_of_likes_in_the_history(item_mean: bool) -> None:
    data, task = planted("preference")
    fitted = fit(LikedShare, {"max_history": 3, "smoothing": 2.0, "item_mean": item_mean}, data, task)
    batch = fitted.batch()
    assert batch.history_label is not None
    assert batch.history_length is not None
    assert batch.candidates is not None
    likes = torch.from_numpy(data.train.rating >= task.positive_rating).float()  # type: ignore[operator]
    item = torch.from_numpy(data.train.item).long()
    expected = (batch.history_label.sum(1) + 2 * likes.mean()) / (batch.history_length + 2)
    if item_mean:
        n = torch.bincount(item, minlength=data.n_items)
        means = (torch.bincount(item, likes, data.n_items) + 2 * likes.mean()) / (n + 2)
        expected = expected + means[batch.candidates[:, 0]] - likes.mean()
    found = fitted.score(batch)[:, 0]
    inside = (expected > 0.01) & (expected < 0.99)
    assert inside.sum() > 100
    torch.testing.assert_close(found.sigmoid()[inside], expected[inside].float(), atol=1e-5, rtol=1e-4)
