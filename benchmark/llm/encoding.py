"""Encodes many token lists with a backbone: passes of like length, so that little padding is computed."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from benchmark.llm.backbone import Backbone
from benchmark.llm.prompts import TokenBatch, length_buckets

TOKENS_PER_PASS = 8192


def encode(backbone: Backbone, prompts: TokenBatch, tokens_per_pass: int = TOKENS_PER_PASS) -> Tensor:
    """Return (n, d) vectors of n token lists, in their order; gradients flow where they are switched on."""
    device = next(backbone.parameters()).device
    passes = length_buckets(prompts.lengths, tokens_per_batch=tokens_per_pass, seed=None)
    vectors = []
    for rows in passes:
        ids, mask = prompts.pad(rows)
        vectors.append(backbone.encode(ids.to(device), mask.to(device)))
    place = np.empty(len(prompts), np.int64)
    place[np.concatenate(passes)] = np.arange(len(prompts))
    return torch.cat(vectors)[torch.from_numpy(place).to(device)]
