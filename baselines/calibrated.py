"""Calibrated: another row's scores as probabilities, fitted on the validation part."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from scipy.optimize import minimize
from sklearn.isotonic import IsotonicRegression
from torch import Tensor

from benchmark.data.batch import Batch, BatchSpec
from benchmark.data.schema import Catalogue
from benchmark.data.task import Task
from benchmark.errors import InputError
from benchmark.recommender import Below, ModelConfig, Recommender, Traits, unseen_by_all

KNOTS = 256  # places at which an isotonic function is kept
EDGE = 1e-4  # probabilities nearer to 0 or 1 are not believed


class Calibrated(Recommender):
    """P(like) from the scores of a trained row of the experiment, fitted on the labelled rows of the validation part.

    ``temperature``: logit / T (Guo et al., ICML 2017, arXiv:1706.04599); the order stays, and with it AUC. ``platt``: a
    score + b (Platt, 1999), for scores that are no logits too; the order stays unless a falls below 0. ``isotonic``:
    any rising function, by pooling adjacent violators (Zadrozny & Elkan, KDD 2002, doi:10.1145/775047.775151), kept at
    256 quantiles of the scores; neighbours in the order may become equal. The row's own numbers on the validation part
    are of the fit, so that they look better than they are; those on the test part are not.
    """

    class Config(ModelConfig):
        member: str = Field(description="Label of the row that is calibrated.")
        method: Literal["temperature", "platt", "isotonic"] = Field(
            "temperature", description="temperature (for logits), platt or isotonic (for any scores)."
        )

    batch_kind = "whole"
    group = "ensemble"
    tasks = frozenset({"preference"})
    probability = True
    line: Tensor
    knots: Tensor

    def __init__(self, config: Config, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        self.register_buffer("line", torch.tensor([1.0, 0.0]))  # slope and intercept of temperature and platt
        self.register_buffer("knots", torch.zeros(2, KNOTS, dtype=torch.float64))  # scores, and their logits

    @classmethod
    def traits_on(cls, config: ModelConfig, stages: dict[str, Traits]) -> Traits:
        return replace(cls.traits_of(config), unseen=unseen_by_all(stages))

    @classmethod
    def stages_of(cls, config: ModelConfig) -> dict[str, str]:
        assert isinstance(config, Calibrated.Config)
        return {"member": config.member}

    @classmethod
    def check_below(cls, config: ModelConfig, below: dict[str, Below], task: Task) -> None:
        assert isinstance(config, Calibrated.Config)
        _check(config.method, below["member"].traits)

    def attach(self, stages: dict[str, Recommender]) -> None:
        super().attach(stages)
        _check(self.config.method, stages["member"].traits)
        self.reads_queries = stages["member"].reads_queries

    def batch_spec(self) -> BatchSpec:
        return replace(super().batch_spec(), part="valid")

    @torch.no_grad()
    def training_step(self, batch: Batch, batch_idx: int) -> None:
        assert batch.label is not None
        score = self._member(batch)[:, 0].double().cpu().numpy()
        like = batch.label.cpu().numpy() > 0.5
        if self.config.method == "isotonic":
            fitted = IsotonicRegression(y_min=EDGE, y_max=1 - EDGE, out_of_bounds="clip").fit(score, like)
            places = np.quantile(score, np.linspace(0, 1, KNOTS))
            p = np.clip(fitted.predict(places), EDGE, 1 - EDGE)
            self.knots.copy_(torch.from_numpy(np.stack([places, np.log(p / (1 - p))])))
        else:
            self.line.copy_(torch.from_numpy(_line(score, like, self.config.method == "platt")))

    def _member(self, batch: Batch) -> Tensor:
        stage, wanted = self.stage("member", batch)
        return stage.score(wanted)

    @torch.no_grad()
    def score(self, batch: Batch) -> Tensor:
        scores = self._member(batch)
        if self.config.method != "isotonic":
            return scores * self.line[0] + self.line[1]
        places, logits = self.knots.cpu().numpy()
        mapped = np.interp(scores.double().cpu().numpy(), places, logits)
        return torch.from_numpy(mapped).float().to(scores.device)

    def report(self) -> dict[str, float]:
        if self.config.method == "isotonic":
            return {}
        slope, intercept = self.line.tolist()
        return {"temperature": 1 / slope} if self.config.method == "temperature" else {"a": slope, "b": intercept}


def _check(method: str, member: Traits) -> None:
    """Refuse a temperature of scores that are no logits."""
    if method == "temperature" and not member.probability:
        raise InputError("method: the member's scores are no logits, which a temperature needs; use platt or isotonic")


def _line(score: np.ndarray, like: np.ndarray, with_intercept: bool) -> np.ndarray:
    """Return [slope, intercept] that make the log loss of (n,) labels least; without an intercept, the slope is > 0."""
    scale = max(float(score.std()), 1e-12) if with_intercept else 1.0
    x = score / scale

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        slope, intercept = (values[0], values[1]) if with_intercept else (np.exp(values[0]), 0.0)
        z = slope * x + intercept
        value = float(np.mean(np.logaddexp(0, z) - like * z))
        error = 1 / (1 + np.exp(-z)) - like
        by_slope = float(np.mean(error * x))
        return value, np.array([by_slope, error.mean()] if with_intercept else [by_slope * slope])

    found = minimize(loss, np.zeros(2 if with_intercept else 1), jac=True, method="L-BFGS-B")
    return np.array([found.x[0] / scale, found.x[1]] if with_intercept else [np.exp(found.x[0]), 0.0], np.float32)
