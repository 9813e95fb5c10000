"""Which training interactions a run learns from, and which ones the weights it begins with know."""

from __future__ import annotations

import numpy as np

from benchmark.data.budget import begun, few_shot, of_domains, of_slices
from benchmark.data.schema import SplitData
from benchmark.data.split import Prequential
from benchmark.experiment import START, RunSpec


def budgeted(spec: RunSpec, split: SplitData) -> SplitData:
    """Return the data with the training interactions that a run may learn from."""
    if START not in spec.stages and spec.train_on is None:
        return few_shot(split, spec.task, spec.limit_train, spec.sample_seed)
    earlier = [np.empty(0, np.int64)]
    start = spec.stages.get(START)
    while start is not None:
        earlier.append(_rows_of(start, split))
        start = start.stages.get(START)
    return begun(split, _rows_of(spec, split), np.unique(np.concatenate(earlier)))


def _rows_of(spec: RunSpec, split: SplitData) -> np.ndarray:
    """Return the positions, in the training part of ``split``, of what a run learns from."""
    if spec.train_on is not None:
        return of_domains(split, spec.task, dict(spec.train_on), spec.sample_seed)
    if not isinstance(spec.task.split, Prequential):
        return np.arange(len(split.train))
    return of_slices(split, spec.since, spec.task.split.slice)
