"""Segments: who is cold, light, heavy; popular and new targets; user groups; numbers that agree with the whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from benchmark.errors import InputError
from benchmark.experiment import Experiment
from benchmark.reports.part import part
from benchmark.reports.segments import Segmentation, _popularity, segmentations
from benchmark.runs.record import RunStore
from benchmark.runs.run import prepare, run


def found(file: Path, *overrides: str) -> tuple[dict[str, Segmentation], object]:
    experiment = Experiment.load(file, ["seeds=[0]", *overrides])
    store = RunStore(file.parent / "runs")
    p = part(experiment, run(experiment, store.root), store, targets=True)
    return {s.title: s for s in segmentations(p, prepare(experiment, store.root).split)}, p


def with_users(tiny_experiment: Path) -> Path:
    rng = np.random.default_rng(0)
    users = pl.DataFrame({
        "user_id": [f"u{i}" for i in range(60)],
        "gender": [["F", "M", None][i % 3] for i in range(60)],
        "age": rng.integers(10, 80, 60),
        "zip_code": [f"{i:05d}" for i in range(60)],
    })  # fmt: skip
    users.write_csv(tiny_experiment.parent / "users.csv")
    text = tiny_experiment.read_text(encoding="utf-8")
    line = f"  users: {tiny_experiment.parent}/users.csv\n"
    tiny_experiment.write_text(text.replace("task:\n", line + "task:\n"), encoding="utf-8")
    return tiny_experiment


def test_the_parts_make_up_the_whole(tiny_experiment: Path) -> None:
    segments, p = found(with_users(tiny_experiment))
    assert list(segments) == ["History of the user", "Gender", "Age", "Popularity of the held-out item"]
    for title in ("History of the user", "Age"):  # no user is left out
        segment = segments[title]
        assert sum(segment.sizes) == len(p.outcomes.users)  # type: ignore[attr-defined]
        for label, values in zip(segment.labels, segment.values, strict=True):
            whole = p.outcomes.values[label, "ndcg@10"].mean()  # type: ignore[attr-defined]
            assert np.average(values, weights=segment.sizes) == pytest.approx(whole)
    for segment in segments.values():
        assert (np.array(segment.low) <= np.array(segment.values) + 1e-12).all()
        assert (np.array(segment.values) <= np.array(segment.high) + 1e-12).all()
    assert segments["Gender"].names == ["F", "M"]
    assert len(segments["Age"].names) == 4, "numbers are parted at the quartiles"
    target = segments["Popularity of the held-out item"]
    for label, values in zip(target.labels, target.values, strict=True):
        whole = p.outcomes.target_values[label].mean()  # type: ignore[attr-defined]
        assert np.average(values, weights=target.sizes) == pytest.approx(whole)


def test_popular_items_hold_half_of_the_interactions() -> None:
    counts = np.array([50, 20, 10, 10, 5, 5, 0])
    codes, names = _popularity(counts, np.arange(7))
    assert [names[c] for c in codes] == ["popular", "middle", "middle", "rare", "rare", "rare", "new"]


def test_groups_can_be_named(tiny_experiment: Path) -> None:
    file = with_users(tiny_experiment)
    segments, _ = found(file, "report={user_groups: [gender]}")
    assert list(segments) == ["History of the user", "Gender", "Popularity of the held-out item"]
    with pytest.raises(InputError, match="users have no 'gendre'; did you mean 'gender'"):
        found(file, "report={user_groups: [gendre]}")


def test_a_preference_task_is_measured_on_the_rows_of_each_segment(tiny_experiment: Path) -> None:
    file = with_users(tiny_experiment)
    segments, p = found(file, "task.kind=preference", "task.metrics=[auc, log_loss]", "models.mf.loss=bce")
    assert {label for s in segments.values() for label in s.labels} == {"popularity", "mf"}
    history = segments["History of the user"]
    whole = [p.outcomes.seeds[label, "auc"][0] for label in history.labels]  # type: ignore[attr-defined]
    assert np.nanmin(history.values) <= min(whole)
    assert np.nanmax(history.values) >= max(whole)
