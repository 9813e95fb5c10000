"""The figure of transfer: colour where a difference can be told, and what colour and bold mean under it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmark.experiment import load_all
from benchmark.reports import transfer
from tests.data.test_sources_joined import write_domain
from tests.reports.made import of_values


def test_a_cell_that_cannot_be_told_from_the_target_alone_has_no_colour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    blocks = {name: write_domain(tmp_path, name) for name in ("boats", "cars")}
    file = tmp_path / "moved.yaml"
    file.write_text(
        f"name: moved\ndataset: {{source: joined, domains: {blocks}}}\ntargets: [boats]\n"
        "task: {split: {kind: leave_last_out}, metrics: [ndcg@10]}\n"
        "models:\n  mf: {class: baselines.mf.MF, transfer: {budgets: [7, null]}}\n",
        encoding="utf-8",
    )
    (experiment,) = load_all(file)
    noise = np.random.default_rng(0).normal(size=(2, 100)) * 0.1
    values = {
        "mf-7": np.full(100, 0.2),
        "mf-from-cars-7": np.full(100, 0.3),
        "mf-joint-7": 0.2 + noise[0],
        "mf": np.zeros(100),
        "mf-from-cars": np.full(100, 0.1),
        "mf-joint": noise[1],
    }
    figures: list[Any] = []
    monkeypatch.setattr(transfer, "svg", lambda figure: figures.append(figure) or "")
    transfer.still([of_values(experiment, values)])
    axes = figures[0].axes[0]
    shares = np.asarray(axes.images[0].get_array())
    assert [label.get_text() for label in axes.get_yticklabels()] == ["the target alone", "from cars", "joint"]
    np.testing.assert_allclose(shares, [[0, 0], [0.5, 1], [0, 0]])  # alone .2 and 0: half of it, and all of it
    bold = {text.get_position() for text in axes.texts if text.get_fontweight() == "bold"}
    assert bold == {(0, 1), (1, 1)}
    said = " ".join(figures[0].get_supxlabel().split())
    for words in ("Purple: better than the target alone", "orange: worse", "bold", "(0: than with all"):
        assert words in said
