"""Item kNN: recommends what resembles what the user already has."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from baselines._common import Weighting, interaction_matrix, nearest, weighted
from benchmark.data.batch import Batch
from benchmark.data.schema import Catalogue
from benchmark.recommender import ModelConfig, Recommender


class ItemKNN(Recommender):
    """Item-based nearest neighbours by shrunk cosine (Sarwar et al., WWW 2001, doi:10.1145/371920.372071)."""

    class Config(ModelConfig):
        n_neighbors: int = Field(100, gt=0, description="Neighbours kept for each item.")
        shrinkage: float = Field(0.0, ge=0, description="Added to the product of norms: trusts rare items less.")
        max_history: int = Field(0, ge=0, description="Only the newest items of a user count; 0: all of them.")
        weighting: Weighting = Field("none", description="How much a user's interaction counts: none, tfidf or bm25.")

    batch_kind = "whole"
    unseen = frozenset({"users"})
    neighbors: Tensor
    similarity: Tensor

    def __init__(self, config: Config, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        shape = self.n_items, min(config.n_neighbors, self.n_items)
        self.register_buffer("neighbors", torch.zeros(shape, dtype=torch.int64))
        self.register_buffer("similarity", torch.zeros(shape))

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        users = interaction_matrix(batch, self.n_users, self.n_items)
        items = weighted(users.T.tocsr(), self.config.weighting)
        ids, values = nearest(items, self.neighbors.shape[1], self.config.shrinkage)
        self.neighbors.copy_(ids)
        self.similarity.copy_(values)

    def score(self, batch: Batch) -> Tensor:
        owned = self._owned(batch).T.contiguous()
        scores = F.embedding_bag(self.neighbors, owned, per_sample_weights=self.similarity, mode="sum")
        return self.pick(scores.T, batch)

    def _owned(self, batch: Batch) -> Tensor:
        """Return the (B, n_items) 0/1 matrix of the items that count."""
        if not self.config.max_history:
            assert batch.seen is not None
            return batch.seen.dense(self.n_items)
        history = batch.newest(self.config.max_history).history
        assert history is not None
        owned = torch.zeros(len(batch), self.n_items + 1, device=history.device)
        return owned.scatter_(1, history, 1)[:, :-1]  # the last column is the padding
