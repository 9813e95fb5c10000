"""Pointwise: the contract on a tiny random model, prompts by length, and what a real pretrained one learns."""

from __future__ import annotations

import pytest
import torch

from benchmark.data.datamodule import RecDataModule
from benchmark.llm.pointwise import Pointwise
from tests.contract import RecommenderContract, fit
from tests.llm.tiny import tiny, tiny_bert
from tests.planted import planted


class TestDecoder(RecommenderContract):
    in_two_processes = False
    model = Pointwise
    config = {"backbone": tiny("llama"), "learning_rate": 0.02, "batch_size": 64, "schedule": "constant"}
    tasks = ("preference",)
    epochs = 6
    floor = 0.53


class TestSeq2Seq(RecommenderContract):
    model = Pointwise
    config = {"backbone": tiny("t5"), "learning_rate": 0.01, "batch_size": 64, "schedule": "constant"}
    tasks = ("preference",)
    epochs = 10  # faster ones learn on some machines and not on others
    floor = 0.57


class TestPointwise(RecommenderContract):
    model = Pointwise
    config = {"backbone": tiny_bert(), "learning_rate": 0.01, "batch_size": 64, "max_length": 96}
    tasks = ("preference",)
    epochs = 4
    floor = 0.53


def test_the_prompt_shows_profile_history_and_candidate() -> None:
    data, task = planted("preference")
    model = Pointwise(Pointwise.Config(backbone=tiny_bert(), max_length=96), data.catalogue())
    rows = RecDataModule(data, task, model.batch_spec()).rows("test")
    batch = rows[rows.all]
    assert batch.candidates is not None
    assert batch.history_length is not None
    assert batch.history is not None
    row = int(batch.history_length.argmax())
    prompts = model.reader.read(batch, batch.candidates[:, 0])
    text = model.backbone.tokenizer.decode(prompts.tokens[prompts.offsets[row] : prompts.offsets[row + 1]])
    titles = [t.lower() for t in data.items["title"].to_list()]
    assert f"will the user like {titles[int(batch.candidates[row, 0])]}?" in text
    for item in batch.history[row, : int(batch.history_length[row])].tolist():
        assert titles[item] in text
    assert prompts.lengths.max() <= 96


def test_training_prompts_of_like_length_share_a_batch() -> None:
    data, task = planted("preference")
    fitted = fit(Pointwise, {"backbone": tiny_bert(), "batch_size": 32}, data, task, test=False)
    report = fitted.model.report()
    assert report["training_tokens"] > 0
    assert report["padding_share"] <= 0.05


def test_ranking_by_candidates_and_over_the_whole_catalogue() -> None:
    data, task = planted("ranking")
    model = Pointwise(Pointwise.Config(backbone=tiny_bert(), max_length=96), data.catalogue()).eval()
    rows = RecDataModule(data, task, model.batch_spec()).rows("test")
    batch = rows[rows.all[:3]]
    full = model.score(batch)
    assert full.shape == (3, data.n_items)
    batch.candidates = torch.tensor([[5, 2], [7, 0], [1, 3]])
    torch.testing.assert_close(model.score(batch), full.gather(1, batch.candidates), rtol=1e-4, atol=1e-5)


def test_a_prompt_that_cannot_fit_is_one_line() -> None:
    from benchmark.errors import InputError

    data, _ = planted("preference")
    with pytest.raises(InputError, match="max_length is 10"):
        Pointwise(Pointwise.Config(backbone=tiny_bert(), max_length=10), data.catalogue())


def test_a_real_pretrained_model_learns_a_batch_of_prompts() -> None:
    data, task = planted("preference")
    torch.manual_seed(0)
    model = Pointwise(Pointwise.Config(batch_size=16, max_length=128, learning_rate=2e-3), data.catalogue())
    batch = next(iter(RecDataModule(data, task, model.batch_spec()).train_dataloader()))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    losses = []
    for _ in range(8):
        loss = model.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.75 * losses[0], losses


def test_hard_negatives_and_augmented_histories_train_a_prompt() -> None:
    data, task = planted("ranking")
    config = {"backbone": tiny_bert(), "batch_size": 64, "negative_sampling": {"kind": "hard", "pool": 2}}
    options = {"test": False, "limit_train_batches": 3, "limit_val_batches": 0}
    fitted = fit(Pointwise, config | {"augment": {"crop": 0.5}}, data, task, **options)
    assert fitted.trainer.global_step == 3
