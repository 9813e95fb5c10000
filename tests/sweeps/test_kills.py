"""Sweeps that are killed at random moments end in what an uninterrupted one ends in: real processes, SIGKILL."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna")

MODELS = """\
models:
  popularity: {class: baselines.popularity.Popularity}
  ease: {class: baselines.ease.EASE, search: {l2: {low: 1, high: 1000, log: true}}}
  mf:
    class: baselines.mf.MF
    embedding_size: 8
    learning_rate: 0.01
    search:
      learning_rate: {low: 1.0e-3, high: 0.5, log: true}
      embedding_size: {low: 4, high: 32, power_of_two: true}
      loss: [bpr, bce]
seeds: [0, 1]
trainer: {max_epochs: 27, early_stopping: {patience: 27}}
"""


def levelfield(arguments: list[str]) -> None:
    """What a process of the test does, with one thread, as beside other workers."""
    import torch

    from benchmark.cli import main

    torch.set_num_threads(1)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    sys.argv = ["levelfield", *arguments]
    main()


@pytest.fixture(scope="module")
def start() -> Any:
    """Starts processes from one that has imported everything: twenty kills would import it twenty times."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["benchmark.cli", "benchmark.sweeps.sweep", "baselines.mf", "baselines.ease", "optuna"]
    )

    def start(arguments: list[object]) -> Any:
        process = context.Process(target=levelfield, args=([str(a) for a in arguments],))
        process.start()
        return process

    return start


def kill(process: Any) -> None:
    """SIGKILL; children that it has are left to notice by themselves."""
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def cells(folder: Path) -> list[dict[str, str]]:
    """Return the table without what clocks decide."""
    with open(folder / "results" / "tiny" / "table.csv", encoding="utf-8") as file:
        return [r for r in csv.DictReader(file) if r["column"] not in ("train_seconds", "ms_per_user")]


def trials(where: str) -> list[Any]:
    """Return name, number, state, parameters, values and curve of every trial that a storage holds."""
    import optuna

    from benchmark.sweeps.storage import open_storage

    storage = open_storage(where)
    out: list[Any] = []
    for name in sorted(study.study_name for study in storage.get_all_studies()):
        study = optuna.load_study(study_name=name, storage=storage)
        out += [(name, t.number, t.state.name, t.params, t.values, t.intermediate_values) for t in study.trials]
    return out


def experiment_file(tiny_experiment: Path, sweep: str) -> Path:
    text = tiny_experiment.read_text(encoding="utf-8").partition("models:")[0]
    tiny_experiment.write_text(f"{text}{MODELS}sweep: {sweep}\n", encoding="utf-8")
    return tiny_experiment


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sampler", "pruner", "database", "kills"),
    [("tpe", "hyperband", False, 20), ("gp", "median", True, 6), ("cma-es", "successive-halving", False, 6)],
)
def test_a_killed_sweep_ends_like_an_uninterrupted_one(
    sampler: str, pruner: str, database: bool, kills: int, tiny_experiment: Path, tmp_path: Path, start: Any
) -> None:
    file = experiment_file(tiny_experiment, f"{{trials: 12, startup_trials: 3, sampler: {sampler}, pruner: {pruner}}}")

    def storage(folder: Path) -> str:
        return f"sqlite:///{folder}/studies.db" if database else f"{folder}/runs/studies/tiny.journal"

    def arguments(folder: Path) -> list[object]:
        folder.mkdir(exist_ok=True)
        told: list[object] = ["sweep", file, "--runs", folder / "runs", "--results", folder / "results"]
        return [*told, "--storage", storage(folder)] if database else told

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = start(arguments(whole))
    process.join()
    assert process.exitcode == 0
    moments, limit, done = random.Random(), 0.3, 0
    process = start(arguments(killed))
    while done < kills:
        before = len(list((killed / "runs").glob("*/record.json")))
        process.join(moments.uniform(0.05, limit))  # some die in their first steps
        if process.exitcode is not None:
            break
        kill(process)
        done += 1
        progress = len(list((killed / "runs").glob("*/record.json"))) - before
        limit *= 1.3 if progress == 0 else 0.6 if progress > 1 else 1.0  # on average one of them ends one trial
        process = start(arguments(killed))
    process.join()
    assert process.exitcode == 0
    assert done >= 0.7 * kills, f"finished after {done} kills of {kills}"
    assert trials(storage(killed)) == trials(storage(whole))
    assert cells(killed) == cells(whole)
    assert {state for _, _, state, *_ in trials(storage(killed))} <= {"COMPLETE", "PRUNED"}
    for path in (killed / "runs").glob("*/record.json"):
        record = json.loads(path.read_text())
        assert record["test_reads"] == (1 if record["study"] is None else 0)
