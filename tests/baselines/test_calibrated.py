"""Calibrated: the contract, temperature, Platt and isotonic regression by other implementations."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from baselines.calibrated import Calibrated
from baselines.mf import MF
from baselines.popularity import Popularity
from benchmark.errors import InputError
from benchmark.evaluation.metrics import ece, log_loss
from benchmark.recommender import Recommender
from tests.contract import Fitted, RecommenderContract, fit
from tests.planted import planted


def member(cls: Any = MF) -> dict[str, Recommender]:
    data, task = planted("preference")
    config = {"loss": "bce", "embedding_size": 8, "learning_rate": 0.05} if cls is MF else {}
    return {"member": fit(cls, config, data, task, 30, test=False).model.eval()}


class TestTemperature(RecommenderContract):
    model = Calibrated
    tasks = ("preference",)
    config: ClassVar[dict[str, Any]] = {"member": "mf"}
    floor = 0.6

    @classmethod
    def stages(cls, kind: str) -> dict[str, Recommender]:
        return member()


class TestPlatt(TestTemperature):
    config: ClassVar[dict[str, Any]] = {"member": "mf", "method": "platt"}


class TestIsotonic(TestTemperature):
    config: ClassVar[dict[str, Any]] = {"member": "mf", "method": "isotonic"}


def fitted_on(method: str, cls: Any = MF) -> tuple[Fitted, np.ndarray, np.ndarray, np.ndarray]:
    """Return the fitted model, and scores, labels and calibrated logits of the validation part."""
    data, task = planted("preference")
    stages = member(cls)
    fitted = fit(Calibrated, {"member": "m", "method": method}, data, task, stages=stages)
    batch = fitted.batch("valid")
    assert batch.label is not None
    with torch.no_grad():
        score = stages["member"].score(batch)[:, 0].numpy().astype(np.float64)
    return fitted, score, batch.label.numpy(), fitted.score(batch)[:, 0].numpy()


def test_no_other_temperature_is_better_on_validation_and_the_order_stays() -> None:
    fitted, score, label, logit = fitted_on("temperature")
    found = fitted.model.report()["temperature"]
    np.testing.assert_allclose(logit, score / found, rtol=1e-4)
    losses = {t: log_loss(label, expit(score / t)) for t in np.exp(np.linspace(-4, 4, 801))}
    assert log_loss(label, expit(logit)) <= min(losses.values()) + 1e-9
    assert found == pytest.approx(min(losses, key=losses.__getitem__), rel=0.02)


def test_platt_is_logistic_regression() -> None:
    _, score, label, logit = fitted_on("platt", Popularity)
    other = LogisticRegression(C=np.inf).fit(score[:, None] / score.std(), label > 0.5)
    np.testing.assert_allclose(logit, other.decision_function(score[:, None] / score.std()), atol=0.01)


def test_isotonic_pools_what_violates_the_order() -> None:
    fitted, score, label, logit = fitted_on("isotonic")
    expected = IsotonicRegression(y_min=1e-4, y_max=1 - 1e-4).fit(score, label > 0.5).predict(score)
    assert np.abs(expit(logit) - expected).mean() < 0.01, "but for the places between 256 quantiles"
    order = np.argsort(score)
    assert (np.diff(logit[order]) >= -1e-6).all()
    assert ece(label, expit(logit)) < ece(label, expit(score))
    far = fitted.model.knots[0]
    assert far[0] == score.min()
    assert far[-1] == score.max()


def test_a_temperature_needs_logits() -> None:
    data, task = planted("preference")
    with pytest.raises(InputError, match="no logits, which a temperature needs; use platt or isotonic"):
        fit(Calibrated, {"member": "m"}, data, task, stages=member(Popularity))
