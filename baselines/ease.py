"""EASE: a linear item-to-item model in closed form."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from baselines._common import interaction_matrix
from benchmark.data.batch import Batch
from benchmark.data.schema import Catalogue
from benchmark.recommender import ModelConfig, Recommender


class EASE(Recommender):
    """Embarrassingly shallow autoencoder (Steck, WWW 2019, arXiv:1905.03375)."""

    class Config(ModelConfig):
        l2: float = Field(250.0, gt=0, description="Ridge penalty on the Gram matrix.")

    batch_kind = "whole"
    unseen = frozenset({"users"})
    weight: Tensor

    def __init__(self, config: Config, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        self.register_buffer("weight", torch.zeros(self.n_items, self.n_items))

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        matrix = interaction_matrix(batch, self.n_users, self.n_items)
        gram = self.weight.copy_(torch.from_numpy((matrix.T @ matrix).toarray()))
        gram.diagonal().add_(self.config.l2)
        torch.linalg.cholesky(gram, out=gram)
        torch.cholesky_inverse(gram, out=gram)
        gram.div_(-gram.diagonal().clone()).fill_diagonal_(0)

    def score(self, batch: Batch) -> Tensor:
        assert batch.seen is not None
        scores = F.embedding_bag(batch.seen.values, self.weight, batch.seen.offsets[:-1], mode="sum")
        return self.pick(scores, batch)
