"""Learning curves over training size: one model's rows by what they learned from, and where two models cross."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from benchmark.evaluation.metrics import higher_is_better, parse_metric
from benchmark.evaluation.significance import bootstrap_intervals
from benchmark.experiment import LLM
from benchmark.reports.comparison import p_values
from benchmark.reports.part import Part
from benchmark.reports.table import Cell, ComparisonTable


@dataclass(frozen=True)
class Point:
    """One row of a model: the training interactions it learned from, and what the table says of it."""

    n: int
    label: str
    cell: Cell

    @property
    def mean(self) -> float:
        assert self.cell.mean is not None
        return self.cell.mean


@dataclass(frozen=True)
class Family:
    """The rows of one model, ascending by budget; with two or more it is a curve, with one a level."""

    name: str
    group: str
    points: tuple[Point, ...]

    @property
    def is_curve(self) -> bool:
        return len(self.points) > 1

    @property
    def kind(self) -> str:
        """How it takes part: ``llm`` and ``classical`` are compared, ``trivial`` is the floor."""
        return "llm" if self.group in LLM else "trivial" if self.group == "trivial" else "classical"

    def at(self, n: float) -> float:
        """Return the value at a size within the curve, on lines between budgets over log n."""
        return float(np.interp(math.log(n), [math.log(q.n) for q in self.points], [q.mean for q in self.points]))


@dataclass(frozen=True)
class Gap:
    """How far a language model is ahead of another model at one budget, whichever way the metric is read.

    ``low`` and ``high`` are a 95 % bootstrap interval over users, paired; ``p`` counts users and seeds.
    """

    n: int
    other: str
    ahead: float
    low: float
    high: float
    p: float
    told: bool  # apart from 0: p is below the significance of the report


@dataclass(frozen=True)
class Crossing:
    """Where two curves cross, between the budgets of two gaps; ``up``: from there on the language model is ahead."""

    n: float
    up: bool
    before: Gap
    after: Gap

    @property
    def certain(self) -> bool:
        return self.before.told and self.after.told


@dataclass(frozen=True)
class Contest:
    """A language model against one classical model, or (``other`` empty) against the best one of each budget."""

    name: str
    other: str
    gaps: tuple[Gap, ...]
    crossings: tuple[Crossing, ...]

    @property
    def signs(self) -> list[int]:
        """For each gap 1 ahead or -1 behind; a tie counts as what was before it (0 where all are ties)."""
        return signs([gap.ahead for gap in self.gaps])


def has_curves(p: Part) -> bool:
    """Return whether a model of the part has finished runs at two budgets or more."""
    budgets: dict[str, set[int | None]] = {}
    for label, entry in p.experiment.models.items():
        if entry.family is not None and p.finished(label):
            budgets.setdefault(entry.family, set()).add(entry.limit_train)
    return bool(p.outcomes.metrics) and any(len(found) > 1 for found in budgets.values())


def families(p: Part, table: ComparisonTable, metric: str) -> list[Family]:
    """Return the models that have numbers, in the order of the table; of single rows those that learned from all.

    Args:
        p: one part.
        table: of this part alone.
        metric: of the task.
    """
    total = max((int(r.split_report["n_train"]) for r in p.records if r is not None), default=0)
    found: dict[str, tuple[str, list[Point]]] = {}
    for row, cell in zip(table.rows, table.column(metric), strict=True):
        entry = p.experiment.models.get(row.label)
        if entry is None or cell.mean is None:  # published alone, or without a number
            continue
        n = min(entry.limit_train or total, total)
        _, points = found.setdefault(entry.family or row.label, (row.group, []))
        if all(point.n != n for point in points):  # a budget above the whole part is the whole part
            points.append(Point(n, row.label, cell))
    out = [Family(name, group, tuple(sorted(points, key=lambda q: q.n))) for name, (group, points) in found.items()]
    return [family for family in out if family.is_curve or family.points[0].n == total]


def contests(p: Part, curves: Sequence[Family], metric: str) -> list[Contest]:
    """Return each language model against each classical model at the budgets that both have."""
    llms, others = ([f for f in curves if f.kind == kind and f.is_curve] for kind in ("llm", "classical"))
    pairs = [(mine, theirs) for mine in llms for theirs in others]
    met = [(mine, theirs, a, b) for mine, theirs in pairs for a in mine.points for b in theirs.points if a.n == b.n]
    if not met:
        return []
    sign = 1 if higher_is_better(parse_metric(metric).name) else -1
    values = p.outcomes.values
    differences = np.column_stack([sign * (values[a.label, metric] - values[b.label, metric]) for _, _, a, b in met])
    gaps: dict[tuple[str, str], list[Gap]] = {}
    for (mine, theirs, a, b), (low, high) in zip(met, bootstrap_intervals(differences), strict=True):
        p_value = float(p_values(p, metric, [a.label], b.label)[0])
        told = p_value < p.experiment.report.significance
        gap = Gap(a.n, theirs.name, sign * (a.mean - b.mean), float(low), float(high), p_value, told)
        gaps.setdefault((mine.name, theirs.name), []).append(gap)
    return [Contest(mine, theirs, tuple(some), tuple(crossings(some))) for (mine, theirs), some in gaps.items()]


def against_best(pairs: Sequence[Contest]) -> list[Contest]:
    """Return each language model of ``contests`` against the best classical model of each budget.

    Between two budgets the best one is the upper edge of all curves: one falls behind it where the first of them
    overtakes, and gets ahead of it where the last one is passed.
    """
    out = []
    for name in dict.fromkeys(pair.name for pair in pairs):
        mine = [pair for pair in pairs if pair.name == name]
        at: dict[int, list[Gap]] = {}
        for gap in (gap for pair in mine for gap in pair.gaps):
            at.setdefault(gap.n, []).append(gap)
        gaps = [min(some, key=lambda gap: gap.ahead) for _, some in sorted(at.items())]
        found = []
        for edge in crossings(gaps):
            within = [
                c.n for pair in mine for c in pair.crossings if c.up == edge.up and edge.before.n <= c.n <= edge.after.n
            ]
            n = (max if edge.up else min)(within, default=edge.n)
            found.append(Crossing(n, edge.up, edge.before, edge.after))
        out.append(Contest(name, "", tuple(gaps), tuple(found)))
    return out


def signs(values: Sequence[float]) -> list[int]:
    """Return 1 or -1 for each value; 0 takes the sign before it, at the beginning the first one there is, else 0."""
    known = [int(np.sign(v)) for v in values]
    last = next((s for s in known if s), 0)
    out = []
    for s in known:
        last = s or last
        out.append(last)
    return out


def crossings(gaps: Sequence[Gap]) -> list[Crossing]:
    """Return where the sign of ascending gaps changes, on a line over log n between the budgets on both sides."""
    out = []
    told = signs([gap.ahead for gap in gaps])
    for (before, s), (after, t) in pairwise(zip(gaps, told, strict=True)):
        if s != t:
            share = before.ahead / (before.ahead - after.ahead)
            n = math.exp(math.log(before.n) + share * (math.log(after.n) - math.log(before.n)))
            out.append(Crossing(n, t > 0, before, after))
    return out
