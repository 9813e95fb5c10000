"""Collaborative: vectors of a trained MF, LightGCN or SASRec stand in the prompt beside the words."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from benchmark.data.batch import Batch
from benchmark.data.schema import Catalogue
from benchmark.errors import InputError
from benchmark.llm.pointwise import Pointwise, PointwiseConfig
from benchmark.llm.templates import Prompt, Way
from benchmark.llm.training import factor
from benchmark.recommender import ModelConfig, Recommender, Traits


class CollaborativeConfig(PointwiseConfig):
    collaborative: str = Field(description="Label of the model of this experiment whose vectors are read.")
    text_epochs: int = Field(2, ge=0, description="Epochs of the first stage: the adapter learns, on words alone.")
    text_prompt: Prompt | None = Field(None, description="Template of the first stage; the shipped pointwise one.")
    projection_factor: int = Field(10, gt=0, description="Width of the projection's hidden layer, in vectors.")
    tune_adapter: bool = Field(False, description="The adapter goes on learning in the second stage.")
    zero_unseen: bool = Field(
        False, description="Items unseen in training have a vector of zeros, so that their text alone places them."
    )

    @model_validator(mode="after")
    def _stages(self) -> CollaborativeConfig:
        if self.zero_shot:
            raise ValueError("zero_shot: the projection of a collaborative model has to be trained")
        if self.text_epochs and self.peft.kind == "frozen":
            raise ValueError("text_epochs: a frozen backbone has nothing to learn in the first stage; set it to 0")
        return self


class Collaborative(Pointwise):
    """CoLLM (Zhang et al., arXiv:2310.19488): the vectors of a trained collaborative model, projected into the input
    space of the language model, stand in the prompt as one token for the user and one for the candidate.

    Two stages, as in the paper: for ``text_epochs`` the adapter learns from prompts in words alone, then for
    ``max_epochs`` the projection learns from prompts with both, the adapter frozen (``tune_adapter`` lets it go on). A
    head, where there is one, learns in both. Vectors are normalised before the projection (not so in the paper): their
    scale differs a hundredfold from model to model. Selection looks at the second stage only. The collaborative model
    is a row of the same experiment, trained and kept by the same run store; it stays frozen. Its vectors of unseen
    items are noise where it draws negatives, beside which the text does not place them; see ``zero_unseen``.
    """

    Config: ClassVar[type[ModelConfig]] = CollaborativeConfig
    way: ClassVar[Way] = "collaborative"
    known_item: Tensor
    unseen = frozenset({"users"})

    def __init__(self, config: CollaborativeConfig, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        self.pretrain_epochs = config.text_epochs
        text = config.text_prompt or Prompt(language=config.prompt.language)
        self.readers = {"words": self.make_reader(text.filled("pointwise")), "vectors": self.reader}
        if self.readers["words"].pieces.answer_ids != self.reader.pieces.answer_ids:
            raise InputError("text_prompt: its answers are other tokens than those of prompt; end both in the same way")
        self.in_words_only = False
        known = torch.bincount(torch.from_numpy(catalogue.train.item).long(), minlength=self.n_items) > 0
        self.register_buffer("known_item", known.unsqueeze(1), persistent=False)

    @classmethod
    def traits_of(cls, config: ModelConfig) -> Traits:
        traits = super().traits_of(config)
        able = isinstance(config, CollaborativeConfig) and config.zero_unseen
        return replace(traits, unseen=traits.unseen | {"items"}) if able else traits

    @classmethod
    def stages_of(cls, config: ModelConfig) -> dict[str, str]:
        assert isinstance(config, CollaborativeConfig)
        return {"collaborative": config.collaborative}

    def attach(self, stages: dict[str, Recommender]) -> None:
        super().attach(stages)
        size = stages["collaborative"].item_embeddings().shape[1]
        hidden = size * self.config.projection_factor
        self.projection = nn.Sequential(
            nn.LayerNorm(size), nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, self.backbone.hidden_size)
        )

    def vectors(self, batch: Batch, item: Tensor | None, row: Tensor | None = None) -> tuple[Tensor, ...]:
        if self.in_words_only:
            return ()
        with torch.no_grad():
            stage, wanted = self.stage("collaborative", batch)
            user = stage.user_embeddings(wanted)
            items = None if item is None else stage.item_embeddings()[item]
            if items is not None and self.config.zero_unseen:
                items = items * self.known_item[item]
        user = self.projection(user if row is None else user[row])
        return (user,) if items is None else (user, self.projection(items))

    # --- two stages ------------------------------------------------------------------------------------------------

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.in_words_only = self.current_epoch < self.pretrain_epochs
        self.reader = self.readers["words" if self.in_words_only else "vectors"]

    def loss(self, batch: Batch) -> Tensor:
        loss = super().loss(batch)
        if self.in_words_only:
            # several processes wait for the gradient of every weight
            loss = loss + 0.0 * sum(p.sum() for p in self.projection.parameters())
        return loss

    def trains_backbone(self) -> bool:
        return self.in_words_only or self.config.tune_adapter

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        # without a gradient a weight stays as it is; with one of zero it would go on by its momentum
        still: list[nn.Module] = [self.projection] if self.in_words_only else []
        if not self.trains_backbone():
            still.append(self.backbone)
        for module in still:
            for p in module.parameters():
                p.grad = None

    def adapter_steps(self) -> int:
        steps = self._total_steps()
        return steps if self.config.tune_adapter else self._text_steps(steps)

    def _text_steps(self, steps: int) -> int:
        epochs = self.trainer.max_epochs or 1
        return steps * self.pretrain_epochs // epochs

    def rate(self, step: int, steps: int) -> float:
        first = self._text_steps(steps) if self._trainer is not None else 0
        return factor(step, first, self.config) if step < first else factor(step - first, steps - first, self.config)
