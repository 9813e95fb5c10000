"""RandomScores: the contract, another order for another seed, and scores that are uniform."""

import numpy as np
import torch
from scipy.stats import kstest

from baselines.random import RandomScores
from tests.contract import RecommenderContract, fit
from tests.planted import planted


class TestRandomScores(RecommenderContract):
    model = RandomScores
    tasks = ("ranking", "preference")
    floor = 0.4

    def test_scores_unseen_items_iff_it_says_so(self, fitted) -> None:  # type: ignore[no-untyped-def, override]
        """It says so, as the floor of every protocol: to chance all ids are the same."""
        assert fitted.model.traits.unseen == {"users", "items"}

    test_scores_unseen_users_iff_it_says_so = test_scores_unseen_items_iff_it_says_so


def test_seeds_differ_and_scores_are_uniform() -> None:
    data, task = planted("ranking")
    a, b = (fit(RandomScores, {}, data, task, seed=seed) for seed in (0, 1))
    x, y = a.score(a.batch()), b.score(b.batch())
    assert abs(np.corrcoef(x.ravel(), y.ravel())[0, 1]) < 0.05
    assert kstest(x.ravel().numpy(), "uniform").pvalue > 1e-4
    assert abs(float(torch.corrcoef(torch.stack([x[:-1].ravel(), x[1:].ravel()]))[0, 1])) < 0.05
