"""The audit: all checks of one experiment in their order, on its data alone or with what its runs did."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console

from benchmark.audit.budget import budget, trivial
from benchmark.audit.candidates import candidates
from benchmark.audit.cold import cold
from benchmark.audit.duplicates import items, pairs, users
from benchmark.audit.finding import Finding
from benchmark.audit.future import histories, training
from benchmark.audit.material import Material
from benchmark.audit.memory import memory
from benchmark.audit.popularity import popularity
from benchmark.audit.power import power
from benchmark.audit.prompts import prompts
from benchmark.audit.written import written
from benchmark.experiment import Experiment
from benchmark.runs.execute import PreparedData
from benchmark.runs.outcomes import Outcomes, read
from benchmark.runs.record import RunRecord, RunStore

CHECKS = (
    *(histories, training, written, prompts, pairs, items, users, cold, candidates),
    *(power, popularity, budget, trivial),
)


def audit(
    experiment: Experiment,
    data: PreparedData,
    records: Sequence[RunRecord | None],
    store: RunStore,
    budgets: Mapping[str, int] | None,
    probe: Console | None = None,
    outcomes: Outcomes | None = None,
    seed: int = 0,
) -> list[Finding]:
    """Return what the checks find.

    Args:
        experiment: as it is run.
        data: prepared data of it.
        records: in the order of ``experiment.specs()``; None: not run.
        store: of the runs; what the memorisation probe found is kept beside them.
        budgets: finished trials of the search of each searched model; None: the table has the file's own values.
        probe: where backbones that have not been asked what they remember are asked now, with a bar; None: not asked.
        outcomes: of the records, read with ``targets``, where the caller has them.
        seed: of all samples.

    Raises:
        InputError: the data, or what is stored of the runs, cannot be used.
    """
    task = experiment.task
    if outcomes is None:
        outcomes = read(records, task.metrics, task.kind, store, targets=True)
    material = Material(experiment, data, outcomes, store.root, budgets, seed)
    found = [finding for check in CHECKS for finding in check(material)]
    return found + memory(material, probe)
