"""Our epochs against RecBole's own trainer on the same interactions, in one run."""

from __future__ import annotations

import statistics
import warnings
from typing import Any

import torch

from baselines.ease import EASE
from baselines.lightgcn import LightGCN
from baselines.mf import MF
from baselines.sasrec import SASRec
from tests.bench import recbole_reference
from tests.bench.bench_models import ours
from tests.planted import large


def run(small: bool = False) -> list[dict[str, Any]]:
    """Return a row a model: an epoch of each side (LightGCN: a step), ours the median of three."""
    theirs = {row["what"]: row for row in recbole_reference.run(small)}
    n_users, n_items, n = (300, 200, 10_000) if small else (6040, 3706, 1_000_000)
    data = large(n_users, n_items, n)
    steps = 3 if small else 20
    batches = -(-len(data.train) // 2048)
    mf = {"embedding_size": 64, "batch_size": 2048}
    sasrec = {"max_history": 200, "batch_size": 128}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")

        def median(work: Any) -> float:
            return statistics.median(work() for _ in range(3))

        lightgcn = median(ours(LightGCN, mf, data, steps)) / min(steps, batches) * batches
        sequences = -(-n_users // sasrec["batch_size"])
        whole = median(ours(SASRec, sasrec, data, min(8, sequences))) / min(8, sequences) * sequences
        cases = [
            ("MF-BPR epoch", "BPR epoch", median(ours(MF, mf, data)), 0.4, "whole epochs"),
            ("LightGCN epoch", "LightGCN epoch", lightgcn, 0.15, f"both from {steps} steps, scaled"),
            (
                "SASRec epoch",
                "SASRec epoch",
                whole,
                0.05,
                "ours: sequences of up to 200, from 8 steps; RecBole: each prefix a row of up to 50, from 5 steps",
            ),
            ("EASE fit", "EASE fit", median(ours(EASE, {}, data)), 0.35, "RecBole: in the constructor"),
        ]
    threads = torch.get_num_threads()
    return [
        {
            "what": what,
            "reference": "RecBole 1.2.1's own trainer",
            "ours_s": seconds,
            "reference_s": theirs[name]["seconds"],
            "ratio": seconds / theirs[name]["seconds"],
            "reach": reach,
            "note": f"{note}; {len(data.train):,} interactions, {threads} threads",
        }
        for what, name, seconds, reach, note in cases
    ]
