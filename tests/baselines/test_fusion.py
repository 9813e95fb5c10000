"""Fusion: the contract, ranks and scores by hand, and what cannot be fused."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from scipy.stats import rankdata

from baselines.ease import EASE
from baselines.fusion import Fusion
from baselines.mf import MF
from baselines.popularity import Popularity
from benchmark.data.batch import Batch, Ragged
from benchmark.errors import InputError
from benchmark.recommender import Recommender
from tests.contract import Fitted, RecommenderContract, fit
from tests.planted import planted


def members(kind: str, first: Any = EASE, second: Any = Popularity) -> dict[str, Recommender]:
    data, task = planted(kind)
    return {f"members.{i}": fit(c, {}, data, task, 3, test=False).model.eval() for i, c in enumerate((first, second))}


class TestReciprocalRanks(RecommenderContract):
    model = Fusion
    config: ClassVar[dict[str, Any]] = {"members": ["ease", "popularity"], "weights": [3.0, 1.0]}

    @classmethod
    def stages(cls, kind: str) -> dict[str, Recommender]:
        return members(kind)

    def test_candidates_are_columns_of_all_scores(self, fitted: Fitted) -> None:
        """A rank, or a standard score, is one among the candidates: so all of them, in another order."""
        n, n_items = len(fitted.batch()), fitted.model.n_items
        nothing = Ragged(torch.zeros(n + 1, dtype=torch.int64), torch.empty(0, dtype=torch.int64))
        batch = Batch(fitted.batch().user, seen=nothing)  # with candidates, what is known competes too
        order = torch.randperm(n_items)
        some = fitted.score(Batch(batch.user, seen=nothing, candidates=order.expand(n, -1)))
        torch.testing.assert_close(some, fitted.score(batch)[:, order])


class TestStandardised(TestReciprocalRanks):
    config: ClassVar[dict[str, Any]] = {"members": ["ease", "popularity"], "method": "zscore"}


class TestLogits(RecommenderContract):
    model = Fusion
    tasks = ("preference",)
    config: ClassVar[dict[str, Any]] = {"members": ["one", "two"], "method": "logit"}
    floor = 0.6

    @classmethod
    def stages(cls, kind: str) -> dict[str, Recommender]:
        data, task = planted(kind)
        config = {"loss": "bce", "embedding_size": 8, "learning_rate": 0.05}
        return {f"members.{i}": fit(MF, config, data, task, 20, i, test=False).model.eval() for i in range(2)}

    def test_is_the_mean_of_the_logits(self, fitted: Fitted) -> None:
        batch = fitted.batch()
        parts = [stage.score(batch) for stage in fitted.model.stages.values()]
        torch.testing.assert_close(fitted.score(batch), sum(parts) / 2)


def test_ranks_by_hand() -> None:
    data, task = planted("ranking")
    fitted = fit(Fusion, {"members": ["a", "b"], "weights": [2.0, 1.0]}, data, task, stages=members("ranking"))
    batch = fitted.batch()
    assert batch.seen is not None
    expected = np.zeros((len(batch), data.n_items))
    for weight, stage in zip((2.0, 1.0), fitted.model.stages.values(), strict=True):
        scores = stage.score(batch).numpy().astype(np.float64)
        scores[batch.seen.row, batch.seen.values] = -np.inf
        expected += weight / (60 + rankdata(-scores, method="average", axis=1))
    np.testing.assert_allclose(fitted.score(batch).numpy(), expected, rtol=1e-5)


def test_standard_scores_by_hand() -> None:
    data, task = planted("ranking")
    fitted = fit(Fusion, {"members": ["a", "b"], "method": "zscore"}, data, task, stages=members("ranking"))
    rows = fitted.module.rows("test")
    batch = rows[rows.all[:5]]
    assert batch.seen is not None
    fused = fitted.score(batch).numpy()
    for b in range(5):
        own = batch.seen.values[batch.seen.offsets[b] : batch.seen.offsets[b + 1]].numpy()
        free = np.setdiff1d(np.arange(data.n_items), own)
        parts = [stage.score(batch)[b].numpy()[free] for stage in fitted.model.stages.values()]
        expected = sum((p - p.mean()) / p.std() for p in parts)
        np.testing.assert_allclose(fused[b, free], expected, atol=1e-4)
        assert fused[b, own].max() < fused[b, free].min()


def test_what_cannot_be_fused() -> None:
    with pytest.raises(ValueError, match="weights: 1 of them for 2 members"):
        Fusion.Config(members=["a", "b"], weights=[1.0])
    with pytest.raises(ValueError, match="one of them stands twice"):
        Fusion.Config(members=["a", "a"])
    data, task = planted("preference")
    popular = fit(Popularity, {}, data, task, test=False).model
    fused = Fusion(Fusion.Config(members=["a", "b"], method="logit"), data.catalogue())
    with pytest.raises(InputError, match=r"members\.0: the scores of 'a' are no logits; calibrate it first"):
        fused.attach({"members.0": popular, "members.1": popular})
