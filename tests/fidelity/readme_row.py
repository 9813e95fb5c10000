"""The BPR row of RecBole's README beside ours, the mean over five splits.

The experiment is experiments/papers/recbole-bpr-ml-100k.yaml. This reads
results/recbole-bpr-ml-100k-split-*/table.csv and writes results/recbole-bpr-ml-100k/table.md.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

RESULTS = Path(__file__).parents[2] / "results"
PUBLISHED = {"recall@10": 0.2368, "mrr@10": 0.4519, "ndcg@10": 0.2768, "hit@10": 0.7614, "precision@10": 0.1901}


def main() -> None:
    folders = sorted(RESULTS.glob("recbole-bpr-ml-100k-split-*"))
    tables = [pl.read_csv(folder / "table.csv").filter(pl.col("model") == "bpr") for folder in folders]
    lines = [
        f"| Metric | RecBole's README | mean of {len(tables)} splits | difference | s.d. over splits | each split |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    for metric, published in PUBLISHED.items():
        ours = (pl.col("column") == metric) & (pl.col("kind") == "metric")
        values = np.array([table.filter(ours)["mean"].item() for table in tables])
        each = ", ".join(f"{value:.4f}" for value in values)
        lines.append(
            f"| {metric} | {published:.4f} | {values.mean():.4f} | {values.mean() - published:+.4f} "
            f"| {values.std(ddof=1):.4f} | {each} |"
        )
    text = "\n".join(lines) + "\n"
    folder = RESULTS / "recbole-bpr-ml-100k"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
