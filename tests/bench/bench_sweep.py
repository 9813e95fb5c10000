"""Sweeps: what a trial costs besides its training, two workers against one, Hyperband against no pruning."""

from __future__ import annotations

import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmark.runs.record import RunStore
from benchmark.sweeps.samplers import pruner
from benchmark.sweeps.storage import open_storage
from benchmark.sweeps.study import OUTCOME
from tests.bench.comparison import row

FILE = """\
name: bench
dataset: {source: movielens-100k, filters: {min_user_interactions: 5}}
task:
  split: {kind: temporal, valid: 0.1, test: 0.1}
  metrics: [ndcg@10, auc]
  min_history: 1
models:
"""
MINILM = """\
  model:
    class: benchmark.llm.two_tower.TwoTower
    item_fields: [title, genres]
    limit_train: 500
    trainer: {max_epochs: 1}
    search: {learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}, peft.rank: [2, 4, 8, 16]}
"""
MF = """\
  model:
    class: baselines.mf.MF
    search:
      learning_rate: {low: 1.0e-4, high: 1.0e-1, log: true}
      embedding_size: {low: 8, high: 128, power_of_two: true}
      loss: [bpr, bce]
"""
RECORDED = Path(__file__).parents[2] / "results" / "bench" / "hyperband.json"


def run(small: bool = False) -> list[dict[str, Any]]:
    return [*_overhead(4 if small else 8), _workers(4 if small else 24), *_hyperband(3 if small else 40)]


def _sweep(folder: Path, models: str, sweep: str, *more: str, threads: int | None = None) -> list[Any]:
    """Sweep in a process of its own; return the finished trials."""
    import optuna

    file = folder / "bench.yaml"
    file.write_text(f"{FILE}{models}sweep: {sweep}\n", encoding="utf-8")
    environment = {**os.environ, **({} if threads is None else {"OMP_NUM_THREADS": str(threads)})}
    command = [sys.executable, "-c", "from benchmark.cli import main; main()", "sweep", str(file), *more]
    command += ["--runs", str(folder / "runs"), "--results", str(folder / "results")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    storage = open_storage(str(folder / "runs" / "studies" / "bench.journal"))
    return optuna.load_study(study_name="bench/model", storage=storage).trials


def _overhead(n: int) -> list[dict[str, Any]]:
    """Time between the ends of two trials, less what trainer.fit took."""
    rows = []
    for name, models in (("MiniLM with LoRA", MINILM), ("MF", MF)):
        with tempfile.TemporaryDirectory() as name_of_folder:
            folder = Path(name_of_folder)
            options = f"{{trials: {n}, pruner: none}}"
            trials = _sweep(folder, models, options, "trainer.max_epochs=2")
            store = RunStore(folder / "runs")
            besides = []
            for before, trial in itertools.pairwise(trials):
                record = store.get(trial.user_attrs[OUTCOME]["key"])
                assert record is not None
                wall = (trial.datetime_complete - before.datetime_complete).total_seconds()
                besides.append(wall - record.stage_seconds["fit"])
            ours = statistics.median(besides)
            fresh = _fresh(folder, models, store)
        rows.append(
            row(
                f"a trial of {name}, all but trainer.fit",
                "a fresh process a trial",
                ours,
                fresh,
                0.3 / fresh,
                f"0.3 s wanted; median of {len(besides)} trials behind the first, first {max(besides):.2f} s at most",
            )
        )
        print(rows[-1]["what"], f"{ours:.3f} s against {fresh:.2f} s", flush=True)
    return rows


def _fresh(folder: Path, models: str, store: RunStore) -> float:
    """Return what one run in a process of its own takes besides trainer.fit; the data is prepared already."""
    file = folder / "bench.yaml"
    seconds = []
    for seed in (101, 102):
        command = [sys.executable, "-c", "from benchmark.cli import main; main()", "run", str(file)]
        command += [f"seeds=[{seed}]", "trainer.max_epochs=2", "--defaults", "--runs", str(folder / "runs")]
        before = {path.parent.name for path in store.root.glob("*/record.json")}
        begun = time.perf_counter()
        subprocess.run(
            [*command, "--results", str(folder / "results")],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wall = time.perf_counter() - begun
        (new,) = {path.parent.name for path in store.root.glob("*/record.json")} - before
        record = json.loads((store.root / new / "record.json").read_text())
        seconds.append(wall - record["stage_seconds"]["fit"])
    return min(seconds)


def _workers(n: int) -> dict[str, Any]:
    """From the first trial's beginning to the last one's end, with the same trials."""
    walls = {}
    for workers in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            options = f"{{trials: {n}, sampler: random, pruner: none}}"
            more = ["trainer.max_epochs=8", "trainer.early_stopping.patience=8", "--workers", str(workers)]
            trials = _sweep(Path(folder), MF, options, *more)
            first, last = min(t.datetime_start for t in trials), max(t.datetime_complete for t in trials)
            walls[workers] = (last - first).total_seconds()
    gain = walls[1] / walls[2]
    note = f"{gain:.2f} x, 1.7 x wanted; {n} trials of MF on {os.cpu_count()} cores, one worker with all threads"
    return row("two workers", "one worker", walls[2], walls[1], 1 / 1.7, note)


def _recorded() -> list[list[float]]:
    """Return validation curves of 81 random configurations of MF over 27 epochs; recorded where there is no file."""
    if not RECORDED.exists():
        with tempfile.TemporaryDirectory() as folder:
            options = "{trials: 81, sampler: random, pruner: none}"
            more = ["trainer.max_epochs=27", "trainer.early_stopping.patience=27"]
            trials = _sweep(Path(folder), MF, options, *more)
        curves = [[round(v, 6) for _, v in sorted(t.intermediate_values.items())] for t in trials]
        RECORDED.write_text(json.dumps({"metric": "ndcg@10", "curves": curves}) + "\n", encoding="utf-8")
    return json.loads(RECORDED.read_text(encoding="utf-8"))["curves"]


def _hyperband(orders: int) -> list[dict[str, Any]]:
    """Replay the recorded curves in many orders: epochs that Hyperband trains, and the best value it finds."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    curves = _recorded()
    everything, optimum = sum(map(len, curves)), max(map(max, curves))
    spent, found = [], []
    for order in range(orders):
        study = optuna.create_study(
            study_name=f"order {order}", direction="maximize", pruner=pruner("hyperband", 3, 27)
        )
        epochs, best = 0, 0.0
        for curve in random.Random(order).sample(curves, len(curves)):
            trial = study.ask()
            for epoch, value in enumerate(curve, 1):
                epochs += 1
                trial.report(value, epoch)
                if epoch < len(curve) and trial.should_prune():
                    study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                    break
            else:
                study.tell(trial, max(curve))
                best = max(best, max(curve))
        spent.append(epochs)
        found.append(best / optimum)
    within = sum(f >= 0.99 for f in found)
    note = (
        f"epochs, not seconds; 81 recorded trials of MF (bench/hyperband.json) in {orders} orders, {min(spent):,} to "
        f"{max(spent):,}; best found {min(found):.3f} to 1 of the optimum, within 1 % in {within} of {orders}"
    )
    return [row("Hyperband's epochs", "no pruning", statistics.mean(spent), float(everything), 0.4, note)]
