"""Bench of the data path: time and peak memory from a file of interactions to an epoch of pairwise batches.

Each case runs in a process of its own; memory is the process's peak above what it held once everything was imported.
Reference: the same work at a twentieth of the size (is time linear?), and a plain polars script that reads the file,
keeps the last row of each pair and cuts at the same two times, but checks nothing and gives no ids.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
N_ITEMS = 20_000

OURS = """
from pathlib import Path
from benchmark.data.filters import Filters
from benchmark.data.sources import Csv
from benchmark.data.split import Temporal, split
from benchmark.data.batch import BatchSpec
from benchmark.data.datamodule import RecDataModule
from benchmark.data.task import Task

def work(path):
    data = split(Filters().apply(Csv(interactions=Path(path)).load()), Temporal())
    module = RecDataModule(data, Task(), BatchSpec(kind="pairwise", batch_size=8192))
    rows = sum(len(batch) for batch in module.train_dataloader())
    assert rows == len(data.train)
    return sum(len(part) for part in (data.train, data.valid, data.test))
"""
PLAIN = """
import polars as pl

def work(path):
    rows = pl.read_parquet(path) if path.endswith("parquet") else pl.read_csv(path)
    rows = rows.sort("timestamp").unique(["user_id", "item_id"], keep="last")
    low, high = rows["timestamp"].quantile(0.8), rows["timestamp"].quantile(0.9)
    train, rest = rows.filter(pl.col("timestamp") < low), rows.filter(pl.col("timestamp") >= low)
    parts = (train, rest.filter(pl.col("timestamp") < high), rest.filter(pl.col("timestamp") >= high))
    return sum(part.sort("user_id", "timestamp").height for part in parts)
"""
MEASURE = """
import json, resource, sys, time
unit = 1 if sys.platform == "darwin" else 1024
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started, used = time.perf_counter(), time.process_time()
left = work(sys.argv[1])
seconds, cpu = time.perf_counter() - started, time.process_time() - used
peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit
print(json.dumps({"seconds": seconds, "cpu": cpu, "peak": peak, "left": left}))
"""


def write(path: Path, n: int) -> None:
    """Write n interactions of n / 100 users with 20,000 items, ratings and times in whole seconds."""
    import polars as pl

    rng = np.random.default_rng(0)
    raw = pl.DataFrame(
        {
            "user_id": rng.integers(0, n // 100, n),
            # popularity falls off as in real catalogues
            "item_id": (N_ITEMS * rng.random(n) ** 2).astype(np.int64),
            "rating": rng.integers(1, 6, n),
            "timestamp": rng.integers(1_000_000_000, 1_300_000_000, n),
        }
    )
    if path.suffix == ".parquet":
        raw.write_parquet(path)
    else:
        raw.write_csv(path)


def write_aside(path: Path, n: int) -> None:
    """Write the file in a process of its own: a child's peak starts at its parent's."""
    subprocess.run([sys.executable, __file__, "--write", str(path), str(n)], check=True)


def measure(code: str, path: Path) -> dict[str, float]:
    """Return seconds (of the clock and of the processor), peak bytes above the imports, and the interactions left."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code + MEASURE, str(path)], env=environment, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def run(small: bool = False) -> list[dict[str, Any]]:
    """Return one row a case: what, reference, ours_s, reference_s, ratio, reach and note."""
    few, many = (50_000, 1_000_000) if small else (1_000_000, 20_000_000)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for suffix in ("csv", "parquet"):
            paths = {n: Path(folder) / f"{n}.{suffix}" for n in (few, many)}
            for n, path in paths.items():
                write_aside(path, n)
            ours = {n: measure(OURS, path) for n, path in paths.items()}
            plain = measure(PLAIN, paths[many])
            each = ours[many]["peak"] / many
            growth = ours[many]["seconds"] / ours[few]["seconds"]
            rows.append(
                {
                    "what": f"{suffix}: prepare, split, batches, {many:,} rows",
                    "reference": f"the same, {few:,} rows (linear: 20)",
                    "ours_s": ours[many]["seconds"],
                    "reference_s": ours[few]["seconds"],
                    "ratio": growth,
                    "reach": 22,
                    "note": f"processor time {ours[many]['cpu']:.1f} s and {ours[few]['cpu']:.1f} s; "
                    f"{ours[many]['left']:,} interactions left",
                }
            )
            rows.append(
                {
                    "what": f"{suffix}: peak memory in bytes an interaction, {many:,} rows",
                    "reference": "a plain polars script without ids and batches",
                    "ratio": each,
                    "reach": 150,
                    "note": f"the plain script: {plain['peak'] / many:.0f} bytes, {plain['seconds']:.0f} s",
                }
            )
            for path in paths.values():
                path.unlink()
    return rows


if __name__ == "__main__":
    if "--write" in sys.argv:
        write(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        for row in run(small="--small" in sys.argv):
            print(row)
