"""Part: one experiment of a table, its records, and what they did for each user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from benchmark.data.schema import SplitData
from benchmark.experiment import GAP, Experiment
from benchmark.reports.beyond import BeyondAccuracy, measure
from benchmark.runs.outcomes import Outcomes, read
from benchmark.runs.record import RunRecord, RunStore


@dataclass(frozen=True)
class Part:
    """One experiment of a table: its records (in the order of ``experiment.specs()``; None: not run) and outcomes.

    ``notes`` holds, by label, what stands under the table about how a model's parameters came about; ``beyond`` what
    `report.beyond` asks for.
    """

    experiment: Experiment
    records: Sequence[RunRecord | None]
    outcomes: Outcomes
    notes: Mapping[str, str] = field(default_factory=dict)
    beyond: BeyondAccuracy = field(default_factory=BeyondAccuracy)
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

    @cached_property
    def proposed(self) -> frozenset[str]:
        """The rows that the table argues for; the others are baselines."""
        return frozenset(self.experiment.proposed())

    def finished(self, label: str) -> list[RunRecord]:
        return [r for r in self.by_label[label] if r is not None and r.status == "finished"]


def part(
    experiment: Experiment,
    records: Sequence[RunRecord | None],
    store: RunStore,
    notes: Mapping[str, str] | None = None,
    targets: bool = False,
    split: SplitData | None = None,
) -> Part:
    """Return a part of a table, its ranks read.

    Args:
        experiment: of the part.
        records: of ``experiment.specs()``, in that order.
        store: of the records.
        notes: under the table, by label.
        targets: read what the relevant items tell too.
        split: the data of the runs; `report.beyond` needs them.

    Raises:
        InputError: runs of different protocols, or what `report.beyond` asks for cannot be had.
        ValueError: `report.beyond` asks for something and there is no split.
    """
    kind, gaps = experiment.task.kind, [str(one.metric) for one in experiment.beyond if one.name == GAP]
    rows = targets or (bool(gaps) and kind != "ranking")  # a gap is measured on the rows of each group
    outcomes = read(records, experiment.task.metrics, kind, store, rows, keep=gaps)
    if not experiment.beyond:
        return Part(experiment, records, outcomes, notes or {})
    if split is None:
        raise ValueError("report.beyond needs the data")
    return Part(experiment, records, outcomes, notes or {}, measure(experiment, records, outcomes, split, store))
