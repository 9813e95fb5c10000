"""RecBole's models through our adapter against RecBole's own trainer: epochs on the same interactions, in one run."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Callable
from typing import Any

import torch

from baselines.recbole import RecBole
from benchmark.data.datamodule import RecDataModule
from benchmark.data.task import Task
from tests.bench.bench_models import ours
from tests.bench.recbole_reference import SEQUENTIAL, WARM_UP, epoch_seconds
from tests.planted import large

# RecBole labels rows and judges clicks by default; here context-aware models learn from drawn negatives
CLICKS = {
    "train_neg_sample_args": {"distribution": "uniform", "sample_num": 1},
    "metrics": ["Recall"],
    "topk": [10],
    "valid_metric": "Recall@10",
}
# model, its parameters, what RecBole's own Config needs besides, steps to time (None: the epoch), how often, to reach
CASES: tuple[tuple[str, dict[str, Any], dict[str, Any], int | None, int, float], ...] = (
    ("BPR", {}, {}, None, 3, 0.5),
    ("NeuMF", {}, {}, None, 3, 1.05),
    ("LightGCN", {}, {}, 10, 3, 1.05),
    ("MultiVAE", {"train_batch_size": 512}, {}, None, 5, 1.05),
    ("DeepFM", {}, CLICKS, None, 3, 1.05),
    ("SASRec", {}, SEQUENTIAL, 5, 3, 1.05),
)


def run(small: bool = False) -> list[dict[str, Any]]:
    """Return a row a model; both sides take turns, and the median of the ratios counts."""
    n_users, n_items, n = (300, 200, 10_000) if small else (3000, 2000, 400_000)
    data = large(n_users, n_items, n)
    train = data.train
    assert train.time is not None
    rows = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, parameters, more, steps, rounds, reach in CASES:
            steps = None if steps is None or small else steps
            epoch = _epoch(name, parameters, data, steps)
            size = parameters.get("train_batch_size", 2048)
            pairs = []
            epoch()  # the first one compiles and imports
            for _ in range(1 if small else rounds):
                theirs = epoch_seconds(name, train.user, train.item, train.time, parameters | more, size, steps)
                pairs.append((epoch(), theirs))
            our, their = (statistics.median(side) for side in zip(*pairs, strict=True))
            rows.append(
                {
                    "what": f"RecBole's {name} through the adapter, epoch",
                    "reference": "RecBole 1.2.1's own trainer",
                    "ours_s": our,
                    "reference_s": their,
                    "ratio": statistics.median(a / b for a, b in pairs),
                    "reach": reach,
                    "note": f"{len(train):,} interactions, {torch.get_num_threads()} threads"
                    + ("" if steps is None else f"; from {steps} steps, scaled"),
                }
            )
            print(rows[-1]["what"], f"{our:.2f} s against {their:.2f} s", flush=True)
    return rows


def _epoch(name: str, parameters: dict[str, Any], data: Any, steps: int | None) -> Callable[[], float]:
    """Return a function that gives the seconds of an epoch; of ``steps`` after the same warm-up that RecBole has."""
    config, batches = {"model": name, "parameters": parameters}, _batches(name, parameters, data)
    if steps is None or steps + WARM_UP >= batches:
        return ours(RecBole, config, data)
    warm, all_steps = ours(RecBole, config, data, WARM_UP), ours(RecBole, config, data, WARM_UP + steps)
    return lambda: (all_steps() - warm()) / steps * batches


def _batches(name: str, parameters: dict[str, Any], data: Any) -> int:
    model = RecBole(RecBole.Config(model=name, parameters=parameters), data.catalogue())
    return math.ceil(len(RecDataModule(data, Task(), model.batch_spec()).train_dataloader()))
