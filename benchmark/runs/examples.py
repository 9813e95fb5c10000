"""Examples: judged rows as a model that reads prompts is shown them, without its weights."""

from __future__ import annotations

import torch

from benchmark.data.batch import Batch
from benchmark.data.eval_rows import EvalRows


def example_rows(rows: EvalRows, index: torch.Tensor) -> Batch:
    """Return some judged rows, each with one relevant (or its labelled) item as its candidate."""
    batch = rows[index]
    if batch.label is None and batch.relevant is not None:
        own = batch.relevant.values[batch.relevant.offsets[:-1]]
        items = batch.ranked_items()
        item = own if items is None else items[torch.arange(len(own)), own]
        batch.candidates = item.unsqueeze(1)
    return batch
