"""Protect: what is added to the loss so that fine-tuning does not move a language model far from what it was."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from benchmark.errors import InputError
from benchmark.llm.backbone import Backbone
from benchmark.llm.encoder import Encoder
from benchmark.llm.language_model import LanguageModel
from benchmark.llm.plain_texts import plain_texts
from benchmark.llm.retention import Texts, kl_divergence, logits_of, sample, vectors

POOL_SEED = 2**31 + 1  # other texts than those that ``Retention`` samples


class Protect(BaseModel):
    """Protections of the pretrained model while it is fine-tuned, as weights of what is added to the loss; 0: off.

    Lower learning rates, ``peft`` and ``benchmark.llm.interpolated.Interpolated`` protect too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    replay: float = Field(
        0.0, ge=0, description="Of the language model's loss on texts sampled from the pretrained model."
    )
    kl: float = Field(0.0, ge=0, description="Of KL(pretrained || tuned) on such texts, in nats a token.")
    l2_sp: float = Field(
        0.0,
        ge=0,
        description="Of half the squared distance of the trained weights to where they began: the pretrained ones "
        "(full), or the adapter's first values (Li et al., ICML 2018, arXiv:1802.01483).",
    )
    embedding: float = Field(
        0.0, ge=0, description="Of an encoder: of the squared distance of normalised vectors of plain sentences."
    )
    texts: int = Field(256, gt=0, description="Texts that are sampled once, before training, for replay and kl.")
    length: int = Field(64, ge=4, description="Most tokens of such a text.")
    texts_per_step: int = Field(8, gt=0, description="Texts or sentences that are read in a step.")

    @property
    def reads(self) -> bool:
        """Whether texts are read beside those of the task."""
        return bool(self.replay or self.kl or self.embedding)

    @property
    def on(self) -> bool:
        """Whether anything is protected."""
        return self.reads or bool(self.l2_sp)


def check(settings: Protect, trains: bool, head: bool) -> None:
    """Refuse protections that mean nothing for a model.

    Args:
        settings: what is asked for.
        trains: whether the backbone is trained at all.
        head: whether it is read with its language model head, else as an encoder.

    Raises:
        InputError: one line with the setting.
    """
    asked = [name for name in ("replay", "kl", "l2_sp", "embedding") if getattr(settings, name)]
    if asked and not trains:
        raise InputError(f"protect.{asked[0]}: the backbone is not trained here, so there is nothing to protect")
    for name in asked:
        if name in ("replay", "kl") and not head:
            raise InputError(f"protect.{name}: needs a language model head, and this is an encoder; use embedding")
        if name == "embedding" and head:
            raise InputError("protect.embedding: is for encoders, and this has a language model head; use kl")


class Protection:
    """Computes what ``Protect`` adds to the loss of a backbone, step by step.

    To be made before any training or restoring: the weights as they are then are what ``l2_sp`` pulls to. ``begin``
    comes before the first step, ``end`` after the last.
    """

    def __init__(self, backbone: Backbone, settings: Protect) -> None:
        self.backbone, self.settings = backbone, settings
        self._first: dict[str, Tensor] = {}
        if settings.l2_sp and backbone.peft.kind != "full":
            self._first = {name: p.detach().clone() for name, p in backbone.model.named_parameters() if p.requires_grad}
        self._texts: Texts | None = None
        self._vectors: Tensor | None = None

    def begin(self) -> None:
        """Sample the texts that are replayed, or read the sentences, with the pretrained model."""
        model, settings = self.backbone, self.settings
        if settings.l2_sp or settings.kl:
            model.keep_reference(True)
        if settings.l2_sp and model.peft.kind == "full":
            reference: Any = model.__dict__["_reference"]
            self._first = dict(reference.named_parameters())
        self._first = {name: value.to(model.device) for name, value in self._first.items()}
        if not settings.reads:
            return
        mode = model.training
        model.eval()
        with torch.no_grad(), model.pretrained():
            if isinstance(model, LanguageModel):
                self._texts = sample(model, settings.texts, settings.length, seed=POOL_SEED)
            else:
                assert isinstance(model, Encoder)
                self._vectors = vectors(model, plain_texts("trained"))
        model.train(mode)

    def end(self) -> None:
        """Let go of everything that was kept for the training."""
        self.backbone.keep_reference(False)
        self._texts = self._vectors = None
        self._first = {}

    def penalty(self, step: int) -> Tensor:
        """Return what is added to the loss at a step, a scalar; the texts take turns by its number."""
        settings, model = self.settings, self.backbone
        total = torch.zeros((), device=model.device)
        if settings.l2_sp:
            trained = dict(model.model.named_parameters())
            moved = [(trained[name] - first).square().sum() for name, first in self._first.items()]
            total = total + settings.l2_sp / 2 * torch.stack(moved).sum()
        if self._texts is not None:
            assert isinstance(model, LanguageModel)
            total = total + self._on_texts(model, self._texts.rows(self._turn(step, len(self._texts))))
        if self._vectors is not None:
            assert isinstance(model, Encoder)
            rows = self._turn(step, len(self._vectors))
            texts = plain_texts("trained")
            mode = model.training
            model.eval()  # as the pretrained ones were read: under dropout the distance would be mostly noise
            now = vectors(model, [texts[row] for row in rows.tolist()])
            model.train(mode)
            total = total + settings.embedding * (now - self._vectors[rows]).square().sum(1).mean()
        return total

    def _turn(self, step: int, n: int) -> Tensor:
        """Return the rows of n that are read at a step."""
        size = min(self.settings.texts_per_step, n)
        return (torch.arange(size, device=self.backbone.device) + step * size) % n

    def _on_texts(self, model: LanguageModel, texts: Texts) -> Tensor:
        real = texts.mask > 0
        tuned = logits_of(model, texts)[real]
        total = torch.zeros((), device=model.device)
        if self.settings.replay:
            total = total + self.settings.replay * F.cross_entropy(tuned, texts.ids[real])
        if self.settings.kl:
            with torch.no_grad(), model.pretrained():
                base = logits_of(model, texts)[real]
            total = total + self.settings.kl * kl_divergence(base, tuned).mean()
        return total
