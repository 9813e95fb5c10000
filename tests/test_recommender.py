"""Recommender: what the base class does for every model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning import Callback, Trainer
from scipy.stats import chisquare
from torch import Tensor, nn

from baselines.ease import EASE
from baselines.fusion import Fusion
from baselines.mf import MF
from baselines.popularity import Popularity
from benchmark.data.batch import Batch
from benchmark.data.negatives import Sampling
from benchmark.data.train_rows import TrainRows
from benchmark.errors import InputError
from benchmark.recommender import (
    GradientConfig,
    ModelConfig,
    Recommender,
    TrainingDiverged,
    size_in_bytes,
    trainable_parameters,
)
from tests.contract import fit, quiet
from tests.planted import planted


class Flawed(Recommender):
    """A model with whatever fault a test gives it."""

    Config = GradientConfig

    def __init__(self, config: ModelConfig, catalogue: Any) -> None:
        super().__init__(config, catalogue)
        self.scale = nn.Parameter(torch.ones(()))
        self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
        self.register_buffer("kept", torch.ones(2))
        self.register_buffer("forgotten", torch.ones(2), persistent=False)

    loss: Any = staticmethod(lambda scale: scale**2)
    width = 0

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self.loss(self.scale)

    def score(self, batch: Batch) -> Tensor:
        return torch.zeros(len(batch), self.n_items + self.width)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_training(value: float) -> None:
    class Diverging(Flawed):
        loss = staticmethod(lambda scale: scale * value)

    with pytest.raises(TrainingDiverged, match=r"epoch 0 .*lower the learning rate"):
        fit(Diverging, {}, *planted("ranking"))


def test_scores_of_another_shape_are_refused() -> None:
    class Wide(Flawed):
        width = 1

    with pytest.raises(ValueError, match=r"Wide.score returned \(120, 84\), expected \(120, 83\)"):
        fit(Wide, {}, *planted("ranking"))


def test_a_constant_scorer_is_chance() -> None:
    assert fit(Flawed, {}, *planted("ranking")).metrics["auc"] == pytest.approx(0.5)


def test_a_task_the_model_cannot_do_is_refused() -> None:
    with pytest.raises(InputError, match="EASE cannot do a preference task"):
        fit(EASE, {}, *planted("preference"))


def test_the_mean_loss_of_each_epoch_is_logged() -> None:
    fitted = fit(MF, {"learning_rate": 1e-9}, *planted("ranking"), epochs=2, test=False)
    assert float(fitted.trainer.callback_metrics["train_loss"]) == pytest.approx(0.693, abs=0.02)  # log 2
    assert "valid/auc" in fitted.trainer.callback_metrics


def test_weights_hold_what_was_trained_and_nothing_else() -> None:
    data, _ = planted("ranking")
    model = Flawed(GradientConfig(), data.catalogue())
    assert sorted(model.weights()) == ["kept", "scale"]
    assert trainable_parameters(model) == 1
    assert sorted(Popularity(ModelConfig(), data.catalogue()).weights()) == ["count"]
    assert trainable_parameters(Popularity(ModelConfig(), data.catalogue())) == 0


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    data, _ = planted("ranking")
    MF(MF.Config(embedding_size=8), data.catalogue()).save(tmp_path)
    with pytest.raises(InputError, match=r"item.weight: found \(83, 8\), expected \(83, 4\)|user.weight"):
        MF(MF.Config(embedding_size=4), data.catalogue()).restore(tmp_path)


def test_predict_gives_the_scores_of_all_users_in_order() -> None:
    fitted = fit(MF, {"eval_batch_size": 50}, *planted("ranking"))
    with quiet():
        predicted = fitted.trainer.predict(fitted.model, fitted.module)
    assert predicted is not None
    assert [len(scores) for scores in predicted] == [50, 50, 20]
    torch.testing.assert_close(torch.cat(predicted), fitted.score(fitted.batch()))  # type: ignore[arg-type]


def test_scoring_is_clocked_over_the_test_part() -> None:
    fitted = fit(Popularity, {}, *planted("ranking"))
    assert fitted.model.scored_rows == len(fitted.module.rows("test"))
    assert fitted.model.scoring_seconds > 0


def test_the_ranks_of_the_test_part_outlive_the_test() -> None:
    fitted = fit(Popularity, {}, *planted("ranking"))
    assert sorted(set(fitted.model.test_evaluator.table()["user"])) == fitted.module.rows("test").user.tolist()
    users, top = fitted.model.test_evaluator.top_lists()
    assert top.shape == (len(users), 20)


@pytest.mark.parametrize("sampling", ["uniform", "hard"])
def test_training_goes_on_from_a_checkpoint_as_if_never_interrupted(tmp_path: Path, sampling: str) -> None:
    data, task = planted("ranking")
    config = {"negative_sampling": sampling}
    whole = fit(MF, config, data, task, epochs=4, test=False)
    first = fit(MF, config, data, task, epochs=2, test=False)
    path = tmp_path / "half.ckpt"
    first.trainer.save_checkpoint(path)
    with quiet():
        model = MF(MF.Config(**config), data.catalogue())
        trainer = Trainer(
            max_epochs=4, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, num_sanity_val_steps=0,
        )  # fmt: skip
        trainer.fit(model, first.module, ckpt_path=str(path), weights_only=True)
        model.eval()
        with torch.no_grad():
            resumed = model.score(whole.batch())
    assert torch.equal(resumed, whole.score(whole.batch()))


def test_the_size_is_that_of_all_that_scoring_holds_once() -> None:
    data, task = planted("ranking")
    flawed = Flawed(GradientConfig(), data.catalogue())
    assert size_in_bytes(flawed) == 4 * (1 + 3 + 2 + 2)  # what is not saved is held too
    flawed.tied = nn.Parameter(flawed.frozen.data[:2])  # a view of what is there
    assert size_in_bytes(flawed) == 4 * (1 + 3 + 2 + 2)
    ease, mf = (fit(cls, {}, data, task, 1, test=False).model for cls in (EASE, MF))
    fused = Fusion(Fusion.Config(members=("ease", "mf")), data.catalogue())
    fused.attach({"members.0": ease, "members.1": mf})
    assert size_in_bytes(fused) == size_in_bytes(ease) + size_in_bytes(mf) + 4  # and its anchor


class Dropping(MF):
    """MF whose scores would be drawn, were it not in eval mode; one of its modules always is."""

    def __init__(self, config: Any, catalogue: Any) -> None:
        super().__init__(config, catalogue)
        self.drop, self.asleep = nn.Dropout(0.5), nn.Dropout(0.5).eval()

    def item_embeddings(self) -> Tensor:
        return self.drop(super().item_embeddings())

    def score(self, batch: Batch) -> Tensor:
        return super().score(batch) + self.drop(torch.zeros(1))


@pytest.mark.parametrize("loss", ["bpr", "bce"])
def test_hard_negatives_are_the_best_scored_of_their_pool(loss: str) -> None:
    """Compared, before each step, with the scores of the whole catalogue and the same draws of a second TrainRows."""
    data, task = planted("ranking")

    class Watch(Callback):
        def __init__(self) -> None:
            self.steps, self.epoch = 0, -1

        def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Batch, batch_idx: int) -> None:
            module: Any = trainer.datamodule  # type: ignore[attr-defined]
            if self.epoch != trainer.current_epoch:
                self.epoch = trainer.current_epoch
                self.rows = TrainRows(data, task, module.spec, module.seed)
                self.index = iter(self.rows.order(self.epoch).split(module.spec.batch_size))
            index = next(self.index)
            pool = self.rows[index].negative
            assert pool is not None
            assert pool.shape[1] == 12
            n = len(index)
            if loss == "bpr":
                assert batch.negative is not None
                kept = batch.negative
            else:
                assert batch.negative is None
                assert batch.item is not None
                assert batch.label is not None
                assert batch.label.tolist() == [1.0] * n + [0.0] * 2 * n
                kept = batch.item[n:].view(2, n).T
            assert pl_module.training
            assert pl_module.drop.training
            assert not pl_module.asleep.training
            pl_module.drop.eval()
            with torch.no_grad():
                scores = pl_module.score(Batch(user=batch.user[:n]))
            pl_module.drop.train()
            of_pool, of_kept = scores.gather(1, pool), scores.gather(1, kept)
            torch.testing.assert_close(of_kept.sort(descending=True).values, of_pool.topk(2).values)
            assert (kept.unsqueeze(2) == pool.unsqueeze(1)).any(2).all()
            self.steps += 1

    watch = Watch()
    config = {"loss": loss, "negatives": 2, "negative_sampling": {"kind": "hard", "pool": 6}, "batch_size": 300}
    fit(Dropping, config, data, task, epochs=3, callbacks=[watch])
    assert watch.steps == 3 * -(-len(data.train) // 300)


def test_choosing_hard_negatives_draws_nothing() -> None:
    data, _ = planted("ranking")
    model = Dropping(MF.Config(negative_sampling="hard"), data.catalogue())
    batch = Batch(user=torch.arange(2, 6), negative=torch.randint(data.n_items, (4, 10)))
    state = torch.get_rng_state()
    chosen = model._hardest(batch, 3)
    assert torch.equal(torch.get_rng_state(), state)
    assert chosen.shape == (4, 3)
    assert not any(p.grad is not None for p in model.parameters())


def test_items_drawn_by_a_model_itself_are_uniform_or_by_popularity() -> None:
    data, _ = planted("ranking")
    counts = np.bincount(data.train.item, minlength=data.n_items)
    for sampling, expected in (
        (Sampling(), np.full(data.n_items, 1 / data.n_items)),
        (Sampling(kind="popularity", power=0.5), counts**0.5 / (counts**0.5).sum()),
    ):
        model = MF(MF.Config(negative_sampling=sampling), data.catalogue())
        torch.manual_seed(0)
        drawn = np.bincount(model.drawn_items(400, 100).ravel().numpy(), minlength=data.n_items)
        there = expected > 0
        assert not drawn[~there].any()
        assert chisquare(drawn[there], expected[there] * 40_000).pvalue > 1e-4
        every = torch.arange(data.n_items)
        found = torch.as_tensor(model.expected_among(7, every)).expand(data.n_items)
        torch.testing.assert_close(found, torch.from_numpy(7 * expected).float())
