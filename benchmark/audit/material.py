"""Material: what the checks of the audit look at, each part built once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from benchmark.data.batch import Batch, BatchSpec
from benchmark.data.datamodule import RecDataModule, limited
from benchmark.data.eval_rows import EvalRows, judged_part
from benchmark.data.schema import SplitData
from benchmark.data.seeded import permutation
from benchmark.evaluation.metrics import UserRanks
from benchmark.evaluation.ranks import rank_relevant
from benchmark.experiment import Experiment, RunSpec
from benchmark.runs.execute import PreparedData
from benchmark.runs.outcomes import Outcomes

LONGEST = 50  # newest items of a history that are looked at
MOST_USERS = 20_000  # a larger number of users is sampled where each costs something


@dataclass
class Material:
    """What the checks look at.

    Attributes:
        experiment: as it is run.
        data: prepared data of it.
        outcomes: of the runs that are finished.
        root: folder of the runs.
        budgets: finished trials of the search of each searched model; None: what searches found is not used.
        seed: of all samples.
    """

    experiment: Experiment
    data: PreparedData
    outcomes: Outcomes
    root: Path
    budgets: Mapping[str, int] | None = None
    seed: int = 0

    @property
    def split(self) -> SplitData:
        return self.data.split

    @property
    def ranking(self) -> bool:
        return self.experiment.task.kind == "ranking"

    def _rows(self, part: Literal["valid", "test"], draws: int | None = None) -> EvalRows:
        """Return the judged rows of a part; of several draws of candidates, the first ``draws``."""
        task = self.experiment.task
        if draws is not None and task.candidates.kind == "sampled":
            drawn = task.candidates.model_copy(update={"draws": draws})
            task = task.model_copy(update={"candidates": drawn})
        return RecDataModule(self.split, task, BatchSpec("pointwise", max_history=LONGEST)).rows(part)

    @cached_property
    def valid(self) -> EvalRows:
        """The judged rows of the validation part; of several draws of candidates, the first."""
        return self._rows("valid", 1)

    @cached_property
    def test(self) -> EvalRows:
        """The judged rows of the test part; of several draws of candidates, the first."""
        return self._rows("test", 1)

    @cached_property
    def drawn(self) -> EvalRows:
        """The judged rows of the test part with all draws of candidates."""
        return self._rows("test")

    @cached_property
    def popularity(self) -> np.ndarray:
        """(n_items,) training interactions of each item."""
        return np.bincount(self.split.train.item, minlength=self.split.n_items)

    @cached_property
    def groups(self) -> dict[str, str]:
        return self.experiment.groups()

    @cached_property
    def specs(self) -> dict[str, RunSpec]:
        """The first run of each model that can do the task, by label."""
        return {spec.label: spec for spec in self.experiment.specs()[:: len(self.experiment.seeds)]}

    @cached_property
    def sampled(self) -> torch.Tensor:
        """(R,) ascending rows of the test part that costly checks look at: all, or a seeded sample."""
        rows = self.test
        if len(rows) <= MOST_USERS:
            return rows.all
        return torch.from_numpy(np.sort(permutation(len(rows), self.seed, 7)[:MOST_USERS]))

    def note(self) -> str:
        """Return what a sentence about ``sampled`` says of it."""
        n, unit = len(self.sampled), "users" if self.ranking else "rows"
        return f" (a sample of {n:,} of {len(self.test):,} {unit})" if n < len(self.test) else ""

    def targets(self, part: str, rows: EvalRows) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Return what the judged rows of a part are asked for: row (N,), item (N,) and time (N,), None without times.

        Of a ranking these are all the relevant interactions of a row, in a preference task one a row.
        """
        target = judged_part(self.split, self.experiment.task, "valid" if part == "valid" else "test")
        if rows.label is not None:
            task = self.experiment.task
            index = limited(task.limit_valid if part == "valid" else task.limit_test, 0)(len(target))
            return np.arange(len(rows)), target.item[index], None if target.time is None else target.time[index]
        assert rows.relevant is not None
        n = self.split.n_items
        place = np.full(self.split.n_users, -1)
        place[rows.user.numpy()] = np.arange(len(rows))
        row = place[target.user]
        wanted = rows.relevant.row.numpy() * n + rows.relevant.values.numpy()
        keep = (row >= 0) & np.isin(row * n + target.item, wanted)
        return row[keep], target.item[keep], None if target.time is None else target.time[keep]


def ranked(batch: Batch, scores: torch.Tensor) -> UserRanks:
    """Return where (B, C) ``scores`` put the relevant items of a judged batch."""
    relevant, excluded = batch.relevant, batch.excluded
    assert relevant is not None
    assert excluded is not None
    counts = rank_relevant(batch.ranked(scores), relevant.offsets, relevant.values, excluded.offsets, excluded.values)
    return UserRanks(counts.above.numpy(), counts.ties.numpy(), relevant.offsets.numpy(), counts.n_candidates.numpy())
