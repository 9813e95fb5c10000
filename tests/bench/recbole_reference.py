"""Bench reference: seconds of RecBole 1.2.1's own dataset, loaders, trainer and models on generated data.

Everything is RecBole's own way: atomic files, its ``Config``, ``Dataset``, ``data_preparation`` and ``Trainer``; only
the shims of ``baselines.recbole.compat`` are in force. The data is ``tests.planted.large``: 6,040 users, 3,706 items,
1 M skewed interactions, as in ``bench_models.py``. Where an epoch is too long, some steps are timed after a warm-up and
scaled to the number of steps of an epoch: the steps of an epoch are alike, so that time is linear in them.

Run: ``python -m tests.bench.recbole_reference [--small]``.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from baselines.recbole import compat
from tests.planted import large

SEQUENTIAL = {"MAX_ITEM_LIST_LENGTH": 50, "train_neg_sample_args": None, "repeatable": True}
WARM_UP = 3


def epoch_seconds(
    model: str,
    user: np.ndarray,
    item: np.ndarray,
    timestamp: np.ndarray,
    parameters: dict[str, Any],
    train_batch_size: int,
    steps: int | None = None,
) -> float:
    """Return the seconds of one training epoch of RecBole's own trainer over the (n,) interactions.

    Drawing negatives and building batches are part of it; reading the files and building the data set are not.

    Args:
        steps: time only so many steps after a warm-up, and scale to the whole epoch; None: run the epoch.
    """
    with _prepared(model, user, item, timestamp, parameters, train_batch_size) as (trainer, loaders, share):
        return _epoch(trainer, loaders[0], steps) / share


def evaluation_seconds(
    model: str, user: np.ndarray, item: np.ndarray, timestamp: np.ndarray, parameters: dict[str, Any]
) -> float:
    """Return the seconds of RecBole's own evaluator: all items ranked for every user of its test part."""
    with _prepared(model, user, item, timestamp, parameters, 2048) as (trainer, loaders, _):
        start = time.perf_counter()
        trainer.evaluate(loaders[2], load_best_model=False)
        return time.perf_counter() - start


def fit_seconds(
    model: str, user: np.ndarray, item: np.ndarray, timestamp: np.ndarray, parameters: dict[str, Any]
) -> float:
    """Return the seconds of a closed form: RecBole computes it in the constructor."""
    with _dataset(model, user, item, timestamp, parameters, 2048) as (config, loaders):
        start = time.perf_counter()
        compat.model_class(model)(config, loaders[0]._dataset)
        return time.perf_counter() - start


def run(small: bool = False) -> list[dict[str, Any]]:
    """Time RecBole's own MF-BPR, LightGCN, SASRec and EASE, print the seconds, and return them as rows."""
    n_users, n_items, n = (300, 200, 10_000) if small else (6040, 3706, 1_000_000)
    train = large(n_users, n_items, n).train
    assert train.time is not None
    data = (train.user, train.item, train.time)
    batch, steps = 2048, (3 if small else 20)
    bpr, lightgcn = {"embedding_size": 64}, {"embedding_size": 64, "n_layers": 3}
    sasrec = {"hidden_size": 64, "inner_size": 256, "n_layers": 2, "n_heads": 2, "loss_type": "CE", **SEQUENTIAL}
    jobs: list[tuple[str, str, Any]] = [
        ("BPR epoch", "a whole epoch, batch 2,048", lambda: epoch_seconds("BPR", *data, bpr, batch)),
        ("BPR evaluation", "all users, all items, 5 metrics", lambda: evaluation_seconds("BPR", *data, bpr)),
        ("LightGCN epoch", f"{steps} steps, scaled", lambda: epoch_seconds("LightGCN", *data, lightgcn, batch, steps)),
        (
            "SASRec epoch",
            "5 steps, scaled; every prefix is a row, full softmax",
            lambda: epoch_seconds("SASRec", *data, sasrec, batch, 5),
        ),
        ("EASE fit", "in the constructor", lambda: fit_seconds("EASE", *data, {"reg_weight": 250.0})),
    ]
    rows = []
    for name, how, job in jobs:
        seconds = job()
        rows.append({"reference": "RecBole 1.2.1", "what": name, "how": how, "seconds": seconds})
        print(f"{name:16s} {seconds:10.2f} s   ({how}; {len(train):,} interactions)", flush=True)
    return rows


# --- RecBole's own way -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _prepared(
    model: str,
    user: np.ndarray,
    item: np.ndarray,
    timestamp: np.ndarray,
    parameters: dict[str, Any],
    train_batch_size: int,
) -> Iterator[tuple[Any, Any, float]]:
    """Give RecBole's trainer, its three loaders, and the share of the interactions that is left for training."""
    with _dataset(model, user, item, timestamp, parameters, train_batch_size) as (config, loaders):
        network = compat.model_class(model)(config, loaders[0]._dataset).to(config["device"])
        trainer = compat.load("utils").get_trainer(config["MODEL_TYPE"], model)(config, network)
        yield trainer, loaders, len(loaders[0]._dataset) / _rows_of_all(model, user)


def _rows_of_all(model: str, user: np.ndarray) -> int:
    """Return the training rows that all the interactions would give: one an interaction, or one a prefix."""
    sequential = compat.models()[model] == "sequential"
    return len(user) - len(np.unique(user)) if sequential else len(user)


@contextlib.contextmanager
def _dataset(
    model: str,
    user: np.ndarray,
    item: np.ndarray,
    timestamp: np.ndarray,
    parameters: dict[str, Any],
    train_batch_size: int,
) -> Iterator[tuple[Any, Any]]:
    """Write atomic files to a temporary folder, and give RecBole's Config and its three loaders."""
    sequential = compat.models()[model] == "sequential"
    with tempfile.TemporaryDirectory() as temporary, contextlib.chdir(temporary), compat.undisturbed():
        folder = Path(temporary) / "generated"
        folder.mkdir()
        columns = {"user_id:token": user, "item_id:token": item, "timestamp:float": timestamp}
        pl.DataFrame(columns).write_csv(folder / "generated.inter", separator="\t")
        # one interaction in a hundred for the evaluator; a sequential model leaves each user's last two out
        ratio = {"split": {"RS": [0.98, 0.01, 0.01]}, "order": "RO", "group_by": None, "mode": "full"}
        last = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"}
        settings = {
            "data_path": temporary,
            "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "eval_args": last if sequential else ratio,
            "train_batch_size": train_batch_size,
            "checkpoint_dir": str(Path(temporary) / "saved"),
            "show_progress": False,
            "gpu_id": "",
            "use_gpu": False,
        }
        compat.load("trainer")
        config = compat.load("config").Config(model=model, dataset="generated", config_dict={**settings, **parameters})
        data = compat.load("data")
        compat.load("utils").init_seed(0, True)
        yield config, data.data_preparation(config, data.create_dataset(config))


def _epoch(trainer: Any, loader: Any, steps: int | None) -> float:
    if steps is None or steps + WARM_UP >= len(loader):
        start = time.perf_counter()
        trainer._train_epoch(loader, 0, show_progress=False)
        return time.perf_counter() - start
    some = _Some(loader, steps)
    trainer._train_epoch(some, 0, show_progress=False)
    return (some.end - some.start) / steps * len(loader)


class _Some:
    """The first batches of a loader: a warm-up, then so many steps under the clock."""

    def __init__(self, loader: Any, steps: int) -> None:
        self.loader, self.steps = loader, steps
        self.start = self.end = 0.0

    def __len__(self) -> int:
        return WARM_UP + self.steps

    def __iter__(self) -> Iterator[Any]:
        for number, batch in enumerate(self.loader):
            if number == WARM_UP + self.steps:
                self.end = time.perf_counter()  # this batch is built: so was each that is counted
                return
            yield batch
            if number == WARM_UP - 1:
                self.start = time.perf_counter()


if __name__ == "__main__":
    torch.set_num_threads(2)
    run(small="--small" in sys.argv)
