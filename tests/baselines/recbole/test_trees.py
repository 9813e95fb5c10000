"""Boosted trees: features of rows, one-hot tokens, defaults that stay, parameters that the library does not know."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from baselines.recbole import RecBole
from baselines.recbole.dataset import memory_dataset
from baselines.recbole.settings import Settings
from baselines.recbole.trees import Trees
from benchmark.errors import InputError
from tests.planted import planted


def trees(name: str, **parameters: Any) -> Trees:
    catalogue = planted("preference")[0].catalogue()
    config = RecBole.Config(model=name, parameters=parameters)
    return Trees(config, memory_dataset(config, Settings.of(config, 0), catalogue, catalogue.train))


def test_a_row_is_its_user_and_its_item_with_their_features() -> None:
    made = trees("XGBoost")
    rows = made.features(np.array([3, 4]), np.array([5, 6]))
    assert rows.shape == (2, 3)  # user, age, item: genres are a sequence, which is no column
    assert rows[:, 0].tolist() == [3, 4]
    assert rows[:, 2].tolist() == [5, 6]


def test_tokens_may_be_one_hot() -> None:
    made = trees("LightGBM", convert_token_to_onehot=True)
    plain, hot = trees("LightGBM").features(np.array([3]), np.array([5])), made.features(np.array([3]), np.array([5]))
    age = int(plain[0, 1])
    assert hot.shape[1] > plain.shape[1]
    assert hot.toarray()[0, 2:].nonzero()[0].tolist() == [age]  # user and item stay numbers


@pytest.mark.parametrize("name", ["XGBoost", "LightGBM"])
def test_a_booster_comes_back_from_its_bytes(name: str) -> None:
    made, generator = trees(name), torch.Generator().manual_seed(0)
    user, item = (torch.randint(n, (300,), generator=generator) for n in (100, 70))
    made.fit(user, item, (item % 2).float(), seed=0)
    other = trees(name)
    other.from_tensor(made.to_tensor())
    logits = made.logits(user, item.unsqueeze(1))
    assert torch.equal(other.logits(user, item.unsqueeze(1)), logits)
    assert made.to_tensor().dtype == torch.uint8
    odd, even = logits.sigmoid()[item % 2 == 1], logits.sigmoid()[item % 2 == 0]
    assert odd.mean() > 0.5 > even.mean()


def test_positives_alone_bring_their_negatives() -> None:
    made = trees("LightGBM", train_neg_sample_args={"sample_num": 3})
    user, item = torch.tensor([3, 3, 4]), torch.tensor([5, 6, 7])
    users, items, label = made._with_negatives(user, item, seed=0)
    assert label.tolist() == [1] * 3 + [0] * 9
    assert users[3:].tolist() == [3, 3, 4] * 3
    pairs = set(zip(users[3:].tolist(), items[3:].tolist(), strict=True))
    assert not pairs & {(3, 5), (3, 6), (4, 7)}


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("XGBoost", {"xgb_params": {"max_dpeth": 3}}, "'xgb_params' has no 'max_dpeth'; did you mean 'max_depth'\\?"),
        ("LightGBM", {"lgb_params": {"num_leavs": 3}}, "'lgb_params' has no 'num_leavs'; did you mean 'num_leaves'\\?"),
    ],
)
def test_what_the_library_does_not_know_is_named(name: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RecBole.check(RecBole.Config(model=name, parameters=parameters), planted("preference")[0].catalogue())
    RecBole.check(RecBole.Config(model=name), planted("preference")[0].catalogue())  # RecBole's own are known
