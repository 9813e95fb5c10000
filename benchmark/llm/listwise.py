"""Listwise: a first-stage model's best candidates stand in one prompt as lettered options; the model orders them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from benchmark.data.batch import Batch, BatchSpec, Ragged
from benchmark.data.negatives import SamplingKind
from benchmark.data.schema import Catalogue
from benchmark.data.seeded import mix
from benchmark.data.sequences import take, unique_pairs
from benchmark.llm.buckets import in_order, passes
from benchmark.llm.language_model import LanguageModel
from benchmark.llm.pieces import LABELS
from benchmark.llm.prompted import PromptConfig, PromptRecommender
from benchmark.llm.templates import Template, Way
from benchmark.recommender import ModelConfig, Traits, unseen_by_all

OUT = float("-inf")


class ListwiseConfig(PromptConfig):
    max_length: int = Field(512, gt=2, description="Most tokens of a prompt; the oldest history is dropped first.")
    first_stage: str = Field(description="Label of the model of this experiment that chooses the candidates.")
    n_candidates: int = Field(20, ge=2, le=len(LABELS), description="Items that stand in the list.")


class Listwise(PromptRecommender):
    """Reranks the best ``n_candidates`` of a first stage by the probability of their letters, all from one pass of a
    decoder or an encoder-decoder (LlamaRec, Yue et al., arXiv:2311.02089).

    Training: every interaction stands among the items that the first stage ranks highest for what came before it, and
    that the user does not have; cross entropy over the letters of the list, on the answer alone. The order of a list
    is a seeded shuffle, in training and in scoring, so that no place means anything (the first stage knows its training
    targets: its order would give them away in training, and them alone). Items outside of the list keep the order of
    the first stage, below it. The first stage is a row of the same experiment, trained and kept by the same run store.
    """

    Config = ListwiseConfig
    batch_kind = "pointwise"
    way: ClassVar[Way] = "listwise"
    backbone: LanguageModel
    letters: Tensor

    def __init__(self, config: ListwiseConfig, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        self.backbone = LanguageModel(config.backbone, config.used_peft(), config.loading())
        self.width = min(config.n_candidates, self.n_items)
        self.reader = self.make_reader()
        self.register_buffer("letters", torch.tensor(self.reader.pieces.answer_ids), persistent=False)
        train = catalogue.train
        self._owned = unique_pairs(train.user, train.item, self.n_users, self.n_items)

    @classmethod
    def traits_on(cls, config: ModelConfig, stages: dict[str, Traits]) -> Traits:
        # what the first stage cannot place comes into no list
        return replace(cls.traits_of(config), unseen=unseen_by_all(stages))

    @classmethod
    def stages_of(cls, config: ModelConfig) -> dict[str, str]:
        assert isinstance(config, ListwiseConfig)
        return {"first_stage": config.first_stage}

    @classmethod
    def answer_words(cls, config: Any, catalogue: Catalogue, template: Template) -> Sequence[str]:
        return LABELS[: min(config.n_candidates, catalogue.n_items)]

    @classmethod
    def shown(cls, config: Any, catalogue: Catalogue, batch: Batch) -> dict[str, Tensor]:
        # the first stage is not trained yet: any items show what a list looks like
        return {"options": torch.arange(min(config.n_candidates, catalogue.n_items)).expand(len(batch), -1)}

    @classmethod
    def samplings(cls, config: ModelConfig) -> frozenset[SamplingKind]:
        return frozenset({"uniform"})  # it draws none

    def batch_spec(self) -> BatchSpec:
        spec = super().batch_spec()
        return spec if self.config.zero_shot else replace(spec, negatives=0, min_history=1, cost=self._cost)

    def _cost(self, batch: Batch) -> Tensor:
        assert batch.history_length is not None
        return batch.history_length  # the options are not drawn yet; the history is what differs most

    def _first(self, batch: Batch) -> Tensor:
        """Return (B, C) scores of the first stage."""
        stage, batch = self.stage("first_stage", batch)
        return stage.score(batch)

    # --- training --------------------------------------------------------------------------------------------------

    def loss(self, batch: Batch) -> Tensor:
        assert batch.item is not None
        options, answer = self._training_lists(batch)
        prompts = self.read(batch, options=options)
        parts = passes(prompts.lengths)
        self.reader.count(prompts, parts)
        out = [self.backbone.next_logits(*self.backbone.pad(prompts, rows))[:, self.letters] for rows in parts]
        logits = in_order(out, parts)
        return F.cross_entropy(logits, answer, label_smoothing=self.config.label_smoothing)

    @torch.no_grad()
    def _training_lists(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return (B, N) shuffled lists and (B,) the place of the target in each."""
        assert batch.item is not None
        n, target = len(batch), batch.item.unsqueeze(1)
        known = replace(batch, item=None, label=None, seen=_histories(batch))
        scores = self._first(known).clone()
        owned = take(self._owned, batch.user.cpu())
        scores[owned.row.to(self.device), owned.values.to(self.device)] = OUT
        scores.scatter_(1, target, OUT)
        others = scores.topk(self.width - 1, dim=1).indices
        place = torch.argsort(torch.rand(n, self.width), dim=1).to(self.device)
        options = torch.cat([target, others], 1).gather(1, place)
        return options, (place == 0).int().argmax(1)

    # --- scoring ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def score(self, batch: Batch) -> Tensor:
        first = self._first(batch)
        free = first.clone()
        if batch.candidates is None and batch.seen is not None:
            free[batch.seen.row, batch.seen.values] = OUT
        top = free.topk(min(self.width, free.shape[1]), dim=1).indices
        items = top if batch.candidates is None else batch.candidates.gather(1, top)
        # an order that depends on user and item alone
        key = mix(0, batch.user.cpu().numpy()[:, None].repeat(items.shape[1], 1).ravel(), items.cpu().numpy().ravel())
        order = torch.from_numpy(np.argsort(key.reshape(items.shape), axis=1)).to(self.device)
        items, top = items.gather(1, order), top.gather(1, order)
        prompts = self.read(batch, options=items)
        chance = torch.empty(items.shape, device=self.device)
        with self.backbone.merged():
            for rows in self.scoring_passes(prompts.lengths):
                logits = self.backbone.next_logits(*self.backbone.pad(prompts, rows))
                chance[torch.from_numpy(rows).to(self.device)] = logits[:, self.letters[: items.shape[1]]].softmax(1)
        # the list stands above everything else
        return (first - first.max(1, keepdim=True).values - 1).scatter(1, top, chance)


def _histories(batch: Batch) -> Ragged:
    """Return the histories of a batch as its known items: each once, ascending."""
    assert batch.history is not None
    assert batch.history_length is not None
    history = batch.history.cpu()
    real = torch.arange(history.shape[1]) < batch.history_length.cpu().unsqueeze(1)
    row = torch.arange(len(history)).unsqueeze(1).expand_as(history)[real]
    n_items = int(history.max()) + 1 if history.numel() else 1
    lists = unique_pairs(row.numpy(), history[real].numpy(), len(history), n_items)
    return lists.to(batch.user.device)
