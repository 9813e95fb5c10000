"""Trials in Weights & Biases, read back by W&B's own reader; and W&B that is down, silent or without disk."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmark.experiment import Experiment
from benchmark.runs.record import RunStore
from benchmark.runs.run import prepare
from benchmark.sweeps.mirror import run_id
from benchmark.sweeps.study import OUTCOME
from benchmark.sweeps.sweep import SweepState, search
from tests.runs.test_mirror import artifacts_of, read_back
from tests.runs.test_run import BROKEN
from tests.sweeps.test_executors import ROOT, stored
from tests.test_cli import levelfield

pytest.importorskip("optuna")
pytest.importorskip("wandb")

SEARCH = """\
models:
  ease: {class: baselines.ease.EASE, search: {l2: {low: 1, high: 1000, log: true}}}
  mf:
    class: baselines.mf.MF
    embedding_size: 8
    search: {learning_rate: {low: 1.0e-3, high: 0.5, log: true}, embedding_size: [4, 8]}
  broken: {class: broken_model.Broken, search: {trainer.max_epochs: [1, 2, 3]}}
seeds: [0]
trainer: {max_epochs: 3}
sweep: {trials: 4, pruner: hyperband}
"""


@pytest.fixture
def file(tiny_experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "broken_model.py").write_text(BROKEN, encoding="utf-8")
    text = tiny_experiment.read_text(encoding="utf-8").partition("models:")[0] + SEARCH
    tiny_experiment.write_text(text, encoding="utf-8")
    return tiny_experiment


def searched(file: Path, runs: Path, *overrides: str) -> SweepState:
    experiment = Experiment.load(file, overrides)
    state = SweepState(experiment, prepare(experiment, runs), runs)
    search(state)
    return state


def test_every_trial_is_a_run_that_holds_what_its_record_holds(file: Path, tmp_path: Path) -> None:
    state = searched(file, tmp_path / "runs", "tracking={wandb: {project: test}}")
    files = {f.name: f for f in (tmp_path / "runs" / "wandb").rglob("*.wandb")}
    store, seen = RunStore(tmp_path / "runs"), set()
    for study in state.studies.values():
        for trial in study.trials():
            history, summary, config = read_back(files[f"run-{run_id(study, trial)}.wandb"])
            outcome = trial.user_attrs[OUTCOME]
            record = store.get(outcome["key"])
            assert record is not None
            assert config["search"] == outcome["values"]
            assert config["key"] == record.key
            for metric in ("ndcg@10", "auc"):
                curve = [row[f"valid/{metric}"] for row in history if f"valid/{metric}" in row]
                assert curve == pytest.approx([row[metric] for row in record.curve])
                if record.status != "failed":
                    assert summary[f"valid/{metric}"] == pytest.approx(record.metrics["valid"][metric])
            assert not any(name.startswith("test/") for name in summary)
            assert summary["state"] == {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}[trial.state.name]
            assert summary["error"] == record.error
            assert summary["epochs"] == record.epochs
            assert summary["seconds"] == pytest.approx(record.stage_seconds)
            seen.add(summary["state"])
    assert seen == {"complete", "pruned", "failed"}, "the example shows all three"
    assert len(files) == 12
    group = files[f"run-{run_id(study, trial)}.wandb"].read_bytes()
    assert b"tiny/broken" in group, "grouped by study"


def test_the_same_command_mirrors_nothing_twice_and_what_was_not_mirrored(file: Path, tmp_path: Path) -> None:
    searched(file, tmp_path / "runs")  # without W&B
    searched(file, tmp_path / "runs", "tracking={wandb: {project: test}}")
    wandb = tmp_path / "runs" / "wandb"
    assert len(list((wandb / "trials").iterdir())) == 12
    searched(file, tmp_path / "runs", "tracking={wandb: {project: test}}")
    assert len(list(wandb.rglob("*.wandb"))) == 12


def test_the_summary_run_holds_the_table_and_the_figures(file: Path, tmp_path: Path) -> None:
    text = file.read_text(encoding="utf-8").replace("trials: 4", "trials: 8").replace("hyperband", "none")
    file.write_text("".join(line + "\n" for line in text.splitlines() if "broken" not in line), encoding="utf-8")
    runs, results = tmp_path / "runs", tmp_path / "results"
    told = ["tracking={wandb: {project: test}}", "--runs", runs, "--results", results]
    done = levelfield("sweep", file, *told)
    assert done.returncode == 0, done.stderr
    (mark,) = (runs / "wandb" / "summaries").iterdir()
    (found,) = (runs / "wandb").rglob(f"run-{mark.name}.wandb")
    _, summary, _ = read_back(found)
    assert summary["comparison._type"] == "table-file"
    rows = json.loads((found.parent / "files" / summary["comparison.path"]).read_text())
    assert rows["columns"][:2] == ["Model", "NDCG@10"]
    assert [row[0] for row in rows["data"]] == ["ease", "mf"]
    assert {"Quality against cost.path", "Seeds and intervals.path", "Training curves.path"} <= set(summary)
    artifacts = artifacts_of(found)
    assert {"table.md", "table.html", "manifest.json", "sweep.md", "trials.csv"} <= artifacts["tiny-results"]
    records = {f"{path.parent.name}.json" for path in runs.glob("*/record.json")}
    assert artifacts["tiny-records"] <= records
    assert len(artifacts["tiny-records"]) == 2, "the runs of the table, not the trials"
    assert {"ease: History.path", "ease: Slices.path", "mf: Parallel coordinates.path", "mf: Importance.path"} <= set(
        summary
    )


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes every connection and never answers."""
    server = socket.create_server(("127.0.0.1", 0))
    kept: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                kept.append(server.accept()[0])
            except OSError:
                return

    threading.Thread(target=accept, daemon=True).start()
    yield f"http://127.0.0.1:{server.getsockname()[1]}"
    server.close()
    for connection in kept:
        connection.close()


def sweep_online(file: Path, tmp_path: Path, address: str) -> str:
    """Sweep in a process of its own, since W&B reads its settings once a process; return what it says."""
    environment = {**os.environ, "WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": address, "PYTHONPATH": str(tmp_path)}
    code = "import benchmark.sweeps.mirror as m; m.PATIENCE = 1.0; from benchmark.cli import main; main()"
    told = ["tracking={wandb: {project: test}}", "--runs", tmp_path / "runs", "--results", tmp_path / "results"]
    done = subprocess.run(
        [sys.executable, "-c", code, "sweep", *map(str, [file, *told])],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout + done.stderr


def ended(tmp_path: Path) -> list[float]:
    """Return the moments at which the trials of mf ended, as seconds behind the first."""
    times = [t.datetime_complete.timestamp() for t in stored(tmp_path / "runs") if "learning_rate" in t.params]
    return [t - times[0] for t in times]


def test_a_silent_server_delays_no_trial(file: Path, tmp_path: Path, silent: str) -> None:
    said = sweep_online(file, tmp_path, silent)
    assert "mf trial 3" in said
    assert ended(tmp_path)[-1] < 15, "W&B's time-out of 20 s was not waited for"
    assert "Weights & Biases is slow; the same command mirrors the rest" in said
    assert (tmp_path / "results" / "tiny" / "table.md").is_file()


def test_a_server_that_is_down_is_said_once_and_fails_nothing(file: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    said = sweep_online(file, tmp_path, f"http://127.0.0.1:{port}")
    assert len(ended(tmp_path)) == 4
    assert said.count("Weights & Biases") == 1, said
    assert (tmp_path / "results" / "tiny" / "table.md").is_file()


def test_without_disk_for_the_mirror_trials_go_on(file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    blocked = tmp_path / "runs" / "wandb"
    blocked.parent.mkdir()
    blocked.write_text("a file where the mirror's folder should be")
    state = searched(file, tmp_path / "runs", "tracking={wandb: {project: test}}")
    assert state.studies["mf"].counts()["failed"] == 0
    assert caplog.text.count("Weights & Biases does not answer") == 1
