"""Trie: the token lists of all titles as flat arrays, so that a beam search can only ever name items."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from benchmark.data.batch import Ragged
from benchmark.data.text import TokenTable, flat_index, offsets_of


class Trie:
    """Titles' tokens as a tree; node 0 is the root, and a leaf ends with the closing token.

    Args:
        titles: the tokens of each item's title, without a closing token.
        end: the closing token.

    Attributes:
        token: (N,) int64 token that leads into each node (-1 for the root).
        child_offsets: (N + 1,) int64; the children of node n are the nodes child_offsets[n]:child_offsets[n + 1].
        leaf: (n_items,) int64 leaf of each item; items of one title share it.
        depth: longest path, closing token included.
    """

    def __init__(self, titles: TokenTable, end: int) -> None:
        n, lengths = len(titles), titles.lengths + 1
        self.depth = int(lengths.max())
        tokens = np.full((n, self.depth), -1, np.int64)
        inside = np.arange(self.depth) < titles.lengths[:, None]
        tokens[inside] = titles.tokens[flat_index(titles.offsets[:-1], titles.lengths)]
        tokens[np.arange(n), lengths - 1] = end
        path = np.full((n, self.depth), -1, np.int64)  # node of each item at each level
        node = np.zeros(n, np.int64)
        # nodes are numbered level by level, and within a level by (parent, token): children stand side by side
        labels, parents, total = [np.array([-1])], [np.array([-1])], 1
        for level in range(self.depth):
            there = np.flatnonzero(level < lengths)
            pairs = np.stack([node[there], tokens[there, level]], 1)
            unique, place = np.unique(pairs, axis=0, return_inverse=True)
            node[there] = path[there, level] = total + place.ravel()
            labels.append(unique[:, 1])
            parents.append(unique[:, 0])
            total += len(unique)
        self.n_nodes = total
        self.token = torch.from_numpy(np.concatenate(labels))
        self.child_offsets = torch.from_numpy(offsets_of(np.bincount(np.concatenate(parents)[1:], minlength=total)) + 1)
        self.leaf = torch.from_numpy(path[np.arange(n), lengths - 1])
        self.path = torch.from_numpy(path)
        # items under each node
        flat = path[path >= 0]
        self.below = torch.from_numpy(np.bincount(flat, minlength=total))
        self.below[0] = n
        order = np.argsort(self.leaf.numpy(), kind="stable")
        self._by_leaf = torch.from_numpy(order)
        self._leaf_offsets = torch.from_numpy(offsets_of(np.bincount(self.leaf.numpy(), minlength=total)))

    def to(self, device: torch.device) -> Trie:
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                setattr(self, name, value.to(device))
        return self

    @property
    def is_leaf(self) -> Tensor:
        """(N,) bool."""
        return self.child_offsets.diff() == 0

    def children(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the children of nodes (m,), flat: which of the m each belongs to, and its node."""
        start, count = self.child_offsets[nodes], self.child_offsets[nodes + 1] - self.child_offsets[nodes]
        row = torch.repeat_interleave(torch.arange(len(nodes), device=nodes.device), count)
        offset = torch.cumsum(count, 0) - count
        return row, torch.arange(len(row), device=nodes.device) - offset[row] + start[row]

    def step(self, nodes: Tensor, tokens: Tensor) -> Tensor:
        """Return (m,) the node that a token leads to from each node; -1 where there is none, or from -1."""
        known = nodes >= 0
        row, child = self.children(nodes[known])
        hit = self.token[child] == tokens[known][row]
        out = torch.full_like(nodes, -1)
        out[torch.nonzero(known)[:, 0][row[hit]]] = child[hit]
        return out

    def open_nodes(self, without: Ragged | None, n: int) -> Tensor:
        """Return (n, N) bool: nodes of each of n users that lead to an item outside the user's ``without`` list."""
        if without is None:
            return torch.ones(n, self.n_nodes, dtype=torch.bool, device=self.token.device)
        path = self.path[without.values]
        row = without.row.unsqueeze(1).expand_as(path)[path >= 0]
        closed = torch.zeros(n, self.n_nodes, dtype=torch.int64, device=path.device)
        closed.index_put_((row, path[path >= 0]), torch.ones_like(row), accumulate=True)
        return closed < self.below

    def items_of(self, leaves: Tensor) -> tuple[Tensor, Tensor]:
        """Return the items of leaves (m,), flat: which of the m each belongs to, and the item."""
        start, count = self._leaf_offsets[leaves], self._leaf_offsets[leaves + 1] - self._leaf_offsets[leaves]
        row = torch.repeat_interleave(torch.arange(len(leaves), device=leaves.device), count)
        offset = torch.cumsum(count, 0) - count
        return row, self._by_leaf[torch.arange(len(row), device=leaves.device) - offset[row] + start[row]]
