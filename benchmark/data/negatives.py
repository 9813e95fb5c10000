"""Negative sampling among the items a user does not have: uniform, by popularity, hard; exact, without rejection."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numba import njit
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from benchmark.data.batch import Ragged
from benchmark.errors import InputError

SamplingKind = Literal["uniform", "popularity", "hard"]
_TOTAL = 2.0**52  # of the whole-number weights of all items; sums of them are exact


class Sampling(BaseModel):
    """How negatives are drawn, never one that the user has in training; a kind alone stands for its defaults.

    uniform: every other item is as likely. popularity: by training count ** power (Mikolov et al., NeurIPS 2013,
    arXiv:1310.4546); items without a training interaction are never drawn. hard: ``pool`` times as many are drawn
    uniformly, and those that the model as it is scores highest are kept (dynamic negative sampling, Zhang et al., SIGIR
    2013, doi:10.1145/2484028.2484126).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: SamplingKind = "uniform"
    power: float = Field(0.75, ge=0, description="Of the training counts (popularity).")
    pool: int = Field(5, gt=1, description="Candidates for each negative (hard).")

    @model_validator(mode="before")
    @classmethod
    def _kind_alone(cls, value: Any) -> Any:
        return {"kind": value} if isinstance(value, str) else value


def popularity(item: np.ndarray, n_items: int, power: float) -> np.ndarray:
    """Return (n_items,) float64 probabilities, proportional to how often each id stands in ``item``, to the power."""
    weight = np.bincount(item, minlength=n_items).astype(np.float64) ** power
    return weight / weight.sum()


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


class PopularitySampler(NegativeSampler):
    """Draws items that a user has not interacted with, in proportion to a weight.

    Weights are whole numbers, so that all sums are exact. With a user's own items cut out of the line on which every
    item is as long as its weight, a draw is a point on the rest: a search in the user's items gives how much was cut
    out before it, a search in all items where it lies.
    """

    def __init__(self, seen: Ragged, n_items: int, probability: np.ndarray) -> None:
        """Index the (unique, ascending) training items of every user.

        Args:
            seen: those items.
            n_items: number of all items.
            probability: (n_items,) chance of each.
        """
        super().__init__(seen, n_items)
        weight = np.where(probability > 0, np.maximum(np.rint(probability * _TOTAL), 1), 0).astype(np.int64)
        self.ends = np.cumsum(weight)
        offsets, items = seen.offsets.numpy(), seen.values.numpy()
        through = np.concatenate([[0], np.cumsum(weight[items])])
        lengths = np.diff(offsets)
        # of each user's items: the weight of that user's items up to it, and where it was cut out of the rest
        self.cut = through[1:] - np.repeat(through[offsets[:-1]], lengths)
        self.place = self.ends[items] - self.cut
        self.rest = self.ends[-1] - (through[offsets[1:]] - through[offsets[:-1]])

    def check(self, users: np.ndarray) -> None:
        """Raise InputError where one of ``users`` has every item that could be drawn."""
        empty = users[self.rest[users] <= 0]
        if len(empty):
            raise InputError(
                f"negative_sampling: popularity: user number {int(empty[0])} has interacted with every item of the "
                "training part: no negative can be drawn; use kind: uniform"
            )

    def draw(self, user: Tensor, n: int, generator: torch.Generator) -> Tensor:
        u = user.numpy()
        r = torch.rand(len(user), n, generator=generator, dtype=torch.float64).numpy()
        point = np.minimum((r * self.rest[u, None]).astype(np.int64), self.rest[u, None] - 1)
        return torch.from_numpy(_at_point(u, point, self.seen.offsets.numpy(), self.place, self.cut, self.ends))


@njit(cache=True, nogil=True)
def _at_point(
    user: np.ndarray, point: np.ndarray, offsets: np.ndarray, place: np.ndarray, cut: np.ndarray, ends: np.ndarray
) -> np.ndarray:
    """Return (B, n) the items at the ``point`` of each user's line."""
    out = np.empty_like(point)
    for b in range(point.shape[0]):
        start, stop = offsets[user[b]], offsets[user[b] + 1]
        for k in range(point.shape[1]):
            j = start + np.searchsorted(place[start:stop], point[b, k], side="right")
            before = cut[j - 1] if j > start else 0
            out[b, k] = np.searchsorted(ends, point[b, k] + before, side="right")
    return out


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
