"""Small data and what the audit looks at, for its tests: every fault is planted into a clean case."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from benchmark.audit.finding import Finding
from benchmark.audit.material import Material
from benchmark.data.sources.canonical import canonical
from benchmark.data.split import split
from benchmark.experiment import Experiment
from benchmark.runs.execute import PreparedData
from benchmark.runs.outcomes import Outcomes, read
from benchmark.runs.record import RunRecord, RunStore

WORDS = ["amber", "basil", "cedar", "delta", "ember", "fjord", "grove", "heron", "ivory", "jolly"]
MODELS = {"popularity": {"class": "baselines.popularity.Popularity"}, "ease": {"class": "baselines.ease.EASE"}}


def frame(users: int = 60, n_items: int = 40, each: int = 12, skew: float = 0.0, seed: int = 0) -> pl.DataFrame:
    """Return ratings without repeated pairs: the k-th of user u at time 1000 k + u; some items popular by ``skew``."""
    rng = np.random.default_rng(seed)
    chance = 1 / np.arange(1, n_items + 1) ** skew
    name = rng.permutation(n_items)  # ids tell nothing
    rows = []
    for user in range(users):
        chosen = rng.choice(n_items, each, replace=False, p=chance / chance.sum())
        rows += [
            (f"u{user:03d}", f"i{name[item]:03d}", float(rng.integers(1, 6)), 1000.0 * k + user)
            for k, item in enumerate(chosen)
        ]
    return pl.DataFrame(rows, schema=["user_id", "item_id", "rating", "timestamp"], orient="row")


def titles(n_items: int = 40) -> pl.DataFrame:
    """Return the items of ``frame``, each with a title of its own, of four words or five."""
    names = [f"the {WORDS[i % 10]} and {WORDS[i // 10]}{' again' if i % 2 else ''}" for i in range(n_items)]
    return pl.DataFrame({"item_id": [f"i{i:03d}" for i in range(n_items)], "title": names})


def material(
    root: Path,
    rows: pl.DataFrame | None = None,
    items: pl.DataFrame | None = None,
    task: Mapping[str, Any] | None = None,
    models: Mapping[str, Any] | None = None,
    clock: Literal["time", "order"] = "time",
    note: str = "",
    **settings: Any,
) -> Material:
    """Return what the checks look at, on data alone: a clean ranking after one global point in time by default."""
    experiment = Experiment.model_validate(
        {
            "name": "small",
            "dataset": {"source": "movielens-100k"},
            "task": {"metrics": ["ndcg@10", "auc"], "split": {"kind": "temporal", "valid": 0.2, "test": 0.2}}
            | dict(task or {}),
            "models": models or MODELS,
            **settings,
        }
    )
    dataset = canonical(
        "small", frame() if rows is None else rows, titles() if items is None else items, clock=clock, note=note
    )
    parts = split(dataset, experiment.task.split)
    data = PreparedData(dataset, parts, "d" * 64, "e" * 64, 0.0)
    return Material(experiment, data, Outcomes(experiment.task.metrics), root)


def ran(found: Material, records: list[RunRecord], store: RunStore) -> Material:
    """Return the same with what some runs did."""
    task = found.experiment.task
    found.outcomes = read(records, task.metrics, task.kind, store, targets=True)
    return found


def only(findings: list[Finding]) -> Finding:
    (finding,) = findings
    assert not any(value != value for value in finding.numbers.values())
    return finding
