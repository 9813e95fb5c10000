"""Pointwise: profile + history + candidate -> P(like), by a head on the text's vector or by the words Yes and No."""

from __future__ import annotations

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
from benchmark.llm.backbone import Backbone, Kind, kind_of, load_tokenizer
from benchmark.llm.buckets import in_order, length_buckets, passes
from benchmark.llm.encoder import TOKENS_PER_PASS, Encoder, Pooling
from benchmark.llm.language_model import KEPT_COST, LanguageModel
from benchmark.llm.prompts import TokenBatch
from benchmark.llm.reader import Reader
from benchmark.llm.templates import Prompt, Template, Way
from benchmark.llm.training import LanguageRecommender, LLMConfig
from benchmark.recommender import ModelConfig

Answer = Literal["auto", "words", "head"]


class PointwiseConfig(LLMConfig):
    answer: Answer = Field(
        "auto",
        description="words: normalised P(Yes) against P(No) of the next token; head: a linear layer on the text's "
        "vector; auto: words where the backbone has a language model head.",
    )
    pooling: Pooling | None = Field(None, description="Of an encoder: mean, cls or last; its own by default.")
    prompt: Prompt = Field(default_factory=Prompt, description="Template with named slots.")
    positive_weight: float | Literal["balanced"] = Field(
        1.0, description="Weight of positive rows; balanced: so that both classes weigh the same in training."
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Share of a label that goes to the other class.")
    head_dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on what the head reads.")
    tokens_per_pass: int = Field(
        TOKENS_PER_PASS, gt=0, description="Tokens that are scored at once; bounds the memory."
    )


class Pointwise(LanguageRecommender):
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
    way: ClassVar[Way] = "pointwise"
    answers: Tensor

    def __init__(self, config: PointwiseConfig, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        self.words = self.generates(config)
        peft, loading = config.used_peft(), config.loading()
        if self.words or kind_of(config.backbone, config.trust_remote_code) != "encoder":
            self.backbone: Backbone = LanguageModel(config.backbone, peft, loading)
        else:
            self.backbone = Encoder(config.backbone, peft, loading, pooling=config.pooling)
        self.reader = self._reader()
        if self.words:
            self.register_buffer("answers", torch.tensor(self.reader.pieces.answer_ids), persistent=False)
        else:
            self.head = nn.Linear(self.backbone.hidden_size, 1)
            nn.init.zeros_(self.head.bias)
        self.dropout = nn.Dropout(config.head_dropout)

    def _reader(self, template: Template | None = None) -> Reader:
        model = self.backbone
        reader = self.reader_of(self.config, self.catalogue, model.tokenizer, model.kind, model.n_tokens, template)
        reader.max_length = min(reader.max_length, model.max_length)
        return reader

    @property
    def active(self) -> Reader:
        """The reader that is in use."""
        return self.reader

    @classmethod
    def reader_of(
        cls,
        config: Any,
        catalogue: Catalogue,
        tokenizer: Any,
        kind: Kind,
        n_tokens: int | None = None,
        template: Template | None = None,
    ) -> Reader:
        template = template or config.prompt.filled(cls.way)
        return Reader(
            template,
            tokenizer,
            catalogue,
            config.max_length,
            config.item_fields,
            n_tokens=n_tokens,
            answer_follows=kind == "decoder",
            answers=template.answers if cls.generates(config) else (),
        )

    @classmethod
    def generates(cls, config: Any) -> bool:
        encoder = kind_of(config.backbone, config.trust_remote_code) == "encoder"
        if config.zero_shot and (encoder or config.answer == "head"):
            raise InputError("zero_shot: a head without training says nothing; use a decoder with answer: words")
        return config.answer == "words" or (not encoder and config.answer == "auto")

    @classmethod
    def examples(cls, config: Any, catalogue: Catalogue, batch: Batch, n: int) -> list[tuple[str, int, int]]:
        kind = kind_of(config.backbone, config.trust_remote_code)
        reader = cls.reader_of(config, catalogue, load_tokenizer(config.backbone, config.trust_remote_code), kind)
        assert batch.candidates is not None
        return reader.show(batch.newest(config.max_history), n, candidate=batch.candidates[:, 0])

    def batch_spec(self) -> BatchSpec:
        spec = super().batch_spec()
        # prompts of like length share a batch
        return spec if self.config.zero_shot else replace(spec, cost=lambda batch: _lengths(self.prompts(batch)))

    def _read(self, batch: Batch, *args: Any, **options: Any) -> TokenBatch:
        # a batch may hold longer histories, for a model that this one stands on
        return self.active.read(batch.newest(self.config.max_history), *args, **options)

    def prompts(self, batch: Batch) -> TokenBatch:
        """Return the token lists of a training batch."""
        assert batch.item is not None
        return self._read(batch, batch.item)

    # --- training --------------------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> Tensor:
        assert batch.label is not None
        prompts = self.prompts(batch)
        parts = passes(prompts.lengths)
        self.active.count(prompts, parts)
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
            out.append(self.logit(*self._padded(prompts, rows), tuple(v[chosen] for v in vectors)))
        return in_order(out, parts)

    def _difference(self, logits: Tensor) -> Tensor:
        """Return (B,) logit of P(Yes) / (P(Yes) + P(No)) from next-token logits (B, V)."""
        pair = logits[:, self.answers]
        return pair[:, 0] - pair[:, 1]

    def vectors(self, batch: Batch, item: Tensor | None, row: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the vectors that stand for the embedding slots of prompts; none here."""
        return ()

    def _padded(self, prompts: TokenBatch, rows: np.ndarray | None = None) -> tuple[Tensor, Tensor]:
        if isinstance(self.backbone, LanguageModel):
            return self.backbone.pad(prompts, rows)
        ids, mask = prompts.pad(rows)
        return ids.to(self.device), mask.to(self.device)

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
        prompts = self._read(batch, item, row=row)
        vectors = self.vectors(batch, item, torch.from_numpy(row).to(self.device))
        rows = length_buckets(prompts.lengths, tokens_per_batch=self.config.tokens_per_pass, seed=None)
        return self._logits(prompts, vectors, rows).view(candidates.shape)

    def _score_shared(self, batch: Batch, candidates: Tensor) -> Tensor:
        """Score by one pass over what stands before the candidate, and its keys and values for every candidate."""
        model = self.backbone
        assert isinstance(model, LanguageModel)
        heads = self._read(batch, section="head")
        width, budget = candidates.shape[1], self.config.tokens_per_pass
        out = torch.empty(candidates.shape, device=self.device)
        for users in length_buckets(heads.lengths, tokens_per_batch=budget, seed=None):
            chosen = torch.from_numpy(users).to(self.device)
            state = model.begin(*model.pad(heads, users), self.vectors(batch, None, chosen))
            row = np.repeat(np.arange(len(users)), width)
            item = candidates[chosen].reshape(-1)
            tails = self._read(batch, item, row=users[row], section="tail")
            vectors = self.vectors(batch, item, chosen[torch.from_numpy(row).to(self.device)])
            flat = torch.empty(len(row), device=self.device)
            cost = tails.lengths + KEPT_COST * heads.lengths[users][row]
            for rows in length_buckets(cost, tokens_per_batch=budget, seed=None):
                at = torch.from_numpy(rows).to(self.device)
                ids, mask = model.pad(tails, rows)
                taken = state.take(torch.from_numpy(row[rows]).to(self.device))
                logits, _ = model.read_on(taken, ids, mask, vectors=tuple(v[at] for v in vectors))
                flat[at] = self._difference(logits[:, -1])
            out[chosen] = flat.view(len(users), width)
        return out

    def report(self) -> dict[str, float]:
        return {**super().report(), **self.reader.report()}


def _lengths(prompts: TokenBatch) -> Tensor:
    return torch.from_numpy(prompts.lengths)
