"""Markov chain: what most often came directly after the last item."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from benchmark.data.batch import Batch
from benchmark.data.schema import Catalogue
from benchmark.recommender import ModelConfig, Recommender, Traits, unseen_by_all


class MarkovChain(Recommender):
    """First-order transition counts (Shani et al., JMLR 2005, section 3; without smoothing).

    The score is the number of training sequences in which the candidate directly follows the user's last item. Equal
    counts are ordered by popularity, or by another model of the experiment.
    """

    class Config(ModelConfig):
        ties: str | None = Field(None, description="Label of the model that orders equal counts; None: popularity.")

    group = "sequential"
    batch_kind = "whole"
    unseen = frozenset({"users"})
    max_history = 1
    popularity: Tensor
    next: Tensor
    count: Tensor
    start: Tensor

    def __init__(self, config: Config, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        train, n = catalogue.train, self.n_items
        follows = np.flatnonzero(train.user[1:] == train.user[:-1])
        pairs, count = np.unique(train.item[follows].astype(np.int64) * n + train.item[follows + 1], return_counts=True)
        # statistics of the training part, which comes with the catalogue: no checkpoint needs them
        self.register_buffer("next", torch.from_numpy(pairs % n), persistent=False)
        self.register_buffer("count", torch.from_numpy(count).float(), persistent=False)
        self.register_buffer("start", torch.from_numpy(np.searchsorted(pairs, np.arange(n + 1) * n)), persistent=False)
        popularity = torch.from_numpy(np.bincount(train.item, minlength=n)).float()
        self.register_buffer("popularity", popularity, persistent=False)

    @classmethod
    def traits_on(cls, config: ModelConfig, stages: dict[str, Traits]) -> Traits:
        traits = cls.traits_of(config)
        return replace(traits, unseen=traits.unseen & unseen_by_all(stages)) if stages else traits

    @classmethod
    def stages_of(cls, config: ModelConfig) -> dict[str, str]:
        return {"ties": config.ties} if isinstance(config, cls.Config) and config.ties else {}

    def score(self, batch: Batch) -> Tensor:
        counts = self.pick(self._counts(batch), batch)  # whole numbers: what is less than 1 orders equal ones
        if not self.stages:
            return counts + self.pick((self.popularity / (self.popularity.max() + 1)).expand(len(batch), -1), batch)
        other, same = self.stage("ties", batch)
        second = other.score(same)
        return counts + 0.499 * (1 + second / (1 + second.abs()))

    def _counts(self, batch: Batch) -> Tensor:
        """Return (B, n_items): how often each item directly followed the newest one of each history."""
        read = batch.newest(1)  # as a first stage it may be given more
        assert read.history is not None
        assert read.history_length is not None
        known = read.history_length > 0
        last = torch.where(known, read.history[:, 0], 0)
        begin, length = self.start[last], (self.start[last + 1] - self.start[last]) * known
        row = torch.repeat_interleave(torch.arange(len(last), device=last.device), length)
        place = torch.arange(len(row), device=last.device) - (length.cumsum(0) - length)[row] + begin[row]
        counts = torch.zeros(len(last), self.n_items, device=last.device)
        counts[row, self.next[place]] = self.count[place]
        return counts
