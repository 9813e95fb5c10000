"""TwoTower: items are their text, users are the texts of their history; ranks the full catalogue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from benchmark.data.batch import Batch
from benchmark.data.schema import Catalogue
from benchmark.data.text import item_texts
from benchmark.llm.backbone import DEFAULT_BACKBONE, Backbone, DType, Peft, Pooling
from benchmark.llm.encoding import encode
from benchmark.llm.prompts import Prompt, PromptTokens, flat_prompts
from benchmark.recommender import GradientConfig, Recommender

ADAPTER = "adapter"


class TwoTower(Recommender):
    """Text two-tower retrieval (Yi et al., RecSys 2019, doi:10.1145/3298689.3346996) on a fine-tuned language model.

    An item is the normalised vector e of its text. A user is the mean of the e of the history, newer ones weighing more
    by a learned rate, through a residual linear layer, normalised. The score is u.e / temperature, plus a learned
    multiple of the item's log training frequency. Every position of a training history predicts its item among the
    distinct items of the batch, with the log-Q correction for their frequency. Each item is encoded once a step, and
    once an evaluation.
    """

    class Config(GradientConfig):
        batch_size: int = Field(32, gt=0, description="Histories of a training batch.")
        learning_rate: float = Field(1e-3, gt=0, description="Step size of AdamW.")
        weight_decay: float = Field(0.01, ge=0, description="Decoupled weight decay.")
        negatives: int = Field(0, ge=0, le=0, description="Negatives are the other items of the batch.")
        max_history: int = Field(20, gt=0, description="Newest items of a history that are read.")
        backbone: str = Field(DEFAULT_BACKBONE, description="Hub name or local folder.")
        peft: Peft = Field(default_factory=Peft, description="How the backbone is fine-tuned.")
        pooling: Pooling | None = Field(None, description="mean, cls or last; the model's own by default.")
        dtype: DType = Field("auto", description="auto measures whether bfloat16 pays.")
        max_length: int = Field(64, gt=2, description="Most tokens of an item's text.")
        item_fields: tuple[str, ...] | None = Field(None, description="Columns that make the text; all by default.")
        temperature: float = Field(0.07, gt=0, description="Divides the cosine.")

    batch_kind = "sequence"
    group = "llm"
    frequency: Tensor

    def __init__(self, config: Config, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        self.backbone = Backbone(
            config.backbone, config.peft, pooling=config.pooling, max_length=None, dtype=config.dtype
        )
        texts = item_texts(catalogue.items, config.item_fields)
        self.pieces = PromptTokens(Prompt(template="{candidate}"), self.backbone.tokenizer, texts)
        self.max_length = min(config.max_length, self.backbone.max_length)
        size = self.backbone.hidden_size
        self.project = nn.Linear(size, size, bias=False)
        nn.init.zeros_(self.project.weight)  # starts as the plain mean of the history
        self.decay = nn.Parameter(torch.tensor(-2.0))
        self.popularity = nn.Parameter(torch.tensor(0.5))
        self.nobody = nn.Parameter(torch.full((size,), size**-0.5))  # a user without history
        count = torch.bincount(torch.from_numpy(catalogue.train.item).long(), minlength=self.n_items) + 1.0
        self.register_buffer("frequency", (count / count.sum()).log(), persistent=False)
        self._items: Tensor | None = None

    def encode_items(self, items: Tensor) -> Tensor:
        """Return (m, d) normalised vectors of (m,) item ids."""
        prompts = flat_prompts(self.pieces, self.max_length, candidate=items.cpu().numpy().astype(np.int64))
        return F.normalize(encode(self.backbone, prompts), dim=-1)

    def _user(self, mean: Tensor) -> Tensor:
        return F.normalize(mean + self.project(mean), dim=-1)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        assert batch.history is not None
        assert batch.history_length is not None
        self._items = None
        history = batch.history
        real = history < self.n_items
        items, place = torch.unique(history[real], return_inverse=True)
        vectors = self.encode_items(items)
        table = torch.cat([vectors, vectors.new_zeros(1, vectors.shape[1])])
        column = torch.full_like(history, len(items))
        column[real] = place
        age = torch.arange(history.shape[1] - 1, device=history.device)
        distance = age.unsqueeze(1) - age
        weight = torch.where(distance >= 0, torch.exp(-F.softplus(self.decay) * distance.clamp(min=0)), 0.0)
        weight = weight / weight.sum(1, keepdim=True)
        # the first item is predicted from nothing, every other one from what came before it
        before = weight @ table[column[:, :-1]]
        mean = torch.cat([self.nobody.expand(len(history), 1, -1), before], dim=1)
        user = self._user(mean[real])
        logits = user @ vectors.T / self.config.temperature
        # log-Q correction and the learned popularity term, both multiples of the log frequency
        logits = logits + (self.popularity - 1) * self.frequency[items]
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
        user = self._user(torch.where(empty, self.nobody, mean))
        return self.dot(user / self.config.temperature, items, batch, self.popularity * self.frequency)

    def item_vectors(self) -> Tensor:
        """Return (n_items, d) vectors of the whole catalogue, encoded once until the next training step."""
        if self._items is None:
            with torch.no_grad(), self.backbone.merged():
                self._items = self.encode_items(torch.arange(self.n_items))
        return self._items

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        self._items = None
        return super().load_state_dict(state_dict, strict, assign)

    def save(self, folder: Path) -> None:
        super().save(folder)
        self.backbone.save_adapter(folder / ADAPTER)

    def report(self) -> dict[str, float]:
        return {
            "popularity_weight": float(self.popularity.detach()),
            "decay": float(F.softplus(self.decay.detach())),
        }
