"""Pointwise: profile + history + candidate -> P(like), by a language model with a linear head."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from benchmark.data.batch import Batch, BatchSpec
from benchmark.data.schema import Catalogue
from benchmark.data.text import item_texts, user_profiles
from benchmark.llm.backbone import DEFAULT_BACKBONE, Backbone, DType, Peft, Pooling
from benchmark.llm.encoding import encode
from benchmark.llm.prompts import History, Prompt, PromptTokens, TokenBatch, flat_prompts
from benchmark.llm.two_tower import ADAPTER
from benchmark.recommender import GradientConfig, Recommender


class Pointwise(Recommender):
    """Does the user like the candidate? One prompt a row, as in TALLRec (Bao et al., RecSys 2023, arXiv:2305.00447).

    The prompt holds the user's profile, what the user liked and disliked before, and the candidate; the pooled vector
    of the backbone goes through a linear head to the logit of P(like). Preference tasks learn from labelled rows,
    ranking tasks from interactions and drawn negatives; ranking a full catalogue costs a prompt an item, so give it
    sampled candidates.
    """

    class Config(GradientConfig):
        batch_size: int = Field(32, gt=0, description="Prompts of a training batch.")
        eval_batch_size: int = Field(512, gt=0, description="Rows of a scoring batch.")
        learning_rate: float = Field(5e-4, gt=0, description="Step size of AdamW.")
        weight_decay: float = Field(0.01, ge=0, description="Decoupled weight decay.")
        max_history: int = Field(10, ge=1, description="Newest items of a history that are read.")
        backbone: str = Field(DEFAULT_BACKBONE, description="Hub name or local folder.")
        peft: Peft = Field(default_factory=Peft, description="How the backbone is fine-tuned.")
        pooling: Pooling | None = Field(None, description="mean, cls or last; the model's own by default.")
        dtype: DType = Field("auto", description="auto measures whether bfloat16 pays.")
        max_length: int = Field(256, gt=8, description="Most tokens of a prompt; the oldest history is dropped first.")
        item_fields: tuple[str, ...] | None = Field(("title",), description="Columns that make an item's text.")
        prompt: Prompt = Field(default_factory=Prompt, description="Template with named slots.")

    batch_kind = "pointwise"
    group = "llm"
    tasks = frozenset({"preference", "ranking"})
    probability = True

    def __init__(self, config: Config, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        self.backbone = Backbone(config.backbone, config.peft, pooling=config.pooling, dtype=config.dtype)
        self.pieces = PromptTokens(
            config.prompt,
            self.backbone.tokenizer,
            item_texts(catalogue.items, config.item_fields),
            user_profiles(catalogue.users),
        )
        self.max_length = min(config.max_length, self.backbone.max_length)
        self.head = nn.Linear(self.backbone.hidden_size, 1)
        nn.init.zeros_(self.head.bias)
        self._tokens = self._computed = self._dropped = self._prompts = 0.0

    def batch_spec(self) -> BatchSpec:
        # prompts of like length share a batch
        return replace(super().batch_spec(), cost=lambda batch: torch.from_numpy(self._batch_prompts(batch).lengths))

    def _batch_prompts(self, batch: Batch) -> TokenBatch:
        assert batch.item is not None
        return self.prompts(batch, batch.item)

    def prompts(self, batch: Batch, item: Tensor, row: np.ndarray | None = None) -> TokenBatch:
        """Return the token lists of (m,) candidate items; candidate j belongs to row ``row[j]`` of the batch."""
        history = None
        if batch.history is not None and batch.history_length is not None:
            liked = None if batch.history_label is None else batch.history_label.cpu().numpy() > 0.5
            history = History.from_padded(batch.history.cpu().numpy(), batch.history_length.cpu().numpy(), liked)
        user = batch.user.cpu().numpy()
        if row is not None:
            user, history = user[row], None if history is None else history.take(row)
        return flat_prompts(self.pieces, self.max_length, item.cpu().numpy(), history, user)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        assert batch.label is not None
        prompts = self._batch_prompts(batch)
        ids, mask = prompts.pad()
        self._tokens += float(prompts.lengths.sum())
        self._computed += float(ids.numel())
        self._dropped += float((prompts.dropped > 0).sum())
        self._prompts += len(prompts)
        logit = self.head(self.backbone.encode(ids.to(self.device), mask.to(self.device)))[:, 0]
        return F.binary_cross_entropy_with_logits(logit, batch.label)

    def score(self, batch: Batch) -> Tensor:
        candidates = batch.candidates
        if candidates is None:
            candidates = torch.arange(self.n_items, device=self.device).expand(len(batch), -1)
        row = np.repeat(np.arange(len(batch)), candidates.shape[1])
        prompts = self.prompts(batch, candidates.reshape(-1), row)
        with torch.no_grad(), self.backbone.merged():
            logit = self.head(encode(self.backbone, prompts))
        return logit.view(candidates.shape)

    def save(self, folder: Path) -> None:
        super().save(folder)
        self.backbone.save_adapter(folder / ADAPTER)

    def report(self) -> dict[str, float]:
        computed = max(self._computed, 1.0)
        return {
            "training_tokens": self._tokens,
            "padding_share": 1 - self._tokens / computed if self._computed else 0.0,
            "prompts_cut_share": self._dropped / max(self._prompts, 1.0),
        }
