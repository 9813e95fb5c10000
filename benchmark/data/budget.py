"""Few-shot budgets: one seeded sample of the training part, the same for every model of a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from benchmark.data.schema import Interactions, SplitData
from benchmark.data.seeded import permutation
from benchmark.data.task import Task

# a stream of random numbers of its own: else, at seed 0, the users trained on would be just those limit_test judges
_USERS = 4


def few_shot(data: SplitData, task: Task, limit: int | None, seed: int) -> SplitData:
    """Return the data with ``limit`` training interactions; everything but ``train`` stays what it was.

    A preference task is given a sample of labelled rows. A ranking task is given whole users, one after the other, and
    of the last one its oldest rows: models of sequences, pairs, users' rows and closed forms then all learn from the
    very same interactions. Of one seed, a smaller budget is part of a larger one.

    Args:
        data: the split.
        task: its kind decides what is sampled.
        limit: how many interactions to train on; None, or as many as there are, returns ``data`` itself.
        seed: of the sample; the same for every model in a table.
    """
    rows = data.train
    if limit is None or limit >= len(rows):
        return data
    chosen = _sample(rows, task, limit, seed)
    # what a user did besides is input, at training as at scoring; only nothing is learned from it
    return replace(data, train=rows.take(chosen), train_known=data.complete_train)


def of_domains(data: SplitData, task: Task, limits: Mapping[str, int | None], seed: int) -> np.ndarray:
    """Return the ascending positions of the training interactions of some domains.

    Args:
        data: the split of joined data sets.
        task: its kind decides what is sampled, as for ``few_shot``.
        limits: name of a domain -> how many of its interactions to train on; None: all of them.
        seed: of the samples; the same for every model in a table.

    Raises:
        InputError: the data have no such domain.
    """
    rows, chosen = data.train, [np.empty(0, np.int64)]
    for name, limit in limits.items():
        mine = np.flatnonzero(data.of_domains([name])[rows.item])
        chosen.append(mine[_sample(rows.take(mine), task, limit, seed)])
    return np.sort(np.concatenate(chosen))


def of_slices(data: SplitData, after: int | None, upto: int) -> np.ndarray:
    """Return the ascending positions of the training interactions of slice ``upto`` that slice ``after`` had not.

    Args:
        data: a prequential split, of slice ``upto`` or a later one.
        after: a slice; None: all of them.
        upto: a slice.
    """
    time = data.train.time
    assert time is not None
    first = -np.inf if after is None else data.report[f"train_ends_{after}"]
    return np.flatnonzero((time >= first) & (time < data.report[f"train_ends_{upto}"]))


def begun(data: SplitData, own: np.ndarray, earlier: np.ndarray) -> SplitData:
    """Return the data with the training interactions at ``own``, for a model whose weights know those at ``earlier``.

    Both are ascending positions. What a user did besides is input, as for ``few_shot``.
    """
    rows, every = data.train, np.union1d(own, earlier)
    learned = rows.take(every) if len(every) > len(own) else None
    return replace(data, train=rows.take(own), train_known=data.complete_train, learned=learned)


def _sample(rows: Interactions, task: Task, limit: int | None, seed: int) -> np.ndarray:
    """Return the ascending positions of ``limit`` of ``rows``."""
    if limit is None or limit >= len(rows):
        return np.arange(len(rows))
    by_row = task.kind == "preference"
    return np.sort(permutation(len(rows), seed)[:limit]) if by_row else _of_users(rows, limit, seed)


def _of_users(rows: Interactions, limit: int, seed: int) -> np.ndarray:
    """Return the (limit,) ascending positions of whole users' rows, the last user's cut to the oldest."""
    users = permutation(rows.n_users, seed, _USERS)
    sizes = np.diff(rows.offsets)[users]
    kept = np.zeros(rows.n_users, np.int64)
    kept[users] = np.clip(limit - (np.cumsum(sizes) - sizes), 0, sizes)
    return np.flatnonzero(np.arange(len(rows)) - rows.offsets[rows.user] < kept[rows.user])
