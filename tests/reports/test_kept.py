"""What a row keeps of the one it was made from, in the line under the table."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from benchmark.reports.part import part
from benchmark.reports.table import build
from tests.reports.made import EXPERIMENT, ranks, stored

MODELS = {
    **EXPERIMENT["models"],  # type: ignore[dict-item]
    "small": {"class": "baselines.distilled.Distilled", "teacher": "llm", "student": {"class": "baselines.mf.MF"}},
    "int8": {"class": "benchmark.llm.compressed.Compressed", "of": "llm"},
}
FRAMES = {
    "llm": lambda seed: ranks(1.0, noise=seed),
    "small": lambda seed: ranks(0.7, noise=seed),
    "int8": lambda seed: ranks(1.0, noise=seed),
}


def _record(label: str, seed: int) -> dict[str, Any]:
    size, ms = {"llm": (90.0, 20.0), "small": (0.675, 0.01), "int8": (22.5, 10.0 + 2 * seed)}[label]
    return {"model_report": {"size_mb": size}, "ms_per_user": ms}


def test_shares_of_quality_size_and_time_stand_under_the_table(tmp_path: Path) -> None:
    table = build([part(*stored(tmp_path, FRAMES, {"models": MODELS}, record=_record))])
    lines = dict(note.split(": ", 1) for note in table.notes)
    assert "llm" not in lines
    same = "+0.0000 [+0.0000, +0.0000], 95 % paired over users"
    assert lines["int8"] == f"keeps 100.0 % of the NDCG@10 ({same}), 25 % of the size, 55 % of the ms/user of llm"
    ours, theirs = ({r.label: r for r in table.rows}[label].cells[0].mean for label in ("small", "llm"))
    assert ours is not None
    assert theirs is not None
    quality = 100 * ours / theirs
    assert lines["small"].startswith("keeps ")
    assert float(lines["small"].split()[1]) == pytest.approx(quality, rel=0.02)
    assert lines["small"].endswith(", 0.75 % of the size, 0.05 % of the ms/user of llm")


def test_the_share_of_quality_has_the_difference_with_its_interval_paired_over_users(tmp_path: Path) -> None:
    p = part(*stored(tmp_path, FRAMES, {"models": MODELS}, record=_record))
    (line,) = (note for note in build([p]).notes if note.startswith("small: "))
    found = re.search(r"% of the NDCG@10 \(([+-]\S+) \[(\S+), (\S+)\], 95 % paired over users\), ", line)
    assert found is not None, line
    difference, low, high = map(float, found.groups())
    gains = p.outcomes.values["small", "ndcg@10"] - p.outcomes.values["llm", "ndcg@10"]
    assert difference == pytest.approx(gains.mean(), abs=5e-5)
    spread = 1.96 * gains.std(ddof=1) / len(gains) ** 0.5
    assert (low, high) == pytest.approx((difference - spread, difference + spread), abs=0.1 * spread)
    apart = 1.96 * sum(p.outcomes.values[name, "ndcg@10"].var() / len(gains) for name in ("small", "llm")) ** 0.5
    assert high - low < 1.5 * apart, "the users are the same in both"


def test_one_user_has_no_interval(tmp_path: Path) -> None:
    frames = {label: (lambda seed, frame=frame: frame(seed).head(1)) for label, frame in FRAMES.items()}
    lines = build([part(*stored(tmp_path, frames, {"models": MODELS}, record=_record))]).notes
    said = [line for line in lines if "keeps" in line]
    assert said
    assert not any("paired" in line for line in said)


def test_nothing_is_said_where_the_other_has_not_run(tmp_path: Path) -> None:
    frames = {label: frame for label, frame in FRAMES.items() if label != "llm"}
    table = build([part(*stored(tmp_path, frames, {"models": MODELS}, record=_record))])
    assert not any("keeps" in note for note in table.notes)
