"""Recommender: what the base class does for every model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from torch import Tensor, nn

from baselines.ease import EASE
from baselines.fusion import Fusion
from baselines.mf import MF
from baselines.popularity import Popularity
from benchmark.data.batch import Batch
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


def test_training_goes_on_from_a_checkpoint_as_if_never_interrupted(tmp_path: Path) -> None:
    data, task = planted("ranking")
    whole = fit(MF, {}, data, task, epochs=4, test=False)
    first = fit(MF, {}, data, task, epochs=2, test=False)
    path = tmp_path / "half.ckpt"
    first.trainer.save_checkpoint(path)
    with quiet():
        model = MF(MF.Config(), data.catalogue())
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
