"""Text embeddings: a frozen language model, and given vectors, as a content-based recommender without training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from benchmark.data.batch import Batch
from benchmark.data.schema import Catalogue
from benchmark.data.text import check_fields, item_texts
from benchmark.data.vectors import chosen
from benchmark.recommender import ModelConfig, Recommender


class TextEmbedding(Recommender):
    """Cosine of sentence embeddings (Reimers & Gurevych, EMNLP 2019, arXiv:1908.10084) with the mean of the user's.

    With ``vectors``, an item is its text's embedding and each of its vectors, all of length 1, side by side: the cosine
    of two items is the weighted mean of the cosines of their parts, where neither lacks one.
    """

    class Config(ModelConfig):
        backbone: str = Field("sentence-transformers/all-MiniLM-L6-v2", description="Hub name or folder of it.")
        item_fields: tuple[str, ...] | None = Field(
            None, description="Item columns to read; None: all that hold text; []: no text, vectors alone."
        )
        vectors: tuple[str, ...] = Field((), description="Vectors of dataset.vectors beside the text, by name.")
        weights: tuple[float, ...] | None = Field(
            None, description="Of the text (if it is read), then of each of vectors; None: all the same."
        )
        encode_batch_size: int = Field(64, gt=0, description="Texts encoded at once.")

        @model_validator(mode="after")
        def _something_to_read(self) -> TextEmbedding.Config:
            parts = (self.item_fields != ()) + len(self.vectors)
            if not parts:
                raise ValueError("item_fields: [] leaves nothing to read; name vectors")
            if self.weights is not None and (len(self.weights) != parts or min(self.weights) <= 0):
                raise ValueError(f"weights: found {list(self.weights)}, expected {parts} positive numbers")
            return self

    batch_kind = "whole"
    group = "content"
    unseen = frozenset({"users", "items"})
    reads_queries = True
    vectors: Tensor

    def __init__(self, config: Config, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        chosen(catalogue, config.vectors)
        self.given = {name: catalogue.vectors[name] for name in config.vectors}
        self.reads_queries = config.item_fields != ()
        self.text_size = 0
        if self.reads_queries:
            from benchmark.llm.adapters import Peft
            from benchmark.llm.encoder import Encoder
            from benchmark.llm.loading import Loading

            self.backbone = Encoder(config.backbone, Peft(kind="frozen"), Loading(dtype="float32"))
            self.text_size = self.backbone.hidden_size
        size = self.text_size + sum(values.shape[1] for values in self.given.values())
        self.register_buffer("vectors", torch.zeros(self.n_items, size))

    @classmethod
    def check(cls, config: ModelConfig, catalogue: Catalogue) -> None:
        assert isinstance(config, cls.Config)
        check_fields(catalogue.items, config.item_fields or (), "item")
        chosen(catalogue, config.vectors)

    @torch.no_grad()
    def training_step(self, batch: Batch, batch_idx: int) -> None:
        if self.text_size:
            self._encode_items()
        if self.given:
            place, weights = self.text_size, list(self.config.weights or ())
            if self.text_size and weights:
                self.vectors[:, :place] *= weights.pop(0) ** 0.5
            for number, values in enumerate(self.given.values()):
                part = F.normalize(torch.from_numpy(values)) * (weights[number] ** 0.5 if weights else 1.0)
                self.vectors[:, place : place + part.shape[1]] = part
                place += part.shape[1]
            self.vectors.copy_(F.normalize(self.vectors))

    def _encode_items(self) -> None:
        texts = item_texts(self.catalogue.items, self.config.item_fields)
        # texts of like length share a batch, so that little padding is read
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(texts), self.config.encode_batch_size):
            rows = order[start : start + self.config.encode_batch_size]
            self.vectors[rows, : self.text_size] = self.encode([texts[i] for i in rows])

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Return (n, d) normalised vectors of n texts."""
        cut = {"padding": True, "truncation": True, "max_length": self.backbone.max_length}
        tokens = self.backbone.tokenizer(list(texts), return_tensors="pt", **cut).to(self.device)
        return F.normalize(self.backbone.encode(tokens["input_ids"], tokens["attention_mask"]))

    def score(self, batch: Batch) -> Tensor:
        return self.dot(self.user_embeddings(batch), self.vectors, batch)

    def user_embeddings(self, batch: Batch) -> Tensor:
        assert batch.seen is not None
        profile = F.normalize(F.embedding_bag(batch.seen.values, self.vectors, batch.seen.offsets[:-1], mode="mean"))
        if batch.query is not None and self.text_size:  # what is asked for weighs as much as all the history
            asked = F.pad(self.encode(batch.query), (0, profile.shape[1] - self.text_size))
            profile = F.normalize(profile + asked)
        return profile

    def item_embeddings(self) -> Tensor:
        return self.vectors
