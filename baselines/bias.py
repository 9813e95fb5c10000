"""Item mean + user mean: the plain baseline that published preference models must beat."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from baselines._common import damped_mean, logit_in_order
from benchmark.data.batch import Batch
from benchmark.data.schema import Catalogue
from benchmark.errors import InputError
from benchmark.recommender import ModelConfig, Recommender


class Bias(Recommender):
    """Damped item mean plus damped user mean (Koren et al., IEEE Computer 2009, doi:10.1109/MC.2009.263).

    Means are taken over likes (preference) or ratings (ranking), both scaled to [0, 1]. The score is a logit that keeps
    the order of item mean + user mean; unseen items and users have the overall mean.
    """

    class Config(ModelConfig):
        smoothing: float = Field(5.0, gt=0, description="Weight of the overall mean, in interactions.")

    batch_kind = "whole"
    group = "trivial"
    tasks = frozenset({"ranking", "preference"})
    probability = True
    unseen = frozenset({"users"})
    item: Tensor
    user: Tensor
    mean: Tensor

    def __init__(self, config: Config, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        if catalogue.train.rating is None:
            raise InputError("baselines.bias.Bias needs ratings and the data has none; use baselines.popularity")
        self.register_buffer("item", torch.zeros(self.n_items))
        self.register_buffer("user", torch.zeros(self.n_users))
        self.register_buffer("mean", torch.zeros(()))

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        assert batch.item is not None
        assert batch.label is not None
        y = batch.label.double()
        y = (y - y.min()) / (y.max() - y.min()).clamp(min=1e-9)
        self.mean.copy_(y.mean())
        for mean, ids in ((self.item, batch.item), (self.user, batch.user)):
            mean.copy_(damped_mean(ids, y, len(mean), self.config.smoothing))

    def score(self, batch: Batch) -> Tensor:
        p = self.pick(self.item.expand(len(batch), -1), batch) + (self.user[batch.user] - self.mean).unsqueeze(1)
        return logit_in_order(p)
