"""Plain attributes of RecBole's models as tensors, and back: what a checkpoint must hold besides parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor


def pack(name: str, value: Any) -> dict[str, Tensor]:
    """Return a plain attribute of a fitted model as tensors; what is not data gives none."""
    if isinstance(value, Tensor):
        return {f"{name}:tensor": value.detach()}
    if isinstance(value, np.ndarray):
        return {f"{name}:array": torch.from_numpy(np.ascontiguousarray(value))}
    if sp.issparse(value):
        csr = value.tocsr()
        parts = {"data": csr.data, "indices": csr.indices, "indptr": csr.indptr, "shape": np.array(csr.shape)}
        return {f"{name}:csr.{part}": torch.from_numpy(np.ascontiguousarray(array)) for part, array in parts.items()}
    if isinstance(value, (bool, int, float)) and name != "training":
        return {f"{name}:number": torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else None)}
    return {}


def unpack(packed: dict[str, Tensor]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, tensor in packed.items():
        name, _, kind = key.rpartition(":")
        if kind == "csr.data":
            data, indices, indptr, shape = (
                packed[f"{name}:csr.{p}"].cpu().numpy() for p in ("data", "indices", "indptr", "shape")
            )
            values[name] = sp.csr_matrix((data, indices, indptr), shape=tuple(shape.tolist()))
        elif not kind.startswith("csr."):
            values[name] = tensor if kind == "tensor" else tensor.item() if kind == "number" else tensor.cpu().numpy()
    return values
