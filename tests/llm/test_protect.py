"""Protect: each protection lowers drift at equal steps, is what its paper says, and is off by default."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.errors import InputError
from benchmark.llm.adapters import Peft, PeftKind
from benchmark.llm.backbone import Backbone
from benchmark.llm.encoder import Encoder
from benchmark.llm.language_model import LanguageModel
from benchmark.llm.loading import Loading
from benchmark.llm.plain_texts import plain_texts
from benchmark.llm.pointwise import Pointwise
from benchmark.llm.protect import Protect, Protection
from benchmark.llm.retention import Retention, _tokenised, logits_of, measure, vectors
from benchmark.llm.two_tower import TwoTower
from tests.contract import fit
from tests.llm.tiny import tiny, tiny_bert
from tests.planted import planted

LOADING = Loading(dtype="float32")


def decoder(kind: PeftKind = "lora") -> LanguageModel:
    return LanguageModel(tiny("llama"), Peft(kind=kind, dropout=0.0, virtual_tokens=3), LOADING, seed=0)


def moved(model: Backbone, by: float = 0.1) -> Any:
    """Move what is trained, always in the same way."""
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(by * torch.randn_like(p))
    return model


def titles(n: int = 24) -> list[str]:
    data, _ = planted("ranking")
    return data.items["title"].to_list()[:n]


def drifted(model: Backbone, protect: dict[str, Any], rate: float) -> float:
    """Return the KL of a language model, or 1 - CKA of an encoder, after 12 steps on titles."""
    settings = Protect.model_validate({"texts": 32, "length": 12, "texts_per_step": 16, **protect})
    protection = Protection(model, settings)
    protection.begin()
    model.eval()  # dropout is no part of what is compared
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate)
    torch.manual_seed(0)
    for step in range(12):
        if isinstance(model, LanguageModel):
            told = _tokenised(model, titles(), 12)
            real = told.mask > 0
            loss = torch.nn.functional.cross_entropy(logits_of(model, told)[real], told.ids[real])
        else:
            assert isinstance(model, Encoder)
            near = vectors(model, titles())
            loss = (near @ near.T).mean()  # away from each other
        optimizer.zero_grad()
        (loss + protection.penalty(step)).backward()
        optimizer.step()
    protection.end()
    told = measure(model, Retention(texts=32, length=12))
    return told["base_kl"] if isinstance(model, LanguageModel) else 1 - told["base_cka"]


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_language_models_move_less_at_equal_steps(kind: PeftKind) -> None:
    """A real pretrained Llama where it is at hand, else one with random weights."""
    shared = os.environ.get("LEVELFIELD_SHARED")
    name = str(Path(shared) / "models" / "stories260K") if shared else tiny("llama")
    rate = 0.02 if kind == "lora" else 0.003

    def drift(**protect: float) -> float:
        return drifted(LanguageModel(name, Peft(kind=kind), LOADING, seed=0), protect, rate)

    free = drift()
    assert free > (0.03 if shared else 0.005), "there must be something to protect"  # random weights move less
    for protect in ({"kl": 5.0}, {"replay": 5.0}, {"l2_sp": 2.0}):
        assert drift(**protect) < 0.7 * free, protect


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_encoders_move_less_at_equal_steps(kind: PeftKind) -> None:
    rate = 0.02 if kind == "lora" else 0.001

    def drift(**protect: float) -> float:
        return drifted(Encoder(tiny_bert(), Peft(kind=kind), LOADING, seed=0), protect, rate)

    free = drift()
    assert free > 0.001
    for protect in ({"embedding": 100.0}, {"l2_sp": 100.0}):
        assert drift(**protect) < 0.7 * free, protect


def test_a_stronger_pull_leaves_less_drift() -> None:
    drift = [drifted(decoder("full"), {"l2_sp": strength}, 0.003) for strength in (0.01, 0.3, 10.0)]
    assert drift == sorted(drift, reverse=True)


@pytest.mark.parametrize("kind", ["lora", "full", "ia3", "prompt"])
def test_l2_sp_is_half_the_squared_distance_to_where_the_weights_began(kind: PeftKind) -> None:
    """Eq. 4 of Li et al.: alpha / 2 * ||w - w0||^2, over what is trained."""
    model = decoder(kind)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    protection = Protection(model, Protect(l2_sp=3.0))
    protection.begin()
    assert float(protection.penalty(0)) == 0.0
    moved(model)
    after = dict(model.named_parameters())
    distance = sum(float((after[name] - value).double().square().sum()) for name, value in before.items())
    assert float(protection.penalty(0)) == pytest.approx(1.5 * distance, rel=1e-4)


def test_where_weights_began_is_not_what_a_checkpoint_brings_back() -> None:
    """Protection is made before weights are restored; ``begin`` comes after it."""
    model = decoder()
    protection = Protection(model, Protect(l2_sp=1.0))
    moved(model)
    protection.begin()
    assert float(protection.penalty(0)) > 0.1


def test_kl_and_replay_are_what_plain_torch_says() -> None:
    model = moved(decoder())
    for name in ("kl", "replay"):
        protection = Protection(
            model, Protect.model_validate({name: 2.0, "texts": 4, "length": 8, "texts_per_step": 4})
        )
        protection.begin()
        texts = protection._texts
        assert texts is not None
        opened = torch.cat([torch.full((4, 1), 1), texts.ids], 1)
        seen = torch.cat([torch.ones(4, 1, dtype=torch.int64), texts.mask], 1)
        real = texts.mask > 0
        with torch.no_grad():
            tuned = model.base(input_ids=opened, attention_mask=seen).logits[:, :-1][real].log_softmax(-1)
            base = model.reference()(input_ids=opened, attention_mask=seen).logits[:, :-1][real].log_softmax(-1)
        expected = {
            "kl": (base.exp() * (base - tuned)).sum(-1).mean(),
            "replay": -tuned.gather(1, texts.ids[real].unsqueeze(1)).mean(),
        }[name]
        torch.testing.assert_close(protection.penalty(0), 2 * expected, rtol=1e-4, atol=1e-6)
        assert protection.penalty(0).requires_grad


def test_what_is_trained_on_is_not_what_is_measured_on() -> None:
    assert not set(plain_texts("trained")) & set(plain_texts("measured"))
    assert len(set(plain_texts("trained"))) == len(set(plain_texts("measured"))) == 256


def test_texts_take_turns_and_everything_is_let_go() -> None:
    encoder = moved(Encoder(tiny_bert(), Peft(kind="full"), LOADING, seed=0)).eval()
    protection = Protection(encoder, Protect(embedding=1.0, l2_sp=1e-9, texts_per_step=100))
    protection.begin()
    assert [protection._turn(step, 256)[0].item() for step in range(4)] == [0, 100, 200, 44]
    assert float(protection.penalty(0)) != float(protection.penalty(1))
    protection.end()
    assert encoder.__dict__["_reference"] is None
    assert protection._vectors is None


def test_without_protection_training_is_what_it_was_and_with_it_repeats() -> None:
    data, task = planted("preference")
    config = {"backbone": tiny("llama"), "learning_rate": 0.01, "batch_size": 64}

    def weights(**more: Any) -> torch.Tensor:
        model = fit(Pointwise, {**config, **more}, data, task, test=False).model
        return torch.cat([p.flatten() for p in model.parameters() if p.requires_grad])

    plain = weights()
    assert torch.equal(plain, weights(protect={}, retention={"texts": 4, "length": 8}))
    kept = {"kl": 1.0, "texts": 8, "length": 8}
    assert torch.equal(weights(protect=kept), weights(protect=kept))
    assert not torch.equal(plain, weights(protect=kept))


@pytest.mark.parametrize(
    ("cls", "config", "said"),
    [
        (TwoTower, {"protect": {"kl": 1.0}}, "protect.kl: needs a language model head, and this is an encoder; use"),
        (TwoTower, {"protect": {"replay": 1.0}}, "protect.replay: needs a language model head"),
        (Pointwise, {"backbone": tiny("llama"), "protect": {"embedding": 1.0}}, "protect.embedding: is for encoders"),
        (TwoTower, {"peft": {"kind": "frozen"}, "protect": {"l2_sp": 1.0}}, "protect.l2_sp: the backbone is not"),
        (Pointwise, {"backbone": tiny("t5"), "zero_shot": True, "protect": {"kl": 1}}, "protect.kl: the backbone is"),
    ],
)  # fmt: skip
def test_what_means_nothing_is_refused_before_anything_runs(cls: Any, config: dict[str, Any], said: str) -> None:
    data, _ = planted("ranking" if cls is TwoTower else "preference")
    with pytest.raises(InputError, match=said):
        cls.check(cls.Config(**{"backbone": tiny_bert(), **config}), data.catalogue())


def test_the_tuned_model_is_measured_as_it_is_scored() -> None:
    """The numbers come from the trained weights, whatever mode the model is in."""
    model = moved(decoder())
    settings = Retention(texts=4, length=8)
    assert measure(model.train(), settings) == measure(model.eval(), settings)
    assert not model.training
