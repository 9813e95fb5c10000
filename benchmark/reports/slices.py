"""Prequential evaluation: every row over the slices of time, and their mean; slices.md, .svg, a page's section."""

from __future__ import annotations

import html
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path

import numpy as np

from benchmark.data.split import Prequential
from benchmark.evaluation.significance import bootstrap_intervals
from benchmark.reports import pipes
from benchmark.reports.budget_figures import MARKERS, SHAPES, spread
from benchmark.reports.files import write_texts
from benchmark.reports.names import title
from benchmark.reports.page import Section
from benchmark.reports.page import table as html_table
from benchmark.reports.part import Part
from benchmark.reports.report_figures import LINES
from benchmark.reports.stills import INK, canvas, dress, svg

HEADING = "Slice after slice"
NUMBER, DIFFERENCE = "{:.4f} [{:.3f}, {:.3f}]", "{:+.4f} [{:+.4f}, {:+.4f}]"
WIDTH = 0.6  # of a slice: over how much of the axis its points are spread
_STYLES = {"retrained": "-", "continued": "--", "static": ":"}


def has_slices(parts: Sequence[Part]) -> bool:
    """Return whether the parts are slices of one prequential split, with results."""
    sliced = all(isinstance(p.experiment.task.split, Prequential) for p in parts)
    if len(parts) < 2 or not sliced or not all(p.outcomes.metrics and p.outcomes.labels for p in parts):
        return False
    return len(set(_numbers(parts))) == len(parts) and len({str(p.experiment.dataset) for p in parts}) == 1


def _labels(parts: Sequence[Part]) -> list[str]:
    """Return the rows that have results in every slice."""
    return [name for name in parts[0].outcomes.labels if all(name in p.outcomes.labels for p in parts)]


def _numbers(parts: Sequence[Part]) -> list[int]:
    return [p.experiment.task.split.slice for p in parts if isinstance(p.experiment.task.split, Prequential)]


def _grid(parts: Sequence[Part], metric: str) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows: each slice with its interval over users, the mean over all judged users, and how far it
    is from the same model trained anew.
    """
    rows, labels = [], _labels(parts)
    every = {label: np.concatenate([p.outcomes.values[label, metric] for p in parts]) for label in labels}
    users = np.concatenate([p.outcomes.users.to_numpy() for p in parts])
    for label in labels:
        cells = [_told(p.outcomes.values[label, metric], p.outcomes.users.to_numpy(), NUMBER) for p in parts]
        cells.append(_told(every[label], users, NUMBER))
        update = parts[0].experiment.models[label].update
        anew = f"{label.removesuffix(f'-{update}')}-retrained"
        told = update != "retrained" and anew in every
        cells.append(_told(every[label] - every[anew], users, DIFFERENCE) if told else "")
        rows.append([label, *cells])
    return ["", *(f"slice {n}" for n in _numbers(parts)), "all slices", "less retrained"], rows


def _told(values: np.ndarray, users: np.ndarray, form: str) -> str:
    return form.format(*found) if (found := _mean(values, users)) else "–"


def _mean(values: np.ndarray, users: np.ndarray) -> tuple[float, float, float] | None:
    """Return the mean of (N,) values and its interval; a user who comes several times is drawn with all of them."""
    there = np.isfinite(values)
    if not there.any():
        return None
    _, user = np.unique(users[there], return_inverse=True)
    count, total = np.bincount(user), np.bincount(user, weights=values[there])
    mean = float(total.sum() / count.sum())
    # the ratio of two sums over users, each user counting with the influence on it
    ((low, high),) = bootstrap_intervals((mean + (total - mean * count) * len(count) / count.sum())[:, None])
    return mean, float(low), float(high)


def _legend(parts: Sequence[Part]) -> str:
    users = ", ".join(f"{len(p.outcomes.users):,}" for p in parts)
    return (
        f"Users judged by slice: {users}. All slices: the mean over the judged users of each slice, who may come again "
        "in later ones; the last column is its difference to the same model trained anew, paired over users. Intervals "
        "are 95 %, by resampling users."
    )


def contents(parts: Sequence[Part]) -> dict[str, str]:
    """Return what the records give, by name of file: slices.md; nothing without slices."""
    if not has_slices(parts):
        return {}
    out = [f"# {HEADING}", ""]
    for metric in parts[0].outcomes.metrics:
        head, rows = _grid(parts, metric)
        out += [f"## {title(metric)}", "", *pipes.table(head, rows), ""]
    return {"slices.md": "\n".join([*out, _legend(parts), ""])}


def _family(p: Part, label: str) -> str:
    """Return the model of a row, whatever its way of updating."""
    return label.removesuffix(f"-{p.experiment.models[label].update}")


def still(parts: Sequence[Part]) -> str:
    """Return the first metric over the slices as an SVG, a line a row, named at its end; a model has one colour.

    Raises:
        InputError: Matplotlib is not installed.
    """
    metric, x, labels = parts[0].outcomes.metrics[0], _numbers(parts), _labels(parts)
    families = dict.fromkeys(_family(parts[0], label) for label in labels)
    looks = dict(zip(families, zip(cycle(LINES), cycle(SHAPES)), strict=False))
    # side by side, so that no bar lies on another
    beside = dict(zip(labels, np.linspace(-WIDTH / 2, WIDTH / 2, len(labels)).tolist(), strict=True))
    with canvas(10, 6) as figure:
        axes = figure.add_subplot()
        ends = {}
        for label in labels:
            color, shape = looks[_family(parts[0], label)]
            found = [_mean(p.outcomes.values[label, metric], p.outcomes.users.to_numpy()) for p in parts]
            y, low, high = np.array([point or (np.nan,) * 3 for point in found]).T
            at = np.array(x) + beside[label]
            style = _STYLES[parts[0].experiment.models[label].update]
            axes.errorbar(at, y, yerr=[y - low, high - y], fmt="none", ecolor=color, alpha=0.4, elinewidth=1)
            axes.plot(at, y, color=color, linestyle=style, marker=MARKERS[shape], markersize=4, linewidth=1.6)
            ends[label] = at[-1], y[-1], color
        bottom, top = axes.get_ylim()
        places = spread({label: y for label, (_, y, _) in ends.items()}, (top - bottom) / 30)
        right = x[-1] + WIDTH / 2 + 0.12 * (len(x) - 1) / 4
        for label, (at_last, last, color) in ends.items():
            axes.annotate(
                label, (at_last, last), (right, places[label]), color=INK, va="center", fontsize=9.5,
                annotation_clip=False, arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.7, "shrinkB": 4},
            )  # fmt: skip
        axes.set_xticks(x, [f"slice {n}" for n in x])
        axes.set_ylabel(title(metric))
        ways = "solid: retrained, dashed: continued, dotted: static"
        dress(axes, f"{title(metric)}, slice after slice; {ways}; bars: 95 % interval over users")
        return svg(figure)


def write(parts: Sequence[Part], folder: Path) -> list[Path]:
    """Write slices.md, and slices.svg where Matplotlib is installed; nothing without slices."""
    files = contents(parts)
    if files and find_spec("matplotlib"):
        files["slices.svg"] = still(parts)
    return write_texts(folder, files)


def section(parts: Sequence[Part]) -> Section:
    """Return the section of a page: a table a metric."""
    body = [html_table(*_grid(parts, metric), caption=title(metric)) for metric in parts[0].outcomes.metrics]
    return Section("slices", HEADING, "\n".join([*body, f"<p>{html.escape(_legend(parts))}</p>"]))
