"""Negative sampling: uniform over the items a user does not have, exact and without rejection."""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from benchmark.data.batch import Ragged
from benchmark.errors import InputError


class NegativeSampler:
    """Draws items that a user has not interacted with in training.

    The r-th item missing from a user's sorted list is ``r + j``, where j counts the owned items with
    ``item - position <= r``. Ids are shuffled, so a user's items lie evenly and j is near ``r * owned / free``: a few
    steps from there find it, and no draw is rejected.
    """

    def __init__(self, seen: Ragged, n_items: int) -> None:
        """Index the (unique, ascending) training items of every user.

        Raises:
            InputError: a user has every item, so that no negative exists.
        """
        self.seen, self.n_items = seen, n_items
        self.free = n_items - seen.lengths
        if bool((self.free <= 0).any()):
            user = int((self.free <= 0).nonzero()[0])
            raise InputError(f"user number {user} has interacted with all {n_items} items: no negative can be drawn")

    def draw(self, user: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """Return (B, n) int64 negatives for (B,) users."""
        r = (torch.rand(len(user), n, generator=generator, dtype=torch.float64) * self.free[user].unsqueeze(1)).long()
        offsets, items = self.seen.offsets.numpy(), self.seen.values.numpy()
        return torch.from_numpy(_nth_missing(user.numpy(), r.numpy(), offsets, items, self.n_items))


@njit(cache=True, nogil=True)
def _nth_missing(user: np.ndarray, r: np.ndarray, offsets: np.ndarray, items: np.ndarray, n_items: int) -> np.ndarray:
    """Return (B, n) the ``r``-th item that each user's list lacks."""
    out = np.empty_like(r)
    for b in range(r.shape[0]):
        own = items[offsets[user[b]] : offsets[user[b] + 1]]
        for k in range(r.shape[1]):
            j = r[b, k] * len(own) // (n_items - len(own))
            while j < len(own) and own[j] - j <= r[b, k]:
                j += 1
            while j > 0 and own[j - 1] - (j - 1) > r[b, k]:
                j -= 1
            out[b, k] = r[b, k] + j
    return out
