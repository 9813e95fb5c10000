"""The mirror: an offline W&B run, read back, holds what the record holds."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmark.experiment import Experiment, WandbConfig
from benchmark.runs import mirror
from benchmark.runs.run import run


def inspected(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the records of an offline run's file, by W&B's own reader."""
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", str(file)]
    yield from map(json.loads, subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines())


def artifacts_of(file: Path) -> dict[str, set[str]]:
    """Return the files of each artifact of an offline run."""
    artifacts = [record["artifact"] for record in inspected(file) if "artifact" in record]
    return {told["name"]: {entry["path"] for entry in told["manifest"]["contents"]} for told in artifacts}


def read_back(file: Path) -> tuple[list[dict[str, float]], dict[str, Any], dict[str, Any]]:
    """Return the history, summary and config of an offline run's file."""
    history, summary, config = [], {}, {}
    for record in inspected(file):
        if "history" in record:
            history.append(record["history"]["item"])
        elif "summary" in record:
            summary.update(record["summary"].get("update", {}))
        elif "run" in record:
            config.update(record["run"]["config"]["update"])
        elif "config" in record:
            config.update(record["config"]["update"])
    return history, summary, config


def test_an_offline_run_holds_what_the_record_holds(
    tiny_experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setattr("benchmark.runs.run._SAID", set())
    experiment = Experiment.load(tiny_experiment, ["seeds=[0]", "tracking={wandb: {project: test}}"])
    console = Console(record=True, width=120)
    records = run(experiment, tmp_path / "runs", console)
    assert console.export_text().count("no WANDB_API_KEY") == 1, "said once"
    files = {file.name: file for file in (tmp_path / "runs" / "wandb").rglob("*.wandb")}
    assert len(files) == len(records)
    for record in records:
        history, summary, config = read_back(files[f"run-{record.key}.wandb"])
        for name, value in record.metrics["test"].items():
            assert summary[f"test/{name}"] == pytest.approx(value)
        curve = [row["valid/ndcg@10"] for row in history if "valid/ndcg@10" in row]
        assert curve == pytest.approx([row["ndcg@10"] for row in record.curve])
        assert config["class"] == record.spec["class"]
        assert config["key"] == record.key
        assert summary["status"] == "finished"
        assert summary["ms_per_user"] == pytest.approx(record.ms_per_user)


def test_without_a_key_online_becomes_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert mirror.mode(WandbConfig()) == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert mirror.mode(WandbConfig()) == "online"
    assert mirror.mode(WandbConfig(mode="disabled")) == "disabled"
    assert mirror.mode(None) == "disabled"


def test_a_mirror_that_cannot_be_opened_does_not_stop_a_run(
    tiny_experiment: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "runs" / "wandb"
    blocked.parent.mkdir()
    blocked.write_text("a file where the mirror's folder should be")
    overrides = ["seeds=[0]", "tracking={wandb: {mode: offline}}"]
    records = run(Experiment.load(tiny_experiment, overrides), tmp_path / "runs")
    assert {r.status for r in records} == {"finished"}
    assert "the run goes on without it" in caplog.text
