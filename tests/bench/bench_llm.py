"""How long a LoRA epoch, scoring and building 512 real prompts take, against plain transformers and peft loops.

``python -m tests.bench.bench_llm [--small]``. The prompts are made from RecBole's example of MovieLens-100K, with
4 to 14 items of history each. The sides take turns, and for every batch the best of the rounds counts, because other
work on the machine only ever adds time. Every side runs in float32 on torch's threads.

Two training rows measure Backbone and prompts alone (``_Ours``); ``through_lightning`` measures the whole path of the
pointwise model: DataModule, buckets, prompts, ``Trainer.fit``.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from benchmark.data.text import item_texts, user_profiles
from benchmark.errors import InputError
from benchmark.llm.adapters import Peft
from benchmark.llm.buckets import length_buckets
from benchmark.llm.encoder import Encoder, pool
from benchmark.llm.loading import Loading
from benchmark.llm.locate import DEFAULT_BACKBONE, resolve
from benchmark.llm.pieces import PromptTokens
from benchmark.llm.prompts import History, flat_prompts
from benchmark.llm.templates import Prompt
from tests.bench.comparison import row as compared

N, SMALL, ROUNDS = 512, 64, 2  # prompts, prompts of a small bench, turns
BATCH = 32
WIDTH = 128  # the naive sides pad to it, and no prompt is longer
TOKENS_PER_PASS = 2048
Batch = tuple[Tensor, Tensor, Tensor]
PROMPT = Prompt().filled("pointwise")


@dataclass
class Problem:
    """Real prompts as ids: n candidates, profiles, histories and labels, and the texts they point to."""

    items: list[str]
    profiles: list[str]
    candidate: np.ndarray
    profile: np.ndarray
    history: History
    label: Tensor

    def texts(self) -> list[str]:
        """Return the prompts as text."""
        out = []
        for row, (start, end) in enumerate(zip(self.history.offsets[:-1], self.history.offsets[1:], strict=True)):
            out.append(
                PROMPT.render(
                    self.profiles[self.profile[row]],
                    [self.items[i] for i in self.history.items[start:end]],
                    self.history.liked[start:end].tolist(),
                    self.items[self.candidate[row]],
                )
            )
        return out


def make_problem(n: int, seed: int = 0) -> Problem:
    """Draw n ratings of MovieLens-100K and the 4 to 14 ratings of the same user before each.

    Raises:
        InputError: RecBole, which carries the data, is not installed.
    """
    spec = importlib.util.find_spec("recbole")
    if spec is None or not spec.submodule_search_locations:
        raise InputError("the bench reads MovieLens-100K from the package recbole, which is not installed")
    folder = Path(spec.submodule_search_locations[0]) / "dataset_example" / "ml-100k"

    def read(name: str) -> pl.DataFrame:
        frame = pl.read_csv(folder / f"ml-100k.{name}", separator="\t", quote_char=None, infer_schema_length=10_000)
        return frame.rename({column: column.split(":")[0] for column in frame.columns})

    users, items = read("user").with_row_index("user"), read("item").with_row_index("item")
    items = items.rename({"movie_title": "title"})
    rows = read("inter").join(users.select("user_id", "user"), on="user_id")
    rows = rows.join(items.select("item_id", "item"), on="item_id").sort("user", "timestamp", "item")
    user, item = rows["user"].to_numpy(), rows["item"].to_numpy().astype(np.int64)
    liked = rows["rating"].to_numpy() >= 4
    first = np.searchsorted(user, user)  # every user has at least 20 ratings
    rng = np.random.default_rng(seed)
    target = rng.choice(np.flatnonzero(np.arange(len(user)) - first >= 14), n, replace=False)
    length = rng.integers(4, 15, n)
    offsets = np.concatenate([[0], np.cumsum(length)])
    before = np.repeat(target - length - offsets[:-1], length) + np.arange(offsets[-1])
    return Problem(
        items=item_texts(items, ["title"]),
        profiles=user_profiles(users, ["age", "gender", "occupation"]),
        candidate=item[target],
        profile=user[target].astype(np.int64),
        history=History(item[before], offsets, liked[before].astype(np.float32)),
        label=torch.from_numpy(liked[target].astype(np.float32)),
    )


class _Side:
    """A model, its optimiser, and the batches it is given."""

    def __init__(self, model: torch.nn.Module, batches: list[Batch], fused: bool) -> None:
        self.model, self.batches = model, batches
        self.head = torch.nn.Linear(384, 1)
        trained = [p for p in [*model.parameters(), *self.head.parameters()] if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-3, fused=fused)

    def encode(self, ids: Tensor, mask: Tensor) -> Tensor:
        return pool(self.model(input_ids=ids, attention_mask=mask).last_hidden_state, mask, "mean")

    def step(self, batch: Batch) -> None:
        ids, mask, label = batch
        logit = self.head(self.encode(ids, mask))[:, 0]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logit, label)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def score(self, batch: Batch) -> Tensor:
        return self.head(self.encode(batch[0], batch[1]))[:, 0]


class _Ours(_Side):
    def encode(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.model.encode(ids, mask)  # type: ignore[operator]


def plain_model(dropout: bool) -> torch.nn.Module:
    """Return MiniLM with LoRA as transformers and peft give it, with or without the frozen model's own dropout."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModel

    torch.manual_seed(0)
    off: dict[str, Any] = {} if dropout else {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    base = AutoModel.from_pretrained(resolve(DEFAULT_BACKBONE), **off)
    config = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.05, target_modules=["query", "value"])
    return get_peft_model(base, config).train()


def in_turns(sides: dict[str, list[Callable[[], object]]], rounds: int) -> dict[str, float]:
    """Run every side's jobs ``rounds`` times in turns; return the sum over a side's jobs of the best time of each."""
    best = {name: np.full(len(jobs), np.inf) for name, jobs in sides.items()}
    for jobs in sides.values():
        jobs[0]()
    for _ in range(rounds):
        for step in range(max(map(len, sides.values()))):
            for name, jobs in sides.items():
                if step < len(jobs):
                    start = time.perf_counter()
                    jobs[step]()
                    best[name][step] = min(best[name][step], time.perf_counter() - start)
    return {name: float(times.sum()) for name, times in best.items()}


def _jobs(work: Callable[[Batch], object], batches: Iterable[Batch]) -> list[Callable[[], object]]:
    return [lambda batch=batch: work(batch) for batch in batches]  # type: ignore[misc]


def run(small: bool = False) -> list[dict[str, Any]]:
    """Return the comparisons: what, reference, ours_s, reference_s, ratio, reach (largest ratio wanted), note."""
    n, rounds = (SMALL, 1) if small else (N, ROUNDS)
    problem = make_problem(n)
    ours = Encoder(seed=0, peft=Peft(rank=8), loading=Loading(dtype="float32"))
    tokenizer = ours.tokenizer
    texts = problem.texts()
    pieces = PromptTokens(PROMPT, tokenizer, problem.items, problem.profiles)

    def build() -> Any:
        return flat_prompts(pieces, WIDTH, problem.candidate, problem.history, problem.profile)

    def tokenise() -> Any:
        return [tokenizer(text, truncation=True, max_length=WIDTH)["input_ids"] for text in problem.texts()]

    building = in_turns({"ours": [build], "rows": [tokenise]}, 3)
    prompts = build()

    # the naive sides: the tokenizer pads every batch to one width
    naive: list[Batch] = []
    for start in range(0, n, BATCH):
        padded = tokenizer(
            texts[start : start + BATCH], padding="max_length", truncation=True, max_length=WIDTH, return_tensors="pt"
        )
        naive.append((padded["input_ids"], padded["attention_mask"], problem.label[start : start + BATCH]))
    buckets: list[Batch] = [
        (*prompts.pad(rows), problem.label[rows]) for rows in length_buckets(prompts.lengths, BATCH, seed=0)
    ]
    training = {
        "ours": _Ours(ours, buckets, fused=True),
        "plain": _Side(plain_model(dropout=False), buckets, fused=True),
        "naive": _Side(plain_model(dropout=True), naive, fused=False),
    }
    trained = in_turns({name: _jobs(side.step, side.batches) for name, side in training.items()}, rounds)

    passes: list[Batch] = [
        (*prompts.pad(rows), problem.label[rows])
        for rows in length_buckets(prompts.lengths, tokens_per_batch=TOKENS_PER_PASS, seed=None)
    ]
    ours.eval()
    side = training["naive"]
    side.model.eval()

    def merged(batch: Batch) -> Tensor:
        # merging is part of the time: it is paid in every pass here, once an evaluation in earnest
        with torch.inference_mode(), ours.merged():
            return training["ours"].score(batch)

    def unmerged(batch: Batch) -> Tensor:
        with torch.no_grad():
            return side.score(batch)

    scored = in_turns({"ours": _jobs(merged, passes), "naive": _jobs(unmerged, naive)}, rounds)

    real = int(prompts.lengths.sum())
    sizes = (
        f"{n} prompts, {real} tokens (median {int(np.median(prompts.lengths))}); computed: naive {n * WIDTH}, "
        f"buckets {sum(b[0].numel() for b in buckets)} in {len(buckets)} batches"
    )
    threads = f"{torch.get_num_threads()} threads"
    return [
        compared(
            f"LoRA training on {n} real prompts",
            "plain torch loop on the same batches",
            trained["ours"],
            trained["plain"],
            1.05,
            f"same batches and model, frozen dropout off on both sides; {sizes}; {threads}",
        ),
        compared(
            f"LoRA training on {n} real prompts",
            "naive loop: padded to 128, the frozen model's own dropout on",
            trained["ours"],
            trained["naive"],
            0.35,
            f"gains: little padding, no dropout in frozen layers; {threads}",
        ),
        compared(
            f"scoring {n} prompts",
            "naive loop: padded to 128, adapter not merged",
            scored["ours"],
            scored["naive"],
            0.40,
            f"merged, inference mode, passes of at most {TOKENS_PER_PASS} tokens; {threads}",
        ),
        compared(
            f"building {n} prompts",
            "text and tokenizer call for each row",
            building["ours"],
            building["rows"],
            0.10,
            "pieces tokenised once, beforehand",
        ),
        through_lightning(small),
    ]


def through_lightning(small: bool) -> dict[str, Any]:
    """Return the row of an epoch of Pointwise by Trainer.fit against a plain loop over the very same batches."""
    import warnings

    from lightning import Trainer

    from benchmark.data.budget import few_shot
    from benchmark.data.datamodule import RecDataModule
    from benchmark.data.sources import MovieLens100K
    from benchmark.data.split import Temporal, split
    from benchmark.data.task import Task
    from benchmark.llm.pointwise import Pointwise

    n = SMALL if small else N
    task = Task(kind="preference", metrics=("auc",), split=Temporal())
    data = few_shot(split(MovieLens100K().load(), task.split), task, n, seed=0)
    torch.manual_seed(0)
    model = Pointwise(Pointwise.Config(dtype="float32"), data.catalogue())
    module = RecDataModule(data, task, model.batch_spec())
    batches: list[Batch] = []
    for batch in module.train_dataloader():
        assert batch.item is not None
        assert batch.label is not None
        batches.append((*model.prompts(batch).pad(), batch.label))
    plain = _Side(plain_model(dropout=False), batches, fused=True)

    def ours() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer = Trainer(
                max_epochs=1,
                accelerator="cpu",
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                limit_val_batches=0,
                log_every_n_steps=1_000_000,
            )
            trainer.fit(model, module)

    def theirs() -> None:
        for batch in batches:
            plain.step(batch)

    best = {"ours": float("inf"), "theirs": float("inf")}
    for _ in range(1 if small else 2):
        for name, work in (("ours", ours), ("theirs", theirs)):
            start = time.perf_counter()
            work()
            best[name] = min(best[name], time.perf_counter() - start)
    return compared(
        f"Pointwise epoch of {n} prompts by Trainer.fit",
        "plain torch loop on the same batches",
        best["ours"],
        best["theirs"],
        1.05,
        "ours builds its batches and prompts within the time",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="64 prompts, one round")
    torch.set_num_threads(2)
    for row in run(parser.parse_args().small):
        reached = "reached" if row["ratio"] <= row["reach"] else "NOT reached"
        print(f"{row['what']} / {row['reference']}: {row['ours_s']:.3f} s / {row['reference_s']:.3f} s", end=" ")
        print(f"= {row['ratio']:.3f} (wanted <= {row['reach']:.2f}: {reached}); {row['note']}")


if __name__ == "__main__":
    main()
