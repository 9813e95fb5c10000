"""TwoTower: items are their text, users are the texts of their history; ranks the full catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from benchmark.data.batch import Batch
from benchmark.data.schema import Catalogue
from benchmark.data.text import item_texts
from benchmark.llm.encoder import Encoder, Pooling
from benchmark.llm.pieces import PromptTokens
from benchmark.llm.prompts import flat_prompts
from benchmark.llm.templates import ALONE
from benchmark.llm.training import LanguageRecommender, LLMConfig


class TwoTowerConfig(LLMConfig):
    eval_batch_size: int = Field(1024, gt=0, description="Users of a scoring batch.")
    learning_rate: float = Field(1e-3, gt=0, description="Step size.")
    negatives: int = Field(0, ge=0, description="Items drawn for each batch beside its own, uniformly.")
    max_history: int = Field(20, gt=0, description="Newest items of a history that are read.")
    max_length: int = Field(64, gt=2, description="Most tokens of an item's text; its end is cut.")
    item_fields: tuple[str, ...] | None = Field(None, description="Columns that make the text; all by default.")
    pooling: Pooling | None = Field(None, description="mean, cls or last; the model's own by default.")
    temperature: float = Field(0.07, gt=0, description="Divides the cosine.")
    id_embedding: bool = Field(
        False, description="Add a trained vector of its own to each item's text, starting at 0; new items have none."
    )


class TwoTower(LanguageRecommender):
    """Text two-tower retrieval (Yi et al., RecSys 2019, doi:10.1145/3298689.3346996) on a fine-tuned language model.

    An item is the normalised vector e of its text. A user is the mean of the e of the history, newer ones weighing more
    by a learned rate, through a residual linear layer, normalised. The score is u.e / temperature, plus a learned
    multiple of the item's log training frequency. Every position of a training history predicts its item among the
    distinct items of the batch and ``negatives`` items drawn uniformly, with the log-Q correction for how likely each
    of them is to be there. Each item is encoded once a step, and once an evaluation. Zero-shot, a user is the mean with
    the rate at its first value, and the frequency counts nothing.
    """

    Config = TwoTowerConfig
    batch_kind = "sequence"
    reads_queries = True
    frequency: Tensor
    backbone: Encoder

    def __init__(self, config: TwoTowerConfig, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        self.backbone = Encoder(config.backbone, config.used_peft(), config.loading(), pooling=config.pooling)
        texts = item_texts(catalogue.items, config.item_fields)
        self.pieces = PromptTokens(ALONE, self.backbone.tokenizer, texts, cache=catalogue.cache)
        self.max_length = min(config.max_length, self.backbone.max_length)
        self.n_cut = self.pieces.cut_candidates(self.max_length)
        size = self.backbone.hidden_size
        self.project = nn.Linear(size, size, bias=False)
        nn.init.zeros_(self.project.weight)  # starts as the plain mean of the history
        self.decay = nn.Parameter(torch.tensor(-2.0))
        self.popularity = nn.Parameter(torch.tensor(0.0 if config.zero_shot else 0.5))
        self.nobody = nn.Parameter(torch.full((size,), size**-0.5))  # a user without history
        self.id = nn.Embedding(self.n_items, size) if config.id_embedding else None
        if self.id is not None:
            nn.init.zeros_(self.id.weight)
        count = torch.bincount(torch.from_numpy(catalogue.train.item).long(), minlength=self.n_items) + 1.0
        self.register_buffer("frequency", (count / count.sum()).log(), persistent=False)
        self._items: Tensor | None = None

    def encode_items(self, items: Tensor) -> Tensor:
        """Return (m, d) normalised vectors of (m,) item ids."""
        prompts = flat_prompts(self.pieces, self.max_length, candidate=items.cpu().numpy().astype(np.int64))
        text = F.normalize(self.backbone.encode_all(prompts), dim=-1)
        return text if self.id is None else F.normalize(text + self.id(items), dim=-1)

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Return (B, d) normalised vectors of B texts that are no items."""
        pieces = PromptTokens(ALONE, self.backbone.tokenizer, texts)
        with torch.no_grad(), self.backbone.merged():
            pieces.cut_candidates(self.backbone.max_length)
            prompts = flat_prompts(pieces, self.backbone.max_length, candidate=np.arange(len(texts)))
            return F.normalize(self.backbone.encode_all(prompts), dim=-1)

    def _user(self, mean: Tensor) -> Tensor:
        return F.normalize(mean + self.project(mean), dim=-1)

    def loss(self, batch: Batch) -> Tensor:
        assert batch.history is not None
        assert batch.history_length is not None
        self._items = None
        history = batch.history
        real = history < self.n_items
        n_real = int(real.sum())
        drawn = torch.randint(self.n_items, (self.config.negatives,), device=history.device)
        items, place = torch.unique(torch.cat([history[real], drawn]), return_inverse=True)
        vectors = self.encode_items(items)
        table = torch.cat([vectors, vectors.new_zeros(1, vectors.shape[1])])
        column = torch.full_like(history, len(items))
        column[real] = place[:n_real]
        age = torch.arange(history.shape[1] - 1, device=history.device)
        distance = age.unsqueeze(1) - age
        weight = torch.where(distance >= 0, torch.exp(-F.softplus(self.decay) * distance.clamp(min=0)), 0.0)
        weight = weight / weight.sum(1, keepdim=True)
        # the first item is predicted from nothing, every other one from what came before it
        before = weight @ table[column[:, :-1]]
        mean = torch.cat([self.nobody.expand(len(history), 1, -1), before], dim=1)
        user = self._user(mean[real])
        logits = user @ vectors.T / self.config.temperature
        # log-Q correction: how often an item is to be expected among the batch's own and the drawn ones
        expected = n_real * self.frequency[items].exp() + len(drawn) / self.n_items
        logits = logits + self.popularity * self.frequency[items] - expected.log()
        answer = column[real]
        own = torch.zeros(len(history), len(items) + 1, dtype=torch.bool, device=history.device)
        own.scatter_(1, column, True)
        # the user's other items are no negatives
        row = real.nonzero()[:, 0]
        others = own[row, :-1].scatter(1, answer.unsqueeze(1), False)
        return F.cross_entropy(logits.masked_fill(others, float("-inf")), answer)

    def score(self, batch: Batch) -> Tensor:
        assert batch.history is not None
        assert batch.history_length is not None
        items = self.item_vectors()
        table = torch.cat([items, items.new_zeros(1, items.shape[1])])
        age = batch.history_length.unsqueeze(1) - 1 - torch.arange(batch.history.shape[1], device=items.device)
        weight = torch.where(age >= 0, torch.exp(-F.softplus(self.decay) * age.clamp(min=0)), 0.0)
        weight = weight / weight.sum(1, keepdim=True).clamp(min=1e-12)
        mean = torch.einsum("bl,bld->bd", weight, table[batch.history])
        empty = (batch.history_length == 0).unsqueeze(1)
        if batch.query is not None:  # what is asked for weighs as much as all the history
            asked = self.encode_texts(batch.query)
            mean, empty = torch.where(empty, asked, (F.normalize(mean, dim=-1) + asked) / 2), torch.zeros_like(empty)
        user = self._user(torch.where(empty, self.nobody, mean))
        return self.dot(user / self.config.temperature, items, batch, self.popularity * self.frequency)

    def item_vectors(self) -> Tensor:
        """Return (n_items, d) vectors of the whole catalogue, encoded once until the next training step."""
        if self._items is None:
            with torch.no_grad(), self.backbone.merged():
                self._items = self.encode_items(torch.arange(self.n_items, device=self.device))
        return self._items

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        self._items = None
        return super().load_state_dict(state_dict, strict, assign)

    def report(self) -> dict[str, float]:
        return {
            **super().report(),
            "item_texts_cut_share": self.n_cut / max(self.n_items, 1),
            "popularity_weight": float(self.popularity.detach()),
            "decay": float(F.softplus(self.decay.detach())),
        }
