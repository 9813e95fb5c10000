"""The shims: what is mended, and the interpreter left as it was found."""

from __future__ import annotations

import logging
import os
import random
import sys
import warnings
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from baselines.recbole import RecBole, compat
from benchmark.data.batch import Batch
from tests.planted import planted


def interpreter() -> dict[str, Any]:
    python, numpy = random.getstate(), np.random.get_state(legacy=False)["state"]
    root = logging.getLogger()
    return {
        "argv": list(sys.argv),
        "environment": dict(os.environ),
        "streams": (sys.stdout, sys.stderr),
        "handlers": (list(root.handlers), root.level),
        "filters": list(warnings.filters),
        "python": python,
        "numpy": (numpy["key"].tolist(), numpy["pos"]),
        "torch": torch.get_rng_state().tolist(),
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "numpy names": {name: vars(np).get(name) for name in compat._NUMPY},
        "dok": "_update" in vars(sp.dok_matrix),
        "tensorboard": "torch.utils.tensorboard" in sys.modules,
        "ray": "ray" in sys.modules,
        "anomalies": torch.is_anomaly_enabled(),
    }


@pytest.fixture
def our_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["levelfield", "run", "--embedding_size=3", "--model=Pop"])


@pytest.mark.usefixtures("our_command_line")
def test_the_interpreter_is_left_as_it_was_found() -> None:
    data, _ = planted("ranking")
    before = interpreter()
    config = compat.load("config").Config  # RecBole's own, which sets all of it
    with compat.undisturbed():
        real = config(model="BPR", dataset="none", config_dict={"embedding_size": 5})
        compat.load("utils").init_seed(1, False)
        logging.basicConfig()
        assert real["embedding_size"] == 5
    assert interpreter() == before
    closed = RecBole(RecBole.Config(model="EASE"), data.catalogue())
    train = Batch(user=torch.from_numpy(data.train.user).long(), item=torch.from_numpy(data.train.item).long())
    closed.training_step(train, 0)
    assert interpreter() == before
    RecBole(RecBole.Config(model="LightGCN"), data.catalogue())  # draws its weights from the seed alone
    assert interpreter() == before


def test_importing_sequential_models_does_not_turn_on_the_search_for_anomalies() -> None:
    compat.model_class("SINE")  # its file calls torch.autograd.set_detect_anomaly(True)
    assert not torch.is_anomaly_enabled()


@pytest.mark.usefixtures("our_command_line")
def test_settings_do_not_come_from_the_command_line() -> None:
    data, _ = planted("ranking")
    assert RecBole(RecBole.Config(model="BPR"), data.catalogue()).settings["embedding_size"] == 64


def test_torch_scatter_is_there_for_recbole_alone() -> None:
    with compat.shimmed():
        from torch_scatter import scatter_mean, scatter_softmax
    assert "torch_scatter" not in sys.modules
    src, index = torch.randn(50, 3), torch.randint(0, 7, (50,))
    index[index == 2] = 0  # nobody has 2
    mean, soft = scatter_mean(src, index, dim=0, dim_size=9), scatter_softmax(src, index, dim=0)
    assert mean.shape == (9, 3)
    assert not mean[[2, 7, 8]].any()
    for i in index.unique():
        rows = index == i
        torch.testing.assert_close(mean[i], src[rows].mean(0))
        torch.testing.assert_close(soft[rows], src[rows].softmax(0))
    torch.testing.assert_close(scatter_softmax(src[:, 0], index)[index == 0], src[index == 0, 0].softmax(0))


def test_kgats_first_attention_is_that_of_its_paper() -> None:
    """Each relation's adjacency with rows divided by their sums, added up (RecBole's ``init_graph`` with DGL)."""
    rng = np.random.default_rng(0)
    triples = np.unique(rng.integers(0, 8, (60, 2)), axis=0)
    relation = rng.integers(1, 4, len(triples))
    graph = sp.coo_matrix((relation, (triples[:, 0], triples[:, 1])), shape=(8, 8))
    expected = np.zeros((8, 8))
    for kind in (1, 2, 3):
        one = np.zeros((8, 8))
        one[tuple(triples[relation == kind].T)] = 1
        expected += one / np.maximum(one.sum(1, keepdims=True), 1)
    found = compat.relation_mean_graph(graph, torch.Size((8, 8))).to_dense()
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def test_a_failure_inside_is_cleaned_up_too() -> None:
    before = interpreter()

    def fails() -> None:
        with compat.undisturbed():
            np.random.seed(3)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert interpreter() == before
