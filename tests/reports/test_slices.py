"""The figure of slices: a colour a model, a style a way of updating, and an interval at every point."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.experiment import load_all
from benchmark.reports import slices
from benchmark.reports.part import Part
from tests.reports.made import of_values

FILE = """
name: later
dataset: {source: movielens-100k}
slices: 3
task: {split: {kind: prequential}, metrics: [ndcg@10]}
models:
  random: {class: baselines.random.RandomScores}
  ease: {class: baselines.ease.EASE, update: [retrained, static]}
  mf: {class: baselines.mf.MF, update: [retrained, static, continued]}
  item-knn: {class: baselines.item_knn.ItemKNN}
"""


def made(folder: Path) -> list[Part]:
    (folder / "later.yaml").write_text(FILE, encoding="utf-8")
    parts = []
    for n, experiment in enumerate(load_all(folder / "later.yaml")):
        rng = np.random.default_rng(n)
        parts.append(of_values(experiment, {label: rng.random(60) for label in experiment.models}))
    return parts


def drawn(parts: list[Part], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the axes of the figure."""
    figures: list[Any] = []
    monkeypatch.setattr(slices, "svg", lambda figure: figures.append(figure) or "")
    slices.still(parts)
    return figures[0].axes[0]


def test_a_model_has_one_colour_and_a_way_of_updating_one_style(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    parts = made(tmp_path)
    looks = [(line.get_color(), line.get_linestyle()) for line in drawn(parts, monkeypatch).lines]
    labels = list(parts[0].experiment.models)
    assert labels == [
        "random",
        "ease-retrained",
        "ease-static",
        "mf-retrained",
        "mf-static",
        "mf-continued",
        "item-knn",
    ]
    colors = [color for color, _ in looks]
    assert len(set(colors)) == 4
    assert colors[1] == colors[2]
    assert colors[3] == colors[4] == colors[5]
    assert [style for _, style in looks] == ["-", "-", ":", "-", ":", "--", "-"]


def test_every_point_has_its_interval_and_no_two_lie_on_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    parts = made(tmp_path)
    axes = drawn(parts, monkeypatch)
    bars = [segment for bar in axes.collections for segment in bar.get_segments()]
    assert len(bars) == 3 * 7
    places = [round(float(bar[0, 0]), 6) for bar in bars]
    assert len(set(places)) == len(places)
    assert {round(place) for place in places} == {1, 2, 3}
    head, rows = slices._grid(parts, "ndcg@10")
    assert head[1] == "slice 1"
    for label, bar in zip(parts[0].experiment.models, bars[::3], strict=True):
        told = next(row for row in rows if row[0] == label)[1]
        assert told.endswith(f"[{bar[0, 1]:.3f}, {bar[1, 1]:.3f}]"), "as in the table"
    assert "95 % interval" in axes.get_title(loc="left")


def test_a_slice_in_which_a_row_has_no_value_leaves_a_gap(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    parts = made(tmp_path)
    parts[1].outcomes.values["random", "ndcg@10"][:] = np.nan
    assert slices.still(parts) == slices.still(parts), "the same bytes whenever it is drawn"
