"""Batch: what every loader yields and every model reads. Ragged: lists of different lengths as two flat tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Literal, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from benchmark.data.augment import Augment
    from benchmark.data.negatives import Sampling

BatchKind = Literal["pointwise", "pairwise", "sequence", "user_rows", "whole"]
T = TypeVar("T", bound="_Movable")


class _Movable:
    """Gives a dataclass of tensors ``.to(device)``, which is all Lightning asks of a batch."""

    def to(self: T, device: torch.device | str, non_blocking: bool = False) -> T:
        moved = {}
        for f in fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            moved[f.name] = value.to(device, non_blocking=non_blocking) if hasattr(value, "to") else value
        return type(self)(**moved)


@dataclass
class Ragged(_Movable):
    """B lists of different lengths: list b is ``values[offsets[b]:offsets[b + 1]]``.

    Attributes:
        offsets: (B + 1,) int64, starting at 0.
        values: (offsets[-1],) int64.
    """

    offsets: Tensor
    values: Tensor

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Tensor:
        """(B,) int64."""
        return self.offsets.diff()

    @property
    def row(self) -> Tensor:
        """(nnz,) int64: the list each value stands in."""
        return torch.repeat_interleave(torch.arange(len(self), device=self.values.device), self.lengths)

    def dense(self, n_columns: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the (B, n_columns) 0/1 matrix that has a one where a value stands in a list."""
        out = torch.zeros(len(self), n_columns, dtype=dtype, device=self.values.device)
        out[self.row, self.values] = 1
        return out

    def csr(self, n_columns: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the same matrix as a sparse CSR tensor."""
        ones = torch.ones(len(self.values), dtype=dtype, device=self.values.device)
        return torch.sparse_csr_tensor(self.offsets, self.values, ones, (len(self), n_columns))


@dataclass
class Batch(_Movable):
    """One batch of B rows; what a row is depends on the kind. Fields that a kind does not use are None.

    Training, by ``batch_kind`` of the model:
        pointwise: one (user, item, label) a row; label is 1 for positives, 0 for drawn negatives (ranking), or the
            row's own label (preference). With ``history`` where the model asked for it (``max_history > 0``).
        pairwise: one (user, item) a row with ``negative`` items that the user has not in training. With ``history`` as
            above.
        sequence: one user a row; ``history`` is the user's training items in order (the model shifts it itself).
        user_rows: one user a row; ``seen`` holds all the user's training items.
        whole: one (user, item, label) a row, all of the training part in one batch, once: for closed forms. In a
            ranking task the label is the rating, 1 where the data has none.
    Scoring:
        one user (ranking) or one labelled row (preference) a row, with ``seen``, ``history`` and ``candidates``.

    Attributes:
        user: (B,) int64.
        item: (B,) int64 target item, training only.
        label: (B,) float32.
        negative: (B, N) int64.
        history: (B, L) int64, oldest first, padded on the right with ``n_items``; strictly before the target.
        history_length: (B,) int64, number of real items in each history.
        history_label: (B, L) float32: the rating (ranking) or label (preference) of each history item; 1 where the data
            has no ratings, 0 at the padding.
        history_time: (B, L) float64 timestamps, 0 at the padding; None where the data has none.
        seen: known interactions of each user (train; at test train and valid), item ids in ascending order; of judged
            users of a cold_items split, those of the history.
        candidates: (B, C) int64 item ids to score; None means every item in the order of ids.
        relevant: columns of the scores that hold a relevant item (for the evaluator; no model may read it).
        row: (B,) int64 number of each judged row, unique within its part.
        draw: (B,) int64 number of the draw of candidates, where users are judged on several; else None.
        excluded: columns of the scores that are out of the competition: seen items or padding (for the evaluator).
        pool: (C,) int64 ascending item ids that are ranked, where not all are (``task.domain``); the columns of
            ``relevant`` and ``excluded`` are then positions in it. Models score all items all the same.
        query: what each of the B users asks for, in words. Never in training or evaluation; read by models that say
            ``reads_queries``.
    """

    user: Tensor
    item: Tensor | None = None
    label: Tensor | None = None
    negative: Tensor | None = None
    history: Tensor | None = None
    history_length: Tensor | None = None
    history_label: Tensor | None = None
    history_time: Tensor | None = None
    seen: Ragged | None = None
    candidates: Tensor | None = None
    relevant: Ragged | None = None
    excluded: Ragged | None = None
    row: Tensor | None = None
    draw: Tensor | None = None
    pool: Tensor | None = None
    query: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.user)

    def ranked(self, scores: Tensor) -> Tensor:
        """Return the columns of a model's scores that are ranked: (B, C) for ``candidates``, ``pool`` or all items."""
        return scores if self.pool is None or self.candidates is not None else scores[:, self.pool]

    def ranked_items(self) -> Tensor | None:
        """Return the (B, C) item ids of those columns; None: column j is item j."""
        if self.candidates is not None or self.pool is None:
            return self.candidates
        return self.pool.expand(len(self), -1)

    def newest(self, n: int) -> Batch:
        """Return the same batch with the newest n items of each history."""
        if self.history is None or self.history_length is None or self.history.shape[1] <= n:
            return self
        column = torch.arange(max(n, 1), device=self.history.device)
        start = (self.history_length - n).clamp(min=0).unsqueeze(1)
        length = self.history_length.clamp(max=n)
        at = (start + column).clamp(max=self.history.shape[1] - 1)
        real = column < length.unsqueeze(1)

        def cut(values: Tensor | None, empty: float) -> Tensor | None:
            return None if values is None else values.gather(1, at).masked_fill(~real, empty)

        # behind the items of a history stands its padding id, which the widest row shows at most once
        pad = int(self.history.max())
        return replace(
            self,
            history=cut(self.history, pad),
            history_length=length,
            history_label=cut(self.history_label, 0.0),
            history_time=cut(self.history_time, 0.0),
        )


@dataclass(frozen=True)
class BatchSpec:
    """What a model asks of the DataModule.

    Attributes:
        kind: what one training row is (see Batch).
        batch_size: rows of a training batch, drawn negatives not counted.
        eval_batch_size: rows of a scoring batch.
        negatives: drawn negatives per positive (pairwise; pointwise ranking); 0 for none.
        sampling: how they are drawn; None: uniformly. With "hard", training batches of both kinds hold ``negatives *
            pool`` candidates as ``negative``, of which the model keeps the hardest (see ``Recommender``).
        augment: what is done to the histories of training batches; None: nothing.
        count_negatives: where negatives are drawn, ``batch_size`` counts them, and pairwise every pair.
        max_history: longest history in a batch, newest items kept; 0 means no histories are built.
        min_history: leave training rows with a shorter history out (pointwise and pairwise).
        passes: how often an epoch goes through the training rows, each time in another order.
        drop_last: drop a last training batch that is not full.
        part: which part is learned from: "train", or "valid" (its judged rows, of the kind "whole") for what is fitted
            on validation, such as a calibration.
        cost: a function Batch -> (B,) cost of each row (such as its number of tokens); rows of like cost then share a
            training batch.
    """

    kind: BatchKind
    batch_size: int = 1024
    eval_batch_size: int = 1024
    negatives: int = 1
    count_negatives: bool = False
    max_history: int = 0
    min_history: int = 0
    passes: int = 1
    drop_last: bool = False
    part: Literal["train", "valid"] = "train"
    cost: Callable[[Batch], Tensor] | None = None
    sampling: Sampling | None = None
    augment: Augment | None = None
