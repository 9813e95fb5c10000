"""Bench of the table and the report: 30 models x 3 seeds x 100,000 users, each in a process of its own.

The ranks are made up, the data and the records are real files. Reference: importing what runs import and reading the
same 90 files, their means taken; what is wanted is 20 seconds and 2 GB.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmark.data.batch import BatchSpec
from benchmark.data.datamodule import RecDataModule
from benchmark.experiment import Experiment
from benchmark.runs.record import RANKS, TOP, RunRecord, RunStore
from benchmark.runs.run import plan, prepare
from tests.bench.comparison import row

N_ITEMS, SEEDS, PER_USER = 20_000, 3, 12
WANTED = 20.0  # seconds
FILE = """\
name: big
dataset: {{source: csv, interactions: {root}/interactions.csv, items: {root}/items.csv, users: {root}/users.csv}}
task: {{split: {{kind: leave_last_out}}, metrics: [ndcg@10, auc, recall@10, recall@20, mrr]}}
seeds: [0, 1, 2]
models:
  popularity: {{class: baselines.popularity.Popularity}}
"""
PLAIN = """
import sys
from pathlib import Path
import benchmark.runs.run
import polars as pl
for path in Path(sys.argv[1]).glob("*/ranks.parquet"):
    pl.read_parquet(path).select((pl.col("above") < 10).mean())
"""
MEASURE = """
import resource, sys
from benchmark.cli import main
try:
    main()
except SystemExit as stop:
    assert not stop.code
unit = 1 if sys.platform == "darwin" else 1024
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
"""


def build(root: Path, models: int, users: int) -> Path:
    """Write data and the records of made-up runs under ``root``; return the experiment file."""
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(users), PER_USER)
    columns = {
        "user_id": [f"user{u}" for u in user],
        "item_id": [f"item{i}" for i in (rng.pareto(1.0, len(user)) * 50).astype(int) % N_ITEMS],
        "timestamp": np.tile(np.arange(PER_USER), users) + rng.integers(0, 1000, users).repeat(PER_USER) * 100,
    }
    pl.DataFrame(columns).unique(["user_id", "item_id"], keep="first", maintain_order=True).write_csv(
        root / "interactions.csv"
    )
    items = [f"item{i}" for i in range(N_ITEMS)]
    titles = [f"The title of item number {i} ({1900 + i % 120})" for i in range(N_ITEMS)]
    pl.DataFrame({"item_id": items, "title": titles}).write_csv(root / "items.csv")
    about = {"gender": rng.choice(["F", "M"], users), "age": rng.integers(10, 80, users)}
    pl.DataFrame({"user_id": [f"user{u}" for u in range(users)], **about}).write_csv(root / "users.csv")
    text = FILE.format(root=root)
    text += "".join(f"  mf-{i}: {{class: baselines.mf.MF, embedding_size: {8 + i}}}\n" for i in range(models - 1))
    (root / "big.yaml").write_text(text, encoding="utf-8")
    fill(Experiment.load(root / "big.yaml"), RunStore(root / "runs"))
    return root / "big.yaml"


def fill(experiment: Experiment, store: RunStore) -> None:
    """Put a record with made-up ranks into the store for every run of the experiment."""
    data = prepare(experiment, store.root)
    judged = RecDataModule(data.split, experiment.task, BatchSpec("pointwise", max_history=1)).rows("test").user.numpy()
    test = data.split.test
    kept = np.isin(test.user, judged)
    names, ids = data.split.users["user_id"].gather(test.user[kept]), data.split.items["item_id"]
    n, hard = int(kept.sum()), np.random.default_rng(0).gamma(1, 1, int(kept.sum()))
    held_out, metrics = ids.gather(test.item[kept]), experiment.task.metrics
    curve = [{"epoch": e, **dict.fromkeys(metrics, 0.1 + 0.01 * e)} for e in range(20)]
    for k, planned in enumerate(plan(experiment, data, store)):
        rng = np.random.default_rng(k)
        above = np.minimum(hard * rng.gamma(1, 1, n) * (300 + 20 * (k // SEEDS)), N_ITEMS - 1).astype(np.int32)
        ranks = {"user": names, "item": held_out, "above": above, "ties": np.zeros(n, np.int32)}
        frame = pl.DataFrame({**ranks, "n_candidates": np.full(n, N_ITEMS, np.int32)})
        path = store.write_parquet(planned.key, RANKS, frame)
        lists = {"user": names.gather(np.repeat(np.arange(n), 20)), "rank": np.tile(np.arange(20, dtype=np.int32), n)}
        top = pl.DataFrame({**lists, "item": ids.gather(rng.integers(0, len(ids), 20 * n))})
        store.write_parquet(planned.key, TOP, top)
        record = RunRecord(
            key=planned.key, status="finished", experiment=experiment.name, label=planned.spec.label, group="any",
            seed=planned.spec.seed, spec=planned.spec.resolved(), data_fingerprint=data.fingerprint,
            split_fingerprint=data.split_fingerprint, candidates_fingerprint="full", code_version="",
            split_report=data.split.report, data_steps=[], curve=curve, epochs=20, best_epoch=19,
            metrics={"valid": dict.fromkeys(metrics, 0.3 - k / 1000), "test": {}}, judged={"test": n},
            stage_seconds={"fit": 1.0 + k}, ms_per_user=0.1 * (k + 1), peak_memory={"host": 2**30},
            parameters={"trainable": 1000 * (k + 1), "total": 1000 * (k + 1)},
            environment={"versions": {}, "commit": {"commit": None, "dirty": False}},
            files={RANKS: hashlib.sha256(path.read_bytes()).hexdigest()},
        )  # fmt: skip
        store.put(record)


def timed(code: str, *words: str) -> tuple[float, int]:
    """Return the seconds of a process and the peak memory it prints, 0 without."""
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - begin
    last = done.stdout.rsplit("peak ", 1)
    return seconds, int(last[1]) if len(last) > 1 else 0


def run(small: bool = False) -> list[dict[str, Any]]:
    """Return a line for the table and one for table and report together."""
    models, users = (4, 2000) if small else (30, 100_000)
    out = []
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        file = build(root, models, users)
        told = ["--runs", str(root / "runs"), "--results", str(root / "results")]
        floor, _ = timed(PLAIN, str(root / "runs"))
        what = f"{models} models x {SEEDS} seeds x {users:,} users"
        for command in ("table", "report"):
            seconds, peak = timed(MEASURE, command, str(file), *told)
            note = f"peak {peak / 1e9:.1f} GB (2 wanted); {WANTED:g} s wanted"
            if command == "report":
                size = (root / "results" / "big" / "report.html").stat().st_size
                note += f"; page {size / 1e6:.1f} MB (5 wanted)"
            both = "levelfield report (tables included)" if command == "report" else "levelfield table"
            reference = f"imports, reading the {models * SEEDS} files and one mean of each"
            out.append(row(f"{both}: {what}", reference, seconds, floor, WANTED / floor, note))
    return out
