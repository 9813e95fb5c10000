"""Merged: the mean of what fine-tuning changed, whatever the kind, against a sum written by hand."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch

from benchmark.errors import InputError
from benchmark.llm.merged import Merged
from benchmark.llm.two_tower import TwoTower
from benchmark.recommender import Recommender
from tests.contract import RecommenderContract, fit
from tests.llm.tiny import tiny_bert
from tests.planted import planted

TOWER = {"backbone": tiny_bert(), "learning_rate": 0.01, "batch_size": 32, "dtype": "float32"}
_KEPT: dict[str, dict[str, Recommender]] = {}


def members(kind: str, **told: Any) -> dict[str, Recommender]:
    """Return two models of different seeds, trained once for all tests."""
    if kind not in _KEPT:
        data, task = planted("ranking")
        config = {**TOWER, "peft": {"kind": kind}, **told}
        both = [fit(TwoTower, config, data, task, epochs=4, seed=seed, test=False).model for seed in (0, 1)]
        _KEPT[kind] = {f"members.{i}": m.eval().requires_grad_(False) for i, m in enumerate(both)}
    return _KEPT[kind]


def merged(stages: dict[str, Recommender], **told: Any) -> Any:
    model = Merged(Merged.Config(members=("a", "b"), **told), next(iter(stages.values())).catalogue)
    model.attach(stages)
    return model.eval()


class TestMerged(RecommenderContract):
    in_two_processes = False
    model = Merged
    config: ClassVar[dict[str, Any]] = {"members": ("a", "b")}
    floor = 0.6

    @classmethod
    def stages(cls, kind: str) -> dict[str, Recommender]:
        return members("lora")


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_the_weights_are_the_mean_of_the_members(kind: str) -> None:
    stages = members(kind)
    model = merged(stages, weights=(3.0, 1.0))
    both: list[Any] = list(stages.values())

    def weights(backbone: Any) -> dict[str, torch.Tensor]:
        with backbone.merged():
            named = {n.replace("base_layer.", ""): p.detach().clone() for n, p in backbone.base.named_parameters()}
        return {n: p for n, p in named.items() if "lora_" not in n}

    a, b, mean = (weights(m.backbone) for m in (*both, model.changed))
    assert len(mean) == len(a) > 10
    for name in a:
        torch.testing.assert_close(mean[name], 0.75 * a[name] + 0.25 * b[name], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(model.changed.project.weight, 0.75 * both[0].project.weight + 0.25 * both[1].project.weight)  # fmt: skip  # noqa: E501
    assert any(not torch.equal(a[name], b[name]) for name in a), "the members differ"


def test_a_members_own_scores_come_back_with_all_the_weight() -> None:
    stages = members("lora")
    data, task = planted("ranking")
    from benchmark.data.datamodule import RecDataModule

    rows = RecDataModule(data, task, stages["members.0"].batch_spec(), 0).rows("test")
    batch = rows[rows.all]
    with torch.no_grad():
        torch.testing.assert_close(merged(stages, weights=(1.0, 0.0)).score(batch), stages["members.0"].score(batch), rtol=1e-3, atol=1e-4)  # fmt: skip  # noqa: E501


@pytest.mark.parametrize("method", ["ties", "dare"])
def test_other_ways_of_merging_are_repeatable_and_something_else(method: str) -> None:
    stages = members("lora")
    first, second, mean = (merged(stages, **told) for told in ({"method": method}, {"method": method}, {}))
    vectors = [m.changed.item_vectors() for m in (first, second, mean)]
    assert torch.equal(vectors[0], vectors[1])
    assert not torch.allclose(vectors[0], vectors[2], atol=1e-4)


def test_what_cannot_be_merged_is_refused() -> None:
    with pytest.raises(InputError, match=r"found 'a' \(ia3\), expected models fine-tuned by lora, rslora, full"):
        merged(members("ia3"))
    mixed = {"members.0": members("lora")["members.0"], "members.1": members("full")["members.0"]}
    with pytest.raises(InputError, match="'b' is not fine-tuned in the way of 'a'"):
        merged(mixed)
    with pytest.raises(InputError, match="ties is for adapters"):
        merged(members("full"), method="ties")
