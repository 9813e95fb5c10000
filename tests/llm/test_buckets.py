"""Length buckets: every row once, little padding, seeded."""

from __future__ import annotations

import numpy as np
import pytest

from benchmark.errors import InputError
from benchmark.llm.buckets import length_buckets


def waste(batches: list[np.ndarray], lengths: np.ndarray) -> float:
    padded = sum(int(lengths[b].max()) * len(b) for b in batches)
    return 1 - int(lengths.sum()) / padded


@pytest.mark.parametrize("n", [1, 31, 512, 20000])
@pytest.mark.parametrize("how", [{"batch_size": 32}, {"tokens_per_batch": 2048}, {"batch_size": 32, "seed": None}])
def test_buckets_waste_little_and_keep_every_row(n, how):
    lengths = np.random.default_rng(n).lognormal(4, 0.5, n).astype(np.int64).clip(5, 512)
    batches = length_buckets(lengths, **how)
    assert sorted(np.concatenate(batches).tolist()) == list(range(n))
    assert waste(batches, lengths) <= 0.05
    for batch in batches:
        if "batch_size" in how:
            assert len(batch) <= 32
        else:
            assert len(batch) == 1 or lengths[batch].max() * len(batch) <= 2048
    # cutting for the sake of padding leaves most batches whole
    if n == 20000 and "batch_size" in how:
        assert len(batches) < 1.05 * n / 32


def test_buckets_are_seeded():
    lengths = np.random.default_rng(0).integers(10, 200, 3000)
    first, again, other = (length_buckets(lengths, 16, seed=seed) for seed in (1, 1, 2))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert any(a.tolist() != b.tolist() for a, b in zip(first, other, strict=False))
    assert [int(lengths[b].max()) for b in first] != sorted(int(lengths[b].max()) for b in first)
    assert length_buckets(lengths[:0], 16) == []
    with pytest.raises(InputError, match="expected batch_size or tokens_per_batch"):
        length_buckets(lengths)
