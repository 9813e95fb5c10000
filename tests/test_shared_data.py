"""Real data with known trivial baselines: the whole path from file to metric must return the published figures."""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl
import pytest

from benchmark.experiment import Experiment
from benchmark.runs.record import RunStore
from benchmark.runs.run import run

SHARED = os.environ.get("LEVELFIELD_SHARED")
pytestmark = pytest.mark.skipif(not SHARED, reason="LEVELFIELD_SHARED is not set: no shared data sets on this machine")


def test_item_mean_plus_user_mean_on_collm_ml_1m(tmp_path: Path) -> None:
    """Train only: AUC .7317, UAUC .6816 over the 7,331 rows of the test part."""
    folder = Path(str(SHARED)) / "data" / "collm-ml-1m"
    (tmp_path / "e.yaml").write_text(
        f"""\
name: collm
dataset:
  source: csv
  train: {folder}/train.csv.gz
  valid: {folder}/valid.csv.gz
  test: {folder}/test.csv.gz
  columns: {{rating: label, timestamp: timestamp}}
  filters: {{deduplicate: null}}
task: {{kind: preference, split: {{kind: predefined}}, metrics: [auc, uauc], positive_rating: 1}}
models: {{bias: {{class: baselines.bias.Bias, smoothing: 5}}}}
"""
    )
    record = run(Experiment.load(tmp_path / "e.yaml"), tmp_path / "runs")[0]
    assert record.status == "finished", record.error
    assert record.judged["test"] == 7331
    assert record.metrics["test"]["auc"] == pytest.approx(0.7317, abs=5e-5)
    assert record.metrics["test"]["uauc"] == pytest.approx(0.6816, abs=5e-5)


@pytest.mark.parametrize(("name", "published"), [("Beauty", (0.0068, 0.0110)), ("Toys", (0.0055, 0.0090))])
def test_popularity_on_amazon_sequences(name: str, published: tuple[float, float], tmp_path: Path) -> None:
    """Leave-last-out over the full catalogue, the user's own items removed: Recall@5 and Recall@10.

    The published figures let a tie at the cut lose (Beauty: ranks 5 and 6 are equally popular); ours count its chance.
    """
    folder = Path(str(SHARED)) / "data" / "amazon2014-5core" / name
    frame = pl.read_csv(folder / "sequences.tsv.gz", separator="\t", infer_schema_length=0, quote_char=None)
    frame = frame.with_columns(pl.col("item_ids").str.split(" ")).explode("item_ids").rename({"item_ids": "item_id"})
    frame = frame.with_columns(timestamp=pl.int_range(pl.len()).over("user_id"))
    frame.write_parquet(tmp_path / "sequences.parquet")
    (tmp_path / "e.yaml").write_text(
        f"""\
name: amazon
dataset: {{source: csv, interactions: {tmp_path}/sequences.parquet, columns: {{timestamp: timestamp}}}}
task: {{split: {{kind: leave_last_out}}, metrics: [recall@5, recall@10]}}
models: {{popularity: {{class: baselines.popularity.Popularity}}}}
"""
    )
    record = run(Experiment.load(tmp_path / "e.yaml"), tmp_path / "runs")[0]
    assert record.status == "finished", record.error
    assert record.judged["test"] == frame["user_id"].n_unique()
    ranks = RunStore(tmp_path / "runs").ranks(record.key)
    for k, value in zip((5, 10), published, strict=True):
        lost = float((ranks["above"] + ranks["ties"] < k).mean())  # type: ignore[arg-type]
        won = float((ranks["above"] < k).mean())  # type: ignore[arg-type]
        assert lost == pytest.approx(value, abs=1e-4)
        assert lost <= record.metrics["test"][f"recall@{k}"] <= won  # type: ignore[operator]
