"""Text embeddings: a frozen language model as a content-based recommender, without any training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from benchmark.data.batch import Batch
from benchmark.data.schema import Catalogue
from benchmark.data.text import item_texts
from benchmark.recommender import ModelConfig, Recommender


class TextEmbedding(Recommender):
    """Cosine of sentence embeddings (Reimers & Gurevych, EMNLP 2019, arXiv:1908.10084) with the mean of the user's."""

    class Config(ModelConfig):
        backbone: str = Field("sentence-transformers/all-MiniLM-L6-v2", description="Hub name or folder of it.")
        item_fields: tuple[str, ...] | None = Field(None, description="Item columns to read; None: all that hold text.")
        encode_batch_size: int = Field(64, gt=0, description="Texts encoded at once.")

    batch_kind = "whole"
    group = "content"
    reads_queries = True
    vectors: Tensor

    def __init__(self, config: Config, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        from benchmark.llm.adapters import Peft
        from benchmark.llm.backbone import Loading
        from benchmark.llm.encoder import Encoder

        self.backbone = Encoder(config.backbone, Peft(kind="frozen"), Loading(dtype="float32"))
        self.register_buffer("vectors", torch.zeros(self.n_items, self.backbone.hidden_size))

    @torch.no_grad()
    def training_step(self, batch: Batch, batch_idx: int) -> None:
        texts = item_texts(self.catalogue.items, self.config.item_fields)
        # texts of like length share a batch, so that little padding is read
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(texts), self.config.encode_batch_size):
            rows = order[start : start + self.config.encode_batch_size]
            self.vectors[rows] = self.encode([texts[i] for i in rows])

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
        if batch.query is not None:  # what is asked for weighs as much as all the history
            profile = F.normalize(profile + self.encode(batch.query))
        return profile

    def item_embeddings(self) -> Tensor:
        return self.vectors
