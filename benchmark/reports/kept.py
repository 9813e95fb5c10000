"""What a row that was made from another one keeps of it: quality, size and time, as shares of the other's."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import numpy as np

from benchmark.evaluation.significance import bootstrap_intervals
from benchmark.reports.names import title
from benchmark.reports.part import Part
from benchmark.runs.record import RunRecord

ROLES = ("teacher", "of")  # what a row was made from, as it names it


def kept(p: Part, label: str) -> str:
    """Return ``keeps 99.1 % of the NDCG@10 (difference [interval]), 25 % of the size ... of TEACHER``; "" of a row that
    was made from none, or where one of both has not run.
    """
    spec = p.experiment.spec(label, p.experiment.seeds[0])
    other = next((stage.label for role, stage in spec.stages.items() if role in ROLES), None)
    if other is None or not p.finished(label) or not p.finished(other):
        return ""
    metric = p.experiment.task.metrics[0]
    shares = {title(metric): _share(*(p.outcomes.seeds.get((name, metric), []) for name in (label, other)))}
    mine, theirs = p.finished(label), p.finished(other)
    per = "ms/user" if p.experiment.task.kind == "ranking" else "ms/row"
    shares["size"] = _share(*(_numbers(records, lambda r: r.model_report.get("size_mb")) for records in (mine, theirs)))
    shares[per] = _share(*(_numbers(records, lambda r: r.ms_per_user) for records in (mine, theirs)))
    told = {title(metric): _difference(p, metric, label, other)}
    said = [f"{_percent(n)} of the {what}{told.get(what, '')}" for what, n in shares.items() if n is not None]
    return f"keeps {', '.join(said)} of {other}" if said else ""


def _difference(p: Part, metric: str, label: str, other: str) -> str:
    """Return how far a row is from the other, with the interval over users; "" where fewer than two have both."""
    mine, theirs = (p.outcomes.values.get((name, metric)) for name in (label, other))
    if mine is None or theirs is None or np.isfinite(mine - theirs).sum() < 2:
        return ""
    gains = mine - theirs
    ((low, high),) = bootstrap_intervals(gains[:, None])
    return f" ({np.nanmean(gains):+.4f} [{low:+.4f}, {high:+.4f}], 95 % paired over users)"


def _numbers(records: Sequence[RunRecord], of: Callable[[RunRecord], float | None]) -> list[float]:
    return [value for record in records if (value := of(record)) is not None]


def _share(mine: Sequence[float], theirs: Sequence[float]) -> float | None:
    """Return the mean of the one over that of the other; None where a number is missing or is no divisor."""
    if not mine or not theirs or not statistics.fmean(theirs) > 0:
        return None
    return statistics.fmean(mine) / statistics.fmean(theirs)


def _percent(share: float) -> str:
    """99.1 %, 25 %, 0.75 %: three figures of what is near to all, two of what is not."""
    percent = 100 * share
    return f"{percent:.1f} %" if percent >= 90 else f"{percent:.2g} %"
