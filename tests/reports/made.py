"""Stores filled with made-up ranks or scores, for tests of tables that need no training."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmark.experiment import Experiment
from benchmark.reports.part import Part, part
from benchmark.runs.outcomes import Outcomes
from benchmark.runs.record import RANKS, RunRecord, RunStore

EXPERIMENT = {
    "name": "made",
    "dataset": {"source": "movielens-100k"},
    "task": {"metrics": ["ndcg@10", "auc"]},
    "models": {
        "popularity": {"class": "baselines.popularity.Popularity"},
        "ease": {"class": "baselines.ease.EASE"},
        "mf": {"class": "baselines.mf.MF"},
        "llm": {"class": "benchmark.llm.two_tower.TwoTower"},
    },
    "seeds": [0, 1],
}


def ranks(quality: float, users: int = 200, seed: int = 0, noise: int = 0) -> pl.DataFrame:
    """One held-out item a user, nearer to the top the better the quality; users differ, in the same way for all."""
    hard = np.random.default_rng(seed).random(users)
    own = np.random.default_rng([seed, noise, 1]).random(users)
    above = (500 * (0.8 * hard + 0.2 * own) ** (1 + quality)).astype(np.int32)
    names = [f"u{i}" for i in range(users)]
    columns = {"user": names, "item": [f"i{i % 7}" for i in range(users)], "above": above}
    return pl.DataFrame({**columns, "ties": np.zeros(users, np.int32), "n_candidates": np.full(users, 500, np.int32)})


def stored(
    folder: Path,
    frames: Mapping[str, Callable[[int], pl.DataFrame]],
    changes: Mapping[str, Any] | None = None,
    valid: Mapping[str, float] | None = None,
    record: Callable[[str, int], Mapping[str, Any]] = lambda label, seed: {},
) -> tuple[Experiment, list[RunRecord | None], RunStore]:
    """Return an experiment whose runs are in a store: ``frames[label](seed)`` are the ranks; no frame, no run."""
    experiment = Experiment.model_validate({**EXPERIMENT, **(changes or {})})
    store = RunStore(folder)
    records: list[RunRecord | None] = []
    for i, spec in enumerate(experiment.specs()):
        if spec.label not in frames:
            records.append(None)
            continue
        key = hashlib.sha256(f"{experiment.name} {spec.label} {spec.seed}".encode()).hexdigest()[:16]
        path = store.write_parquet(key, RANKS, frames[spec.label](spec.seed))
        told: dict[str, Any] = {
            "key": key, "status": "finished", "experiment": experiment.name, "label": spec.label, "seed": spec.seed,
            "group": "collaborative", "spec": spec.resolved(), "data_fingerprint": "d" * 64,
            "split_fingerprint": "e" * 64, "candidates_fingerprint": "full", "code_version": "c",
            "split_report": {"n_train": 1000, "n_valid": 100, "n_test": 100}, "data_steps": [],
            "metrics": {"valid": {"ndcg@10": (valid or {}).get(spec.label, 0.1 * i)}, "test": {}},
            "judged": {"test": 200}, "stage_seconds": {"fit": 1.0 + i}, "ms_per_user": 0.5,
            "parameters": {"trainable": 1234567, "total": 1234567}, "peak_memory": {"host": 2**30},
            "environment": {"versions": {"levelfield": "1"}, "commit": {"commit": "a" * 40, "dirty": False}},
            "files": {RANKS: hashlib.sha256(path.read_bytes()).hexdigest()},
        }  # fmt: skip
        made = RunRecord.model_validate({**told, **record(spec.label, spec.seed)})
        store.put(made)
        records.append(made)
    return experiment, records, store


def made_part(folder: Path, qualities: Mapping[str, float], targets: bool = False, **told: Any) -> Part:
    """Return a part of a table of models of some qualities."""
    frames = {label: _of(quality) for label, quality in qualities.items()}
    return part(*stored(folder, frames, **told), targets=targets)


def of_values(experiment: Experiment, values: Mapping[str, np.ndarray], metric: str = "ndcg@10") -> Part:
    """Return a part whose rows have these values of one metric, one a user; no runs stand behind it."""
    users = pl.Series("user", [f"u{i}" for i in range(len(next(iter(values.values()))))])
    seeds = {(label, metric): [float(np.nanmean(one))] for label, one in values.items()}
    found = {(label, metric): one for label, one in values.items()}
    return Part(experiment, [None] * len(experiment.specs()), Outcomes((metric,), users, seeds, found))


def _of(quality: float) -> Callable[[int], pl.DataFrame]:
    return lambda seed: ranks(quality, noise=1000 * seed + int(100 * quality))
