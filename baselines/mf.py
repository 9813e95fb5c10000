"""MF: matrix factorisation with biases, trained by gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from baselines._common import embedding, is_in_train, user_rows
from benchmark.data.batch import Batch, BatchSpec
from benchmark.data.schema import Catalogue
from benchmark.recommender import GradientConfig, ModelConfig, Recommender, Traits


class MF(Recommender):
    """Matrix factorisation by BPR (Rendle et al., UAI 2009, arXiv:1205.2618) or by binary cross-entropy.

    Users unseen in training are the average user. Unseen items start at zero: as drawn negatives they can only sink.
    """

    class Config(GradientConfig):
        embedding_size: int = Field(64, gt=0, description="Length of the factors.")
        biases: bool = Field(True, description="Of users and items, beside the factors.")
        loss: Literal["bpr", "bce"] = Field("bpr", description="bpr (ranking only) or bce (ranking and preference).")

    tasks = frozenset({"ranking", "preference"})
    probability = True
    known_user: Tensor

    def __init__(self, config: Config, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        known_user, known_item = is_in_train(catalogue)
        self.register_buffer("known_user", known_user, persistent=False)
        self.user = embedding(known_user, config.embedding_size)
        self.item = embedding(known_item, config.embedding_size)
        self.item_bias = embedding(known_item, 1, scale=0.0).requires_grad_(config.biases)
        # a user's own bias orders nothing, so that bpr gives it no gradient
        self.user_bias = embedding(known_user, 1, scale=0.0).requires_grad_(config.biases and config.loss == "bce")

    @classmethod
    def traits_of(cls, config: ModelConfig) -> Traits:
        traits = super().traits_of(config)
        # bpr would take dislikes for positives
        only = isinstance(config, cls.Config) and config.loss == "bpr"
        return replace(traits, tasks=frozenset({"ranking"})) if only else traits

    def batch_spec(self) -> BatchSpec:
        return replace(super().batch_spec(), kind="pairwise" if self.config.loss == "bpr" else "pointwise")

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        assert batch.item is not None
        item = batch.item.unsqueeze(1)
        if batch.negative is not None:
            item = torch.cat([item, batch.negative], 1)
        # products and sums: twice as fast as batched matrix products of so few items
        user, factors, bias = self.user(batch.user).unsqueeze(1), self.item(item), self.item_bias(item).squeeze(2)
        if self.config.loss == "bpr":
            gap = (user * (factors[:, 1:] - factors[:, :1])).sum(2) + bias[:, 1:] - bias[:, :1]
            return F.softplus(gap).mean()
        logits = (user * factors).sum(2) + bias + self.user_bias(batch.user)
        assert batch.label is not None
        return F.binary_cross_entropy_with_logits(logits[:, 0], batch.label)

    def score(self, batch: Batch) -> Tensor:
        bias = user_rows(self.user_bias.weight, self.known_user, batch.user)
        return self.dot(self.user_embeddings(batch), self.item.weight, batch, self.item_bias.weight[:, 0]) + bias

    def user_embeddings(self, batch: Batch) -> Tensor:
        return user_rows(self.user.weight, self.known_user, batch.user)

    def item_embeddings(self) -> Tensor:
        return self.item.weight
