"""Derived: a changed copy of a trained row is a row like any other, and leaves the row itself as it is."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch

from baselines.ease import EASE
from benchmark import Experiment
from benchmark.derived import Derived
from benchmark.errors import InputError
from benchmark.recommender import Recommender
from tests.contract import RecommenderContract, fit
from tests.planted import planted


class Halved(Derived):
    """Half of each weight of EASE: another model, the same ranking."""

    def change(self, model: Recommender) -> Recommender:
        model.weight.mul_(0.5)
        return model


class Same(Derived):
    """The row as it is."""

    def change(self, model: Recommender) -> Recommender:
        return model


class TestHalved(RecommenderContract):
    in_two_processes = False
    model = Halved
    config: ClassVar[dict[str, Any]] = {"of": "ease"}

    @classmethod
    def stages(cls, kind: str) -> dict[str, Recommender]:
        data, task = planted(kind)
        return {"of": fit(EASE, {"l2": 10.0}, data, task).model.eval()}

    def test_the_row_itself_is_not_changed(self) -> None:
        stages = self.stages("ranking")
        before = stages["of"].weight.clone()
        derived = Halved(Halved.Config(of="ease"), stages["of"].catalogue)
        derived.attach(stages)
        assert torch.equal(stages["of"].weight, before)
        assert torch.equal(derived.changed.weight, before / 2)


def _experiment(tmp_path: Any, kind: str, of: str) -> Experiment:
    file = tmp_path / "derived.yaml"
    file.write_text(
        f"name: derived\ndataset: {{source: movielens-100k}}\ntask: {{kind: {kind}, metrics: [auc]}}\nmodels:\n"
        f"  below: {{class: {of}}}\n  above: {{class: tests.test_derived.Halved, of: below}}\n"
    )
    return Experiment.load(file)


def test_it_does_what_its_row_does(tmp_path: Any) -> None:
    assert set(_experiment(tmp_path, "preference", "baselines.ease.EASE").unable()) == {"below", "above"}
    traits = _experiment(tmp_path, "preference", "baselines.bias.Bias").spec("above", 0).traits()
    assert traits.tasks == {"ranking", "preference"}
    assert traits.probability
    assert traits.group == "trivial", "it stands where its row stands"


def test_a_row_that_is_not_there_is_named(tmp_path: Any) -> None:
    experiment = _experiment(tmp_path, "ranking", "baselines.ease.EASE")
    with pytest.raises(InputError, match=r"models.above.of: no model 'beloww' .* 'below'"):
        experiment.with_values({"above": {"of": "beloww"}}).specs()
