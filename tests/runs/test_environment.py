"""The code that decides a run; energy: read off counters like those of the kernel, none where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark.runs import environment
from benchmark.runs.environment import Energy


def zone(root: Path, name: str, joules: float) -> Path:
    folder = root / name
    folder.mkdir(exist_ok=True)
    (folder / "energy_uj").write_text(f"{int(joules * 1e6)}\n")
    (folder / "max_energy_range_uj").write_text("262143328850\n")
    return folder


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_gpus", dict)


def test_what_only_tables_read_makes_no_run_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = Path.read_bytes
    monkeypatch.setattr(
        Path, "read_bytes", lambda path: (read.append(f"{path.parent.name}/{path.name}"), real(path))[1]
    )
    environment.code_version.__wrapped__("baselines.ease")
    assert {"evaluation/ranks.py", "evaluation/metrics.py", "data/split.py", "baselines/ease.py"} <= set(read)
    assert not {"evaluation/beyond.py", "evaluation/significance.py", "evaluation/user_values.py"} & set(read)


def test_the_energy_is_what_the_counters_moved_by(tmp_path: Path) -> None:
    zone(tmp_path, "intel-rapl:0", 1000)
    zone(tmp_path, "intel-rapl:1", 262143)
    zone(tmp_path, "intel-rapl:0:0", 5)  # a part of the first: not counted twice
    with Energy(tmp_path) as energy:
        zone(tmp_path, "intel-rapl:0", 4600)
        zone(tmp_path, "intel-rapl:1", 3599.85671)  # started again from 0
        zone(tmp_path, "intel-rapl:0:0", 3605)
    assert energy.watt_hours == pytest.approx(1 + (262143.328850 - 262143 + 3599.85671) / 3600)


def test_where_nothing_can_be_read_nothing_is_said(tmp_path: Path) -> None:
    with Energy(tmp_path) as energy:
        pass
    assert energy.watt_hours is None
    (zone(tmp_path, "intel-rapl:0", 1) / "energy_uj").write_text("not a number")
    with Energy(tmp_path) as energy:
        pass
    assert energy.watt_hours is None


def test_a_gpu_counts_too_and_one_that_fails_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> float:
        raise RuntimeError("not supported")

    readings = iter([100.0, 3700.0])
    monkeypatch.setattr(environment, "_gpus", lambda: {"gpu0": lambda: next(readings), "gpu1": broken})
    with Energy(tmp_path) as energy:
        pass
    assert energy.watt_hours == pytest.approx(1.0)
