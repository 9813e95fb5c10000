"""Popularity: everybody gets what most others had."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmark.data.batch import Batch
from benchmark.data.schema import Catalogue
from benchmark.recommender import ModelConfig, Recommender


class Popularity(Recommender):
    """Number of training interactions of an item (Cremonesi et al., RecSys 2010, doi:10.1145/1864708.1864721)."""

    batch_kind = "whole"
    group = "trivial"
    tasks = frozenset({"ranking", "preference"})
    unseen = frozenset({"users"})
    count: Tensor

    def __init__(self, config: ModelConfig, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        self.register_buffer("count", torch.zeros(self.n_items))

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        assert batch.item is not None
        self.count.copy_(torch.bincount(batch.item, minlength=self.n_items))

    def score(self, batch: Batch) -> Tensor:
        return self.pick(self.count.expand(len(batch), -1), batch)
