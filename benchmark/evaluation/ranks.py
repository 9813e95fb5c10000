"""Scores -> the rank of each relevant item and the top-k lists: the only hot loop of the evaluation.

No sort and no top-k stands behind the ranks. A row of scores is copied into a buffer that fits the cache, what is
excluded becomes -inf there, and the candidates above and level with each relevant item are counted in compiled passes.
Ragged arguments (relevant, excluded) are two flat tensors: row b owns ``columns[offsets[b]:offsets[b + 1]]``.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numba import njit
from torch import Tensor

_FINE, _NOT_FINITE, _BAD_RELEVANT = 0, 1, 2  # what a kernel found in a row
_MANY = 160  # from so many relevant items on, one binary search per candidate is cheaper than passes of four
_CHUNK = 64  # columns that the top-k lists skip at once
_MIN_ROWS = 16  # fewer rows than this are not worth a thread
_TORCH_BLOCK = 1 << 26  # compared elements at once on an accelerator: bounds the temporary memory


@dataclass
class RankCounts:
    """Where each relevant item stands: the sufficient statistic of every accuracy metric.

    Attributes:
        above: (nnz,) int32, unmasked candidates scored strictly higher than the relevant item.
        ties: (nnz,) int32, OTHER unmasked candidates with exactly its score.
        n_candidates: (B,) int32, unmasked candidates of each row.
    """

    above: Tensor
    ties: Tensor
    n_candidates: Tensor

    @property
    def rank(self) -> Tensor:
        """(nnz,) float64: the 0-based mid-rank, ``above + ties / 2``."""
        return self.above.double() + self.ties.double() / 2


def rank_relevant(
    scores: Tensor,
    relevant_offsets: Tensor,
    relevant_columns: Tensor,
    excluded_offsets: Tensor | None = None,
    excluded_columns: Tensor | None = None,
) -> RankCounts:
    """Count, for each relevant item, the candidates above it and level with it. The inputs are left as they are.

    Args:
        scores: (B, C) float; float32 and float64 are compared as they are, half precision as float32.
        relevant_offsets: (B + 1,) int64.
        relevant_columns: (nnz,) int64, distinct within a row.
        excluded_offsets: (B + 1,) int64; None when nothing is excluded.
        excluded_columns: (m,) int64, columns out of the competition, in any order; their scores may be anything.

    Raises:
        ValueError: a candidate scored NaN or infinite, a column is out of range, offsets do not fit, or a relevant
            column is excluded or named twice.
    """
    scores = _comparable(scores)
    relevant = _ragged(scores, relevant_offsets, relevant_columns, "relevant")
    excluded = _ragged(scores, excluded_offsets, excluded_columns, "excluded")
    if scores.device.type != "cpu":
        return _rank_relevant_torch(scores, *relevant, *excluded)
    above = np.empty(len(relevant[1]), np.int32)
    ties = np.empty(len(relevant[1]), np.int32)
    n_candidates = np.empty(len(scores), np.int32)
    status = np.zeros(len(scores), np.int8)
    arrays = [t.numpy() for t in (scores, *relevant, *excluded)]
    _over_rows(_rank_rows, len(scores), *arrays, above, ties, n_candidates, status)
    _raise_for(status)
    return RankCounts(torch.from_numpy(above), torch.from_numpy(ties), torch.from_numpy(n_candidates))


def top_k(
    scores: Tensor, k: int, excluded_offsets: Tensor | None = None, excluded_columns: Tensor | None = None
) -> Tensor:
    """Return the (B, k) int64 columns of the best candidates, best first, -1 where there are fewer than ``k``.

    Equal scores stand in column order on the CPU (ids are shuffled, so that favours nobody) and in the order of
    ``torch.topk`` elsewhere. The inputs are left as they are.

    Args:
        scores: (B, C) float.
        k: length of the lists, at least 1; may be more than C.
        excluded_offsets: (B + 1,) int64; None when nothing is excluded.
        excluded_columns: (m,) int64, columns out of the competition.

    Raises:
        ValueError: ``k`` < 1, a candidate scored NaN or infinite, a column is out of range, or offsets do not fit.
    """
    if k < 1:
        raise ValueError(f"top_k needs k >= 1, got {k}")
    scores = _comparable(scores)
    excluded = _ragged(scores, excluded_offsets, excluded_columns, "excluded")
    if scores.device.type != "cpu":
        return _top_k_torch(scores, k, *excluded)
    lists = np.empty((len(scores), k), np.int64)
    status = np.zeros(len(scores), np.int8)
    _over_rows(_top_rows, len(scores), *(t.numpy() for t in (scores, *excluded)), lists, status)
    _raise_for(status)
    return torch.from_numpy(lists)


def _comparable(scores: Tensor) -> Tensor:
    """Return the (B, C) scores without gradient, contiguous, float32 or float64."""
    if scores.ndim != 2:
        raise ValueError(f"scores must be (rows, candidates), got shape {tuple(scores.shape)}")
    if scores.dtype not in (torch.float32, torch.float64):
        scores = scores.to(torch.float32 if scores.dtype in (torch.float16, torch.bfloat16) else torch.float64)
    return scores.detach().contiguous()


def _ragged(scores: Tensor, offsets: Tensor | None, columns: Tensor | None, name: str) -> tuple[Tensor, Tensor]:
    """Return checked (B + 1,) offsets and (m,) columns on the scores' device; the kernels check no bounds."""
    if (offsets is None) != (columns is None):
        raise ValueError(f"{name}_offsets and {name}_columns go together")
    if offsets is None or columns is None:
        empty = torch.zeros(len(scores) + 1, dtype=torch.int64, device=scores.device)
        return empty, empty[:0]
    offsets, columns = (t.to(scores.device, torch.int64).contiguous() for t in (offsets, columns))
    fits = len(offsets) == len(scores) + 1 and int(offsets[0]) == 0 and int(offsets[-1]) == len(columns)
    if not fits or bool((offsets.diff() < 0).any()):
        raise ValueError(f"{name}_offsets must rise from 0 to {len(columns)} over {len(scores)} rows")
    if len(columns) and not (int(columns.min()) >= 0 and int(columns.max()) < scores.shape[1]):
        raise ValueError(f"a column of {name}_columns is outside 0..{scores.shape[1] - 1}")
    return offsets, columns


def _over_rows(kernel: Callable[..., None], n_rows: int, *arrays: np.ndarray) -> None:
    """Run ``kernel(start, stop, *arrays)`` over parts of the rows, in as many threads as torch may use.

    Plain threads over kernels that release the lock, because a second OpenMP pool beside torch's own would wait for
    it at every barrier, and could not be forked. Several parts a thread, so that no thread waits long for another.
    """
    n_threads = min(torch.get_num_threads(), n_rows // _MIN_ROWS)
    if n_threads <= 1:
        kernel(0, n_rows, *arrays)
        return
    bounds = np.linspace(0, n_rows, 4 * n_threads + 1).astype(int).tolist()
    with ThreadPoolExecutor(n_threads) as pool:
        tasks = [pool.submit(kernel, start, stop, *arrays) for start, stop in pairwise(bounds)]
    for task in tasks:
        task.result()


def _raise_for(status: np.ndarray) -> None:
    """Raise for the first row whose (B,) status is not fine."""
    if not status.any():
        return
    row = int(status.argmax() if status.max() == _NOT_FINITE else (status == status.max()).argmax())
    if status[row] == _NOT_FINITE:
        raise ValueError(f"a candidate of row {row} scored NaN/inf: nothing can be ranked against it")
    raise ValueError(f"a relevant column of row {row} is excluded or named twice")


@njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _load(row: np.ndarray, excluded: np.ndarray, out: np.ndarray) -> int:
    """Copy a (C,) row into ``out`` with -inf where excluded; return the number of candidates left, -1 for NaN/inf."""
    total = row[0] * 0  # x * 0 is 0 for finite x and NaN otherwise: the check costs one fused operation
    for c in range(len(row)):
        out[c] = row[c]
        total += row[c] * 0
    if total != 0:  # rare: harmless where only excluded columns are not finite
        for c in excluded:
            out[c] = 0
        for c in range(len(row)):
            if not np.isfinite(out[c]):
                return -1
    left = len(row)
    for c in excluded:
        left -= out[c] != -np.inf
        out[c] = -np.inf
    return left


@njit(cache=True, nogil=True)
def _count_one(x: np.ndarray, t: float) -> tuple[int, int]:
    """Count the (C,) candidates above and level with one threshold."""
    above = np.int32(0)
    level = np.int32(0)
    for c in range(len(x)):
        above = np.int32(above + np.int32(x[c] > t))
        level = np.int32(level + np.int32(x[c] == t))
    return int(above), int(level)


@njit(cache=True, nogil=True)
def _count_four(x: np.ndarray, t: np.ndarray, above: np.ndarray, level: np.ndarray) -> None:
    """Count the (C,) candidates above and level with each of (4,) thresholds in one pass."""
    t0, t1, t2, t3 = t[0], t[1], t[2], t[3]
    a0 = a1 = a2 = a3 = np.int32(0)
    e0 = e1 = e2 = e3 = np.int32(0)
    for c in range(len(x)):
        v = x[c]
        # the casts keep the counters 32 bits wide, which doubles the lanes of the vectorised loop
        a0 = np.int32(a0 + np.int32(v > t0))
        a1 = np.int32(a1 + np.int32(v > t1))
        a2 = np.int32(a2 + np.int32(v > t2))
        a3 = np.int32(a3 + np.int32(v > t3))
        e0 = np.int32(e0 + np.int32(v == t0))
        e1 = np.int32(e1 + np.int32(v == t1))
        e2 = np.int32(e2 + np.int32(v == t2))
        e3 = np.int32(e3 + np.int32(v == t3))
    above[0], above[1], above[2], above[3] = a0, a1, a2, a3
    level[0], level[1], level[2], level[3] = e0, e1, e2, e3


@njit(cache=True, nogil=True)
def _count_many(x: np.ndarray, t: np.ndarray, above: np.ndarray, level: np.ndarray) -> None:
    """Count for many (R,) thresholds: each candidate looks up its bucket among the sorted thresholds."""
    order = np.argsort(t)
    sorted_t = t[order]
    n = len(t)
    bucket = np.zeros(n + 1, np.int32)  # candidates with exactly j thresholds below them
    equal = np.zeros(n + 1, np.int32)  # of these, level with the first threshold that is not below them
    low = np.empty(_CHUNK, np.int64)
    for start in range(0, len(x), _CHUNK):
        v = x[start : start + _CHUNK]
        low[:] = 0
        length = n
        while length > 1:  # a chunk's searches go in step and branch-free: a search alone waits for each comparison
            half = length >> 1
            for c in range(len(v)):
                low[c] += half if sorted_t[low[c] + half - 1] < v[c] else 0
            length -= half
        for c in range(len(v)):
            j = low[c] + np.int64(sorted_t[low[c]] < v[c])
            bucket[j] += 1
            equal[j] += np.int32(sorted_t[min(j, n - 1)] == v[c])
    higher = 0
    for j in range(n - 1, -1, -1):
        higher += bucket[j + 1]
        above[order[j]] = higher
    first = 0
    for j in range(n):
        if sorted_t[j] != sorted_t[first]:
            first = j
        level[order[j]] = equal[first]
        above[order[j]] = above[order[first]] if j != first else above[order[j]]
    # equal thresholds share a bucket that starts at the first of them; nothing lies between them, so what is above
    # the first is above all of them


@njit(cache=True, nogil=True)
def _count(x: np.ndarray, t: np.ndarray, above: np.ndarray, level: np.ndarray) -> None:
    """Count the (C,) candidates above and level with each of the (R,) thresholds, the cheapest way."""
    n = len(t)
    if n >= _MANY:
        _count_many(x, t, above, level)
        return
    done = 0
    while n - done >= 4:
        _count_four(x, t[done:], above[done:], level[done:])
        done += 4
    while done < n:
        above[done], level[done] = _count_one(x, t[done])
        done += 1


@njit(cache=True, nogil=True)
def _rank_rows(
    first: int,
    last: int,
    scores: np.ndarray,
    relevant_offsets: np.ndarray,
    relevant_columns: np.ndarray,
    excluded_offsets: np.ndarray,
    excluded_columns: np.ndarray,
    above: np.ndarray,
    ties: np.ndarray,
    n_candidates: np.ndarray,
    status: np.ndarray,
) -> None:
    """Fill ``above``, ``ties`` (nnz,) and ``n_candidates``, ``status`` (B,) for the rows ``first`` to ``last``."""
    n_columns = scores.shape[1]
    x = np.empty(n_columns, scores.dtype)
    for b in range(first, last):
        if n_columns == 0:
            n_candidates[b] = 0
            continue
        n_candidates[b] = _load(scores[b], excluded_columns[excluded_offsets[b] : excluded_offsets[b + 1]], x)
        if n_candidates[b] < 0:
            status[b] = _NOT_FINITE
            continue
        start, stop = relevant_offsets[b], relevant_offsets[b + 1]
        columns = relevant_columns[start:stop]
        t = np.empty(stop - start, scores.dtype)
        for j in range(stop - start):
            t[j] = x[columns[j]]
            x[columns[j]] = -np.inf  # so that a column named twice shows like an excluded one
            if t[j] == -np.inf:
                status[b] = _BAD_RELEVANT
        for j in range(stop - start):
            x[columns[j]] = t[j]
        if status[b] == _FINE:
            _count(x, t, above[start:stop], ties[start:stop])
            for j in range(start, stop):
                ties[j] -= 1  # the item itself


@njit(cache=True, nogil=True, fastmath={"reassoc", "nnan", "nsz"})
def _chunk_max(x: np.ndarray, out: np.ndarray) -> None:
    """Fill ``out`` with the highest score of each _CHUNK of the (C,) scores; the last one may be shorter."""
    n_full = len(x) // _CHUNK
    for i in range(n_full):
        chunk = x[i * _CHUNK : (i + 1) * _CHUNK]
        highest = chunk[0]
        for c in range(_CHUNK):  # a fixed length, so that it is unrolled into vector instructions
            highest = chunk[c] if chunk[c] > highest else highest
        out[i] = highest
    if n_full < len(out):
        out[n_full] = x[n_full * _CHUNK :].max()


@njit(cache=True, nogil=True)
def _insert(value: float, column: int, best: np.ndarray, ids: np.ndarray) -> None:
    """Put a score into the (k,) sorted list, behind its equals, if it is above the last one."""
    p = len(best) - 1
    if not value > best[p]:
        return
    while p > 0 and best[p - 1] < value:
        best[p] = best[p - 1]
        ids[p] = ids[p - 1]
        p -= 1
    best[p] = value
    ids[p] = column


@njit(cache=True, nogil=True)
def _top_rows(
    first: int,
    last: int,
    scores: np.ndarray,
    excluded_offsets: np.ndarray,
    excluded_columns: np.ndarray,
    lists: np.ndarray,
    status: np.ndarray,
) -> None:
    """Fill ``lists`` (B, k) and ``status`` (B,) for the rows ``first`` to ``last``.

    The k-th highest chunk maximum is a lower bound of the k-th highest score, so only about k chunks are looked into.
    """
    n_columns = scores.shape[1]
    k = lists.shape[1]
    x = np.empty(n_columns, scores.dtype)
    highest = np.empty((n_columns + _CHUNK - 1) // _CHUNK, scores.dtype)
    best = np.empty(k, scores.dtype)
    for b in range(first, last):
        ids = lists[b]
        ids[:] = -1
        if n_columns == 0:
            continue
        if _load(scores[b], excluded_columns[excluded_offsets[b] : excluded_offsets[b + 1]], x) < 0:
            status[b] = _NOT_FINITE
            continue
        _chunk_max(x, highest)
        best[:] = -np.inf
        for i in range(len(highest)):
            _insert(highest[i], i, best, ids)
        bound = best[k - 1]
        ids[:] = -1
        best[:] = -np.inf
        for i in range(len(highest)):
            if highest[i] >= bound:
                for c in range(i * _CHUNK, min((i + 1) * _CHUNK, n_columns)):
                    if x[c] >= bound:
                        _insert(x[c], c, best, ids)


def _masked_torch(scores: Tensor, offsets: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Return a copy of the (B, C) scores with -inf where excluded, and the (B, C) bool mask of what is excluded.

    Raises:
        ValueError: a candidate scored NaN or infinite.
    """
    excluded = torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    excluded[_row_of(offsets, len(columns)), columns] = True
    bad = ~(torch.isfinite(scores) | excluded).all(1)
    _raise_for(bad.cpu().numpy().astype(np.int8) * _NOT_FINITE)
    return scores.masked_fill(excluded, -torch.inf), excluded


def _row_of(offsets: Tensor, n: int) -> Tensor:
    """Return the (n,) int64 row that each flat value stands in."""
    rows = torch.arange(len(offsets) - 1, device=offsets.device)
    return torch.repeat_interleave(rows, offsets.diff(), output_size=n)


def _rank_relevant_torch(
    scores: Tensor,
    relevant_offsets: Tensor,
    relevant_columns: Tensor,
    excluded_offsets: Tensor,
    excluded_columns: Tensor,
) -> RankCounts:
    """The counts of :func:`rank_relevant` by blocked comparison, for scores on an accelerator; runs on any device."""
    masked, excluded = _masked_torch(scores, excluded_offsets, excluded_columns)
    row = _row_of(relevant_offsets, len(relevant_columns))
    # sorted pairs show a column that is named twice
    pair = (row * max(scores.shape[1], 1) + relevant_columns).sort().values
    if bool(excluded[row, relevant_columns].any()) or bool((pair.diff() == 0).any()):
        raise ValueError("a relevant column is excluded or named twice")
    threshold = masked[row, relevant_columns].unsqueeze(1)
    above = torch.empty(len(row), dtype=torch.int32, device=scores.device)
    ties = torch.empty_like(above)
    step = max(1, _TORCH_BLOCK // max(scores.shape[1], 1))
    for start in range(0, len(row), step):
        block = slice(start, start + step)
        others = masked[row[block]]
        above[block] = (others > threshold[block]).sum(1, dtype=torch.int32)
        ties[block] = (others == threshold[block]).sum(1, dtype=torch.int32) - 1
    return RankCounts(above, ties, (~excluded).sum(1, dtype=torch.int32))


def _top_k_torch(scores: Tensor, k: int, excluded_offsets: Tensor, excluded_columns: Tensor) -> Tensor:
    """The lists of :func:`top_k` by ``torch.topk``, for scores on an accelerator; runs on any device."""
    masked, _ = _masked_torch(scores, excluded_offsets, excluded_columns)
    value, column = masked.topk(min(k, scores.shape[1]), dim=1)
    column = column.masked_fill(value == -torch.inf, -1)
    return torch.nn.functional.pad(column, (0, k - column.shape[1]), value=-1)
