"""Distilled: a smaller model that learns from a trained row of the experiment too, and scores alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor, nn

from baselines._lessons import Known, Labels, Rankings, listwise, soft_labels, soft_scores
from benchmark.data.batch import Batch, BatchSpec
from benchmark.data.datamodule import RecDataModule
from benchmark.data.schema import ITEM_ID, USER_ID, Catalogue
from benchmark.data.task import Task
from benchmark.errors import InputError
from benchmark.experiment import model_class, model_config
from benchmark.recommender import Below, GradientConfig, ModelConfig, Recommender, Traits

STUDENTS = "MF, LightGCN, SASRec or a two-tower"


class DistilledConfig(ModelConfig):
    teacher: str = Field(description="Label of the trained row that teaches.")
    student: dict[str, Any] = Field(description="The model that learns: its class and its hyper-parameters.")
    loss: Literal["soft", "listwise", "embedding"] = Field(
        "soft", description="What is learned of the teacher: its scores, the order of its best items, its item vectors."
    )
    weight: float = Field(0.5, gt=0, le=1, description="Share of the distillation; the rest is the student's own loss.")
    temperature: float = Field(
        2.0, gt=0, description="Of soft: divides the scores of both; the lower, the more the top counts."
    )
    top: int = Field(100, gt=0, description="Best unseen items of each user by the teacher (soft, listwise; ranking).")
    others: int = Field(100, gt=0, description="Unseen items drawn beside them.")
    items: int = Field(1024, gt=0, description="Items whose vectors are compared in a step (embedding).")
    batch_size: int = Field(128, gt=0, description="Users of a student's batch whose scores are compared; a ranking.")
    eval_batch_size: int = Field(256, gt=0, description="Users or rows that the teacher scores at once.")

    @field_validator("student")
    @classmethod
    def _is_a_model(cls, student: dict[str, Any]) -> dict[str, Any]:
        """Return the class with all its hyper-parameters, the defaults too: they are part of a run's identity."""
        if "class" not in student:
            raise ValueError("it has no class, such as baselines.mf.MF")
        model, config = _student(student)
        if not issubclass(model.Config, GradientConfig) or not model.differentiable:
            raise ValueError(f"{model.__name__} gives no scores with gradients to learn by; take {STUDENTS}")
        if model.stages_of(config):
            raise ValueError(f"{model.__name__} stands on other rows itself; take a model that stands alone")
        return {"class": student["class"], **config.model_dump(mode="json")}


def _student(student: dict[str, Any]) -> tuple[type[Recommender], ModelConfig]:
    model = model_class(str(student["class"]), "student")
    return model, model_config(model, {k: v for k, v in student.items() if k != "class"}, "student")


class Distilled(Recommender):
    """A student that learns (1 - weight) x its own loss + weight x what a trained teacher says.

    The student trains on its own batches with its own optimizer; traits, histories and scores are its own, and what is
    stored is the student alone: the teacher is asked in training, and never again.

    Ranking, ``soft`` and ``listwise``: both score each training user at the end of the training part, from training
    interactions alone, on the same items: the teacher's best ``top`` and ``others`` drawn ones, none of which the user
    has in training, so that no target is among what is read. The teacher is asked once, before the first step.

    ``soft``: Kullback-Leibler divergence of softmax(student / T) from softmax(teacher / T), times T^2 (Hinton et al.,
    arXiv:1503.02531), of scores standardised over the user's items, since models differ in the scale of their scores
    (Sun et al., CVPR 2024, arXiv:2403.01427). In a preference task instead, row by row, cross-entropy of the student's
    logit / T against sigmoid(teacher's logit / T), times T^2, with histories strictly before the row.
    ``listwise``: likelihood of the teacher's order of its best items, the drawn ones without an order below all of them
    (relaxed ranking distillation; Kang et al., CIKM 2020, arXiv:2012.04357, after Tang & Wang, KDD 2018,
    arXiv:1809.07428), divided by the number of the best.
    ``embedding``: 1 - cosine of the teacher's item vectors and a learned linear projection of the student's (FitNets,
    Romero et al., ICLR 2015, arXiv:1412.6550, with the cosine in place of the squared distance).

    Raises:
        InputError: on ``attach`` a teacher of another catalogue, or models without the vectors that ``embedding``
            compares; in training a student whose scores have no gradients, or a teacher whose scores are no logits.
    """

    Config = DistilledConfig
    scores_with_stages = False
    projection: nn.Linear | None

    def __init__(self, config: DistilledConfig, catalogue: Catalogue) -> None:
        model, inner = _student(config.student)
        student = model(inner, catalogue)
        if student.batch_kind == "whole":
            raise InputError(f"student: {model.__name__} learns nothing by gradients with these settings")
        object.__setattr__(self, "batch_kind", student.batch_kind)
        super().__init__(config, catalogue)
        self.student, self.projection = student, None
        self.pretrain_epochs, self.reads_queries = student.pretrain_epochs, student.reads_queries
        self.lessons: Rankings | Labels | Tensor | None = None  # what the teacher says: no weight, and not stored

    # --- what is the student's -------------------------------------------------------------------------------------

    @classmethod
    def traits_of(cls, config: ModelConfig) -> Traits:
        assert isinstance(config, DistilledConfig)
        model, inner = _student(config.student)
        traits = model.traits_of(inner)
        return replace(traits, tasks=traits.tasks & {"ranking"}) if config.loss == "listwise" else traits

    @classmethod
    def check(cls, config: Any, catalogue: Catalogue) -> None:
        model, inner = _student(config.student)
        model.check(inner, catalogue)

    @classmethod
    def check_training(cls, config: ModelConfig, task: Task) -> None:
        assert isinstance(config, DistilledConfig)
        model, inner = _student(config.student)
        model.check_training(inner, task)

    @classmethod
    def examples(cls, config: Any, catalogue: Catalogue, batch: Batch, n: int) -> list[tuple[str, int, int]]:
        model, inner = _student(config.student)
        return model.examples(inner, catalogue, batch, n)

    @classmethod
    def made_of(cls, config: ModelConfig) -> tuple[str, ...]:
        assert isinstance(config, DistilledConfig)
        return (str(config.student["class"]),)

    def batch_spec(self) -> BatchSpec:
        return self.student.batch_spec()

    def score(self, batch: Batch) -> Tensor:
        return self.student.score(batch)

    def user_embeddings(self, batch: Batch) -> Tensor:
        return self.student.user_embeddings(batch)

    def item_embeddings(self) -> Tensor:
        return self.student.item_embeddings()

    def report(self) -> dict[str, float]:
        return self.student.report()

    def tensors(self) -> Iterator[Tensor]:
        return self.student.tensors()

    def save(self, folder: Path) -> None:
        self.student.save(folder)

    def restore(self, folder: Path, new_users: int = 0) -> None:
        self.student.restore(folder, new_users)

    def load_state_dict(self, state_dict: Any, strict: bool = True, assign: bool = False) -> Any:
        found = super().load_state_dict(state_dict, strict, assign)
        self.student.forget()
        return found

    def configure_optimizers(self) -> Any:
        chosen = self.student.configure_optimizers()
        if self.projection is not None:
            optimizer = chosen["optimizer"] if isinstance(chosen, dict) else chosen
            optimizer.param_groups[0]["params"] += list(self.projection.parameters())
        return chosen

    def configure_model(self) -> None:
        self.student.configure_model()

    def on_fit_end(self) -> None:
        self.student.on_fit_end()

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        return self.student.on_after_batch_transfer(batch, dataloader_idx)

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self.student.on_train_epoch_start()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.student.on_before_optimizer_step(optimizer)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self.student.optimizer_step(*args, **kwargs)

    # --- the teacher -----------------------------------------------------------------------------------------------

    @classmethod
    def stages_of(cls, config: ModelConfig) -> dict[str, str]:
        assert isinstance(config, DistilledConfig)
        return {"teacher": config.teacher}

    @classmethod
    def check_below(cls, config: ModelConfig, below: dict[str, Below], task: Task) -> None:
        assert isinstance(config, DistilledConfig)
        teacher, (student, _) = below["teacher"], _student(config.student)
        if config.loss == "embedding":
            for key, who, model in (("teacher", f"'{teacher.label}'", teacher.model), ("student", "it", student)):
                if model.item_embeddings is Recommender.item_embeddings:
                    name = model.__name__
                    raise InputError(f"{key}: {who} ({name}) has no vectors of items; use loss: soft or listwise")
        elif task.kind == "preference" and not teacher.traits.probability:
            raise InputError(f"teacher: the scores of '{teacher.label}' are no logits; calibrate it first (Calibrated)")

    def attach(self, stages: dict[str, Recommender]) -> None:
        super().attach(stages)
        own, other = self.catalogue, stages["teacher"].catalogue
        # of users a new one may come last, who is served and not learned from
        same_users = own.users[USER_ID].head(other.n_users).equals(other.users[USER_ID]) and (
            own.n_users - other.n_users in (0, 1)
        )
        if not own.items[ITEM_ID].equals(other.items[ITEM_ID]) or not same_users:
            raise InputError(
                f"teacher: '{self.config.teacher}' is a teacher of another catalogue: it knows {other.n_users} users "
                f"and {other.n_items} items, expected the student's own {own.n_users} and {own.n_items}"
            )
        if self.config.loss == "embedding":
            widths = {}
            for name, model in (("student", self.student), ("teacher", stages["teacher"])):
                try:
                    widths[name] = model.item_embeddings().shape[1]
                except InputError as error:
                    raise InputError(f"{name}: {error}; use loss: soft or listwise") from None
            self.projection = nn.Linear(widths["student"], widths["teacher"], bias=False)

    @torch.no_grad()
    def on_fit_start(self) -> None:
        self.student.on_fit_start()
        module: RecDataModule = self.trainer.datamodule  # type: ignore[attr-defined]
        teacher, _ = self.stage("teacher", Batch(user=torch.zeros(0, dtype=torch.int64)))
        size = self.config.eval_batch_size
        if self.config.loss == "embedding":
            self.lessons = teacher.item_embeddings().detach().float()
        elif module.task.kind == "preference":
            if not teacher.traits.probability:
                raise InputError(f"teacher: the scores of '{self.config.teacher}' are no logits; calibrate it first")
            self.lessons = Labels.of(teacher, module.data, module.task, size)
        else:
            with torch.random.fork_rng(devices=[]):  # the student's own draws stay those of the student alone
                torch.manual_seed(module.seed)
                known = Known(module.data, module.task)
                self.lessons = Rankings.of(teacher, known, self.config.top, self.config.others, size)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        own = self.student.training_step(batch, batch_idx)
        assert own is not None
        return (1 - self.config.weight) * own + self.config.weight * self._distillation(batch)

    def _distillation(self, batch: Batch) -> Tensor:
        lessons, config = self.lessons, self.config
        if isinstance(lessons, Tensor):
            assert self.projection is not None
            some = torch.randperm(self.n_items, device=lessons.device)[: config.items]
            items = self._with_gradients(self.student.embed_items(some))
            return 1 - F.cosine_similarity(self.projection(items), lessons[some], dim=1).mean()
        if isinstance(lessons, Labels):
            assert batch.item is not None
            wanted = replace(batch, candidates=batch.item.unsqueeze(1), item=None, label=None)
            scores = self._with_gradients(self.student.score(wanted))[:, 0]
            return soft_labels(scores, lessons.logits(batch.user, batch.item), config.temperature)
        assert lessons is not None
        users = batch.user.unique()
        users = users[torch.randperm(len(users), device=users.device)[: config.batch_size]]
        wanted, items, scores, there = lessons.lesson(users, self.batch_spec().max_history)
        found = self._with_gradients(self.student.score(replace(wanted, candidates=items)))
        if config.loss == "soft":
            return soft_scores(found, scores, there, config.temperature)
        return listwise(found, there, lessons.n_top)

    def _with_gradients(self, values: Tensor) -> Tensor:
        if not values.requires_grad:
            name = type(self.student).__name__
            raise InputError(
                f"student: {name} gives its {'vectors' if self.config.loss == 'embedding' else 'scores'} without "
                f"gradients, which this loss needs; take {STUDENTS}"
            )
        return values
