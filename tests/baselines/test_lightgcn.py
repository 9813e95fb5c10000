"""LightGCN: the contract, and the propagation against dense matrices."""

import torch

from baselines.lightgcn import LightGCN
from benchmark.data.batch import Batch
from tests.contract import RecommenderContract
from tests.planted import planted


class TestLightGCN(RecommenderContract):
    model = LightGCN
    config = {"learning_rate": 0.02, "batch_size": 256, "embedding_size": 16}
    floor = 0.8


def test_what_is_scored_between_training_steps_are_the_weights_of_the_moment() -> None:
    """AdamW's fused step leaves the version of a tensor as it was, so validation once saw the first epoch for ever."""
    data, _ = planted("ranking")
    model = LightGCN(LightGCN.Config(embedding_size=8, learning_rate=0.1), data.catalogue())
    optimizer = model.configure_optimizers()
    user, item = torch.from_numpy(data.train.user[:64]).long(), torch.from_numpy(data.train.item[:64]).long()
    batch = Batch(user=user, item=item, negative=(item[:, None] + 1) % data.n_items)
    for _ in range(3):
        before = model.item_embeddings()
        model.training_step(batch, 0).backward()
        optimizer.step()
        expected = model.propagate()[data.n_users :].detach()
        assert not torch.equal(before, expected)
        torch.testing.assert_close(model.item_embeddings(), expected)


def test_propagation_and_its_gradient_equal_dense_matrices() -> None:
    data, _ = planted("ranking")
    model = LightGCN(LightGCN.Config(n_layers=3, embedding_size=8), data.catalogue())
    n = data.n_users + data.n_items
    a = torch.zeros(n, n)
    user, item = torch.from_numpy(data.train.user).long(), torch.from_numpy(data.train.item).long() + data.n_users
    a[user, item] = a[item, user] = 1
    scale = a.sum(1).clamp(min=1) ** -0.5
    a = scale[:, None] * a * scale
    x = model.node.weight.detach().clone().requires_grad_()
    expected = sum(torch.matrix_power(a, layer) @ x for layer in range(4)) / 4
    assert isinstance(expected, torch.Tensor)
    target = torch.randn_like(expected)
    (expected * target).sum().backward()
    found = model.propagate()
    (found * target).sum().backward()
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(model.node.weight.grad, x.grad, atol=1e-6, rtol=1e-4)
