"""SASRec: a causal transformer over the user's history."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from benchmark.data.batch import Batch, BatchSpec
from benchmark.data.negatives import SamplingKind
from benchmark.data.schema import Catalogue
from benchmark.recommender import GradientConfig, ModelConfig, Recommender, Traits


class Block(nn.Module):
    """Pre-norm causal self-attention and feed-forward layer."""

    def __init__(self, size: int, n_heads: int, dropout: float) -> None:
        super().__init__()
        self.n_heads, self.dropout = n_heads, dropout
        self.norm_in, self.norm_out = nn.LayerNorm(size), nn.LayerNorm(size)
        self.qkv, self.join = nn.Linear(size, 3 * size), nn.Linear(size, size)
        self.feed = nn.Sequential(nn.Linear(size, 4 * size), nn.GELU(), nn.Dropout(dropout), nn.Linear(4 * size, size))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm_in(x)).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        drop = self.dropout if self.training else 0.0
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=drop)
        x = x + F.dropout(self.join(seen.transpose(1, 2).flatten(2)), drop)
        return x + F.dropout(self.feed(self.norm_out(x)), drop)


class SASRec(Recommender):
    """Self-attentive sequential recommendation (Kang & McAuley, ICDM 2018, arXiv:1808.09781).

    All positions are trained at once, by a softmax over all items (Klenitskiy & Vasilev, RecSys 2023, arXiv:2309.07602)
    or by the paper's binary cross-entropy; of a preference task, each labelled row behind its history. A user without
    history has the same score for every item in a ranking, and is one user in a preference task.
    """

    class Config(GradientConfig):
        batch_size: int = Field(128, gt=0, description="Users of a training batch.")
        embedding_size: int = Field(64, gt=0, description="Width of the transformer.")
        n_layers: int = Field(2, gt=0, description="Transformer layers.")
        n_heads: int = Field(2, gt=0, description="Attention heads of a layer.")
        dropout: float = Field(0.2, ge=0, lt=1, description="Dropout everywhere.")
        max_history: int = Field(50, gt=0, description="Newest items of a history that are read.")
        loss: Literal["softmax", "bce", "labels"] = Field(
            "softmax", description="softmax (all items), bce (drawn negatives), or labels (preference)."
        )

        @model_validator(mode="after")
        def _divides(self) -> SASRec.Config:
            if self.embedding_size % self.n_heads:
                raise ValueError(f"n_heads: {self.n_heads} does not divide embedding_size {self.embedding_size}")
            return self

    batch_kind = "sequence"
    group = "sequential"
    tasks = frozenset({"ranking", "preference"})
    probability = True
    unseen = frozenset({"users"})

    def __init__(self, config: Config, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        size = config.embedding_size
        self.item = nn.Embedding(self.n_items + 1, size, padding_idx=self.n_items)
        self.position = nn.Embedding(config.max_history, size)
        self.blocks = nn.Sequential(*(Block(size, config.n_heads, config.dropout) for _ in range(config.n_layers)))
        self.norm = nn.LayerNorm(size)
        for table in (self.item, self.position):
            nn.init.normal_(table.weight, std=0.02)

    @classmethod
    def traits_of(cls, config: ModelConfig) -> Traits:
        labels = isinstance(config, cls.Config) and config.loss == "labels"
        task = "preference" if labels else "ranking"
        return replace(super().traits_of(config), tasks=frozenset({task}), probability=labels)

    def batch_spec(self) -> BatchSpec:
        return replace(super().batch_spec(), kind="pointwise" if self.config.loss == "labels" else "sequence")

    @classmethod
    def samplings(cls, config: ModelConfig) -> frozenset[SamplingKind]:
        drawn = isinstance(config, cls.Config) and config.loss == "bce"
        return frozenset({"uniform", "popularity"}) if drawn else frozenset({"uniform"})

    def encode(self, history: Tensor) -> Tensor:
        """Return (B, L, d): position l has read the items up to l. Padding on the right is never read by real items."""
        x = self.item(history) * self.config.embedding_size**0.5 + self.position.weight[: history.shape[1]]
        return self.norm(self.blocks(F.dropout(x, self.config.dropout, self.training)))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        assert batch.history is not None
        if self.config.loss == "labels":
            assert batch.item is not None
            assert batch.label is not None
            logits = (self.user_embeddings(batch) * self.item(batch.item)).sum(1)
            return F.binary_cross_entropy_with_logits(logits, batch.label)
        target = batch.history[:, 1:]
        real = target != self.n_items
        hidden, positive = self.encode(batch.history[:, :-1])[real], target[real]
        if self.config.loss == "softmax":
            return F.cross_entropy(hidden @ self.item.weight[:-1].T, positive)
        drawn = self.drawn_items(len(positive), self.config.negatives)
        logits = (self.item(torch.cat([positive.unsqueeze(1), drawn], 1)) @ hidden.unsqueeze(2)).squeeze(2)
        own = (drawn.unsqueeze(2) == batch.history[real.nonzero()[:, 0]].unsqueeze(1)).any(2)
        wrong = F.softplus(logits[:, 1:]).masked_fill(own, 0)  # no item of the user's own is a negative
        return (F.softplus(-logits[:, :1]) + wrong.mean(1, keepdim=True)).mean()

    def score(self, batch: Batch) -> Tensor:
        return self.dot(self.user_embeddings(batch), self.item_embeddings(), batch)

    def user_embeddings(self, batch: Batch) -> Tensor:
        assert batch.history is not None
        assert batch.history_length is not None
        last = (batch.history_length - 1).clamp(min=0)
        hidden = self.encode(batch.history)[torch.arange(len(batch), device=last.device), last]
        return hidden if self.config.loss == "labels" else hidden * (batch.history_length > 0).unsqueeze(1)

    def item_embeddings(self) -> Tensor:
        return self.item.weight[:-1]
