"""User kNN: recommends what the users with the most similar interactions have."""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field
from scipy.sparse import csr_matrix
from torch import Tensor

from baselines._common import BLOCK, Weighting, interaction_matrix, known_matrix, norms, weighted
from benchmark.data.batch import Batch
from benchmark.data.schema import Catalogue
from benchmark.recommender import ModelConfig, Recommender


class UserKNN(Recommender):
    """User-based nearest neighbours by shrunk cosine (Resnick et al., CSCW 1994, doi:10.1145/192844.192905)."""

    class Config(ModelConfig):
        n_neighbors: int = Field(100, gt=0, description="Neighbours of a user that vote.")
        shrinkage: float = Field(0.0, ge=0, description="Added to the product of norms: trusts short rows less.")
        weighting: Weighting = Field("none", description="How much an item counts: none, tfidf or bm25.")

    batch_kind = "whole"
    unseen = frozenset({"users"})
    items: Tensor
    lengths: Tensor

    def __init__(self, config: Config, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        self.register_buffer("items", torch.zeros(len(catalogue.train), dtype=torch.int64))
        self.register_buffer("lengths", torch.zeros(self.n_users, dtype=torch.int64))

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        matrix = interaction_matrix(batch, self.n_users, self.n_items)
        self.items[: matrix.nnz] = torch.from_numpy(matrix.indices).to(self.items)
        self.lengths.copy_(torch.from_numpy(np.diff(matrix.indptr)))

    def score(self, batch: Batch) -> Tensor:
        assert batch.seen is not None
        offsets = np.append(0, self.lengths.cpu().numpy().cumsum())
        nnz = int(offsets[-1])
        ones = np.ones(nnz, np.float32)
        train = csr_matrix((ones, self.items[:nnz].cpu().numpy(), offsets), shape=(self.n_users, self.n_items))
        known = known_matrix(batch.seen, self.n_items)
        rows, queries = weighted(train, self.config.weighting), weighted(known, self.config.weighting, train)
        size = max(1, BLOCK // self.n_users)
        blocks = [
            self._vote(train, rows, queries[start : start + size], batch.user[start : start + size].cpu().numpy())
            for start in range(0, len(batch), size)
        ]
        return self.pick(torch.from_numpy(np.concatenate(blocks)).to(batch.user.device), batch)

    def _vote(self, train: csr_matrix, rows: csr_matrix, queries: csr_matrix, user: np.ndarray) -> np.ndarray:
        similarity = (queries @ rows.T).toarray()
        similarity /= norms(queries)[:, None] * norms(rows) + np.float32(self.config.shrinkage)
        similarity[np.arange(len(user)), user] = 0
        values, ids = torch.from_numpy(similarity).topk(min(self.config.n_neighbors, self.n_users), dim=1)
        ends = np.arange(len(user) + 1) * ids.shape[1]
        votes = csr_matrix((values.ravel().numpy(), ids.ravel().numpy(), ends), shape=similarity.shape)
        return (votes @ train).toarray()
