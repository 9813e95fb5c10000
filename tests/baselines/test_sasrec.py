"""SASRec: the contract, causality, and the order that only a sequence model sees."""

import pytest
import torch

from baselines.item_knn import ItemKNN
from baselines.sasrec import SASRec
from tests.contract import RecommenderContract, fit, quiet
from tests.planted import planted

QUICK = {"learning_rate": 0.005, "batch_size": 32, "embedding_size": 32, "dropout": 0.1}


class TestSASRec(RecommenderContract):
    model = SASRec
    config = QUICK
    epochs = 25
    floor = 0.85


class TestSASRecBCE(RecommenderContract):
    in_two_processes = False
    model = SASRec
    config = {**QUICK, "loss": "bce", "negatives": 4}
    epochs = 25
    floor = 0.85


class TestSASRecAugmented(RecommenderContract):
    in_two_processes = False
    model = SASRec
    config = {
        **QUICK,
        "loss": "bce",
        "negatives": 4,
        "negative_sampling": "popularity",
        "augment": {"crop": 0.8, "mask": 0.2, "reorder": 0.2, "probability": 0.3},
    }
    epochs = 25
    floor = 0.8


class TestSASRecByLabels(RecommenderContract):
    model = SASRec
    config = {**QUICK, "batch_size": 256, "loss": "labels"}
    tasks = ("preference",)
    epochs = 25
    floor = 0.6


def test_a_later_item_changes_no_earlier_position() -> None:
    data, _ = planted("ranking")
    model = SASRec(SASRec.Config(n_layers=2, n_heads=2), data.catalogue()).eval()
    history = torch.randint(data.n_items, (4, 9))
    with torch.no_grad():
        before = model.encode(history)
        for position in range(1, 9):
            changed = history.clone()
            changed[:, position:] = data.n_items  # padding, too, is only ever later
            torch.testing.assert_close(model.encode(changed)[:, :position], before[:, :position])
        changed = history.clone()
        changed[:, 0] = (history[:, 0] + 1) % data.n_items
        assert not torch.allclose(model.encode(changed)[:, 8], before[:, 8])


def test_learns_the_order() -> None:
    data, task = planted("ranking")
    with quiet():
        ours = fit(SASRec, {"learning_rate": 0.003, "batch_size": 32}, data, task, epochs=20).metrics["mrr"]
        unordered = fit(ItemKNN, {}, data, task).metrics["mrr"]
    assert ours > unordered + 0.05


def test_heads_divide_the_width() -> None:
    with pytest.raises(ValueError, match="n_heads: 3 does not divide embedding_size 64"):
        SASRec.Config(n_heads=3)
