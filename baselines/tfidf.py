"""TF-IDF: recommends items whose text is like that of what the user already has."""

from __future__ import annotations

import torch
from pydantic import Field
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize
from torch import Tensor

from baselines._common import known_matrix
from benchmark.data.batch import Batch
from benchmark.data.schema import Catalogue
from benchmark.data.text import check_fields, item_texts
from benchmark.recommender import ModelConfig, Recommender


class TfIdf(Recommender):
    """Cosine of TF-IDF vectors of item texts and the mean of the user's items (Pazzani & Billsus, 2007,
    doi:10.1007/978-3-540-72079-9_10)."""

    class Config(ModelConfig):
        item_fields: tuple[str, ...] | None = Field(None, description="Item columns to read; None: all that hold text.")
        max_features: int | None = Field(None, gt=0, description="Most frequent terms to keep; None: all.")

    batch_kind = "whole"
    group = "content"
    unseen = frozenset({"users", "items"})
    reads_queries = True

    def __init__(self, config: Config, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        vectorizer = TfidfVectorizer(max_features=config.max_features, sublinear_tf=True)
        self.vectorizer = vectorizer
        self.vectors = vectorizer.fit_transform(item_texts(catalogue.items, config.item_fields)).tocsr()

    @classmethod
    def check(cls, config: ModelConfig, catalogue: Catalogue) -> None:
        assert isinstance(config, cls.Config)
        check_fields(catalogue.items, config.item_fields or (), "item")

    def score(self, batch: Batch) -> Tensor:
        assert batch.seen is not None
        profile = known_matrix(batch.seen, self.n_items) @ self.vectors
        if batch.query is not None:  # what is asked for weighs as much as all the history
            profile = normalize(profile) + self.vectorizer.transform(batch.query)
        return self.pick(torch.from_numpy((profile @ self.vectors.T).toarray()).float().to(batch.user.device), batch)
