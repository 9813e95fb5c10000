"""LightGCN: matrix factorisation whose embeddings are smoothed over the interaction graph."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from scipy.sparse import bmat, coo_array, diags_array
from torch import Tensor

from baselines._common import embedding, is_in_train, user_rows
from benchmark.data.batch import Batch, BatchSpec
from benchmark.data.schema import Catalogue
from benchmark.errors import InputError
from benchmark.recommender import GradientConfig, ModelConfig, Recommender, Traits


class Propagate(torch.autograd.Function):
    """Mean of x, A x, ..., A^n x. A is symmetric, so the gradient is propagated in the same way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, graph: Tensor, n_layers: int) -> Tensor:
        ctx.graph, ctx.n_layers = graph, n_layers
        y = x
        for _ in range(n_layers):
            y = torch.addmm(x, graph, y)
        return y / (n_layers + 1)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None, None]:
        return Propagate.apply(grad[0].contiguous(), ctx.graph, ctx.n_layers), None, None


class LightGCN(Recommender):
    """Light graph convolution (He et al., SIGIR 2020, arXiv:2002.02126), trained by BPR or by binary cross-entropy.

    Users unseen in training are the average user. Unseen items start at zero: as drawn negatives they can only sink.
    """

    class Config(GradientConfig):
        embedding_size: int = Field(64, gt=0, description="Length of the embeddings.")
        n_layers: int = Field(3, ge=0, description="Hops over the graph.")
        loss: Literal["bpr", "bce"] = Field("bpr", description="bpr (ranking only) or bce (ranking and preference).")
        edge_rating: float | None = Field(
            None, description="Edges are the interactions rated so or higher, such as likes; None: all."
        )

    tasks = frozenset({"ranking", "preference"})
    probability = True
    known_user: Tensor

    def __init__(self, config: Config, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        known_user, known_item = is_in_train(catalogue)
        self.register_buffer("known_user", known_user, persistent=False)
        self.node = embedding(torch.cat([known_user, known_item]), config.embedding_size)
        if config.edge_rating is not None and catalogue.train.rating is None:
            raise InputError("edge_rating: the data has no ratings")
        self._graph: Tensor | None = None  # no buffer: DDP would send it along with every step
        self._final: tuple[Any, Tensor] | None = None

    @classmethod
    def traits_of(cls, config: ModelConfig) -> Traits:
        traits = super().traits_of(config)
        # bpr would take dislikes for positives
        only = isinstance(config, cls.Config) and config.loss == "bpr"
        return replace(traits, tasks=frozenset({"ranking"}), probability=False) if only else traits

    def batch_spec(self) -> BatchSpec:
        return replace(super().batch_spec(), kind="pairwise" if self.config.loss == "bpr" else "pointwise")

    def graph(self) -> Tensor:
        """Return the symmetrically normalised adjacency of users and items, in CSR."""
        if self._graph is None or self._graph.device != self.device:
            train = self.catalogue.train
            user, item = train.user, train.item
            if self.config.edge_rating is not None:
                assert train.rating is not None
                edges = train.rating >= self.config.edge_rating
                user, item = user[edges], item[edges]
            pairs = coo_array((np.ones(len(user), np.float32), (user, item)), (self.n_users, self.n_items))
            cells = pairs.tocsr()
            cells.data[:] = 1
            adjacency = bmat([[None, cells], [cells.T, None]], format="csr")
            scale = diags_array(1 / np.sqrt(np.maximum(adjacency.sum(axis=1), 1)))
            a = (scale @ adjacency @ scale).tocsr().astype(np.float32)
            # 32-bit indices: MKL would copy 64-bit ones at every product
            rows, columns = (torch.from_numpy(index.astype(np.int32)) for index in (a.indptr, a.indices))
            with warnings.catch_warnings():  # of torch: sparse CSR tensors are young
                warnings.simplefilter("ignore", UserWarning)
                self._graph = torch.sparse_csr_tensor(rows, columns, torch.from_numpy(a.data), a.shape).to(self.device)
        return self._graph

    def propagate(self) -> Tensor:
        """Return (n_users + n_items, d)."""
        return Propagate.apply(self.node.weight, self.graph(), self.config.n_layers)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        assert batch.item is not None
        self._final = None  # AdamW's fused step is not counted in the version of what it changes
        items = batch.item.unsqueeze(1) + self.n_users
        if batch.negative is not None:
            items = torch.cat([items, batch.negative + self.n_users], 1)
        nodes = torch.cat([batch.user.unsqueeze(1), items], 1)
        x = F.embedding(nodes, self.propagate())
        logits = (x[:, 1:] * x[:, :1]).sum(2)
        if self.config.loss == "bpr":
            return F.softplus(logits[:, 1:] - logits[:, :1]).mean()
        assert batch.label is not None
        return F.binary_cross_entropy_with_logits(logits[:, 0], batch.label)

    def score(self, batch: Batch) -> Tensor:
        return self.dot(self.user_embeddings(batch), self.item_embeddings(), batch)

    def user_embeddings(self, batch: Batch) -> Tensor:
        return user_rows(self._nodes()[: self.n_users], self.known_user, batch.user)

    def item_embeddings(self) -> Tensor:
        return self._nodes()[self.n_users :]

    def _nodes(self) -> Tensor:
        """Return (n_users + n_items, d), propagated once until the weights change; in training with their gradients."""
        if self.training and torch.is_grad_enabled():
            return self.propagate()
        state = self.node.weight._version, self.device  # loading changes it
        if self._final is None or self._final[0] != state:
            self._final = state, self.propagate().detach()
        return self._final[1]
