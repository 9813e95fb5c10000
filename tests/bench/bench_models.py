"""Clocks of the classical models: ours through Lightning against plain torch loops with the same network."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from lightning import Callback, Trainer, seed_everything
from scipy.sparse import bmat, csr_matrix, diags_array
from torch import Tensor, nn

from baselines.ease import EASE
from baselines.lightgcn import LightGCN
from baselines.mf import MF
from baselines.sasrec import SASRec
from benchmark.data.datamodule import RecDataModule
from benchmark.data.schema import SplitData
from benchmark.data.task import Task
from benchmark.recommender import Recommender
from tests.planted import large


class _Clock(Callback):
    """Seconds of the training epoch, from its first batch being made to its last step."""

    start = seconds = 0.0

    def on_train_epoch_start(self, *args: Any) -> None:
        self.start = time.perf_counter()

    def on_train_epoch_end(self, *args: Any) -> None:
        self.seconds = time.perf_counter() - self.start


def ours(
    cls: type[Recommender], config: dict[str, Any], data: SplitData, steps: int | None = None
) -> Callable[[], float]:
    """Return a function that trains one epoch (or ``steps``) by Trainer.fit and returns its seconds."""
    seed_everything(0, verbose=False)
    model = cls(cls.Config(**config), data.catalogue())
    module = RecDataModule(data, Task(), model.batch_spec())
    module.train_rows  # noqa: B018  # built once a run, not once an epoch

    def epoch() -> float:
        clock = _Clock()
        trainer = Trainer(
            max_epochs=1,
            accelerator="cpu",
            callbacks=[clock],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
            limit_train_batches=steps,
            log_every_n_steps=1_000_000,
        )
        trainer.fit(model, module)
        return clock.seconds

    return epoch


def clocked(work: Callable[[], Any]) -> Callable[[], float]:
    def timed() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return timed


def compare(
    what: str,
    reference: str,
    our: Callable[[], float],
    their: Callable[[], float],
    reach: float,
    note: str,
    repeats: int,
) -> dict[str, Any]:
    """Run both in turns, so that a busy machine hits both, and compare the medians."""
    our_s, their_s = [], []
    for _ in range(repeats):
        our_s.append(our())
        their_s.append(their())
    ratio = float(np.median(our_s) / np.median(their_s))
    return {
        "what": what,
        "reference": reference,
        "ours_s": round(float(np.median(our_s)), 4),
        "reference_s": round(float(np.median(their_s)), 4),
        "ratio": round(ratio, 3),
        "reach": reach,
        "note": note,
    }


# --- the references --------------------------------------------------------------------------------------------------


def optimizer(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0, fused=True)


class PlainNegatives:
    """Uniform negatives by drawing again where the user owns the item; a dense table answers."""

    def __init__(self, data: SplitData) -> None:
        self.owned = torch.zeros(data.n_users, data.n_items, dtype=torch.bool)
        self.user, self.item = torch.from_numpy(data.train.user).long(), torch.from_numpy(data.train.item).long()
        self.owned[self.user, self.item] = True

    def draw(self, user: Tensor) -> Tensor:
        negative = torch.randint(self.owned.shape[1], (len(user),))
        while len(bad := self.owned[user, negative].nonzero().ravel()):
            negative[bad] = torch.randint(self.owned.shape[1], (len(bad),))
        return negative


def plain_mf(data: SplitData, size: int, batch_size: int) -> Callable[[], None]:
    """BPR with item biases in a loop of a few lines."""
    rows = PlainNegatives(data)
    user, item, bias = (nn.Embedding(n, d) for n, d in ((data.n_users, size), (data.n_items, size), (data.n_items, 1)))
    adam = optimizer([user.weight, item.weight, bias.weight])

    def epoch() -> None:
        for index in torch.randperm(len(rows.user)).split(batch_size):
            u, i = rows.user[index], rows.item[index]
            j = rows.draw(u)
            x = user(u)
            difference = (x * (item(i) - item(j))).sum(1) + (bias(i) - bias(j))[:, 0]
            loss = -F.logsigmoid(difference).mean()
            adam.zero_grad()
            loss.backward()
            adam.step()

    return epoch


def plain_sasrec(data: SplitData, config: dict[str, Any], steps: int) -> Callable[[], None]:
    """The same network over whole sequences that were padded once, in memory, before the clock starts."""
    network = SASRec(SASRec.Config(**config), data.catalogue())
    longest, size = config["max_history"] + 1, config["batch_size"]
    sequences = torch.full((data.n_users, longest), data.n_items)
    for user, (a, b) in enumerate(zip(data.train.offsets, data.train.offsets[1:], strict=False)):
        items = data.train.item[a:b][-longest:]
        sequences[user, : len(items)] = torch.from_numpy(items)
    adam = optimizer(network.parameters())

    def epoch() -> None:
        network.train()
        for index in torch.randperm(data.n_users).split(size)[:steps]:
            target = sequences[index, 1:]
            real = target != data.n_items
            hidden = network.encode(sequences[index, :-1])[real]
            loss = F.cross_entropy(hidden @ network.item.weight[:-1].T, target[real])
            adam.zero_grad()
            loss.backward()
            adam.step()

    return epoch


def plain_lightgcn(data: SplitData, size: int, batch_size: int, steps: int) -> Callable[[], None]:
    """Three products with a torch CSR tensor, and autograd."""
    rows = PlainNegatives(data)
    cells = csr_matrix(
        (np.ones(len(data.train), np.float32), (data.train.user, data.train.item)), (data.n_users, data.n_items)
    )
    adjacency = bmat([[None, cells], [cells.T, None]], format="csr")
    scale = diags_array(1 / np.sqrt(np.maximum(np.asarray(adjacency.sum(axis=1)).ravel(), 1)))
    a = (scale @ adjacency @ scale).tocsr().astype(np.float32)
    parts = (torch.from_numpy(a.indptr), torch.from_numpy(a.indices), torch.from_numpy(a.data))
    graph = torch.sparse_csr_tensor(*parts, size=a.shape)
    node = nn.Embedding(sum(cells.shape), size)
    adam = optimizer(node.parameters())

    def epoch() -> None:
        for index in torch.randperm(len(rows.user)).split(batch_size)[:steps]:
            u, i = rows.user[index], rows.item[index]
            j = rows.draw(u)
            layers = [node.weight]
            for _ in range(3):
                layers.append(graph @ layers[-1])
            final = torch.stack(layers).mean(0)
            x = final[u]
            difference = (x * (final[i + data.n_users] - final[j + data.n_users])).sum(1)
            loss = -F.logsigmoid(difference).mean()
            adam.zero_grad()
            loss.backward()
            adam.step()

    return epoch


def plain_ease(data: SplitData) -> Callable[[], None]:
    def solve() -> None:
        shape = data.n_users, data.n_items
        x = csr_matrix((np.ones(len(data.train), np.float32), (data.train.user, data.train.item)), shape)
        gram = torch.from_numpy((x.T @ x).toarray())
        gram.diagonal().add_(250.0)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
        weight = inverse / -inverse.diagonal()
        weight.fill_diagonal_(0)

    return solve


# --- the table -------------------------------------------------------------------------------------------------------


def run(small: bool = False) -> list[dict[str, Any]]:
    """Measure; ``small`` takes seconds and only shows that the bench works."""
    users, items, rows = (600, 400, 40_000) if small else (6040, 3706, 1_000_000)
    repeats, steps = (1, 2) if small else (3, 8)
    data = large(users, items, rows)
    threads = torch.get_num_threads()
    size = f"{len(data.train):,} interactions, {users:,} users x {items:,} items, {threads} thread(s)"
    sasrec = {"max_history": 50 if small else 200, "batch_size": 128}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mf = {"embedding_size": 64, "batch_size": 2048}
        return [
            compare(
                "MF-BPR epoch",
                "plain torch loop, fused AdamW, vectorised negatives",
                ours(MF, mf, data),
                clocked(plain_mf(data, 64, 2048)),
                1.3,
                f"{size}, batch 2,048, embedding 64",
                repeats,
            ),
            compare(
                f"SASRec, {steps} steps",
                "plain torch loop over whole sequences padded beforehand",
                ours(SASRec, sasrec, data, steps),
                clocked(plain_sasrec(data, sasrec, steps)),
                1.1,
                f"{size}, batch 128, max_history {sasrec['max_history']}, softmax over all items at all positions",
                repeats,
            ),
            compare(
                f"LightGCN, {steps} steps",
                "plain torch CSR loop",
                ours(LightGCN, mf, data, steps),
                clocked(plain_lightgcn(data, 64, 2048, steps)),
                1.2,
                f"{size}, 3 layers, batch 2,048, embedding 64",
                repeats,
            ),
            compare(
                "EASE fit",
                "sparse Gram + Cholesky inverse in float32",
                ours(EASE, {}, data),
                clocked(plain_ease(data)),
                1.1,
                size,
                repeats,
            ),
        ]


if __name__ == "__main__":
    for row in run():
        print(row, flush=True)
