"""Batches of prompts of near equal length, so that little padding is computed."""

from __future__ import annotations

import heapq

import numpy as np
import torch
from torch import Tensor

from benchmark.errors import InputError

TOKENS_PER_PASS = 8192  # that are computed at once without gradients


def length_buckets(
    lengths: np.ndarray,
    batch_size: int | None = None,
    tokens_per_batch: int | None = None,
    seed: int | None = 0,
    max_waste: float = 0.05,
    chunk: int = 128,
) -> list[np.ndarray]:
    """Return batches of rows of near equal length, so that little padding is computed.

    Rows are shuffled, sorted by length within chunks of ``chunk`` batches, cut, and the batches are shuffled. Where the
    padding would exceed ``max_waste`` of all computed tokens (few rows, or a long tail), the batches with most
    padding are cut in two.

    Args:
        lengths: (n,) tokens of each row.
        batch_size: most rows of a batch; or
        tokens_per_batch: most tokens of a padded batch (a longer row is a batch by itself).
        seed: of the shuffles; the same seed gives the same batches. None: no shuffle, shortest batch first (scoring).
        max_waste: largest share of padding over all batches, 0 <= max_waste < 1.
        chunk: batches that are sorted together; more is less padding and less chance.

    Raises:
        InputError: not exactly one of ``batch_size`` and ``tokens_per_batch`` is given, or it is not positive.
    """
    size = batch_size if tokens_per_batch is None else tokens_per_batch
    if (batch_size is None) == (tokens_per_batch is None) or size is None or size < 1:
        raise InputError(
            f"length_buckets: expected batch_size or tokens_per_batch (>= 1), got {batch_size} and {tokens_per_batch}"
        )
    lengths = np.asarray(lengths)
    if not len(lengths):
        return []
    rng = np.random.default_rng(seed)
    order = np.arange(len(lengths)) if seed is None else rng.permutation(len(lengths))
    rows_per_batch = batch_size or max(1, int(size // max(1.0, float(lengths.mean()))))
    step = len(lengths) if seed is None else chunk * rows_per_batch
    batches: list[np.ndarray] = []
    for begin in range(0, len(order), step):
        part = order[begin : begin + step]
        part = part[np.argsort(lengths[part], kind="stable")]
        if batch_size is not None:
            batches += np.split(part, range(batch_size, len(part), batch_size))
            continue
        end = len(part)
        while end:
            rows = min(end, max(1, size // max(1, int(lengths[part[end - 1]]))))
            batches.append(part[end - rows : end])
            end -= rows
    batches = _split_wasteful(batches, lengths, max_waste)
    if seed is None:
        return sorted(batches, key=lambda batch: int(lengths[batch[-1]]))
    return [batches[i] for i in rng.permutation(len(batches))]


def passes(lengths: np.ndarray) -> list[np.ndarray]:
    """Return the rows of one training batch as one pass, or as several where padding would be more than a twentieth."""
    return length_buckets(lengths, batch_size=max(len(lengths), 1), seed=None)


def in_order(parts: list[Tensor], rows: list[np.ndarray]) -> Tensor:
    """Return (n, ...) what passes over ``rows`` gave, in the order of the n rows."""
    place = np.empty(sum(map(len, rows)), np.int64)
    place[np.concatenate(rows)] = np.arange(len(place))
    return torch.cat(parts)[torch.from_numpy(place).to(parts[0].device)]


def _split_wasteful(batches: list[np.ndarray], lengths: np.ndarray, max_waste: float) -> list[np.ndarray]:
    """Cut the batch (sorted by length) with most padding at its best place, until ``max_waste`` holds."""

    def padding(batch: np.ndarray) -> int:
        own = lengths[batch]
        return int(own[-1]) * len(own) - int(own.sum())

    real = int(lengths.sum())
    heap = [(-padding(batch), i, batch) for i, batch in enumerate(batches)]
    heapq.heapify(heap)
    waste, number = -sum(entry[0] for entry in heap), len(heap)
    while waste > max_waste * (real + waste):
        most, _, batch = heapq.heappop(heap)
        own = lengths[batch]
        head = np.arange(1, len(own))
        cut = int(np.argmin(head * own[:-1] + (len(own) - head) * own[-1])) + 1
        waste += most
        for part in (batch[:cut], batch[cut:]):
            heapq.heappush(heap, (-padding(part), number, part))
            waste += padding(part)
            number += 1
    return [entry[2] for entry in heap]
