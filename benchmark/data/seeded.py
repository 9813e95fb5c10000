"""Seeded randomness that depends on values alone: never on row order, process, platform or library version."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce

import numpy as np

# constants of the splitmix64 generator (Steele, Lea and Flood, OOPSLA 2014)
_GAMMA = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def _bits(values: np.ndarray | int) -> np.ndarray:
    """Return integers or floats as the 64 bits that stand for them (at least one axis)."""
    array = np.atleast_1d(np.asarray(values))
    if array.dtype.kind == "f":
        return (array.astype(np.float64) + 0.0).view(np.uint64)  # + 0.0: minus zero equals zero
    return array.astype(np.uint64) if array.dtype.kind == "u" else array.astype(np.int64).view(np.uint64)


def _step(state: np.ndarray, values: np.ndarray) -> np.ndarray:
    mixed = (state + _GAMMA) ^ values
    for shift, factor in ((30, _MIX_1), (27, _MIX_2)):
        mixed ^= mixed >> np.uint64(shift)
        mixed *= factor
    mixed ^= mixed >> np.uint64(31)
    return mixed


def mix(*values: np.ndarray | int) -> np.ndarray:
    """Return uint64 hashes of the broadcast ``values`` (integers or floats): equal values give equal hashes."""
    parts: Iterator[np.ndarray] = (_bits(value) for value in values)
    return reduce(_step, parts, np.zeros(1, np.uint64))


def unit(hashes: np.ndarray) -> np.ndarray:
    """Return float64 in the open interval (0, 1), one for each hash."""
    return ((hashes >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def permutation(n: int, *seed: int) -> np.ndarray:
    """Return 0..n-1 shuffled, (n,) int64."""
    return np.argsort(mix(*seed, np.arange(n)), kind="stable") if n else np.zeros(0, np.int64)
