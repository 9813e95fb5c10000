"""What several baselines share: the interaction matrix, its weighting, neighbours, and tables for the unseen."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from scipy.sparse import csr_matrix, diags_array
from torch import Tensor, nn

from benchmark.data.batch import Batch, Ragged
from benchmark.data.schema import Catalogue

Weighting = Literal["none", "tfidf", "bm25"]
BM25_K1, BM25_B = 1.2, 0.75
EDGE = 0.01  # probabilities nearer to 0 or 1 than this are not believed
BLOCK = 1 << 24  # cells of a dense block: bounds the temporary memory


def interaction_matrix(batch: Batch, n_users: int, n_items: int) -> csr_matrix:
    """Return the whole training part as a (n_users, n_items) float32 0/1 matrix."""
    assert batch.item is not None
    ones = np.ones(len(batch), np.float32)
    matrix = csr_matrix((ones, (batch.user.cpu().numpy(), batch.item.cpu().numpy())), shape=(n_users, n_items))
    matrix.data[:] = 1  # repeated interactions were summed up
    return matrix


def known_matrix(seen: Ragged, n_items: int) -> csr_matrix:
    """Return what is known of the B users of a batch as a (B, n_items) float32 0/1 matrix."""
    ones = np.ones(len(seen.values), np.float32)
    return csr_matrix((ones, seen.values.cpu().numpy(), seen.offsets.cpu().numpy()), shape=(len(seen), n_items))


def weighted(matrix: csr_matrix, kind: Weighting, fitted_on: csr_matrix | None = None) -> csr_matrix:
    """Weight a 0/1 matrix whose rows are compared by their columns: columns that many rows have count less.

    Args:
        matrix: rows to weight.
        kind: tfidf, or bm25, which also makes the cells of long rows smaller.
        fitted_on: where the frequencies of columns and the mean length of rows come from; None: ``matrix``.
    """
    if kind == "none":
        return matrix
    source = matrix if fitted_on is None else fitted_on
    n = np.count_nonzero(source.getnnz(axis=1))  # empty rows say nothing of how rare a column is
    idf = np.log((1 + n) / (1 + source.getnnz(axis=0))).astype(np.float32)
    out = csr_matrix(matrix @ diags_array(idf))
    if kind == "bm25":
        lengths = np.diff(matrix.indptr) / max(source.nnz / source.shape[0], 1)
        scale = (BM25_K1 + 1) / (BM25_K1 * (1 - BM25_B + BM25_B * lengths) + 1)
        out = csr_matrix(diags_array(scale.astype(np.float32)) @ out)
    return out


def norms(matrix: csr_matrix) -> np.ndarray:
    """Return the Euclidean norm of each row, 1 for empty rows."""
    length = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    return np.where(length > 0, length, 1).astype(np.float32)


def nearest(rows: csr_matrix, k: int, shrinkage: float) -> tuple[Tensor, Tensor]:
    """Return ids and shrunk cosines, both (n, k), of the k other rows most like each row; best first."""
    n, length, columns = rows.shape[0], norms(rows), rows.T.tocsr()
    ids, values = torch.zeros(n, k, dtype=torch.int64), torch.zeros(n, k)
    size = max(1, BLOCK // n)
    for start in range(0, n, size):
        stop = min(start + size, n)
        block = (rows[start:stop] @ columns).toarray()
        block /= length[start:stop, None] * length + np.float32(shrinkage)
        block[np.arange(stop - start), np.arange(start, stop)] = 0
        values[start:stop], ids[start:stop] = torch.from_numpy(block).topk(k, dim=1)
    return ids, values


def logit_in_order(p: Tensor) -> Tensor:
    """Return logits of sums of probabilities; beyond the edges of [0, 1] a straight line keeps the order."""
    inside = p.clamp(EDGE, 1 - EDGE)
    return inside.logit() + (p - inside)


def damped_mean(ids: Tensor, y: Tensor, n: int, smoothing: float) -> Tensor:
    """Return (n,) the mean of ``y`` of each id, drawn towards the mean of all by ``smoothing`` rows of it."""
    return (torch.bincount(ids, y, n) + smoothing * y.mean()) / (torch.bincount(ids, minlength=n) + smoothing)


def is_in_train(catalogue: Catalogue) -> tuple[Tensor, Tensor]:
    """Return (n_users,) and (n_items,) whether a user, an item has a training interaction."""
    users = torch.from_numpy(np.bincount(catalogue.train.user, minlength=catalogue.n_users) > 0)
    return users, torch.from_numpy(np.bincount(catalogue.train.item, minlength=catalogue.n_items) > 0)


def embedding(known: Tensor, size: int, scale: float = 0.1) -> nn.Embedding:
    """Return a table whose rows are zero where ``known`` is false, so that no random row wins or loses."""
    table = nn.Embedding(len(known), size)
    nn.init.normal_(table.weight, std=scale)
    table.weight.data[~known] = 0
    return table


def user_rows(table: Tensor, known: Tensor, user: Tensor) -> Tensor:
    """Return (B, d) rows of ``table`` for (B,) users; who is not ``known`` is the average user."""
    rows, new = table[user], ~known[user]
    return torch.where(new.unsqueeze(1), table[known].mean(0), rows) if bool(new.any()) else rows
