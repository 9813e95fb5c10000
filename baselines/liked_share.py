"""Share of likes: a user who liked what came last will like this too, whatever it is."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from baselines._common import damped_mean, logit_in_order
from benchmark.data.batch import Batch
from benchmark.data.schema import Catalogue
from benchmark.recommender import ModelConfig, Recommender


class LikedShare(Recommender):
    """Damped share of likes among the newest items of the history: what a prompt that lists them gives away.

    It knows nothing of the candidate, so it parts users and not items: a pooled AUC rewards it, UAUC hardly. With
    ``item_mean`` the candidate's damped mean label is added, as in baselines.bias.
    """

    class Config(ModelConfig):
        smoothing: float = Field(5.0, gt=0, description="Weight of the overall mean, in interactions.")
        max_history: int = Field(10, gt=0, description="Newest items of the history that count.")
        item_mean: bool = Field(False, description="Add the item's mean label in training.")

    batch_kind = "whole"
    group = "trivial"
    tasks = frozenset({"preference"})
    probability = True
    unseen = frozenset({"users"})
    item: Tensor
    mean: Tensor

    def __init__(self, config: Config, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        self.register_buffer("item", torch.zeros(self.n_items))
        self.register_buffer("mean", torch.zeros(()))

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        assert batch.item is not None
        assert batch.label is not None
        y = batch.label.double()
        self.mean.copy_(y.mean())
        self.item.copy_(damped_mean(batch.item, y, self.n_items, self.config.smoothing))

    def score(self, batch: Batch) -> Tensor:
        read = batch.newest(self.config.max_history)
        assert read.history_label is not None
        assert read.history_length is not None
        k = self.config.smoothing
        share = (read.history_label.sum(1) + k * self.mean) / (read.history_length + k)
        p = share.unsqueeze(1).expand(-1, self.n_items)
        if self.config.item_mean:
            p = p + self.item - self.mean
        return logit_in_order(self.pick(p, batch))
