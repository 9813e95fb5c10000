"""TwoTower: items are their text, users are the texts of their history; ranks the full catalogue."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from benchmark.data.batch import Batch
from benchmark.data.negatives import SamplingKind
from benchmark.data.schema import DOMAIN, Catalogue
from benchmark.data.text import column_texts, item_texts
from benchmark.data.vectors import chosen
from benchmark.errors import InputError, nearest
from benchmark.llm.adapters import Peft
from benchmark.llm.encoder import Encoder, Pooling
from benchmark.llm.pieces import PromptTokens
from benchmark.llm.prompts import flat_prompts
from benchmark.llm.templates import ALONE
from benchmark.llm.training import LanguageRecommender, LLMConfig
from benchmark.recommender import ModelConfig, Traits


class TwoTowerConfig(LLMConfig):
    eval_batch_size: int = Field(1024, gt=0, description="Users of a scoring batch.")
    learning_rate: float = Field(1e-3, gt=0, description="Step size.")
    negatives: int = Field(0, ge=0, description="Items drawn for each batch beside its own.")
    max_history: int = Field(20, gt=0, description="Newest items of a history that are read.")
    max_length: int = Field(64, gt=2, description="Most tokens of an item's text; its end is cut.")
    item_fields: tuple[str, ...] | None = Field(
        None, description="Columns that make the text; all by default; []: no text, vectors alone."
    )
    text_variants: tuple[str, ...] = Field(
        (), description="Columns with other texts of the items: in training each is read as its own or one of these."
    )
    vectors: tuple[str, ...] = Field(
        (), description="Vectors of dataset.vectors that are added to the text's, by name."
    )
    pooling: Pooling | None = Field(None, description="mean, cls or last; the model's own by default.")
    temperature: float = Field(0.07, gt=0, description="Divides the cosine.")
    adversarial: float = Field(
        0.0, ge=0, description="Weight of a critic that tells the items' domains apart, and that the texts must fool."
    )
    id_embedding: bool = Field(
        False, description="Add a trained vector of its own to each item's text, starting at 0; new items have none."
    )
    popularity: bool = Field(
        True, description="Add a learned multiple of the log training frequency, which puts unseen items last."
    )

    @model_validator(mode="after")
    def _something_to_read(self) -> TwoTowerConfig:
        if self.item_fields == () and not self.vectors:
            raise ValueError("item_fields: [] leaves nothing to read; name vectors")
        if self.item_fields == () and self.text_variants:
            raise ValueError("text_variants: item_fields: [] reads no text")
        if self.zero_shot and self.vectors:
            raise ValueError("zero_shot: what projects the vectors has to be trained")
        return self

    def used_peft(self) -> Peft:
        return Peft(kind="frozen") if self.item_fields == () else super().used_peft()


class _Reversed(torch.autograd.Function):
    """The identity; its gradient is turned round (Ganin et al., JMLR 2016, arXiv:1505.07818)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


class TwoTower(LanguageRecommender):
    """Text two-tower retrieval (Yi et al., RecSys 2019, doi:10.1145/3298689.3346996) on a fine-tuned language model.

    An item is the normalised vector e of its text. A user is the mean of the e of the history, newer ones weighing more
    by a learned rate, through a residual linear layer, normalised. The score is u.e / temperature, plus a learned
    multiple of the item's log training frequency. Every position of a training history predicts its item among the
    distinct items of the batch and ``negatives`` more, drawn uniformly or by popularity, with the log-Q correction for
    how likely each of them is to be there. With ``vectors``, what a learned linear layer makes of each standardised
    vector of an item is added to its text's vector before it is normalised (late fusion). Each item is encoded once a
    step, and once an evaluation. Zero-shot, a user is the mean with the rate at its first value, and the frequency
    counts nothing. ``adversarial`` adds the loss of a critic of the items' domains whose gradient is reversed
    (domain-adversarial training), over all items of the batch.
    """

    Config = TwoTowerConfig
    batch_kind = "sequence"
    differentiable = True
    unseen = frozenset({"users", "items"})
    reads_queries = True
    frequency: Tensor
    domain: Tensor
    backbone: Encoder

    def __init__(self, config: TwoTowerConfig, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        self.backbone = Encoder(config.backbone, config.used_peft(), config.loading(), pooling=config.pooling)
        self.reads_queries = config.item_fields != ()
        self.max_length = min(config.max_length, self.backbone.max_length)
        self.n_cut = 0
        if self.reads_queries:
            variants = config.text_variants if config.item_fields is None else ()  # all columns are all but these
            # one text a row: the items' own, then those of each variant
            texts = item_texts(catalogue.items.drop(variants), config.item_fields)
            for name in config.text_variants:
                other = column_texts(catalogue.items, name)
                texts += [own if text is None else text for own, text in zip(texts[: self.n_items], other, strict=True)]
            self.pieces = PromptTokens(ALONE, self.backbone.tokenizer, texts, cache=catalogue.cache)
            self.n_cut = self.pieces.cut_candidates(self.max_length)
        size = self.backbone.hidden_size
        self.fused = nn.ModuleList()
        for name, values in chosen(catalogue, config.vectors).items():
            self.register_buffer(f"given_{name}", torch.from_numpy(values), persistent=False)
            layer = nn.Linear(values.shape[1], size, bias=False)
            # beside a text it starts as the text alone
            nn.init.normal_(layer.weight, std=0.0 if self.reads_queries else values.shape[1] ** -0.5)
            self.fused.append(layer)
        self.project = nn.Linear(size, size, bias=False)
        nn.init.zeros_(self.project.weight)  # starts as the plain mean of the history
        self.decay = nn.Parameter(torch.tensor(-2.0))
        self.popularity = nn.Parameter(
            torch.tensor(0.5 if config.popularity and not config.zero_shot else 0.0), requires_grad=config.popularity
        )
        self.nobody = nn.Parameter(torch.full((size,), size**-0.5))  # a user without history
        self.id = nn.Embedding(self.n_items, size) if config.id_embedding else None
        if self.id is not None:
            nn.init.zeros_(self.id.weight)
        if config.adversarial:
            names = catalogue.items[DOMAIN].unique().sort()
            domain = catalogue.items[DOMAIN].cast(pl.Enum(names)).to_physical().to_numpy().astype(np.int64)
            self.register_buffer("domain", torch.from_numpy(domain), persistent=False)
            self.critic = nn.Sequential(nn.Linear(size, 64), nn.ReLU(), nn.Linear(64, len(names)))
        count = torch.bincount(torch.from_numpy(catalogue.train.item).long(), minlength=self.n_items) + 1.0
        self.register_buffer("frequency", (count / count.sum()).log(), persistent=False)
        self._items: Tensor | None = None

    @classmethod
    def traits_of(cls, config: ModelConfig) -> Traits:
        traits = super().traits_of(config)
        # as drawn negatives unseen items get vectors of their own, which say no more than that
        drawn = isinstance(config, TwoTowerConfig) and config.id_embedding and config.negatives > 0
        return replace(traits, unseen=traits.unseen - {"items"}) if drawn else traits

    @classmethod
    def check(cls, config: Any, catalogue: Catalogue) -> None:
        super().check(config, catalogue)
        chosen(catalogue, config.vectors)
        for name in config.text_variants:
            if name not in catalogue.items.columns:
                found = f"text_variants: unknown item field '{name}'"
                raise InputError(f"{found}{nearest(name, catalogue.items.columns)}")
        if config.adversarial and DOMAIN not in catalogue.items.columns:
            raise InputError(f"adversarial: the items have no '{DOMAIN}'; only joined data sets have several")
        trained = catalogue.items[DOMAIN].gather(catalogue.train.item).n_unique() if config.adversarial else 2
        if trained < 2 and not config.negatives:
            raise InputError("adversarial: one domain is learned from and no negatives are drawn; nothing to tell")

    @classmethod
    def samplings(cls, config: ModelConfig) -> frozenset[SamplingKind]:
        drawn = isinstance(config, TwoTowerConfig) and config.negatives > 0 and not config.zero_shot
        return frozenset({"uniform", "popularity"}) if drawn else frozenset({"uniform"})

    def encode_items(self, items: Tensor) -> Tensor:
        """Return (m, d) normalised vectors of (m,) item ids; in training of one of the texts of each."""
        parts, row = [], items
        if self.training and self.config.text_variants:
            drawn = torch.randint(1 + len(self.config.text_variants), items.shape, device=items.device)
            row = items + self.n_items * drawn
        if self.reads_queries:
            prompts = flat_prompts(self.pieces, self.max_length, candidate=row.cpu().numpy().astype(np.int64))
            parts.append(F.normalize(self.backbone.encode_all(prompts), dim=-1))
        for name, layer in zip(self.config.vectors, self.fused, strict=True):
            parts.append(layer(getattr(self, f"given_{name}")[items]))
        if self.id is not None:
            parts.append(self.id(items))
        if len(parts) == 1 and self.reads_queries:
            return parts[0]
        return F.normalize(torch.stack(parts).sum(0), dim=-1)

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
        drawn = self.drawn_items(self.config.negatives)
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
        expected = n_real * self.frequency[items].exp() + self.expected_among(len(drawn), items)
        logits = logits + self.popularity * self.frequency[items] - expected.log()
        answer = column[real]
        own = torch.zeros(len(history), len(items) + 1, dtype=torch.bool, device=history.device)
        own.scatter_(1, column, True)
        # the user's other items are no negatives
        row = real.nonzero()[:, 0]
        others = own[row, :-1].scatter(1, answer.unsqueeze(1), False)
        loss = F.cross_entropy(logits.masked_fill(others, float("-inf")), answer)
        if not self.config.adversarial:
            return loss
        told = self.critic(_Reversed.apply(vectors))
        return loss + self.config.adversarial * F.cross_entropy(told, self.domain[items])

    def score(self, batch: Batch) -> Tensor:
        items = self._vectors_for(batch)
        user = self._user_on(items, batch)
        return self.dot(user / self.config.temperature, items, batch, self.popularity * self.frequency)

    def user_embeddings(self, batch: Batch) -> Tensor:
        return self._user_on(self.item_vectors(), batch)

    def item_embeddings(self) -> Tensor:
        return self.item_vectors()

    def embed_items(self, items: Tensor) -> Tensor:
        return self.encode_items(items) if self.training and torch.is_grad_enabled() else self.item_vectors()[items]

    def _user_on(self, items: Tensor, batch: Batch) -> Tensor:
        """Return (B, d) normalised users of a batch, from (n_items, d) items."""
        assert batch.history is not None
        assert batch.history_length is not None
        table = torch.cat([items, items.new_zeros(1, items.shape[1])])
        age = batch.history_length.unsqueeze(1) - 1 - torch.arange(batch.history.shape[1], device=items.device)
        weight = torch.where(age >= 0, torch.exp(-F.softplus(self.decay) * age.clamp(min=0)), 0.0)
        weight = weight / weight.sum(1, keepdim=True).clamp(min=1e-12)
        mean = torch.einsum("bl,bld->bd", weight, table[batch.history])
        empty = (batch.history_length == 0).unsqueeze(1)
        if batch.query is not None and self.reads_queries:  # what is asked for weighs as much as all the history
            asked = self.encode_texts(batch.query)
            mean, empty = torch.where(empty, asked, (F.normalize(mean, dim=-1) + asked) / 2), torch.zeros_like(empty)
        return self._user(torch.where(empty, self.nobody, mean))

    def _vectors_for(self, batch: Batch) -> Tensor:
        """Return (n_items, d) item vectors; in training with gradients, and of those alone that the batch needs."""
        if not (self.training and torch.is_grad_enabled()) or batch.candidates is None:
            return self.item_vectors()
        assert batch.history is not None
        needed = torch.unique(torch.cat([batch.history.flatten(), batch.candidates.flatten()]))
        needed = needed[needed < self.n_items]
        vectors = self.encode_items(needed)
        return vectors.new_zeros(self.n_items, vectors.shape[1]).index_copy(0, needed, vectors)

    def item_vectors(self) -> Tensor:
        """Return (n_items, d) vectors of the whole catalogue, encoded once until the next training step."""
        if self._items is None:
            with torch.no_grad(), self.backbone.merged():
                self._items = self.encode_items(torch.arange(self.n_items, device=self.device))
        return self._items

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        self._items = None
        return super().load_state_dict(state_dict, strict, assign)

    @torch.no_grad()
    def encode_ms(self, texts: int = 32, passes: int = 5) -> float:
        """Return the milliseconds that the vector of one item's text takes: the median of some passes over the same
        items, after a first one, by as many threads as torch is set to.
        """
        items = torch.linspace(0, self.n_items - 1, min(texts, self.n_items)).long().to(self.device)
        seconds = []
        with self.backbone.merged():
            for _ in range(passes + 1):
                start = time.perf_counter()
                self.encode_items(items).sum().item()  # waits for an accelerator
                seconds.append(time.perf_counter() - start)
        return 1000 * statistics.median(seconds[1:]) / len(items)

    def report(self) -> dict[str, float]:
        return {
            **super().report(),
            "encode_ms": self.encode_ms(),
            "item_texts_cut_share": self.n_cut / max(self.n_items * (1 + len(self.config.text_variants)), 1),
            "popularity_weight": float(self.popularity.detach()),
            "decay": float(F.softplus(self.decay.detach())),
        }
