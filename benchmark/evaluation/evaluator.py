"""Batches of scores -> metrics: states that keep ranks or labelled rows, never score matrices; right under DDP."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
import torchmetrics
from scipy.special import expit
from torch import Tensor
from torchmetrics.utilities.data import dim_zero_cat

from benchmark.errors import InputError, nearest
from benchmark.evaluation.metrics import (
    PREFERENCE_METRICS,
    RANKING_METRICS,
    Metric,
    UserRanks,
    mean,
    parse_metric,
    preference_metric,
    ranking_metric,
    row_accuracy,
    row_brier,
    row_log_loss,
    user_auc,
)
from benchmark.evaluation.ranks import rank_relevant, top_k


class _Flat(torchmetrics.Metric):
    """A metric whose states are lists of tensors that are joined along the first axis, over batches and processes."""

    full_state_update = False
    is_differentiable = False

    def __init__(self, metrics: Iterable[str], known: tuple[str, ...], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.metrics: list[Metric] = [parse_metric(name) for name in metrics]
        for metric in self.metrics:
            if metric.name not in known:
                raise InputError(f"metric '{metric}' does not fit this evaluator{nearest(metric.name, known)}")
        self._empty: dict[str, Tensor] = {}
        self._joined: dict[str, np.ndarray] | None = None

    def _add_flat(self, name: str, empty: Tensor) -> None:
        """Add a list state; ``empty`` has its type and its shape behind the first axis."""
        self.add_state(name, default=[], dist_reduce_fx="cat")
        self._empty[name] = empty

    def _append(self, **tensors: Tensor) -> None:
        self._joined = None
        for name, tensor in tensors.items():
            getattr(self, name).append(tensor.detach().to(self.device, self._empty[name].dtype))

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self._joined = None

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather over the processes. One without a batch gives an empty tensor of the right type and shape."""
        for name, empty in self._empty.items():
            if isinstance(getattr(self, name), list) and not getattr(self, name):
                setattr(self, name, [empty.to(self.device)])
        super().sync(*args, **kwargs)

    def _join(self) -> dict[str, np.ndarray]:
        """Return every state as one array; under DDP, inside compute or sync_context only."""
        joined = {}
        for name, empty in self._empty.items():
            state = getattr(self, name)
            joined[name] = (empty if isinstance(state, list) and not state else dim_zero_cat(state)).cpu().numpy()
        return joined

    def _final(self) -> dict[str, np.ndarray]:
        """Return what :meth:`compute` joined, or join now; the latter every process must call."""
        if self._joined is None:
            with self.sync_context(dist_sync_fn=self.dist_sync_fn):
                self._joined = self._distinct(self._join())
        return self._joined

    def _distinct(self, joined: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the states without what was seen twice."""
        raise NotImplementedError


class RankingEvaluator(_Flat):
    """Ranking metrics of users, from the ranks of their relevant items: the mean over users with at least one.

    It keeps three integers per relevant item, four per user, and the top-k lists where asked for. A user who comes
    twice, as from a padded distributed sampler, counts once; one who comes with several draws of candidates, with their
    mean. After :meth:`compute` the other methods need no communication; before it, under DDP, every process must call
    them.

    Args:
        metrics: names such as ``auc``, ``ndcg@10``, ``mrr``.
        top_k: length of the recommendation lists to keep; 0 keeps none.

    Raises:
        InputError: a metric is unknown or no ranking metric.
    """

    def __init__(self, metrics: Iterable[str], top_k: int = 0, **kwargs: Any) -> None:
        super().__init__(metrics, RANKING_METRICS, **kwargs)
        self.top_k = top_k
        for name in ("user", "n_relevant", "item"):
            self._add_flat(name, torch.empty(0, dtype=torch.int64))
        for name in ("draw", "n_candidates", "above", "ties"):
            self._add_flat(name, torch.empty(0, dtype=torch.int32))
        if top_k:
            self._add_flat("lists", torch.empty(0, top_k, dtype=torch.int64))

    def update(
        self,
        user: Tensor,
        scores: Tensor,
        relevant_offsets: Tensor,
        relevant_columns: Tensor,
        excluded_offsets: Tensor | None = None,
        excluded_columns: Tensor | None = None,
        candidates: Tensor | None = None,
        draw: Tensor | None = None,
    ) -> None:
        """Take one batch of B users, each with one list of candidates.

        Args:
            user: (B,) integer.
            scores: (B, C) float.
            relevant_offsets: (B + 1,) int64; row b owns ``relevant_columns[offsets[b]:offsets[b + 1]]``.
            relevant_columns: (nnz,) int64 columns of the scores.
            excluded_offsets: (B + 1,) int64 or None.
            excluded_columns: (m,) int64 columns out of the competition, or None.
            candidates: (B, C) int64 item ids of the columns, None where the columns are the items.
            draw: (B,) integer, which draw of candidates of the user this is; None: the only one.

        Raises:
            ValueError: the scores or columns cannot be used (see :func:`~benchmark.evaluation.ranks.rank_relevant`).
        """
        if len(user) != len(scores):
            raise ValueError(f"{len(user)} users but {len(scores)} rows of scores")
        counts = rank_relevant(scores, relevant_offsets, relevant_columns, excluded_offsets, excluded_columns)
        n_relevant, item = relevant_offsets.diff(), relevant_columns
        if candidates is not None:
            row = torch.repeat_interleave(torch.arange(len(user), device=n_relevant.device), n_relevant)
            item = candidates[row.to(candidates.device), relevant_columns.to(candidates.device)]
        if self.top_k:
            lists = top_k(scores, self.top_k, excluded_offsets, excluded_columns)
            if candidates is not None:
                ids = candidates.to(lists.device).gather(1, lists.clamp(min=0))
                lists = ids.masked_fill(lists < 0, -1)
            self._append(lists=lists)
        self._append(
            user=user,
            draw=torch.zeros_like(user) if draw is None else draw,
            n_relevant=n_relevant,
            item=item,
            n_candidates=counts.n_candidates,
            above=counts.above,
            ties=counts.ties,
        )

    def compute(self) -> dict[str, float]:
        """Return each metric's mean over users with a relevant item, nan where it is undefined for all."""
        self._joined = self._distinct(self._join())
        return {str(metric): mean(self.per_user(str(metric))) for metric in self.metrics}

    def ranks(self) -> UserRanks:
        """Return the ranks of all users, in the order of :meth:`users`; of several draws, one behind the other."""
        final = self._final()
        offsets = np.concatenate([[0], final["n_relevant"].cumsum()])
        return UserRanks(final["above"], final["ties"], offsets, final["n_candidates"])

    def users(self) -> np.ndarray:
        """Return the (U,) distinct users, ascending."""
        final = self._final()
        return final["user"][final["draw"] == 0]

    def per_user(self, metric: str) -> np.ndarray:
        """Return the (U,) values of any ranking metric in the order of :meth:`users`, nan where it is undefined."""
        values = ranking_metric(parse_metric(metric), self.ranks())
        return values.reshape(len(self.users()), -1).mean(1) if len(values) else values

    def top_lists(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the users (U,) and their best items (U, top_k), best first, -1 where a list is shorter.

        Of several draws of candidates, the lists are those of the first.

        Raises:
            ValueError: no lists were kept.
        """
        if not self.top_k:
            raise ValueError("no lists were kept: RankingEvaluator(..., top_k=20) keeps them")
        return self.users(), self._final()["lists"][self._final()["draw"] == 0]

    def table(self) -> dict[str, np.ndarray]:
        """Return (nnz,) columns user, item, above, ties, n_candidates, one row per relevant item (and draw).

        Of several draws there is a column draw. Rows stand by user, draw, then by rank, then by item, which is -1 where
        it came from a table without items.
        """
        final = self._final()
        n_relevant = final["n_relevant"]
        user, draw, n_candidates = (np.repeat(final[name], n_relevant) for name in ("user", "draw", "n_candidates"))
        order = np.lexsort((final["item"], final["ties"], final["above"], draw, user))
        per_item = {name: final[name] for name in ("item", "above", "ties")}
        several = {"draw": draw} if draw.any() else {}
        table = {"user": user, **several, **per_item, "n_candidates": n_candidates}
        return {name: column[order] for name, column in table.items()}

    @classmethod
    def from_table(cls, table: Mapping[str, Any] | Any, metrics: Iterable[str]) -> RankingEvaluator:
        """Return an evaluator that holds stored ranks, so that any ranking metric follows without a new run.

        Args:
            table: what :meth:`table` gave, as mapping or data frame, in any order of rows; users and items may be raw
                ids, which then are numbered in ascending order. Older tables have no items.
            metrics: names as for the constructor.
        """
        user = _codes(table["user"])
        above, ties, n_candidates = (np.asarray(table[name]) for name in ("above", "ties", "n_candidates"))
        item = _codes(table["item"]) if "item" in table else np.full(len(user), -1)
        draw = np.asarray(table["draw"]).astype(np.int64) if "draw" in table else np.zeros(len(user), np.int64)
        draws = int(draw.max(initial=0)) + 1
        order = np.argsort(user * draws + draw, kind="stable")
        lists, first, n_relevant = np.unique((user * draws + draw)[order], return_index=True, return_counts=True)
        evaluator = cls(metrics)
        evaluator._append(
            user=torch.as_tensor(lists // draws),
            draw=torch.as_tensor(lists % draws),
            n_relevant=torch.as_tensor(n_relevant),
            n_candidates=torch.as_tensor(n_candidates[order][first]),
            item=torch.as_tensor(item[order]),
            above=torch.as_tensor(above[order]),
            ties=torch.as_tensor(ties[order]),
        )
        evaluator._update_count = 1  # the states were filled without update(), of which torchmetrics would warn
        return evaluator

    def _distinct(self, joined: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the states sorted by user and draw, the first occurrence of each."""
        draws = int(joined["draw"].max(initial=0)) + 1
        _, first = np.unique(joined["user"] * draws + joined["draw"], return_index=True)
        n_relevant = joined["n_relevant"]
        start = (n_relevant.cumsum() - n_relevant)[first]
        kept = n_relevant[first]
        # positions of the kept users' relevant items: each segment's start, plus 0, 1, ... within the segment
        flat = np.repeat(start - (kept.cumsum() - kept), kept) + np.arange(kept.sum())
        per_item = ("item", "above", "ties")
        return {name: array[flat if name in per_item else first] for name, array in joined.items()}


class PreferenceEvaluator(_Flat):
    """Preference metrics of labelled rows. A row that comes twice, as from a padded distributed sampler, counts once.

    Args:
        metrics: names such as ``auc``, ``uauc``, ``log_loss``.
        probability: the scores are logits, so their sigmoid is a probability. Without it log_loss, brier, ece,
            accuracy and f1 are nan.

    Raises:
        InputError: a metric is unknown or no preference metric.
    """

    def __init__(self, metrics: Iterable[str], probability: bool = True, **kwargs: Any) -> None:
        super().__init__(metrics, PREFERENCE_METRICS, **kwargs)
        self.probability = probability
        for name in ("row", "user"):
            self._add_flat(name, torch.empty(0, dtype=torch.int64))
        self._add_flat("label", torch.empty(0, dtype=torch.float32))
        self._add_flat("score", torch.empty(0, dtype=torch.float32))

    def update(self, user: Tensor, label: Tensor, score: Tensor, row_id: Tensor) -> None:
        """Take B rows: user (B,) integer, label (B,) 0/1, score (B,) float, row_id (B,) integer, distinct per row.

        Raises:
            ValueError: lengths differ, or a score is NaN or infinite.
        """
        if not (len(user) == len(label) == len(score) == len(row_id)) or score.ndim != 1:
            raise ValueError("user, label, score and row_id must be vectors of one length")
        if not bool(torch.isfinite(score).all()):
            raise ValueError("a row scored NaN/inf: nothing can be measured on it")
        self._append(user=user, label=label, score=score, row=row_id)

    def compute(self) -> dict[str, float]:
        """Return each metric, nan where it is undefined (one class only, no rows, scores that are no logits)."""
        self._joined = self._distinct(self._join())
        rows = self.table()
        probability = expit(rows["score"].astype(np.float64))
        return {
            str(metric): preference_metric(
                metric, rows["user"], rows["label"], rows["score"], probability if self.probability else None
            )
            for metric in self.metrics
        }

    def users(self) -> np.ndarray:
        """Return the (U,) distinct users, ascending."""
        return np.unique(self._final()["user"])

    def per_user(self, metric: str) -> np.ndarray:
        """Return (U,) values in the order of :meth:`users`, nan where undefined.

        For ``auc``, ``uauc`` and ``gauc`` the AUC of the user's rows; for ``log_loss``, ``brier`` and ``accuracy`` the
        mean over them.

        Raises:
            InputError: the metric is unknown or, as ``ece`` and ``f1``, has no value for one user.
        """
        name, rows = parse_metric(metric).name, self._final()
        if name in ("auc", "uauc", "gauc"):
            return user_auc(rows["user"], rows["label"], rows["score"])[1]
        per_row = {"log_loss": row_log_loss, "brier": row_brier, "accuracy": row_accuracy}
        if name not in per_row:
            raise InputError(
                f"metric '{metric}' has no value per user{nearest(name, [*per_row, 'auc', 'uauc', 'gauc'])}"
            )
        users, inverse = np.unique(rows["user"], return_inverse=True)
        if not self.probability:
            return np.full(len(users), np.nan)
        values = per_row[name](rows["label"], expit(rows["score"].astype(np.float64)))
        return np.bincount(inverse, weights=values, minlength=len(users)) / np.bincount(inverse, minlength=len(users))

    def table(self) -> dict[str, np.ndarray]:
        """Return (n,) columns row, user, label, score: the distinct rows in the order of their ids."""
        return self._final()

    @classmethod
    def from_table(
        cls, table: Mapping[str, Any] | Any, metrics: Iterable[str], probability: bool = True
    ) -> PreferenceEvaluator:
        """Return an evaluator that holds the stored rows of :meth:`table`, a mapping or data frame.

        Users and rows that are no integers are numbered in their sorted order.
        """
        evaluator = cls(metrics, probability=probability)
        columns = {name: torch.as_tensor(_codes(table[name])) for name in ("row", "user")}
        columns |= {name: torch.as_tensor(np.array(table[name])) for name in ("label", "score")}
        evaluator._append(**columns)
        evaluator._update_count = 1
        return evaluator

    def _distinct(self, joined: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        _, first = np.unique(joined["row"], return_index=True)
        return {name: array[first] for name, array in joined.items()}


def _codes(ids: Any) -> np.ndarray:
    """Return (n,) int64: integer ids as they are, others as their places among the sorted distinct ones."""
    array = np.array(ids)
    if np.issubdtype(array.dtype, np.integer):
        return array.astype(np.int64)
    return np.unique(array, return_inverse=True)[1].astype(np.int64)
