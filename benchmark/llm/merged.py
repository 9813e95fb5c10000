"""Merged: one model of several that were fine-tuned apart from the same backbone, such as one a domain."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor

from benchmark.data.task import Task
from benchmark.derived import Derived
from benchmark.errors import InputError
from benchmark.llm.training import LanguageRecommender, LLMConfig
from benchmark.members import check_weights
from benchmark.recommender import Below, ModelConfig, Recommender

# on the changes of the weights themselves: PEFT's other kinds combine the two factors of each apart
_PEFT = {"mean": "cat", "ties": "ties_svd", "dare": "dare_linear_svd"}
_KINDS = ("lora", "rslora", "full")


class MergedConfig(ModelConfig):
    members: tuple[str, ...] = Field(min_length=2, description="Labels of the rows, of one class and one backbone.")
    weights: tuple[float, ...] | None = Field(None, description="Of the members, in their order; None: all the same.")
    method: Literal["mean", "ties", "dare"] = Field(
        "mean", description="Of the changes of the weights: their mean, or with conflicts and small ones taken out."
    )
    density: float = Field(0.5, gt=0, le=1, description="ties, dare: the share of a member's changes that is kept.")
    seed: int = Field(0, ge=0, description="dare: of the changes that are dropped.")

    @model_validator(mode="after")
    def _a_weight_each(self) -> MergedConfig:
        check_weights(self.members, self.weights)
        return self


class Merged(Derived):
    """Weighted mean of what fine-tuning changed in several rows; nothing is trained.

    ``mean``: of the changes, with whole fine-tuned models a model soup (Wortsman et al., ICML 2022, arXiv:2203.05482).
    ``ties``: the largest changes, those alone whose sign most agree on (Yadav et al., NeurIPS 2023, arXiv:2306.01708).
    ``dare``: some changes dropped at random, the others larger instead (Yu et al., ICML 2024, arXiv:2311.03099). The
    two are for LoRA, by PEFT's ``add_weighted_adapter``. What stands beside the backbone (heads, projections) is the
    weighted mean.
    """

    Config = MergedConfig

    @classmethod
    def stages_of(cls, config: ModelConfig) -> dict[str, str]:
        assert isinstance(config, MergedConfig)
        return {f"members.{i}": label for i, label in enumerate(config.members)}

    @classmethod
    def check_below(cls, config: ModelConfig, below: dict[str, Below], task: Task) -> None:
        assert isinstance(config, MergedConfig)
        _check(config, [(row.model, row.config) for row in below.values()])

    @torch.no_grad()
    def change(self, model: Recommender) -> Recommender:
        members = list(self.stages.values())
        weights = self.config.weights or (1.0,) * len(members)
        shares = [w / sum(weights) for w in weights]
        _check(self.config, [(type(member), member.config) for member in members])
        first = cast(LanguageRecommender, members[0])
        own = {name: [m.state_dict()[name] for m in members] for name in self._averaged(first)}
        mean = {name: sum(s * v for s, v in zip(shares, values, strict=True)) for name, values in own.items()}
        if first.backbone.peft.kind != "full":
            _merge_adapters(model, members, shares, self.config)
        model.load_state_dict(mean, strict=False)
        return model

    @staticmethod
    def _averaged(first: LanguageRecommender) -> list[str]:
        """Return the names of the weights that are averaged one by one: all trained ones, or all beside the adapter."""
        whole = first.backbone.peft.kind == "full"
        kept = first.weights() | {n: p for n, p in first.named_parameters() if not n.startswith("backbone.") or whole}
        floats = {name for name, value in kept.items() if value.is_floating_point()}
        return sorted(name for name in floats if name != "anchor" and (whole or not name.startswith("backbone.")))


def _check(config: MergedConfig, members: list[tuple[type[Recommender], ModelConfig]]) -> None:
    """Refuse members that are not of one kind, or of a kind that cannot be merged."""
    model, first = members[0]
    kind = first.used_peft().kind if isinstance(first, LLMConfig) else model.__name__
    if kind not in _KINDS:
        found = f"'{config.members[0]}' ({kind})"
        raise InputError(f"members: found {found}, expected models fine-tuned by {', '.join(_KINDS)}")
    for label, (other, theirs) in zip(config.members[1:], members[1:], strict=True):
        if other is not model or _identity(theirs) != _identity(first):
            raise InputError(f"members: '{label}' is not fine-tuned in the way of '{config.members[0]}'")
    if kind == "full" and config.method != "mean":
        raise InputError(f"method: {config.method} is for adapters; whole models have a mean")


def _identity(config: ModelConfig) -> tuple[Any, ...]:
    assert isinstance(config, LLMConfig)
    return config.backbone, config.used_peft().kind, getattr(config, "item_fields", None)


def _merge_adapters(model: Any, members: list[Any], shares: list[float], config: MergedConfig) -> None:
    """Give the copy of the first member one adapter made of those of all, and take the others away."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    peft_model = model.backbone.model
    names = []
    for i, member in enumerate(members):
        theirs = member.backbone.model
        name = f"member{i}"
        peft_model.add_adapter(name, theirs.peft_config["default"])
        weights: dict[str, Tensor] = get_peft_model_state_dict(theirs, save_embedding_layers=False)
        set_peft_model_state_dict(peft_model, weights, adapter_name=name)
        names.append(name)
    options = {} if config.method == "mean" else {"density": config.density}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        peft_model.add_weighted_adapter(names, shares, "merged", combination_type=_PEFT[config.method], **options)
    peft_model.set_adapter("merged")
    for name in ("default", *names):
        peft_model.delete_adapter(name)
