"""Examples: judged rows as a model that reads prompts is shown them, without its weights."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from benchmark.data.batch import Batch, BatchSpec
from benchmark.data.datamodule import RecDataModule
from benchmark.data.seeded import permutation
from benchmark.experiment import RunSpec
from benchmark.runs.execute import PreparedData


def example_rows(
    spec: RunSpec, data: PreparedData, part: Literal["valid", "test"], n: int, seed: int | None = None
) -> Batch:
    """Return n judged rows of a part, each with one relevant (or labelled) item as its candidate.

    Args:
        spec: of the model, which decides how much history it reads.
        data: prepared data of its experiment.
        part: "valid" or "test".
        n: how many, if there are so many.
        seed: of the sample; the first n without one.
    """
    reads = getattr(spec.config, "max_history", 10)
    module = RecDataModule(data.split, spec.task, BatchSpec("pointwise", max_history=max(reads, 1)))
    rows = module.rows(part)
    chosen = rows.all if seed is None else torch.from_numpy(np.sort(permutation(len(rows), seed)[:n]))
    batch = rows[chosen[:n]]
    if batch.label is None and batch.relevant is not None:
        own = batch.relevant.values[batch.relevant.offsets[:-1]]
        item = own if batch.candidates is None else batch.candidates[torch.arange(len(own)), own]
        batch.candidates = item.unsqueeze(1)
    return batch
