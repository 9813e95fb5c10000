"""Negative sampling: uniform over the items a user does not have, exact and without rejection."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmark.data.batch import Ragged
from benchmark.errors import InputError


class NegativeSampler:
    """Draws items that a user has not interacted with in training.

    The r-th item missing from a user's sorted list is ``r + j``, where j counts the owned items with
    ``item - position <= r``. One global binary search over ``user * n_items + (item - position)`` finds j for a whole
    batch, so every draw costs O(log n) and none is rejected.
    """

    def __init__(self, seen: Ragged, n_items: int) -> None:
        """Index the (unique, ascending) training items of every user.

        Raises:
            InputError: a user has every item, so that no negative exists.
        """
        self.n_items = n_items
        self.offsets = seen.offsets
        self.free = n_items - seen.lengths
        if bool((self.free <= 0).any()):
            user = int((self.free <= 0).nonzero()[0])
            raise InputError(f"user number {user} has interacted with all {n_items} items: no negative can be drawn")
        row = seen.row
        position = torch.arange(len(seen.values)) - seen.offsets[row]
        self.keys = row * n_items + seen.values - position

    def draw(self, user: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """Return (B, n) int64 negatives for (B,) users."""
        free = self.free[user].unsqueeze(1)
        r = (torch.rand(len(user), n, generator=generator, dtype=torch.float64) * free).long()
        owned_before = torch.searchsorted(self.keys, user.unsqueeze(1) * self.n_items + r, right=True)
        return r + owned_before - self.offsets[user].unsqueeze(1)
