"""RecDataModule: the one LightningDataModule; flat arrays in, vectorised batches out, for every kind of model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from benchmark.data.batch import BatchSpec
from benchmark.data.eval_rows import EvalRows, preference_rows, ranking_rows
from benchmark.data.schema import SplitData
from benchmark.data.seeded import permutation
from benchmark.data.task import Task
from benchmark.data.train_rows import TrainRows


class RecDataModule(LightningDataModule):
    """Serves one split to one model: training batches of the kind it asked for, and the same scoring batches to all.

    Args:
        data: the split with integer ids; limited to a budget, if any, by ``few_shot``.
        task: the protocol (metrics, candidates, which rows are judged).
        spec: what the model asked for.
        seed: seed of shuffling and negatives; epoch e draws from (seed, e), so a resumed run sees the same batches.

    Raises:
        InputError: the task cannot be built on this data (no ratings for a preference task, no judged user left).
    """

    def __init__(self, data: SplitData, task: Task, spec: BatchSpec, seed: int = 0) -> None:
        super().__init__()
        self.data, self.task, self.spec, self.seed = data, task, spec, seed
        self._eval_rows: dict[str, EvalRows] = {}
        self._train_rows: TrainRows | None = None

    # --- loaders ---------------------------------------------------------------------------------------------------

    def train_dataloader(self) -> DataLoader:
        if self.spec.part == "valid":
            return self._loader(self.rows("valid"), self.spec.eval_batch_size, shuffle=True)
        rows = self.train_rows
        size = max(self.spec.batch_size // (rows.rows_a_positive if self.spec.count_negatives else 1), 1)
        return self._loader(rows, size, shuffle=True, drop_last=self.spec.drop_last)

    def val_dataloader(self) -> DataLoader:
        return self._loader(self.rows("valid"), self.spec.eval_batch_size)

    def test_dataloader(self) -> DataLoader:
        return self._loader(self.rows("test"), self.spec.eval_batch_size)

    predict_dataloader = test_dataloader

    @property
    def train_rows(self) -> TrainRows:
        if self._train_rows is None:
            self._train_rows = TrainRows(self.data, self.task, self.spec, self.seed)
        return self._train_rows

    def rows(self, part: Literal["valid", "test"]) -> EvalRows:
        """Return the judged rows of ``part`` ("valid" | "test"); built once."""
        if part not in self._eval_rows:
            limit = self.task.limit_valid if part == "valid" else self.task.limit_test
            build = ranking_rows if self.task.kind == "ranking" else preference_rows
            self._eval_rows[part] = build(self.data, self.task, part, self.spec.max_history, limited(limit, 0))
        return self._eval_rows[part]

    def _loader(
        self, rows: TrainRows | EvalRows, batch_size: int, shuffle: bool = False, drop_last: bool = False
    ) -> DataLoader:
        trainer = self.trainer
        world, rank = (trainer.world_size, trainer.global_rank) if trainer is not None else (1, 0)
        order: Callable[[int], Tensor] = rows.order if isinstance(rows, TrainRows) else lambda epoch: rows.all
        passes = self.spec.passes if shuffle else 1
        sampler = _IndexBatches(
            order,
            len(rows),
            batch_size,
            drop_last,
            world,
            rank,
            even=shuffle,
            whole=self._whole(shuffle),
            passes=passes,
        )
        return DataLoader(rows, batch_size=None, sampler=sampler)

    def _whole(self, training: bool) -> bool:
        return training and self.spec.kind == "whole"


def limited(limit: int | None, seed: int) -> Callable[[int], np.ndarray]:
    """Return a function n -> the ascending positions of a seeded sample of ``limit`` out of n (all for None)."""

    def sample(n: int) -> np.ndarray:
        if limit is None or limit >= n:
            return np.arange(n)
        return np.sort(permutation(n, seed)[:limit])

    return sample


class _IndexBatches(Sampler):
    """Yields index tensors, one a batch; splits the rows over processes.

    In training every process gets the same number of rows (wrapping around), or gradients would wait for each other for
    ever. At scoring no row is repeated and none is lost.
    """

    def __init__(
        self,
        order: Callable[[int], Tensor],
        n: int,
        batch_size: int,
        drop_last: bool,
        world: int,
        rank: int,
        even: bool,
        whole: bool,
        passes: int = 1,
    ) -> None:
        self.order, self.n, self.batch_size, self.drop_last = order, n, batch_size, drop_last
        self.world, self.rank, self.even, self.whole, self.passes = world, rank, even, whole, passes
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def _share(self, index: Tensor) -> Tensor:
        if self.world == 1:
            return index
        if self.even:
            size = -(-len(index) // self.world) * self.world
            index = index[torch.arange(size) % len(index)]
        return index[self.rank :: self.world]

    def __iter__(self) -> Iterator[Tensor]:
        everything = self.order(self.epoch)
        if self.whole:
            yield everything
            return
        for one_pass in everything.split(self.n):
            index = self._share(one_pass)
            stop = len(index) - len(index) % self.batch_size if self.drop_last else len(index)
            for start in range(0, stop, self.batch_size):
                yield index[start : start + self.batch_size]

    def __len__(self) -> int:
        if self.whole:
            return 1
        # never by way of order(), which would start the draws of the epoch again
        n = -(-self.n // self.world) * self.world if self.even else self.n
        share = len(range(self.rank, n, self.world))
        return self.passes * (share // self.batch_size if self.drop_last else -(-share // self.batch_size))
