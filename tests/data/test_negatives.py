"""Negatives: never a training positive; every other item equally often, by popularity, or a pool of them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from benchmark.data.batch import BatchSpec, Ragged
from benchmark.data.negatives import NegativeSampler, PopularitySampler, Sampling, popularity
from benchmark.data.split import Temporal, split
from benchmark.data.task import Task
from benchmark.data.train_rows import TrainRows, with_negatives
from benchmark.errors import InputError
from tests.data.test_datamodule import dataset


def ragged(lists: list[list[int]]) -> Ragged:
    lengths = torch.tensor([0, *map(len, lists)])
    return Ragged(lengths.cumsum(0), torch.tensor([item for row in lists for item in row], dtype=torch.int64))


@st.composite
def owned(draw: st.DrawFn) -> tuple[int, list[list[int]]]:
    n_items = draw(st.integers(1, 12))
    rows = st.sets(st.integers(0, n_items - 1), max_size=n_items - 1).map(sorted)
    return n_items, draw(st.lists(rows, min_size=1, max_size=6))


@settings(max_examples=150, deadline=None)
@given(owned(), st.integers(0, 2**31))
def test_a_negative_is_an_item_the_user_does_not_have(case: tuple[int, list[list[int]]], seed: int) -> None:
    n_items, lists = case
    sampler = NegativeSampler(ragged(lists), n_items)
    user = torch.arange(len(lists)).repeat(20)
    drawn = sampler.draw(user, 3, torch.Generator().manual_seed(seed))
    assert drawn.shape == (len(user), 3)
    for u, row in zip(user.tolist(), drawn.tolist(), strict=True):
        assert not set(row) & set(lists[u])
        assert all(0 <= item < n_items for item in row)
    # with so many draws every free item of the smallest catalogues comes up
    if n_items <= 3:
        for u, items in enumerate(lists):
            assert set(drawn[user == u].ravel().tolist()) == set(range(n_items)) - set(items)


def test_all_free_items_are_equally_likely() -> None:
    lists = [[0, 1, 2, 9], [], [5], list(range(1, 10))]
    sampler = NegativeSampler(ragged(lists), 10)
    generator = torch.Generator().manual_seed(0)
    for u, items in enumerate(lists):
        drawn = sampler.draw(torch.full((20_000,), u), 2, generator).ravel()
        counts = np.bincount(drawn.numpy(), minlength=10)[sorted(set(range(10)) - set(items))]
        assert counts.sum() == 40_000
        if len(counts) > 1:
            assert chisquare(counts).pvalue > 1e-4


def test_a_user_with_every_item_is_refused() -> None:
    with pytest.raises(InputError, match="user number 1 has interacted with all 3 items"):
        NegativeSampler(ragged([[0], [0, 1, 2]]), 3)


@settings(max_examples=150, deadline=None)
@given(owned(), st.integers(0, 2**31), st.sampled_from([0.0, 0.5, 0.75, 1.0]))
def test_by_popularity_a_negative_is_an_item_with_interactions_that_the_user_does_not_have(
    case: tuple[int, list[list[int]]], seed: int, power: float
) -> None:
    n_items, lists = case
    counts = np.random.default_rng(seed).integers(0, 4, n_items)
    weight = counts.astype(float) ** power
    if not weight.any():
        return
    stuck = [u for u, items in enumerate(lists) if not np.delete(weight, items).any()]
    sampler = PopularitySampler(ragged(lists), n_items, weight / weight.sum())
    if stuck:
        with pytest.raises(InputError, match=f"user number {stuck[0]} has interacted with every item"):
            sampler.check(np.arange(len(lists)))
        return
    sampler.check(np.arange(len(lists)))
    drawn = sampler.draw(torch.arange(len(lists)).repeat(20), 3, torch.Generator().manual_seed(seed))
    for u, row in zip(list(range(len(lists))) * 20, drawn.tolist(), strict=True):
        assert not set(row) & set(lists[u])
        assert all(weight[item] > 0 for item in row)


def test_popularity_is_the_training_count_to_the_power() -> None:
    """The frequencies of draws against the distribution, computed anew with the user's own items taken out."""
    rng = np.random.default_rng(0)
    item = rng.choice(12, 500, p=np.arange(1, 13) / 78)
    item = item[item != 4]  # an item without training interactions
    lists = [[0, 1, 2, 9], [], [11], [3, 5, 6, 7, 8, 9, 10, 11]]
    for power in (0.0, 0.75, 1.0):
        sampler = PopularitySampler(ragged(lists), 12, popularity(item, 12, power))
        for u, owned_items in enumerate(lists):
            drawn = sampler.draw(torch.full((20_000,), u), 2, torch.Generator().manual_seed(u)).ravel().numpy()
            expected = np.array([float((item == i).sum()) ** power for i in range(12)])
            expected[owned_items] = 0
            free = expected > 0
            counts = np.bincount(drawn, minlength=12)
            assert not counts[~free].any()
            assert chisquare(counts[free], expected[free] / expected.sum() * 40_000).pvalue > 1e-4


def rows(kind: str, sampling: Sampling | None, negatives: int = 2) -> TrainRows:
    task = Task(split=Temporal(valid=0.2, test=0.2))
    spec = BatchSpec(kind, negatives=negatives, sampling=sampling)  # type: ignore[arg-type]
    return TrainRows(split(dataset(), task.split, 0), task, spec, seed=5)


@pytest.mark.parametrize("kind", ["pairwise", "pointwise"])
@pytest.mark.parametrize("sampling", [None, Sampling()])
def test_uniform_draws_are_the_first_of_an_epochs_generator(kind: str, sampling: Sampling | None) -> None:
    """So they have always been: runs of the defaults repeat."""
    train = rows(kind, sampling)
    index = train.order(3)
    generator = torch.Generator().manual_seed(5 * 1_000_003 + 3)
    assert torch.equal(index, train.all[torch.randperm(len(train.all), generator=generator)])
    assert train.seen is not None
    negative = NegativeSampler(train.seen, 30).draw(train.user[index].long(), 2, generator)
    batch = train[index]
    if kind == "pairwise":
        assert batch.negative is not None
        assert torch.equal(batch.negative, negative)
    else:
        assert batch.item is not None
        assert torch.equal(batch.item, torch.cat([train.item[index].long(), negative.T.reshape(-1)]))


@pytest.mark.parametrize("kind", ["pairwise", "pointwise"])
@pytest.mark.parametrize("name", ["popularity", "hard"])
def test_an_epoch_of_other_draws_repeats_and_holds_no_item_of_the_users_own(kind: str, name: str) -> None:
    train = rows(kind, Sampling.model_validate(name))
    index = train.order(3)
    batch = train[index]
    if name == "hard":  # the model chooses among them; positives and labels are not there yet
        assert batch.negative is not None
        assert batch.negative.shape == (len(index), 10)
        negative = batch.negative
    elif kind == "pairwise":
        assert batch.negative is not None
        negative = batch.negative
    else:
        assert batch.item is not None
        negative = batch.item[len(index) :].view(2, -1).T
    assert train.seen is not None
    own = [set(part.tolist()) for part in train.seen.values.split(train.seen.lengths.tolist())]
    for user, drawn in zip(train.user[index].tolist(), negative.tolist(), strict=True):
        assert not own[user] & set(drawn)
    train.order(4)
    train[index]
    assert torch.equal(train.order(3), index)
    again = train[index]
    assert again.item is not None
    assert batch.item is not None
    assert torch.equal(again.item, batch.item)
    assert again.negative is None or torch.equal(again.negative, negative)


def test_appended_negatives_stand_behind_their_positives() -> None:
    train = rows("pointwise", Sampling(kind="hard", pool=2), negatives=1)
    batch = train[train.all[:4]]
    assert batch.negative is not None
    longer = with_negatives(batch, batch.negative)
    assert longer.label is not None
    assert longer.item is not None
    assert longer.label.tolist() == [1] * 4 + [0] * 8
    assert longer.item[4:8].tolist() == batch.negative[:, 0].tolist()
    assert longer.user.tolist() == batch.user.tolist() * 3
