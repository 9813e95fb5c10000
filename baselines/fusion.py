"""Fusion: one ranking, or one probability, of the scores of several rows of the experiment."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from benchmark.data.batch import Batch
from benchmark.data.task import Task
from benchmark.errors import InputError
from benchmark.members import check_weights
from benchmark.recommender import Below, ModelConfig, Recommender, Traits, unseen_by_all

OUT = float("-inf")


class FusionConfig(ModelConfig):
    members: tuple[str, ...] = Field(min_length=2, description="Labels of the rows whose scores are fused.")
    weights: tuple[float, ...] | None = Field(None, description="Of the members, in their order; None: all the same.")
    method: Literal["rrf", "zscore", "logit"] = Field(
        "rrf", description="rrf or zscore (ranking), logit (preference: of members with a probability)."
    )
    k: float = Field(60.0, gt=0, description="Of rrf: how little the first ranks stand out.")

    @model_validator(mode="after")
    def _a_weight_each(self) -> FusionConfig:
        check_weights(self.members, self.weights)
        return self


class Fusion(Recommender):
    """Weighted sum over trained rows of the experiment.

    ``rrf``: of 1 / (k + rank), ties at their mid-rank (reciprocal rank fusion; Cormack et al., SIGIR 2009,
    doi:10.1145/1571941.1572114). ``zscore``: of scores, standardised within each user's candidates (Montague & Aslam,
    CIKM 2001, doi:10.1145/502585.502657). ``logit``: of logits, a geometric mean of odds, again a probability. What a
    user has already is no candidate where the whole catalogue is ranked.
    """

    Config = FusionConfig
    batch_kind = "whole"
    group = "ensemble"
    tasks = frozenset({"ranking", "preference"})

    @classmethod
    def traits_of(cls, config: ModelConfig) -> Traits:
        logit = isinstance(config, FusionConfig) and config.method == "logit"
        return Traits(cls.group, frozenset({"preference" if logit else "ranking"}), probability=logit)

    @classmethod
    def traits_on(cls, config: ModelConfig, stages: dict[str, Traits]) -> Traits:
        return replace(cls.traits_of(config), unseen=unseen_by_all(stages))

    @classmethod
    def stages_of(cls, config: ModelConfig) -> dict[str, str]:
        assert isinstance(config, FusionConfig)
        return {f"members.{i}": label for i, label in enumerate(config.members)}

    @classmethod
    def check_below(cls, config: ModelConfig, below: dict[str, Below], task: Task) -> None:
        assert isinstance(config, FusionConfig)
        _check(config, {role: row.traits for role, row in below.items()})

    def attach(self, stages: dict[str, Recommender]) -> None:
        super().attach(stages)
        _check(self.config, {role: stage.traits for role, stage in stages.items()})
        self.reads_queries = any(stage.reads_queries for stage in stages.values())

    @torch.no_grad()
    def score(self, batch: Batch) -> Tensor:
        weights = self.config.weights or (1.0,) * len(self.stages)
        out: Tensor | float = 0.0
        for weight, role in zip(weights, self.stages, strict=True):
            stage, wanted = self.stage(role, batch)
            scores = stage.score(wanted).float().clone()
            if self.config.method == "logit":
                out = out + weight / sum(weights) * scores
                continue
            if batch.candidates is None and batch.seen is not None:
                scores[batch.seen.row, batch.seen.values] = OUT
            out = out + weight * (self._reciprocal(scores) if self.config.method == "rrf" else _standardised(scores))
        assert isinstance(out, Tensor)
        return out

    def _reciprocal(self, scores: Tensor) -> Tensor:
        """Return (B, C) 1 / (k + 1-based mid-rank) of (B, C) scores."""
        ordered = scores.sort(dim=1).values.contiguous()
        below = torch.searchsorted(ordered, scores.contiguous())
        upto = torch.searchsorted(ordered, scores.contiguous(), right=True)
        return 1 / (self.config.k + scores.shape[1] - (below + upto - 1) / 2.0)


def _check(config: FusionConfig, traits: dict[str, Traits]) -> None:
    """Refuse members without logits where logits are fused."""
    for label, (role, own) in zip(config.members, traits.items(), strict=True) if config.method == "logit" else ():
        if not own.probability:
            raise InputError(f"{role}: the scores of '{label}' are no logits; calibrate it first (Calibrated)")


def _standardised(scores: Tensor) -> Tensor:
    """Return (B, C) scores of mean 0 and deviation 1 in each row; who is out stays at the bottom."""
    inside = scores.isfinite()
    n = inside.sum(1, keepdim=True).clamp(min=1)
    known = scores.masked_fill(~inside, 0.0)
    mean = known.sum(1, keepdim=True) / n
    centred = (known - mean).masked_fill(~inside, 0.0)
    deviation = (centred.square().sum(1, keepdim=True) / n).sqrt()
    z = centred / torch.where(deviation > 0, deviation, 1.0)
    return torch.where(inside, z, z.min(1, keepdim=True).values - 1)
