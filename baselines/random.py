"""Random scores: the floor of every table."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmark.data.batch import Batch
from benchmark.data.schema import Catalogue
from benchmark.recommender import ModelConfig, Recommender


class RandomScores(Recommender):
    """A hash of (seed, user, item): a pair's score does not depend on the batch or the candidates it is asked with.

    The hash is the finaliser of SplitMix64 (Steele et al., OOPSLA 2014, doi:10.1145/2660193.2660195).
    """

    batch_kind = "whole"
    group = "trivial"
    tasks = frozenset({"ranking", "preference"})
    unseen = frozenset({"users", "items"})
    salt: Tensor

    def __init__(self, config: ModelConfig, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        self.register_buffer("salt", torch.randint(2**62, ()))  # drawn from the seed of the run

    def score(self, batch: Batch) -> Tensor:
        everything = torch.arange(self.n_items, device=batch.user.device)
        item = everything if batch.candidates is None else batch.candidates
        # products wrap around at 64 bits, as they are meant to
        x = (batch.user.unsqueeze(1) * self.n_items + item) * -0x61C8864680B583EB + self.salt
        x = (x ^ _shifted(x, 30)) * -0x40A7B892E31B1A47
        x = (x ^ _shifted(x, 27)) * -0x6B2FB644ECCEEE15
        return _shifted(x ^ _shifted(x, 31), 40) / 2**24  # 24 bits: exact in float32


def _shifted(x: Tensor, n: int) -> Tensor:
    """Shift right without copies of the sign."""
    return (x >> n) & (2 ** (64 - n) - 1)
