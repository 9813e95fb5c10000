"""How fast a decoder scores candidates, trains and searches titles, against whole prompts, Trainer and a free search.

``python -m tests.bench decoder``. The decoder is a random Llama of about 14 million parameters in float32; the sides
take turns and the best round of each counts, because other work on the machine only ever adds time.
"""

from __future__ import annotations

import functools
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.data.text import TokenTable, offsets_of
from benchmark.llm.adapters import Peft
from benchmark.llm.beam import beam_search
from benchmark.llm.buckets import TOKENS_PER_PASS
from benchmark.llm.language_model import KEPT_COST, LanguageModel
from benchmark.llm.loading import Loading
from benchmark.llm.precision import fastest_dtype
from benchmark.llm.trie import Trie
from tests.bench.comparison import row
from tests.llm.tiny import tokenizer

SIZES = {"hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 6}
VOCABULARY = 8192
PREFIX, CANDIDATE, CANDIDATES = 200, 12, 100


@functools.cache
def folder() -> str:
    """Return the folder of the random decoder."""
    from transformers import LlamaConfig, LlamaForCausalLM

    path = Path(tempfile.mkdtemp(prefix="bench-llama-"))
    torch.manual_seed(0)
    config = LlamaConfig(**SIZES, vocab_size=VOCABULARY, num_key_value_heads=2, max_position_embeddings=512)
    LlamaForCausalLM(config).save_pretrained(path)
    tokenizer().save_pretrained(path)
    return str(path)


def _model(kind: str = "frozen", attention: str = "auto", dtype: str = "float32") -> LanguageModel:
    loading = Loading(dtype=dtype, attention=attention)  # type: ignore[arg-type]
    return LanguageModel(folder(), Peft(kind=kind), loading, seed=0).eval()  # type: ignore[arg-type]


def _in_turns(sides: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    best = dict.fromkeys(sides, float("inf"))
    for turn in range(rounds + 1):
        for name, work in sides.items():
            start = time.perf_counter()
            work()
            if turn:  # the first turn warms up
                best[name] = min(best[name], time.perf_counter() - start)
    return best


@torch.no_grad()
def scoring(rounds: int) -> dict[str, Any]:
    """Return the row of candidates behind one prefix against one whole prompt a candidate."""
    model = _model()
    prefix = torch.randint(10, VOCABULARY, (1, PREFIX))
    tails = torch.randint(10, VOCABULARY, (CANDIDATES, CANDIDATE))
    whole = torch.cat([prefix.expand(CANDIDATES, -1), tails], 1)
    words = torch.tensor([5, 6])

    def naive() -> Tensor:
        parts = whole.split(25)
        return torch.cat([model.base(input_ids=p, use_cache=False).logits[:, -1, words] for p in parts])

    def ours() -> Tensor:
        state = model.begin(prefix, torch.ones_like(prefix))
        out = []
        for part in tails.split(max(1, TOKENS_PER_PASS // (CANDIDATE + KEPT_COST * PREFIX))):  # as Pointwise does
            taken = state.take(torch.zeros(len(part), dtype=torch.int64))
            out.append(model.read_on(taken, part, torch.ones_like(part))[0][:, -1, words])
        return torch.cat(out)

    apart = float((naive() - ours()).abs().max())
    best = _in_turns({"ours": ours, "naive": naive}, rounds)
    return row(
        f"{CANDIDATES} candidates of {CANDIDATE} tokens behind a prefix of {PREFIX}",
        "one whole prompt a candidate, in batches of 25",
        best["ours"],
        best["naive"],
        0.1,
        f"{best['naive'] / best['ours']:.1f} x; scores differ by {apart:.0e} at most",
    )


@torch.no_grad()
def trie(rounds: int) -> dict[str, Any]:
    """Return the row of a beam search along the titles of a catalogue against the free search."""
    model = _model()
    rng = np.random.default_rng(0)
    lengths = rng.integers(4, 11, 2000)
    titles = TokenTable(rng.integers(10, VOCABULARY, int(lengths.sum())).astype(np.int32), offsets_of(lengths))
    tree, end = Trie(titles, 2), 2
    prompts = torch.randint(10, VOCABULARY, (8, 120))
    ones = torch.ones_like(prompts)

    def along() -> object:
        return beam_search(model, model.begin(prompts, ones), 10, tree.depth, end, tree)

    def free() -> object:
        return beam_search(model, model.begin(prompts, ones), 10, tree.depth, end)

    best = _in_turns({"ours": along, "free": free}, rounds)
    return row(
        "beam search along the titles of 2,000 items",
        "the same search without a trie",
        best["ours"],
        best["free"],
        1.2,
        f"8 prompts of 120 tokens, 10 beams, up to {tree.depth} tokens; titles end earlier than free text",
    )


@torch.no_grad()
def choices(rounds: int) -> list[dict[str, Any]]:
    """Return what was chosen by measurement: merged adapters, the kind of attention and the precision at scoring."""
    ids = torch.randint(10, VOCABULARY, (16, 200))
    ones = torch.ones_like(ids)
    lora = _model("lora")

    def merged() -> object:
        with lora.merged():
            return lora.next_logits(ids, ones)

    sides = {"merged": merged, "apart": lambda: lora.next_logits(ids, ones)}
    first = _in_turns(sides, rounds)
    sdpa, eager = _model(attention="sdpa"), _model(attention="eager")
    second = _in_turns(
        {"sdpa": lambda: sdpa.next_logits(ids, ones), "eager": lambda: eager.next_logits(ids, ones)}, rounds
    )
    auto = _model(dtype="auto")
    third = _in_turns(
        {"auto": lambda: auto.next_logits(ids, ones), "float32": lambda: sdpa.next_logits(ids, ones)}, rounds
    )
    chosen = str(fastest_dtype("cpu", auto.hidden_size)).removeprefix("torch.")
    size = "16 prompts of 200 tokens"
    return [
        row("scoring, LoRA merged", "adapter apart", first["merged"], first["apart"], 1.0, f"{size}, merging included"),
        row("scoring, attention: sdpa", "attention: eager", second["sdpa"], second["eager"], 1.0, size),
        row("scoring, dtype: auto", "dtype: float32", third["auto"], third["float32"], 1.0, f"{size}; chose {chosen}"),
    ]


def training(small: bool) -> dict[str, Any]:
    """Return the row of a LoRA epoch of Pointwise by Trainer.fit against Hugging Face's Trainer on the same prompts."""
    import peft
    import transformers
    from lightning import Trainer

    from benchmark.data.datamodule import RecDataModule
    from benchmark.llm.pointwise import Pointwise
    from tests.planted import planted

    data, task = planted("preference")
    config = Pointwise.Config(backbone=folder(), dtype="float32", max_length=300, batch_size=32)
    torch.manual_seed(0)
    model = Pointwise(config, data.catalogue())
    module = RecDataModule(data, task, model.batch_spec())
    rows = module.train_rows
    everything = rows[rows.all[: 128 if small else 512]]
    prompts = model.prompts(everything)
    assert everything.label is not None
    yes, no = model.answers.tolist()
    examples = []
    for i, label in enumerate(everything.label.tolist()):
        tokens = prompts.tokens[prompts.offsets[i] : prompts.offsets[i + 1]].tolist()
        answer = yes if label else no
        examples.append({"input_ids": [*tokens, answer], "labels": [*[-100] * len(tokens), answer]})
    module.train_rows.all = rows.all[: len(examples)]

    def ours() -> None:
        Trainer(
            max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=0, log_every_n_steps=1_000_000,
        ).fit(model, module)  # fmt: skip

    base = transformers.AutoModelForCausalLM.from_pretrained(folder())
    lora = peft.LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, lora_dropout=0.05)
    theirs_model = peft.get_peft_model(base, lora)
    arguments = transformers.TrainingArguments(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=32, num_train_epochs=1, use_cpu=True,
        report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True, learning_rate=5e-4,
        train_sampling_strategy="group_by_length",
    )  # fmt: skip
    collate = transformers.DataCollatorForSeq2Seq(model.backbone.tokenizer, padding=True)

    def theirs() -> None:
        transformers.Trainer(model=theirs_model, args=arguments, train_dataset=examples, data_collator=collate).train()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        best = _in_turns({"ours": ours, "theirs": theirs}, 1 if small else 2)
    tokens = int(prompts.lengths.sum())
    return row(
        f"LoRA epoch of {len(examples)} prompts",
        "Hugging Face Trainer, grouped by length",
        best["ours"],
        best["theirs"],
        1.0,
        f"{tokens / best['ours']:,.0f} against {tokens / best['theirs']:,.0f} tokens/s; the answer alone is trained",
    )


def run(small: bool = False) -> list[dict[str, Any]]:
    """Return the comparisons: what, reference, ours_s, reference_s, ratio, reach (largest ratio wanted), note."""
    rounds = 1 if small else 4
    return [scoring(rounds), training(small), trie(rounds), *choices(rounds)]
