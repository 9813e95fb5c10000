"""Generations -> numbers: the share of what a model wrote that names an item of the catalogue; right under DDP."""

from __future__ import annotations

from typing import Any

import torch
import torchmetrics
from torch import Tensor

CUTOFFS = (1, 3, 5, 10, 20)


class GenerationEvaluator(torchmetrics.Metric):
    """``valid@k``: of the first k generations of each judged row, the share that names an item; the mean over rows.

    Only for k that a model has so many generations for; a model that writes nothing has no such number.
    """

    full_state_update = False
    is_differentiable = False
    valid: Tensor
    rows: Tensor
    width: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("valid", torch.zeros(len(CUTOFFS), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("rows", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("width", torch.zeros((), dtype=torch.int64), dist_reduce_fx="max")

    def update(self, names_an_item: Tensor) -> None:
        """Take the (B, K) bool flags of B rows' generations, the best first."""
        shares = [names_an_item[:, :k].double().mean(1).sum() for k in CUTOFFS]
        # new tensors: those that a validation made under inference mode cannot be written to outside of it
        self.valid = self.valid + torch.stack(shares)
        self.rows = self.rows + len(names_an_item)
        self.width = self.width.clamp(min=names_an_item.shape[1])

    def compute(self) -> dict[str, float]:
        """Return ``{"valid@1": ...}``; empty where nothing was written."""
        width, rows = int(self.width), int(self.rows)
        return {f"valid@{k}": float(v) / rows for k, v in zip(CUTOFFS, self.valid, strict=True) if k <= width and rows}
