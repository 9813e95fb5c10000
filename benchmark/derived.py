"""Derived: a row of the table that is a changed copy of another trained row, with nothing to learn itself."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from benchmark.data.batch import Batch
from benchmark.recommender import ModelConfig, Recommender, Traits


class DerivedConfig(ModelConfig):
    of: str = Field(description="Label of the trained row that is changed.")


class Derived(Recommender):
    """Scores with a changed copy of a trained row: a subclass writes ``change``.

    The copy is made anew from the trained row whenever it is needed, so nothing is stored twice, and ``change`` must
    always do the same. Group, task, probability and readers are those of the row; of several in ``stages_of``, the
    first is copied.

    Attributes:
        changed: the copy, in eval mode and frozen.
    """

    Config: ClassVar[type[ModelConfig]] = DerivedConfig
    batch_kind = "whole"
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
        return next(iter(stages.values()))

    def attach(self, stages: dict[str, Recommender]) -> None:
        super().attach(stages)
        original = next(iter(stages.values()))
        trainer, original._trainer = original._trainer, None  # a copy of the weights, not of the loop around them
        try:
            changed = copy.deepcopy(original)
        finally:
            original._trainer = trainer
        self.changed = self.change(changed.eval()).requires_grad_(False)
        self.changed.forget()
        self.reads_queries = original.reads_queries

    def train(self, mode: bool = True) -> Derived:
        super().train(mode)
        if hasattr(self, "changed"):
            self.changed.eval()
        return self

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        if hasattr(self, "changed"):
            self.changed.forget()
        return super().load_state_dict(state_dict, strict, assign)

    def weights(self) -> dict[str, Tensor]:
        return {}

    def tensors(self) -> Iterator[Tensor]:
        return self.changed.tensors()  # the row itself is not asked any more

    @torch.no_grad()
    def score(self, batch: Batch) -> Tensor:
        return self.changed.score(batch.newest(self.changed.batch_spec().max_history))

    def user_embeddings(self, batch: Batch) -> Tensor:
        return self.changed.user_embeddings(batch)

    def item_embeddings(self) -> Tensor:
        return self.changed.item_embeddings()

    def report(self) -> dict[str, Any]:
        return self.changed.report()
