"""Part: one experiment of a table, its records, and what they did for each user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from benchmark.experiment import Experiment
from benchmark.runs.outcomes import Outcomes, read
from benchmark.runs.record import RunRecord, RunStore


@dataclass(frozen=True)
class Part:
    """One experiment of a table: its records (in the order of ``experiment.specs()``; None: not run) and outcomes.

    ``notes`` holds, by label, what stands under the table about how a model's parameters came about.
    """

    experiment: Experiment
    records: Sequence[RunRecord | None]
    outcomes: Outcomes
    notes: Mapping[str, str] = field(default_factory=dict)
    tested: dict[tuple[str, str, str], float] = field(default_factory=dict)  # p-values found so far, kept

    @property
    def dataset(self) -> str:
        return self.experiment.part

    @cached_property
    def by_label(self) -> dict[str, list[RunRecord | None]]:
        out: dict[str, list[RunRecord | None]] = {label: [] for label in self.experiment.models}
        for spec, record in zip(self.experiment.specs(), self.records, strict=True):
            out[spec.label].append(record)
        return out

    @cached_property
    def groups(self) -> dict[str, str]:
        """The group of every row: the models, then what is published alone."""
        out = self.experiment.groups()
        return out | {row.model: "published" for row in self.experiment.published if row.model not in out}

    def finished(self, label: str) -> list[RunRecord]:
        return [r for r in self.by_label[label] if r is not None and r.status == "finished"]


def part(
    experiment: Experiment,
    records: Sequence[RunRecord | None],
    store: RunStore,
    notes: Mapping[str, str] | None = None,
    targets: bool = False,
) -> Part:
    """Return a part of a table, its ranks read; raises InputError for runs of different protocols."""
    outcomes = read(records, experiment.task.metrics, experiment.task.kind, store, targets)
    return Part(experiment, records, outcomes, notes or {})
