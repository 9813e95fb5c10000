"""Collaborative: vectors of a trained model in the prompt, two stages of training."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Callback, Trainer

from baselines.ease import EASE
from baselines.lightgcn import LightGCN
from baselines.mf import MF
from baselines.sasrec import SASRec
from benchmark.data.batch import Batch
from benchmark.data.datamodule import RecDataModule
from benchmark.data.schema import Catalogue
from benchmark.errors import InputError
from benchmark.llm.collaborative import Collaborative
from benchmark.recommender import ModelConfig, Recommender
from tests.contract import Fitted, RecommenderContract, fit, tells_unseen_items_apart
from tests.llm.tiny import tiny, tiny_bert
from tests.planted import planted


@functools.cache
def trained(cls: type[Recommender], kind: str, **config: Any) -> Recommender:
    data, task = planted(kind)
    model = fit(cls, {"learning_rate": 0.05, "embedding_size": 8, **config}, data, task, 10, test=False).model
    return model.eval().requires_grad_(False)


CONFIG = {
    "collaborative": "mf",
    "learning_rate": 0.02,
    "batch_size": 64,
    "schedule": "constant",
    "text_epochs": 1,
    "max_history": 4,
    "zero_unseen": True,  # with labelled rows alone, as here, they are zero anyway
}


class TestDecoder(RecommenderContract):
    model = Collaborative
    config = {**CONFIG, "backbone": tiny("llama")}
    tasks = ("preference",)
    epochs = 5
    floor = 0.53

    @classmethod
    def stages(cls, kind: str) -> dict[str, Recommender]:
        return {"collaborative": trained(MF, kind, loss="bce")}


class TestEncoder(TestDecoder):
    config = {**CONFIG, "backbone": tiny_bert(), "max_length": 100}


def test_vectors_that_sank_as_drawn_negatives_are_noise_beside_the_text() -> None:
    data, task = planted("ranking")
    told = {}
    for zero in (False, True):
        config = Collaborative.Config(**{**CONFIG, "backbone": tiny_bert(), "max_length": 100, "zero_unseen": zero})
        model = Collaborative(config, data.catalogue())
        model.attach({"collaborative": trained(MF, "ranking")})
        fitted = Fitted(model, RecDataModule(data, task, model.batch_spec()), Trainer(logger=False), {})
        told[zero] = tells_unseen_items_apart(fitted), "items" in model.traits.unseen
    assert told == {False: (False, False), True: (True, True)}


class Means(Recommender):
    """Gives away the mean label of each user and item, in units of which a projection can make something."""

    def __init__(self, catalogue: Catalogue) -> None:
        super().__init__(ModelConfig(), catalogue)
        train = catalogue.train
        assert train.rating is not None
        like = (train.rating >= 4).astype(np.float32)

        def mean(ids: np.ndarray, n: int) -> torch.Tensor:
            total = np.bincount(ids, weights=like - like.mean(), minlength=n)
            share = torch.from_numpy(total / (np.bincount(ids, minlength=n) + 2)).float()
            return torch.stack([share, -share, 0.2 + 0 * share], 1)

        self.user, self.item = mean(train.user, self.n_users), mean(train.item, self.n_items)

    def user_embeddings(self, batch: Batch) -> torch.Tensor:
        return self.user[batch.user]

    def item_embeddings(self) -> torch.Tensor:
        return self.item


def test_what_the_vectors_alone_tell_is_learned() -> None:
    """The language model is frozen and no text tells a liked item: what is learned came by the vectors."""
    data, task = planted("preference")
    config = {**CONFIG, "backbone": tiny("llama"), "peft": {"kind": "frozen"}, "text_epochs": 0, "learning_rate": 0.01}
    stages: dict[str, Recommender] = {"collaborative": Means(data.catalogue())}
    assert fit(Collaborative, config, data, task, 8, stages=stages).metrics["auc"] > 0.65


def test_each_model_reads_as_much_history_as_it_is_made_for() -> None:
    data, task = planted("ranking")
    model = Collaborative(Collaborative.Config(**CONFIG | {"max_history": 2}, backbone=tiny("llama")), data.catalogue())
    stage = trained(SASRec, "ranking", n_layers=1, n_heads=1, max_history=6)
    model.attach({"collaborative": stage})
    assert model.batch_spec().max_history == 6
    rows = RecDataModule(data, task, model.batch_spec()).rows("test")
    batch = rows[rows.all[:4]]
    assert batch.history is not None
    assert batch.history.shape[1] == 6
    user, _ = model.vectors(batch, torch.zeros(4, dtype=torch.int64))
    torch.testing.assert_close(user, model.projection(stage.user_embeddings(batch)))
    batch.candidates = torch.arange(3).expand(4, -1)
    short = batch.newest(2)
    text = model.reader.pieces.text(model.reader.read(short, batch.candidates[:, 0]).tokens)
    titles = data.items["title"].to_list()
    assert all(titles[i] in text for i in short.history.flatten().tolist() if i < data.n_items)  # type: ignore[union-attr]
    assert model.eval().score(batch).shape == (4, 3)


class _Watch(Callback):
    """Notes which parts of a model an epoch changes."""

    def __init__(self) -> None:
        self.changed: list[set[str]] = []
        self.before: dict[str, torch.Tensor] = {}

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.before = {n: p.detach().clone() for n, p in pl_module.named_parameters()}

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        moved = {n for n, p in pl_module.named_parameters() if not torch.equal(p, self.before[n])}
        self.changed.append({name.split(".")[0] for name in moved})


@pytest.mark.parametrize("tune_adapter", [False, True])
def test_first_the_adapter_learns_then_the_projection(tune_adapter: bool) -> None:
    data, task = planted("preference")
    watch = _Watch()
    config = {**CONFIG, "backbone": tiny("llama"), "text_epochs": 2, "tune_adapter": tune_adapter}
    stage = trained(MF, "preference", loss="bce")
    before = {n: p.clone() for n, p in stage.named_parameters()}
    fit(Collaborative, config, data, task, 2, test=False, stages={"collaborative": stage}, callbacks=[watch])
    second = {"projection", "backbone"} if tune_adapter else {"projection"}
    assert watch.changed == [{"backbone"}, {"backbone"}, second, second]
    assert all(torch.equal(p, before[n]) for n, p in stage.named_parameters())


def test_adalora_lowers_its_ranks_in_the_first_stage() -> None:
    data, task = planted("preference")
    config = {**CONFIG, "backbone": tiny("llama"), "text_epochs": 2, "peft": {"kind": "adalora", "rank": 2}}
    stages = {"collaborative": trained(MF, "preference", loss="bce")}
    fitted = fit(Collaborative, config, data, task, 1, test=False, stages=stages)
    assert fitted.model.report()["adalora_mean_rank"] == pytest.approx(2)


def test_the_vectors_stand_where_their_slots_are() -> None:
    data, task = planted("preference")
    model = Collaborative(Collaborative.Config(**CONFIG, backbone=tiny("llama")), data.catalogue()).eval()
    model.attach({"collaborative": trained(MF, "preference", loss="bce")})
    rows = RecDataModule(data, task, model.batch_spec()).rows("test")
    batch = rows[rows.all[:3]]
    assert batch.candidates is not None
    prompts = model.reader.read(batch.newest(4), batch.candidates[:, 0])
    text = model.reader.pieces.text(prompts.tokens[: prompts.offsets[1]])
    assert "feature<user_embedding>." in text
    assert "with the feature<item_embedding>?" in text
    user, item = model.vectors(batch, batch.candidates[:, 0])
    ids, _ = model.backbone.pad(prompts)
    embeds = model.backbone.embed(ids, (user, item))
    n = model.backbone.n_tokens
    assert torch.equal(embeds[ids == n], user)
    assert torch.equal(embeds[ids == n + 1], item)
    plain = model.backbone.base.get_input_embeddings()(ids.clamp(max=n - 1))
    assert torch.equal(embeds[ids < n], plain[ids < n])


def test_a_shared_prefix_scores_as_whole_prompts_do() -> None:
    data, task = planted("ranking")
    model = Collaborative(Collaborative.Config(**CONFIG, backbone=tiny("llama")), data.catalogue()).eval()
    model.attach({"collaborative": trained(LightGCN, "ranking", n_layers=1)})
    rows = RecDataModule(data, task, model.batch_spec()).rows("test")
    batch = rows[rows.all[:5]]
    batch.candidates = torch.arange(12).expand(5, -1)
    with torch.no_grad():
        whole = model._score_each(batch.newest(4), batch.candidates)
        torch.testing.assert_close(model.score(batch), whole, rtol=1e-4, atol=1e-5)


def test_a_model_without_embeddings_is_one_line() -> None:
    data, task = planted("ranking")
    model = Collaborative(Collaborative.Config(**CONFIG, backbone=tiny("llama")), data.catalogue())
    with pytest.raises(InputError, match="EASE has no embeddings to give"):
        model.attach({"collaborative": fit(EASE, {}, data, task, test=False).model})


def test_impossible_settings() -> None:
    with pytest.raises(ValueError, match="has to be trained"):
        Collaborative.Config(collaborative="mf", zero_shot=True)
    with pytest.raises(ValueError, match="set it to 0"):
        Collaborative.Config(collaborative="mf", peft={"kind": "frozen"})
