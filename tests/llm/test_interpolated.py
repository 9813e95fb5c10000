"""Interpolated: weights on the line between pretrained and fine-tuned ones, for every kind that changes weights."""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import pytest
import torch

from baselines.ease import EASE
from benchmark.errors import InputError
from benchmark.llm.adapters import Peft, PeftKind, tuner_layers
from benchmark.llm.interpolated import Interpolated, interpolate
from benchmark.llm.language_model import LanguageModel
from benchmark.llm.loading import Loading
from benchmark.llm.two_tower import TwoTower
from benchmark.recommender import Recommender
from tests.contract import Fitted, RecommenderContract, fit
from tests.llm.test_protect import decoder, moved
from tests.llm.tiny import tiny, tiny_bert
from tests.planted import planted

IN_LAYERS: tuple[PeftKind, ...] = ("lora", "rslora", "dora", "adalora", "vera", "ia3")


@functools.cache
def trained(kind: PeftKind) -> Fitted:
    data, task = planted("ranking")
    config = {"backbone": tiny_bert(), "learning_rate": 0.01, "batch_size": 32, "peft": {"kind": kind}}
    config |= {"retention": {}, "learning_rate": 0.01 if kind == "lora" else 0.002}
    return fit(TwoTower, config, data, task, epochs=6)


def between(kind: PeftKind, share: float) -> Interpolated:
    row = trained(kind).model.eval()
    model = Interpolated(Interpolated.Config(of="row", share=share), row.catalogue)
    model.attach({"of": row})
    return model.eval()


class TestInterpolated(RecommenderContract):
    in_two_processes = False
    model = Interpolated
    config: ClassVar[dict[str, Any]] = {"of": "row", "share": 0.7}

    @classmethod
    def stages(cls, kind: str) -> dict[str, Recommender]:
        return {"of": trained("lora").model.eval()}


@pytest.mark.parametrize("kind", ["lora", "full"])
@torch.no_grad()
def test_the_ends_are_the_row_and_the_pretrained_backbone_with_the_rows_head(kind: PeftKind) -> None:
    fitted = trained(kind)
    row, batch = fitted.model.eval(), fitted.batch()
    before = row.score(batch)
    torch.testing.assert_close(between(kind, 1.0).score(batch), before, rtol=1e-5, atol=1e-6)
    assert torch.equal(row.score(batch), before), "the row itself is not changed"
    data, _ = planted("ranking")
    plain = TwoTower(TwoTower.Config(backbone=tiny_bert(), peft={"kind": "frozen"}), data.catalogue()).eval()
    head = {k: v for k, v in row.weights().items() if not k.startswith("backbone.")}
    plain.load_state_dict(head, strict=False)
    pretrained = between(kind, 0.0)
    torch.testing.assert_close(pretrained.score(batch), plain.score(batch), rtol=1e-5, atol=1e-6)
    assert pretrained.report()["base_cka"] == pytest.approx(1.0, abs=1e-9)
    assert not torch.allclose(before, plain.score(batch), atol=1e-3)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_drift_grows_with_the_share(kind: PeftKind) -> None:
    kept = [between(kind, share).report()["base_cka"] for share in (0.0, 0.5, 1.0)]
    assert kept == sorted(kept, reverse=True)
    assert kept[2] == pytest.approx(trained(kind).model.report()["base_cka"], abs=1e-6)
    assert between(kind, 0.5).traits.group == "llm"


@pytest.mark.parametrize("kind", ["lora", "rslora", "vera"])
@torch.no_grad()
def test_a_scaled_adapter_is_the_interpolation_of_merged_weights(kind: PeftKind) -> None:
    """share * W_tuned + (1 - share) * W = W + share * scaling * B A."""
    scaled, line = moved(decoder(kind)), moved(decoder(kind))
    for layer in tuner_layers(scaled.model):
        if kind == "vera":
            layer.vera_lambda_b["default"].mul_(0.3)
        else:
            layer.scaling["default"] *= 0.3
    interpolate(line, 0.3)
    with scaled.merged():
        expected = {name.replace("base_layer.", ""): p.clone() for name, p in scaled.base.named_parameters()}
        for name, p in line.base.named_parameters():
            torch.testing.assert_close(p, expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", [*IN_LAYERS, "full"])
@torch.no_grad()
def test_every_kind_that_changes_weights_lies_on_the_line(kind: PeftKind) -> None:
    model = moved(decoder(kind))
    with model.merged():
        tuned = {n.replace("base_layer.", ""): p.clone() for n, p in model.base.named_parameters()}
    first = dict(model.reference().named_parameters())
    interpolate(model, 0.25)
    assert model.peft.kind == "full"
    for name, p in model.base.named_parameters():
        torch.testing.assert_close(p, 0.25 * tuned[name] + 0.75 * first[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        *[(kind, f"of: 'row' trains virtual tokens .peft.kind: {kind}") for kind in ("prefix", "prompt", "ptuning")],
        ("frozen", "of: 'row' is frozen: there is nothing"),
    ],
)
def test_kinds_without_weights_of_their_own_are_refused(kind: PeftKind, said: str) -> None:
    model = LanguageModel(tiny("llama"), Peft(kind=kind, virtual_tokens=2), Loading(dtype="float32"), seed=0)
    with pytest.raises(InputError, match=said):
        interpolate(model, 0.5, "row")


def test_a_row_that_is_no_language_model_is_refused() -> None:
    data, task = planted("ranking")
    row = fit(EASE, {}, data, task, test=False).model.eval()
    model = Interpolated(Interpolated.Config(of="ease"), row.catalogue)
    with pytest.raises(InputError, match="of: 'ease' is no fine-tuned language model"):
        model.attach({"of": row})
