"""What a teacher says to a student, asked once, and the losses of not heeding it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.data.batch import Batch, BatchSpec
from benchmark.data.schema import SplitData
from benchmark.data.sequences import Sequences, held, take, unique_pairs
from benchmark.data.task import Task
from benchmark.data.train_rows import TrainRows
from benchmark.recommender import Recommender

OUT = float("-inf")
LOW = -1e30  # below every score, with a gradient of 0 and not of nan


def soft_labels(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return the cross-entropy of (B,) logits / T against the teacher's probabilities at T, times T^2: a scalar."""
    target = torch.sigmoid(teacher / temperature)
    return temperature**2 * F.binary_cross_entropy_with_logits(student / temperature, target)


def soft_scores(student: Tensor, teacher: Tensor, there: Tensor, temperature: float) -> Tensor:
    """Return the mean KL(teacher || student) of softmax over (B, C) standardised scores / T, times T^2: a scalar.

    Args:
        student, teacher: (B, C) scores of the same items.
        there: (B, C) bool; the others are no items.
        temperature: T.
    """
    p, q = (
        (_standardised(scores.float(), there) / temperature).masked_fill(~there, LOW).log_softmax(1)
        for scores in (teacher, student)
    )
    return temperature**2 * (p.exp() * (p - q)).sum(1).mean()


def listwise(student: Tensor, there: Tensor, n_top: int) -> Tensor:
    """Return the mean negative log likelihood, a place, of the order in which the first ``n_top`` columns stand.

    Column r is chosen by a softmax over itself, the best columns behind it, and all columns from ``n_top`` on.

    Args:
        student: (B, C) scores; the first ``n_top`` columns hold the teacher's best items, the best first.
        there: (B, C) bool; the others are no items.
        n_top: columns with an order.
    """
    scores = student.float().masked_fill(~there, LOW)
    behind = torch.logcumsumexp(scores.flip(1), 1).flip(1)[:, :n_top]
    lost = torch.where(there[:, :n_top], behind - scores[:, :n_top], 0.0)
    return (lost.sum(1) / there[:, :n_top].sum(1).clamp(min=1)).mean()


def _standardised(scores: Tensor, there: Tensor) -> Tensor:
    """Return (B, C) scores of mean 0 and deviation 1 over the items of each row."""
    n = there.sum(1, keepdim=True).clamp(min=1)
    centred = torch.where(there, scores - (scores * there).sum(1, keepdim=True) / n, 0.0)
    return centred / (centred.square().sum(1, keepdim=True) / n + 1e-12).sqrt()


# --- what the teacher says -------------------------------------------------------------------------------------------


class Known:
    """What is known of each user at the end of the training part, as a scoring batch."""

    def __init__(self, data: SplitData, task: Task) -> None:
        rows = data.complete_train
        memory, _ = held(rows, task)
        self.users = torch.from_numpy(np.unique(data.train.user).astype(np.int64))
        self.n_users, self.n_items = data.n_users, data.n_items
        self.sequences = Sequences.of(memory, data.n_items, None)
        self.offsets = torch.from_numpy(memory.offsets)
        self.seen = unique_pairs(rows.user, rows.item, data.n_users, data.n_items)

    def batch(self, users: Tensor, max_history: int) -> Batch:
        there = users.cpu()
        fields = self.sequences.windows(self.offsets[there], self.offsets[there + 1], max_history)
        batch = Batch(user=there, seen=take(self.seen, there), **(fields if max_history else {}))  # type: ignore[arg-type]
        return batch.to(users.device)


class Rankings:
    """For each training user the teacher's best unseen items, the best first, and drawn other unseen ones.

    In memory stand one row of (top + others) ids and scores for each training user.
    """

    def __init__(self, known: Known, n_top: int, items: Tensor, scores: Tensor) -> None:
        self.known, self.n_top, self.items, self.scores = known, n_top, items, scores
        self.place = torch.full((known.n_users,), -1)
        self.place[known.users] = torch.arange(len(known.users))

    @classmethod
    def of(cls, teacher: Recommender, known: Known, top: int, others: int, size: int) -> Rankings:
        top = min(top, known.n_items)
        others = min(others, known.n_items - top)
        items, scores = [], []
        for users in known.users.split(size):
            batch = known.batch(users.to(teacher.device), teacher.batch_spec().max_history)
            found = teacher.score(batch).float()
            assert batch.seen is not None
            free = found.clone()
            free[batch.seen.row, batch.seen.values] = OUT
            best, chosen = free.topk(top, dim=1)
            chance = torch.rand(free.shape).to(free.device).masked_fill(free == OUT, OUT).scatter(1, chosen, OUT)
            beside = chance.topk(others, dim=1).indices
            items.append(torch.cat([chosen, beside], 1).int().cpu())
            # what a user has is no item of the list: of users who have nearly everything, some places stay empty
            drawn = torch.where(chance.gather(1, beside) == OUT, OUT, free.gather(1, beside))
            scores.append(torch.cat([best, drawn], 1).cpu())
        return cls(known, top, torch.cat(items), torch.cat(scores))

    def lesson(self, users: Tensor, max_history: int) -> tuple[Batch, Tensor, Tensor, Tensor]:
        """Return what is known of (B,) users, and (B, C) items, the teacher's scores, and which of them are there."""
        rows = self.place[users.cpu()]
        scores = self.scores[rows].to(users.device)
        there = scores > OUT
        batch = self.known.batch(users, max_history)
        return batch, self.items[rows].long().to(users.device), scores.masked_fill(~there, 0.0), there


class Labels:
    """The teacher's logit of each labelled training row."""

    def __init__(self, keys: Tensor, values: Tensor, n_items: int) -> None:
        order = keys.argsort()
        self.keys, self.values, self.n_items = keys[order], values[order], n_items

    @classmethod
    def of(cls, teacher: Recommender, data: SplitData, task: Task, size: int) -> Labels:
        spec = BatchSpec(kind="pointwise", negatives=0, max_history=teacher.batch_spec().max_history)
        rows = TrainRows(data, task, spec, 0)
        keys, values = [], []
        for index in rows.all.split(size):
            batch = rows[index]
            assert batch.item is not None
            keys.append(batch.user * data.n_items + batch.item)
            wanted = replace(batch, candidates=batch.item.unsqueeze(1), item=None, label=None)
            values.append(teacher.score(wanted.to(teacher.device))[:, 0].float().cpu())
        return cls(torch.cat(keys), torch.cat(values), data.n_items)

    def logits(self, user: Tensor, item: Tensor) -> Tensor:
        """Return the (B,) logits of training rows."""
        place = torch.searchsorted(self.keys, (user * self.n_items + item).cpu())
        return self.values[place].to(user.device)
