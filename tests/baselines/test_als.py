"""ALS: the contract, the fold-in of new users, and the missing library."""

import itertools
import sys

import pytest
import torch

from baselines.als import ALS
from benchmark.errors import InputError
from tests.contract import RecommenderContract, fit
from tests.planted import planted

CONFIG = {"embedding_size": 8, "l2": 1.0, "alpha": 5.0, "n_iterations": 60}


class TestALS(RecommenderContract):
    model = ALS
    config = {"embedding_size": 8, "l2": 1.0}


def test_folding_a_known_user_in_gives_the_trained_factors() -> None:
    data, task = planted("ranking")
    fitted = fit(ALS, CONFIG, data, task)
    rows = [torch.from_numpy(data.train.item[a:b]).long() for a, b in itertools.pairwise(data.train.offsets)]
    folded = torch.stack([fitted.model.fold_in(items) for items in rows[2:50]])
    torch.testing.assert_close(
        folded @ fitted.model.item.T, fitted.model.user[2:50] @ fitted.model.item.T, atol=0.05, rtol=0
    )


def test_new_users_are_served_from_what_is_known_of_them() -> None:
    data, task = planted("ranking")
    fitted = fit(ALS, CONFIG, data, task)
    batch = fitted.batch()
    new = ~fitted.model.known_user[batch.user]
    assert new.any()
    scores = fitted.score(batch)
    assert scores[new].abs().max() > 0.1
    assert batch.seen is not None
    seen = batch.seen.dense(data.n_items).bool()
    assert scores[new][seen[new]].mean() > 2 * scores[new][~seen[new]].mean()


def test_the_missing_library_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "implicit.cpu.als", None)
    data, task = planted("ranking")
    with pytest.raises(InputError, match=r"'implicit' is not installed: pip install 'levelfield\[als\]'"):
        fit(ALS, {}, data, task)
