"""Generative: the contract for both searches, titles along the trie, free text grounded by embedding, valid@k."""

from __future__ import annotations

import pytest
import torch

from benchmark.data.datamodule import RecDataModule
from benchmark.errors import InputError
from benchmark.llm.generative import Generative
from tests.contract import RecommenderContract, fit, quiet
from tests.llm.tiny import tiny
from tests.planted import planted

BASE = {"learning_rate": 0.003, "batch_size": 32, "schedule": "constant", "peft": {"kind": "full"}, "max_length": 128}


class TestExact(RecommenderContract):
    model = Generative
    config = {**BASE, "backbone": tiny("llama"), "search": "exact"}
    epochs = 7
    floor = 0.6


class TestTrie(RecommenderContract):
    in_two_processes = False
    model = Generative
    config = {**BASE, "backbone": tiny("qwen2"), "beams": 30}
    epochs = 4
    floor = 0.55


class TestSeq2Seq(RecommenderContract):
    model = Generative
    config = {**BASE, "backbone": tiny("t5"), "beams": 30}
    epochs = 4
    floor = 0.55


class TestEmbedding(RecommenderContract):
    in_two_processes = False
    model = Generative
    config = {**BASE, "backbone": tiny("llama"), "grounding": "embedding", "free_beams": 3, "free_tokens": 10}
    epochs = 10
    floor = 0.55


def model_and_batch(**config: object):
    data, task = planted("ranking")
    with quiet():
        model = Generative(Generative.Config(**{**BASE, "backbone": tiny("llama"), **config}), data.catalogue()).eval()
    rows = RecDataModule(data, task, model.batch_spec()).rows("test")
    return model, rows[rows.all[:6]]


def test_a_wide_enough_search_finds_what_scoring_every_title_finds() -> None:
    exact, batch = model_and_batch(search="exact", without_seen=False)
    beam, _ = model_and_batch(beams=80, without_seen=False)
    beam.load_state_dict(exact.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(beam.score(batch), exact.score(batch), rtol=1e-4, atol=1e-4)


def test_seen_titles_are_not_written() -> None:
    model, batch = model_and_batch(beams=5)
    scores = model.score(batch)
    floor = scores.min(1).values
    assert batch.seen is not None
    assert torch.equal(scores[batch.seen.row, batch.seen.values], floor[batch.seen.row])
    assert bool(((scores > floor.unsqueeze(1)).sum(1) >= 5).all())


def test_valid_at_k_counts_generations_that_are_titles() -> None:
    data, task = planted("ranking")
    config = {**BASE, "backbone": tiny("llama"), "grounding": "embedding", "free_beams": 3, "free_tokens": 10}
    untrained = fit(Generative, {**config, "zero_shot": True}, data, task).model.metrics["test"]
    trained = fit(Generative, config, data, task, epochs=8).model.metrics["test"]
    assert untrained["valid@1"] == 0.0
    assert trained["valid@1"] > 0.5
    assert 0 < trained["valid@3"] <= trained["valid@1"]
    assert "valid@5" not in trained  # there are three generations
    along = fit(Generative, {**BASE, "backbone": tiny("llama")}, data, task).model.metrics["test"]
    assert along["valid@1"] == 1.0


def test_loss_is_on_the_title_alone() -> None:
    model, _ = model_and_batch()
    data, task = planted("ranking")
    batch = next(iter(RecDataModule(data, task, model.batch_spec()).train_dataloader()))
    logits = []
    with torch.no_grad():
        for row in range(len(batch.user)):
            ids, mask = model.backbone.pad(model.reader.read(batch), torch.tensor([row]).numpy())
            title = [*model.titles.tokens[slice(*model.titles.offsets[batch.item[row] :][:2])].tolist()]
            whole = torch.tensor([ids[0][mask[0] > 0].tolist() + title])
            out = model.backbone.base(input_ids=whole).logits[0].log_softmax(-1)
            n = len(title)
            logits.append(out[-n - 1 : -1].gather(1, whole[0, -n:].unsqueeze(1)))
            assert title[-1] == model.end
        torch.testing.assert_close(model.loss(batch), -torch.cat(logits).mean())


def test_an_encoder_cannot_write() -> None:
    data, _ = planted("ranking")
    with pytest.raises(InputError, match="is an encoder: this needs a decoder"):
        Generative(Generative.Config(backbone=tiny("bert")), data.catalogue())
