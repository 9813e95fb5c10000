"""Transfer matrix: what a model wins or loses by coming from other domains; transfer.md, .svg, a page's section."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.evaluation.metrics import higher_is_better, parse_metric
from benchmark.evaluation.significance import bootstrap_intervals
from benchmark.experiment.transfer import ALONE, JOINT, MERGED
from benchmark.reports import pipes
from benchmark.reports.files import write_texts
from benchmark.reports.names import title
from benchmark.reports.page import Section
from benchmark.reports.page import table as html_table
from benchmark.reports.part import Part
from benchmark.reports.stills import INK, canvas, svg

HEADING = "Transfer between domains"
CAPTION = (
    "Columns: the target, and how many of its training interactions are learned from. Purple: better than the target "
    "alone with the same budget (0: than with all of its interactions), orange: worse; the deeper, the larger the "
    "share that is won or lost. Colour and bold: the 95 % interval of the difference, paired over users, holds no 0."
)


@dataclass(frozen=True)
class Cell:
    """One cell: a model that came to ``target`` from ``source`` with ``budget`` of its interactions (None: all).

    Attributes:
        value: the metric, mean over users and seeds; None where it was not run.
        gain: value minus that of the target alone with the same budget (with all, of budget 0), None for itself.
        low, high: 95 % interval of the gain, by resampling users.
    """

    source: str
    target: str
    budget: int | None
    label: str
    value: float | None = None
    gain: float | None = None
    low: float | None = None
    high: float | None = None
    higher: bool = True  # more of the metric is better
    reason: str = ""  # why there is no value

    @property
    def better(self) -> bool:
        return self.gain is not None and (self.gain > 0) == self.higher

    @property
    def certain(self) -> bool:
        """Whether the interval of the gain holds no 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def models(parts: Sequence[Part]) -> list[str]:
    """Return the models that the parts have ways of transfer of, by their labels in the file."""
    entries = (entry for p in parts for entry in p.experiment.models.values())
    return list(dict.fromkeys(entry.way.of for entry in entries if entry.way))


def ways(parts: Sequence[Part], model: str, metric: str) -> list[Cell]:
    """Return the cells of a model's matrix, one a target, source and budget."""
    out = []
    for p in parts:
        target, mine = str(p.experiment.task.domain), dict[tuple[str, int | None], str]()
        for label, entry in p.experiment.models.items():
            if entry.way and entry.way.of == model:
                mine[entry.way.source, entry.way.budget] = label
        for (source, budget), label in mine.items():
            reference = mine.get((ALONE, budget), mine[ALONE, None]) if source != ALONE else None
            out.append(_way(p, source, target, budget, label, reference, metric))
    return out


def _way(p: Part, source: str, target: str, budget: int | None, label: str, reference: str | None, metric: str) -> Cell:
    values, higher = p.outcomes.values, higher_is_better(parse_metric(metric).name)
    mine = values.get((label, metric))
    if mine is None or not np.isfinite(mine).any():
        seeds, cannot = p.outcomes.seeds.get((label, metric), [np.nan]), p.experiment.unable(short=True)
        value = None if np.isnan(np.mean(seeds)) else float(np.mean(seeds))
        return Cell(source, target, budget, label, value, reason=cannot.get(label, ""))
    value = float(np.nanmean(mine))
    other = values.get((reference, metric)) if reference else None
    if other is None:
        return Cell(source, target, budget, label, value)
    gains = mine - other
    ((low, high),) = bootstrap_intervals(gains[:, None])
    return Cell(source, target, budget, label, value, float(np.nanmean(gains)), float(low), float(high), higher)


def _axes(found: Sequence[Cell]) -> tuple[list[str], list[tuple[str, int | None]]]:
    """Return the sources (the target alone first, joint last) and the (target, budget) columns in their order."""
    sources = sorted(
        {w.source for w in found}, key=lambda s: ({ALONE: 0, JOINT: 2, MERGED: 3}.get(s.partition(" (")[0], 1), s)
    )
    targets = list(dict.fromkeys(w.target for w in found))
    columns = {(w.target, w.budget) for w in found}
    return sources, sorted(columns, key=lambda c: (targets.index(c[0]), c[1] is None, c[1] or 0))


def _named(budget: int | None) -> str:
    return "all" if budget is None else f"{budget:,}"


def _grid(found: Sequence[Cell]) -> tuple[list[str], list[list[str]]]:
    """Return the headings and rows of the matrix as text."""
    sources, columns = _axes(found)
    cells = {(w.source, w.target, w.budget): w for w in found}
    rows = [[_from(s), *(_cell(cells.get((s, *column))) for column in columns)] for s in sources]
    return ["", *(f"{target}, {_named(budget)}" for target, budget in columns)], rows


def _from(source: str) -> str:
    if source.partition(" (")[0] in (JOINT, MERGED):
        return source
    return "the target alone" if source == ALONE else f"from {source}"


def _cell(way: Cell | None) -> str:
    if way is None:
        return ""
    if way.value is None:
        return way.reason or "not run"
    if way.gain is None:
        return f"{way.value:.4f}"
    sign = ("†" if way.better else "‡") if way.certain else ""
    return f"{way.value:.4f} ({way.gain:+.4f}{sign} [{way.low:+.4f}, {way.high:+.4f}])"


def _legend(metric: str) -> str:
    less = "" if higher_is_better(parse_metric(metric).name) else " (less is better)"
    return (
        f"{title(metric)}{less} on the target's test users; columns: target and how many of its training interactions "
        "are learned from (0: zero-shot). In brackets the difference to the target alone with the same budget (of 0: "
        "with all), with its 95 % interval by resampling users, whatever seeds move; † better, ‡ worse where that "
        "holds no 0, not corrected for the number of cells."
    )


def markdown(parts: Sequence[Part]) -> str:
    """Return transfer.md: one matrix a model and metric."""
    out = [f"# {HEADING}", ""]
    metrics = parts[0].outcomes.metrics
    for model in models(parts):
        for metric in metrics:
            head, rows = _grid(ways(parts, model, metric))
            out += [f"## {model}: {title(metric)}", ""]
            out += [*pipes.table(head, rows), "", _legend(metric), ""]
    return "\n".join(out)


def still(parts: Sequence[Part]) -> str:
    """Return the matrices of the first metric as an SVG: a cell's colour is what is surely won or lost, in shares.

    Raises:
        InputError: Matplotlib is not installed.
    """
    metric, names = parts[0].outcomes.metrics[0], models(parts)
    found = {name: ways(parts, name, metric) for name in names}
    shape = {name: _axes(found[name]) for name in names}
    heights = [len(shape[name][0]) for name in names]
    width = 2.2 + 1.05 * max(len(shape[name][1]) for name in names)
    caption = textwrap.wrap(CAPTION, int(16 * width))
    with canvas(width, 0.9 + sum(0.5 * h + 0.9 for h in heights) + 0.17 * len(caption)) as figure:
        panels = figure.subplots(len(names), 1, squeeze=False, gridspec_kw={"height_ratios": [h + 1 for h in heights]})
        for axes, name in zip(panels[:, 0], names, strict=True):
            _panel(axes, found[name], *shape[name])
            axes.set_title(f"{name}: {title(metric)} and the gain over the target alone", loc="left", fontsize=10)
        figure.supxlabel("\n".join(caption), x=0.01, ha="left", fontsize=8, color=INK)
        return svg(figure)


def _panel(axes: Any, found: Sequence[Cell], sources: list[str], columns: list[tuple[str, int | None]]) -> None:
    cells = {(w.source, w.target, w.budget): w for w in found}
    share = np.full((len(sources), len(columns)), np.nan)
    for i, source in enumerate(sources):
        for j, column in enumerate(columns):
            way = cells.get((source, *column))
            if way is None or way.value is None:
                continue
            share[i, j] = 0.0
            if way.gain is not None and way.certain:
                won, alone = way.gain if way.higher else -way.gain, way.value - way.gain
                share[i, j] = won / alone if alone > 0 else np.sign(won)
            said = f"{way.value:.3f}" + (f"\n{way.gain:+.3f}" if way.gain is not None else "")
            strong, ink = "bold" if way.certain else "normal", "white" if share[i, j] > 0.6 else INK
            axes.text(j, i, said, ha="center", va="center", fontsize=8, fontweight=strong, color=ink)
    axes.imshow(np.clip(share, -1, 1), cmap="PuOr", vmin=-1.4, vmax=1.4, aspect="auto")
    axes.set_xticks(range(len(columns)), [f"{target}\n{_named(budget)}" for target, budget in columns], fontsize=8)
    axes.set_yticks(range(len(sources)), [_from(s) for s in sources], fontsize=8)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    for j in range(1, len(columns)):
        if columns[j][0] != columns[j - 1][0]:
            axes.axvline(j - 0.5, color="white", linewidth=4)


def contents(parts: Sequence[Part]) -> dict[str, str]:
    """Return what the records of some parts give, by name of file: transfer.md; nothing without ways of transfer."""
    return {"transfer.md": markdown(parts)} if has_transfer(parts) else {}


def write(parts: Sequence[Part], folder: Path) -> list[Path]:
    """Write transfer.md, and transfer.svg where Matplotlib is installed; nothing without ways of transfer."""
    files = contents(parts)
    if files and find_spec("matplotlib"):
        files["transfer.svg"] = still(parts)
    return write_texts(folder, files)


def has_transfer(parts: Sequence[Part]) -> bool:
    """Return whether there is a matrix to show: ways of transfer, and results."""
    return bool(models(parts)) and all(p.outcomes.metrics and p.outcomes.labels for p in parts)


def section(parts: Sequence[Part]) -> Section:
    """Return the section of a page: the matrices as tables."""
    body = []
    for model in models(parts):
        for metric in parts[0].outcomes.metrics:
            head, rows = _grid(ways(parts, model, metric))
            body.append(html_table(head, rows, f"{model}: {title(metric)}"))
    body += [f"<p>{html.escape(_legend(metric))}</p>" for metric in parts[0].outcomes.metrics[:1]]
    return Section("transfer", HEADING, "\n".join(body))
