"""What all language model recommenders share: their settings, how they are trained, saved and reported."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, final

import torch
from pydantic import Field
from torch import Tensor, nn

from benchmark.data.batch import Batch
from benchmark.data.negatives import SamplingKind
from benchmark.data.schema import Catalogue
from benchmark.data.text import check_fields
from benchmark.llm.adapters import Peft
from benchmark.llm.backbone import Backbone
from benchmark.llm.loading import Attention, Kind, Loading, Quantization, check_loading, kind_of
from benchmark.llm.locate import DEFAULT_BACKBONE
from benchmark.llm.precision import DType
from benchmark.llm.protect import Protect, Protection
from benchmark.llm.protect import check as check_protect
from benchmark.llm.retention import Retention, measure, read_corpus
from benchmark.recommender import OPTIMIZERS, GradientConfig, ModelConfig, Recommender, Traits

ADAPTER = "adapter"


class LLMConfig(GradientConfig):
    """Hyper-parameters of every language model recommender."""

    batch_size: int = Field(32, gt=0, description="Rows of a training batch.")
    eval_batch_size: int = Field(128, gt=0, description="Rows of a scoring batch.")
    learning_rate: float = Field(5e-4, gt=0, description="Step size.")
    head_learning_rate: float | None = Field(
        None,
        gt=0,
        description="Step size of what stands beside the backbone (heads, projections); the same by default.",
    )
    weight_decay: float = Field(0.01, ge=0, description="Never on norms, biases and single numbers.")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "linear", description="How the step size falls to 0 over all of max_epochs, after the warm-up."
    )
    warmup: float = Field(0.05, ge=0, lt=1, description="Share of the steps in which the step size rises from 0.")
    max_history: int = Field(10, ge=1, description="Newest items of a history that are read.")
    max_length: int = Field(256, gt=2, description="Most tokens of a prompt; the oldest history is dropped first.")
    item_fields: tuple[str, ...] | None = Field(("title",), description="Columns that make an item's text.")
    zero_shot: bool = Field(False, description="The pretrained model as it is, with no training at all.")
    backbone: str = Field(DEFAULT_BACKBONE, description="Hub name or local folder.")
    peft: Peft = Field(default_factory=Peft, description="How the backbone is fine-tuned.")
    dtype: DType = Field("auto", description="auto measures whether bfloat16 pays.")
    attention: Attention = Field("auto", description="Implementation of attention, as transformers names it.")
    quantization: Quantization | None = Field(None, description="8bit or 4bit frozen weights (CUDA, bitsandbytes).")
    gradient_checkpointing: bool = Field(False, description="Less memory for a second forward pass.")
    trust_remote_code: bool = Field(False, description="Run code from the model's folder.")
    protect: Protect = Field(default_factory=Protect, description="What keeps the backbone near what it was.")
    retention: Retention | None = Field(None, description="Measure after training what is left of what it was.")

    def loading(self) -> Loading:
        return Loading(
            dtype=self.dtype,
            attention=self.attention,
            quantization=self.quantization,
            gradient_checkpointing=self.gradient_checkpointing,
            trust_remote_code=self.trust_remote_code,
        )

    def used_peft(self) -> Peft:
        """Return how the backbone is fine-tuned: not at all, zero-shot."""
        return Peft(kind="frozen") if self.zero_shot else self.peft


class LanguageRecommender(Recommender):
    """Base of the ways to recommend with a language model: they write ``loss`` and ``score``.

    Attributes:
        backbone: the language model; everything else that is trained counts as a head.
    """

    group = "llm"
    differentiable = False
    backbone: Backbone

    def __init__(self, config: LLMConfig, catalogue: Catalogue) -> None:
        if config.zero_shot:
            # one empty pass, as for models without anything to learn
            object.__setattr__(self, "batch_kind", "whole")
        super().__init__(config, catalogue)
        self._protection: Protection | None = None

    @classmethod
    def traits_of(cls, config: ModelConfig) -> Traits:
        traits = super().traits_of(config)
        zero_shot = isinstance(config, LLMConfig) and config.zero_shot
        return replace(traits, group="llm-zero-shot") if zero_shot else traits

    @classmethod
    def samplings(cls, config: ModelConfig) -> frozenset[SamplingKind]:
        zero_shot = isinstance(config, LLMConfig) and config.zero_shot
        return frozenset({"uniform"}) if zero_shot else super().samplings(config)

    @classmethod
    def augmentable(cls, config: ModelConfig) -> bool:
        return super().augmentable(config) and not (isinstance(config, LLMConfig) and config.zero_shot)

    def loss(self, batch: Batch) -> Tensor:
        """Return the loss of a training batch, a scalar."""
        raise NotImplementedError

    @classmethod
    def keeps_head(cls, kind: Kind) -> bool:
        """Return whether a backbone of a kind is loaded with its language model head, answering or not."""
        return False

    @classmethod
    def check(cls, config: Any, catalogue: Catalogue) -> None:
        check_fields(catalogue.items, config.item_fields or (), "item")
        kind = kind_of(config.backbone, config.trust_remote_code)
        cls.check_language(config, kind)
        check_loading(config.backbone, config.used_peft(), config.loading(), kind, head=False)

    @classmethod
    def check_language(cls, config: Any, kind: Kind) -> None:
        """Refuse protections that mean nothing here and a corpus that is not there, before anything runs."""
        check_protect(config.protect, config.used_peft().kind != "frozen", cls.keeps_head(kind))
        if config.retention is not None and config.retention.corpus is not None:
            read_corpus(config.retention.corpus)

    @final
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        if self.config.zero_shot:
            return None
        loss = self.loss(batch) + self.backbone.regularization()
        if self._protection is not None and self.trains_backbone():
            before = self.current_epoch * int(self.trainer.num_training_batches)
            loss = loss + self._protection.penalty(before + batch_idx)
        return loss

    # --- optimisation ----------------------------------------------------------------------------------------------

    def configure_model(self) -> None:
        # before weights come back from a checkpoint: l2_sp pulls to the first ones
        if self.config.protect.on and self._protection is None and self.trainer.state.fn == "fit":
            self._protection = Protection(self.backbone, self.config.protect)

    def on_fit_start(self) -> None:
        if not self.config.zero_shot:
            self.backbone.set_steps(self.adapter_steps())
        if self._protection is not None:
            self._protection.begin()

    def on_fit_end(self) -> None:
        if self._protection is not None:
            self._protection.end()
            self._protection = None

    def _total_steps(self) -> int:
        return int(self.trainer.estimated_stepping_batches)

    def adapter_steps(self) -> int:
        """Return the number of optimizer steps in which the backbone is trained."""
        return self._total_steps()

    def trains_backbone(self) -> bool:
        """Return whether the backbone is trained in this step."""
        return True

    def rate(self, step: int, steps: int) -> float:
        """Return what the learning rates are multiplied by at a step."""
        return factor(step, steps, self.config)

    def configure_optimizers(self) -> Any:
        if self.config.zero_shot:
            return None
        config = self.config
        rates = {True: config.learning_rate, False: config.head_learning_rate or config.learning_rate}
        groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
        for name, p in self.named_parameters():
            if p.requires_grad and name != "anchor":
                groups.setdefault((name.startswith("backbone."), p.dim() > 1), []).append(p)
        optimizer = OPTIMIZERS[config.optimizer](
            [
                {"params": ps, "lr": rates[inside], "weight_decay": config.weight_decay if decays else 0.0}
                for (inside, decays), ps in groups.items()
            ],
            fused=all(p.is_floating_point() for ps in groups.values() for p in ps),
        )
        if config.schedule == "constant" and not config.warmup:
            return optimizer
        steps = self._total_steps() if self._trainer is not None else 1
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.rate(step, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.trains_backbone():
            self.backbone.after_step(self.trainer.global_step)

    # --- keeping ---------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        super().save(folder)
        if not self.config.zero_shot:
            self.backbone.save_adapter(folder / ADAPTER)

    def report(self) -> dict[str, float]:
        wanted = self.config.retention
        return {**self.backbone.report(), **({} if wanted is None else measure(self.backbone, wanted))}


def factor(step: int, steps: int, config: LLMConfig) -> float:
    """Return what the learning rate is multiplied by at a step: a linear warm-up, then the schedule down to 0."""
    warm = config.warmup * steps
    if step < warm:
        return (step + 1) / (warm + 1)
    if config.schedule == "constant":
        return 1.0
    done = min((step - warm) / max(steps - warm, 1), 1.0)
    return 1 - done if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
