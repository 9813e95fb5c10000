"""Derived: a row of the table that is a changed copy of another trained row, with nothing to learn itself."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from benchmark.data.batch import Batch
from benchmark.recommender import Group, ModelConfig, Recommender, Traits


class DerivedConfig(ModelConfig):
    of: str = Field(description="Label of the trained row that is changed.")


class Derived(Recommender):
    """Scores with a changed copy of a trained row: a subclass writes ``change``.

    The copy is made anew from the trained row whenever it is needed, so nothing is stored twice, and ``change`` must
    always do the same. Task, probability and readers are those of the row.

    Attributes:
        changed: the copy, in eval mode and frozen.
    """

    Config = DerivedConfig
    batch_kind = "whole"
    group: ClassVar[Group] = "ensemble"
    changed: Recommender

    def change(self, model: Recommender) -> Recommender:
        """Return the changed model; ``model`` is a copy, in eval mode and on the CPU.

        Raises:
            InputError: the row cannot be changed in this way.
        """
        raise NotImplementedError

    @classmethod
    def stages_of(cls, config: ModelConfig) -> dict[str, str]:
        assert isinstance(config, DerivedConfig)
        return {"of": config.of}

    @classmethod
    def traits_on(cls, config: ModelConfig, stages: dict[str, Traits]) -> Traits:
        return replace(stages["of"], group=cls.traits_of(config).group)

    def attach(self, stages: dict[str, Recommender]) -> None:
        super().attach(stages)
        original = stages["of"]
        trainer, original._trainer = original._trainer, None  # a copy of the weights, not of the loop around them
        try:
            changed = copy.deepcopy(original)
        finally:
            original._trainer = trainer
        self.changed = self.change(changed.eval()).requires_grad_(False)
        self.reads_queries = original.reads_queries

    def train(self, mode: bool = True) -> Derived:
        super().train(mode)
        if hasattr(self, "changed"):
            self.changed.eval()
        return self

    def weights(self) -> dict[str, Tensor]:
        return {}

    @torch.no_grad()
    def score(self, batch: Batch) -> Tensor:
        return self.changed.score(batch.newest(self.changed.batch_spec().max_history))

    def user_embeddings(self, batch: Batch) -> Tensor:
        return self.changed.user_embeddings(batch)

    def item_embeddings(self) -> Tensor:
        return self.changed.item_embeddings()

    def report(self) -> dict[str, Any]:
        return self.changed.report()
