"""Experiments that stand in one table, a data set beside the other: which do, and whether they may."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmark.errors import InputError
from benchmark.experiment.spec import Experiment


def grids(experiments: Sequence[Experiment]) -> list[list[Experiment]]:
    """Return the experiments that stand in one table, a list a table; none of those that stand alone."""
    groups: dict[str, list[Experiment]] = {}
    for experiment in experiments:
        if experiment.report.together:
            groups.setdefault(experiment.report.together, []).append(experiment)
    return [group for group in groups.values() if len(group) > 1]


def check_together(experiments: Sequence[Experiment]) -> None:
    """Check that experiments are of one protocol and can stand in one table.

    Raises:
        InputError: one line that names the difference.
    """

    def facts(experiment: Experiment) -> dict[str, Any]:
        # tables of several domains, or slices, stand beside each other as those of several data sets do
        told = experiment.task.model_dump(mode="json", exclude={"domain": True, "split": {"slice"}})
        task = {f"task.{key}": value for key, value in told.items()}
        return {**task, "seeds": experiment.seeds, "split_seed": experiment.split_seed}

    def shown(value: Any) -> str:
        return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)

    first, parts = experiments[0], [e.part for e in experiments]
    if len(set(parts)) < len(parts):
        raise InputError(f"report.together: two data sets would be called '{max(parts, key=parts.count)}' in the table")
    for other in experiments[1:]:
        for key, value in facts(first).items():
            if value != facts(other)[key]:
                raise InputError(
                    f"report.together: {first.name} and {other.name} cannot stand in one table: {key} is "
                    f"{shown(value)} in the one and {shown(facts(other)[key])} in the other"
                )
