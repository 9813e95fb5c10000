"""Pointwise: profile + history + candidate -> P(like), by a head on the text's vector or by the words Yes and No."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from benchmark.data.batch import Batch, BatchSpec
from benchmark.data.schema import Catalogue
from benchmark.errors import InputError
from benchmark.llm.backbone import Backbone
from benchmark.llm.buckets import in_order, passes
from benchmark.llm.encoder import Encoder, Pooling
from benchmark.llm.language_model import KEPT_COST, LanguageModel
from benchmark.llm.loading import Kind, kind_of
from benchmark.llm.prompted import PromptConfig, PromptRecommender
from benchmark.llm.prompts import TokenBatch
from benchmark.llm.templates import Template, Way
from benchmark.recommender import ModelConfig

Answer = Literal["auto", "words", "head"]


class PointwiseConfig(PromptConfig):
    answer: Answer = Field(
        "auto",
        description="words: normalised P(Yes) against P(No) of the next token; head: a linear layer on the text's "
        "vector; auto: words where the backbone has a language model head.",
    )
    pooling: Pooling | None = Field(None, description="Of an encoder: mean, cls or last; its own by default.")
    positive_weight: float | Literal["balanced"] = Field(
        1.0, description="Weight of positive rows; balanced: so that both classes weigh the same in training."
    )
    head_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on what the head reads.")


class Pointwise(PromptRecommender):
    """Does the user like the candidate? One prompt a row, as in TALLRec (Bao et al., RecSys 2023, arXiv:2305.00447).

    The prompt holds the user's profile, what the user liked and disliked before, and the candidate. Decoders and
    encoder-decoders answer in words: the score is log P(Yes) - log P(No) of the next token, and the loss is the cross
    entropy of that normalised pair, on the answer alone (TALLRec's loss over the whole vocabulary differs by what both
    words gain over all others, which no score reads). Encoders answer by a linear head on their pooled vector.
    Preference tasks learn from labelled rows, ranking tasks from interactions and drawn negatives. A decoder reads the
    part of a prompt before the candidate once for all candidates of a user; others read a prompt a candidate.
    """

    Config: ClassVar[type[ModelConfig]] = PointwiseConfig
    batch_kind = "pointwise"
    tasks = frozenset({"preference", "ranking"})
    probability = True
    unseen = frozenset({"users", "items"})
    way: ClassVar[Way] = "pointwise"
    answers: Tensor

    def __init__(self, config: PointwiseConfig, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        peft, loading = config.used_peft(), config.loading()
        kind = kind_of(config.backbone, config.trust_remote_code)
        self.words = self.needs_head(config, kind)
        if self.words or kind != "encoder":
            self.backbone: Backbone = LanguageModel(config.backbone, peft, loading)
        else:
            self.backbone = Encoder(config.backbone, peft, loading, pooling=config.pooling)
        self.reader = self.make_reader()
        if self.words:
            self.register_buffer("answers", torch.tensor(self.reader.pieces.answer_ids), persistent=False)
        else:
            self.head = nn.Linear(self.backbone.hidden_size, 1)
            nn.init.zeros_(self.head.bias)
        self.dropout = nn.Dropout(config.head_dropout)

    @classmethod
    def needs_head(cls, config: Any, kind: Kind) -> bool:
        words = config.answer == "words" or (config.answer == "auto" and kind != "encoder")
        if config.zero_shot and not words:
            raise InputError("zero_shot: a head without training says nothing; use a decoder with answer: words")
        return words

    @classmethod
    def answer_words(cls, config: Any, catalogue: Catalogue, template: Template) -> Sequence[str]:
        return template.answers

    @classmethod
    def shown(cls, config: Any, catalogue: Catalogue, batch: Batch) -> dict[str, Tensor]:
        assert batch.candidates is not None
        return {"candidate": batch.candidates[:, 0]}

    def batch_spec(self) -> BatchSpec:
        spec = super().batch_spec()
        # prompts of like length share a batch
        return spec if self.config.zero_shot else replace(spec, cost=lambda batch: self.prompts(batch).costs())

    def prompts(self, batch: Batch) -> TokenBatch:
        """Return the token lists of a training batch."""
        return self.read(batch, candidate=batch.item)

    # --- training --------------------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> Tensor:
        assert batch.label is not None
        prompts = self.prompts(batch)
        parts = passes(prompts.lengths)
        self.reader.count(prompts, parts)
        logit = self._logits(prompts, self.vectors(batch, batch.item), parts)
        smooth = self.config.label_smoothing
        label = batch.label * (1 - smooth) + smooth / 2
        weight = self._positive_weight()
        return F.binary_cross_entropy_with_logits(
            logit, label, pos_weight=None if weight == 1 else logit.new_tensor(weight)
        )

    def _positive_weight(self) -> float:
        wanted = self.config.positive_weight
        if wanted != "balanced":
            return float(wanted)
        rows = self.trainer.datamodule.train_rows  # type: ignore[attr-defined]
        if rows.negatives is not None:
            return float(self.config.negatives)
        positive = float(rows.label[rows.all].sum()) if rows.label is not None else 0.0
        return (len(rows) - positive) / positive if positive else 1.0

    def logit(self, ids: Tensor, mask: Tensor, vectors: tuple[Tensor, ...] = ()) -> Tensor:
        """Return (B,) logits of P(like) of padded prompts (B, T)."""
        if isinstance(self.backbone, Encoder):
            return self.head(self.dropout(self.backbone.encode(ids, mask, vectors)))[:, 0]
        assert isinstance(self.backbone, LanguageModel)
        if self.words:
            return self._difference(self.backbone.next_logits(ids, mask, vectors))
        return self.head(self.dropout(self.backbone.last_hidden(ids, mask, vectors)))[:, 0]

    def _logits(self, prompts: TokenBatch, vectors: tuple[Tensor, ...], parts: list[np.ndarray]) -> Tensor:
        """Return the (m,) logits of m prompts, in their order, computed in passes over some of their rows."""
        out = []
        for rows in parts:
            chosen = torch.from_numpy(rows).to(self.device)
            out.append(self.logit(*self.backbone.pad(prompts, rows), tuple(v[chosen] for v in vectors)))
        return in_order(out, parts)

    def _difference(self, logits: Tensor) -> Tensor:
        """Return (B,) logit of P(Yes) / (P(Yes) + P(No)) from next-token logits (B, V)."""
        pair = logits[:, self.answers]
        return pair[:, 0] - pair[:, 1]

    def vectors(self, batch: Batch, item: Tensor | None, row: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the vectors that stand for the embedding slots of prompts; none here."""
        return ()

    # --- scoring ---------------------------------------------------------------------------------------------------

    def score(self, batch: Batch) -> Tensor:
        candidates = batch.candidates
        if candidates is None:
            candidates = torch.arange(self.n_items, device=self.device).expand(len(batch), -1)
        shared = candidates.shape[1] > 1 and self.words and self.backbone.kind == "decoder"
        with torch.no_grad(), self.backbone.merged():
            return self._score_shared(batch, candidates) if shared else self._score_each(batch, candidates)

    def _score_each(self, batch: Batch, candidates: Tensor) -> Tensor:
        """Score by one whole prompt a candidate, passes of like length."""
        row = np.repeat(np.arange(len(batch)), candidates.shape[1])
        item = candidates.reshape(-1)
        prompts = self.read(batch, candidate=item, row=row)
        vectors = self.vectors(batch, item, torch.from_numpy(row).to(self.device))
        return self._logits(prompts, vectors, self.scoring_passes(prompts.lengths)).view(candidates.shape)

    def _score_shared(self, batch: Batch, candidates: Tensor) -> Tensor:
        """Score by one pass over what stands before the candidate, and its keys and values for every candidate."""
        model = self.backbone
        assert isinstance(model, LanguageModel)
        heads = self.read(batch, section="head")
        width = candidates.shape[1]
        out = torch.empty(candidates.shape, device=self.device)
        for users in self.scoring_passes(heads.lengths):
            chosen = torch.from_numpy(users).to(self.device)
            state = model.begin(*model.pad(heads, users), self.vectors(batch, None, chosen))
            row = np.repeat(np.arange(len(users)), width)
            item = candidates[chosen].reshape(-1)
            tails = self.read(batch, candidate=item, row=users[row], section="tail")
            vectors = self.vectors(batch, item, chosen[torch.from_numpy(row).to(self.device)])
            flat = torch.empty(len(row), device=self.device)
            cost = tails.lengths + KEPT_COST * heads.lengths[users][row]
            for rows in self.scoring_passes(cost):
                at = torch.from_numpy(rows).to(self.device)
                ids, mask = model.pad(tails, rows)
                taken = state.take(torch.from_numpy(row[rows]).to(self.device))
                logits, _ = model.read_on(taken, ids, mask, vectors=tuple(v[at] for v in vectors))
                flat[at] = self._difference(logits[:, -1])
            out[chosen] = flat.view(len(users), width)
        return out
