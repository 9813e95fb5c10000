"""Negatives: never a training positive, every other item equally often."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from benchmark.data.batch import Ragged
from benchmark.data.negatives import NegativeSampler
from benchmark.errors import InputError


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
