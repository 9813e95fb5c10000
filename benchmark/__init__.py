"""The public API of levelfield: one experiment file, one comparison table."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmark.data.batch import Batch as Batch
    from benchmark.data.batch import BatchSpec as BatchSpec
    from benchmark.data.datamodule import RecDataModule as RecDataModule
    from benchmark.data.schema import Catalogue as Catalogue
    from benchmark.errors import InputError as InputError
    from benchmark.experiment import Experiment as Experiment
    from benchmark.experiment import load_all as load_all
    from benchmark.recommender import GradientConfig as GradientConfig
    from benchmark.recommender import ModelConfig as ModelConfig
    from benchmark.recommender import Recommender as Recommender
    from benchmark.runs.record import RunRecord as RunRecord
    from benchmark.runs.record import RunStore as RunStore
    from benchmark.runs.run import prepare as prepare
    from benchmark.runs.run import run as run
    from benchmark.serving.find import trained as trained
    from benchmark.serving.trained import TrainedModel as TrainedModel

_HOME = {
    "Batch": "benchmark.data.batch",
    "BatchSpec": "benchmark.data.batch",
    "RecDataModule": "benchmark.data.datamodule",
    "Catalogue": "benchmark.data.schema",
    "InputError": "benchmark.errors",
    "Experiment": "benchmark.experiment",
    "load_all": "benchmark.experiment",
    "GradientConfig": "benchmark.recommender",
    "ModelConfig": "benchmark.recommender",
    "Recommender": "benchmark.recommender",
    "RunRecord": "benchmark.runs.record",
    "RunStore": "benchmark.runs.record",
    "prepare": "benchmark.runs.run",
    "run": "benchmark.runs.run",
    "trained": "benchmark.serving.find",
    "TrainedModel": "benchmark.serving.trained",
}
__all__ = [*sorted(_HOME)]


def __getattr__(name: str) -> Any:
    # lazy, so that `levelfield --help` does not wait for torch
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'benchmark' has no attribute '{name}'")
