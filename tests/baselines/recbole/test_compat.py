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


@pytest.mark.usefixtures("our_command_line")
def test_settings_do_not_come_from_the_command_line() -> None:
    data, _ = planted("ranking")
    assert RecBole(RecBole.Config(model="BPR"), data.catalogue()).settings["embedding_size"] == 64


def test_a_failure_inside_is_cleaned_up_too() -> None:
    before = interpreter()

    def fails() -> None:
        with compat.undisturbed():
            np.random.seed(3)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert interpreter() == before
