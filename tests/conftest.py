"""Shared by all tests: few threads, no network, a small data set of one's own in a folder."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_SILENT", "true")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# two workers share two cores: one thread each, and for what they start
os.environ.update(
    dict.fromkeys(["OMP_NUM_THREADS", "NUMBA_NUM_THREADS"], "1") if "PYTEST_XDIST_WORKER" in os.environ else {}
)

import numpy as np
import polars as pl
import pytest
import torch

pytest.register_assert_rewrite("tests.contract")

from tests.contract import two_processes  # noqa: E402, F401  a fixture for all who inherit the contract

torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the two-process test of variants out, see RecommenderContract."""

    def wanted(item: pytest.Item) -> bool:
        cls = getattr(item, "cls", None)
        return not item.name.startswith("test_two_processes") or getattr(cls, "in_two_processes", True)

    left_out = [item for item in items if not wanted(item)]
    items[:] = [item for item in items if wanted(item)]
    config.hook.pytest_deselected(items=left_out)


@pytest.fixture
def tiny_csv(tmp_path: Path) -> Path:
    """A folder with interactions.csv and items.csv: 60 users, 40 items, two tastes, ratings and times."""
    return write_tiny_csv(tmp_path)


@pytest.fixture
def tiny_experiment(tiny_csv: Path) -> Path:
    """An experiment file on the small data set, with three quick models."""
    return write_tiny_experiment(tiny_csv)


def write_tiny_csv(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    rows = []
    for user in range(60):
        liked = np.arange(20) + 20 * (user % 2)
        items = rng.choice(liked, 12, replace=False)
        times = np.sort(rng.integers(0, 1000, 12))
        rows += [(f"u{user}", f"i{i}", 3 + int(rng.integers(0, 3)), int(t)) for i, t in zip(items, times, strict=True)]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "rating", "timestamp"], orient="row")
    frame.write_csv(folder / "interactions.csv")
    titles = [f"{'red car' if i < 20 else 'blue boat'} {i}" for i in range(40)]
    pl.DataFrame({"item_id": [f"i{i}" for i in range(40)], "title": titles}).write_csv(folder / "items.csv")
    return folder


def write_tiny_experiment(folder: Path) -> Path:
    path = folder / "experiment.yaml"
    path.write_text(
        f"""\
name: tiny
dataset:
  source: csv
  interactions: {folder}/interactions.csv
  items: {folder}/items.csv
task:
  split: {{kind: temporal, valid: 0.2, test: 0.2}}
  metrics: [ndcg@10, auc]
models:
  popularity: {{class: baselines.popularity.Popularity}}
  ease: {{class: baselines.ease.EASE, l2: 10.0}}
  mf: {{class: baselines.mf.MF, embedding_size: 8, learning_rate: 0.05}}
seeds: [0, 1]
trainer: {{max_epochs: 3}}
""",
        encoding="utf-8",
    )
    return path
