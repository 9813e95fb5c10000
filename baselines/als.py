"""ALS: implicit-feedback matrix factorisation by alternating least squares, through the library implicit."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from baselines._common import interaction_matrix, is_in_train
from benchmark.data.batch import Batch
from benchmark.data.schema import Catalogue
from benchmark.errors import missing_extra
from benchmark.recommender import ModelConfig, Recommender


class ALS(Recommender):
    """Collaborative filtering for implicit feedback (Hu et al., ICDM 2008, doi:10.1109/ICDM.2008.22).

    Users unseen in training get their factors from what is known of them; without anything known they get zeros.
    """

    class Config(ModelConfig):
        embedding_size: int = Field(64, gt=0, description="Number of factors.")
        l2: float = Field(0.01, gt=0, description="Ridge penalty on the factors.")
        alpha: float = Field(1.0, gt=0, description="Confidence of an interaction; everything else has 1.")
        n_iterations: int = Field(15, gt=0, description="Alternations between users and items.")

    batch_kind = "whole"
    unseen = frozenset({"users"})
    user: Tensor
    item: Tensor
    seed: Tensor
    known_user: Tensor

    def __init__(self, config: Config, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        self.register_buffer("user", torch.zeros(self.n_users, config.embedding_size))
        self.register_buffer("item", torch.zeros(self.n_items, config.embedding_size))
        self.register_buffer("seed", torch.randint(2**31, ()))  # drawn here, so that all processes agree
        self.register_buffer("known_user", is_in_train(catalogue)[0], persistent=False)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        try:
            from implicit.cpu.als import AlternatingLeastSquares
        except ImportError:
            raise missing_extra("implicit", "als") from None
        from threadpoolctl import threadpool_limits

        config = self.config
        with threadpool_limits(1, "blas"):  # implicit has its own threads; BLAS threads below them only get in the way
            als = AlternatingLeastSquares(
                config.embedding_size,
                regularization=config.l2,
                alpha=config.alpha,
                iterations=config.n_iterations,
                num_threads=torch.get_num_threads(),
                random_state=int(self.seed),
            )
            als.fit(interaction_matrix(batch, self.n_users, self.n_items), show_progress=False)
        self.user.copy_(torch.from_numpy(als.user_factors))
        self.item.copy_(torch.from_numpy(als.item_factors))

    def score(self, batch: Batch) -> Tensor:
        assert batch.seen is not None
        user, offsets = self.user[batch.user], batch.seen.offsets.tolist()
        for b in (~self.known_user[batch.user]).nonzero().ravel().tolist():
            user[b] = self.fold_in(batch.seen.values[offsets[b] : offsets[b + 1]])
        return self.dot(user, self.item, batch)

    def fold_in(self, items: Tensor) -> Tensor:
        """Return (d,) the factors of a user with these items: one exact half-step of the alternation."""
        own = self.item[items]
        system = self.item.T @ self.item + (self.config.alpha - 1) * own.T @ own
        system.diagonal().add_(self.config.l2)
        return torch.linalg.solve(system, self.config.alpha * own.sum(0))
