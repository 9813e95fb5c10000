"""Models that stand on others, as an author writes them; and one that fails while a test wants it to."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from benchmark.data.batch import Batch
from benchmark.data.schema import Catalogue
from benchmark.recommender import ModelConfig, Recommender


class Staged(Recommender):
    """The scores of a first stage, plus some popularity, plus a little noise that is drawn and not kept."""

    class Config(ModelConfig):
        first_stage: str | None = Field(None, description="Label of the model whose scores are read.")
        bonus: float = Field(0.1, description="Weight of the popularity.")

    batch_kind = "whole"
    count: Tensor
    noise: Tensor

    def __init__(self, config: ModelConfig, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        self.register_buffer("count", torch.zeros(self.n_items))
        self.register_buffer("noise", torch.rand(self.n_items), persistent=False)
        self.n_train = len(catalogue.train)

    @classmethod
    def stages_of(cls, config: Any) -> dict[str, str]:
        return {} if config.first_stage is None else {"first_stage": config.first_stage}

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        assert batch.item is not None
        self.count.copy_(torch.bincount(batch.item, minlength=self.n_items))

    def score(self, batch: Batch) -> Tensor:
        own = self.config.bonus * self.count + 0.01 * self.noise
        scores = self.pick(own.expand(len(batch), -1), batch)
        for role in self.stages:
            stage, wanted = self.stage(role, batch)
            scores = scores + stage.score(wanted)
        return scores

    def report(self) -> dict[str, float]:
        return {"drawn": float(self.noise[0]), "n_train": float(self.n_train)}


class Fragile(Recommender):
    """Popularity, unless ``broken``."""

    class Config(ModelConfig):
        power: float = 1.0

    batch_kind = "whole"
    broken = False
    count: Tensor

    def __init__(self, config: ModelConfig, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        self.register_buffer("count", torch.zeros(self.n_items))

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        if self.broken:
            raise RuntimeError("the matrix is singular")
        assert batch.item is not None
        self.count.copy_(torch.bincount(batch.item, minlength=self.n_items) ** self.config.power)

    def score(self, batch: Batch) -> Tensor:
        return self.pick(self.count.expand(len(batch), -1), batch)


class Keeping(Fragile):
    """Popularity, which it works out once and keeps until weights are loaded."""

    def __init__(self, config: ModelConfig, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        self.kept: Tensor | None = None
        self.computed = 0

    def score(self, batch: Batch) -> Tensor:
        if self.kept is None:
            self.kept, self.computed = self.count.clone(), self.computed + 1
        return self.pick(self.kept.expand(len(batch), -1), batch)

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        self.kept = None
        return super().load_state_dict(state_dict, strict, assign)

    def report(self) -> dict[str, float]:
        return {"computed": float(self.computed)}
