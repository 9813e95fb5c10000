"""How long a full-catalogue evaluation takes: ours with exact AUC, plain torch.topk without, and RecBole's own.

``python -m tests.bench.bench_evaluation [--small]``. The product of the embeddings is part of every side. Ours and
torch.topk take turns, and the best of the rounds counts, because other work on the machine only ever adds time.
RecBole is timed on a subset of the users, at the best of several batch sizes, and scaled linearly in users.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.evaluation.evaluator import RankingEvaluator

METRICS = ["auc", "ndcg@20", "recall@20", "mrr"]
K = 20
BLOCK = 512  # users at once, for ours and for torch.topk
RECBOLE_BATCHES = (64, 256, 1024)


@dataclass
class Problem:
    """Random embeddings (U, d) and (N, d); relevant and seen items of each user as offsets (U + 1,) and columns."""

    users: Tensor
    items: Tensor
    relevant_offsets: Tensor
    relevant: Tensor
    seen_offsets: Tensor
    seen: Tensor

    def block(self, start: int, stop: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the offsets and columns of relevant and seen items for the users from ``start`` to ``stop``."""
        out: list[Tensor] = []
        for offsets, columns in ((self.relevant_offsets, self.relevant), (self.seen_offsets, self.seen)):
            part = offsets[start : stop + 1]
            out += [part - part[0], columns[part[0] : part[-1]]]
        return out[0], out[1], out[2], out[3]


def make_problem(n_users: int, n_items: int, d: int = 64, seed: int = 0) -> Problem:
    """Return a problem with 1 to 20 relevant items a user, about 5 and skewed, and about 50 seen ones."""
    rng = np.random.default_rng(seed)
    n_relevant = rng.geometric(0.2, n_users).clip(1, 20)
    n_seen = rng.poisson(50, n_users)
    # a random start and stride walk through distinct items (7919 is prime): relevant ones first, then seen ones
    lengths = n_relevant + n_seen
    user = np.repeat(np.arange(n_users), lengths)
    place = np.arange(len(user)) - np.repeat(lengths.cumsum() - lengths, lengths)
    column = torch.from_numpy((rng.integers(0, n_items, n_users)[user] + place * 7919) % n_items)
    is_relevant = torch.from_numpy(place < n_relevant[user])
    offsets = [torch.from_numpy(np.concatenate([[0], n.cumsum()])) for n in (n_relevant, n_seen)]
    generator = torch.Generator().manual_seed(seed)
    users, items = torch.randn(n_users, d, generator=generator), torch.randn(n_items, d, generator=generator)
    return Problem(users, items, offsets[0], column[is_relevant], offsets[1], column[~is_relevant])


def ours(p: Problem, n_users: int, top_k: int = 0) -> dict[str, float]:
    """Evaluate exact AUC, nDCG, recall and MRR; with ``top_k`` the lists are kept too."""
    evaluator = RankingEvaluator(METRICS, top_k=top_k)
    for start in range(0, n_users, BLOCK):
        stop = min(start + BLOCK, n_users)
        evaluator.update(torch.arange(start, stop), p.users[start:stop] @ p.items.T, *p.block(start, stop))
    return evaluator.compute()


def plain_topk(p: Problem, n_users: int) -> dict[str, float]:
    """Evaluate recall and nDCG from torch.topk, vectorised: the usual way, which gives no AUC."""
    discount = 1 / torch.log2(torch.arange(K) + 2.0)
    ideal = discount.cumsum(0)
    recalls, ndcgs = [], []
    for start in range(0, n_users, BLOCK):
        stop = min(start + BLOCK, n_users)
        relevant_offsets, relevant, seen_offsets, seen = p.block(start, stop)
        scores = p.users[start:stop] @ p.items.T
        row = torch.arange(stop - start)
        scores[torch.repeat_interleave(row, seen_offsets.diff()), seen] = -torch.inf
        top = scores.topk(K).indices
        is_relevant = torch.zeros(scores.shape, dtype=torch.bool)
        is_relevant[torch.repeat_interleave(row, relevant_offsets.diff()), relevant] = True
        found = is_relevant.gather(1, top).float()
        n_relevant = relevant_offsets.diff()
        recalls.append(found.sum(1) / n_relevant)
        ndcgs.append((found @ discount) / ideal[n_relevant.clamp(max=K) - 1])
    return {"recall@20": float(torch.cat(recalls).mean()), "ndcg@20": float(torch.cat(ndcgs).mean())}


def recbole(p: Problem, n_users: int, batch_size: int) -> dict[str, float]:
    """Evaluate as recbole.trainer does: scores and history to -inf in batches, Collector, then Evaluator."""
    from recbole.evaluator import Collector, Evaluator

    config: dict[str, Any] = {
        "metrics": ["Recall", "NDCG", "MRR", "GAUC"],
        "topk": [K],
        "metric_decimal_place": 9,
        "eval_args": {"mode": {"valid": "full", "test": "full"}},
        "device": torch.device("cpu"),
    }
    collector, evaluator = Collector(config), Evaluator(config)
    # RecBole's item 0 is padding, scored -inf
    items = torch.cat([torch.zeros(1, p.items.shape[1]), p.items])
    for start in range(0, n_users, batch_size):
        stop = min(start + batch_size, n_users)
        relevant_offsets, relevant, seen_offsets, seen = p.block(start, stop)
        row = torch.arange(stop - start)
        scores = p.users[start:stop] @ items.T
        scores[:, 0] = -np.inf
        scores[torch.repeat_interleave(row, seen_offsets.diff()), seen + 1] = -np.inf
        positive_u = torch.repeat_interleave(row, relevant_offsets.diff())
        collector.eval_batch_collect(scores, None, positive_u, relevant + 1)
    return dict(evaluator.evaluate(collector.get_data_struct()))


def seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def run(small: bool = False) -> list[dict[str, Any]]:
    """Return one row a comparison: what, reference, ours_s, reference_s, ratio and reach (whether the aim is met)."""
    n_users, n_items, rounds, subset = (2_000, 2_000, 3, 500) if small else (50_000, 10_000, 3, 2_000)
    p = make_problem(n_users, n_items)
    mine, theirs = ours(p, 1024, K), plain_topk(p, 1024)  # compiles, and shows that both measure the same
    for name in theirs:
        if abs(mine[name] - theirs[name]) > 1e-5:
            raise AssertionError(f"{name}: ours {mine[name]}, torch.topk {theirs[name]}")
    times: dict[str, list[float]] = {"ours": [], "lists": [], "topk": []}
    for _ in range(rounds):
        times["ours"].append(seconds(lambda: ours(p, n_users)))
        times["topk"].append(seconds(lambda: plain_topk(p, n_users)))
        times["lists"].append(seconds(lambda: ours(p, n_users, K)))
    best = {name: min(values) for name, values in times.items()}
    setting = f"{n_users:,} users x {n_items:,} items, d = 64"
    rows = [
        _row(
            f"exact AUC, nDCG, recall, MRR; {setting}",
            "matmul + mask + torch.topk(20), no AUC",
            best["ours"],
            best["topk"],
            0.9,
        ),
        _row(
            f"the same and top-20 lists; {setting}",
            "matmul + mask + torch.topk(20), no AUC",
            best["lists"],
            best["topk"],
            1.2,
        ),
    ]
    try:
        taken = _recbole_seconds(p, subset)
    except ImportError:
        print("RecBole is not installed: left out")
        return rows
    batch_size = min(taken, key=lambda size: taken[size])
    reference = f"RecBole 1.2.1 at its best batch size {batch_size}, {subset:,} users scaled to {n_users:,}"
    rows.append(
        _row(
            f"exact AUC, nDCG, recall, MRR; {setting}",
            reference,
            best["ours"],
            taken[batch_size] * n_users / subset,
            0.05,
        )
    )
    return rows


def _recbole_seconds(p: Problem, n_users: int) -> dict[int, float]:
    """Return RecBole's seconds for the first users at each batch size; its code still names ``np.float``."""
    missing = not hasattr(np, "float")
    if missing:
        np.float = float  # type: ignore[attr-defined]
    try:
        recbole(p, 64, 64)
        return {size: min(seconds(lambda s=size: recbole(p, n_users, s)) for _ in range(2)) for size in RECBOLE_BATCHES}
    finally:
        if missing:
            del np.float  # type: ignore[attr-defined]


def _row(what: str, reference: str, ours_s: float, reference_s: float, aim: float) -> dict[str, Any]:
    ratio = ours_s / reference_s
    return {
        "what": what,
        "reference": reference,
        "ours_s": round(ours_s, 3),
        "reference_s": round(reference_s, 3),
        "ratio": round(ratio, 4),
        "reach": aim,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="a few seconds, to see that it runs")
    for line in run(parser.parse_args().small):
        print(line)
