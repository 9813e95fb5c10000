"""Distilled: a smaller model that learns from a trained row of the experiment too, and scores alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor, nn

from benchmark.data.batch import Batch, BatchSpec
from benchmark.data.datamodule import RecDataModule
from benchmark.data.schema import ITEM_ID, USER_ID, Catalogue, SplitData
from benchmark.data.sequences import Sequences, held, take, unique_pairs
from benchmark.data.task import Task
from benchmark.data.train_rows import TrainRows
from benchmark.errors import InputError
from benchmark.experiment import model_class, model_config
from benchmark.recommender import GradientConfig, ModelConfig, Recommender, Traits

OUT = float("-inf")
LOW = -1e30  # below every score, with a gradient of 0 and not of nan
ITEMS = 1024  # item vectors that are compared in a step


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
    batch_size: int = Field(128, gt=0, description="Users of a student's batch whose scores are compared; a ranking.")
    eval_batch_size: int = Field(256, gt=0, description="Users or rows that the teacher scores at once.")

    @field_validator("student")
    @classmethod
    def _is_a_model(cls, student: dict[str, Any]) -> dict[str, Any]:
        """Return the class with all its hyper-parameters, the defaults too: they are part of a run's identity."""
        if "class" not in student:
            raise ValueError("it has no class, such as baselines.mf.MF")
        model, config = _student(student)
        if not issubclass(model.Config, GradientConfig):
            raise ValueError(f"{model.__name__} is not trained by gradients; take MF, LightGCN, SASRec or a two-tower")
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
        self.lessons: _Rankings | _Labels | Tensor | None = None  # what the teacher says: no weight, and not stored

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
        self.student.load_state_dict({}, strict=False)  # forgets what it keeps from scoring
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
            self.lessons = _Labels.of(teacher, module.data, module.task, size)
        else:
            with torch.random.fork_rng(devices=[]):  # the student's own draws stay those of the student alone
                torch.manual_seed(module.seed)
                known = _Known(module.data, module.task)
                self.lessons = _Rankings.of(teacher, known, self.config.top, self.config.others, size)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        own = self.student.training_step(batch, batch_idx)
        assert own is not None
        return (1 - self.config.weight) * own + self.config.weight * self._distillation(batch)

    def _distillation(self, batch: Batch) -> Tensor:
        lessons, config = self.lessons, self.config
        if isinstance(lessons, Tensor):
            assert self.projection is not None
            items = self._with_gradients(self.student.item_embeddings())
            some = torch.randperm(self.n_items, device=items.device)[:ITEMS]
            return 1 - F.cosine_similarity(self.projection(items[some]), lessons[some], dim=1).mean()
        if isinstance(lessons, _Labels):
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
                "gradients, which this loss needs; take MF, LightGCN or SASRec"
            )
        return values


# --- the losses ------------------------------------------------------------------------------------------------------


def soft_labels(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return the cross-entropy of (B,) logits / T against the teacher's probabilities at T, times T^2: a scalar."""
    target = torch.sigmoid(teacher / temperature)
    return temperature**2 * F.binary_cross_entropy_with_logits(student / temperature, target)


def soft_scores(student: Tensor, teacher: Tensor, there: Tensor, temperature: float) -> Tensor:
    """Return the mean KL(teacher || student) of softmax over (B, C) standardised scores / T, times T^2: a scalar.

    Args:
        student, teacher: (B, C) scores of the same items.
        there: (B, C) bool; the others are no items.
        temperature: T.
    """
    p, q = (
        (_standardised(scores.float(), there) / temperature).masked_fill(~there, LOW).log_softmax(1)
        for scores in (teacher, student)
    )
    return temperature**2 * (p.exp() * (p - q)).sum(1).mean()


def listwise(student: Tensor, there: Tensor, n_top: int) -> Tensor:
    """Return the mean negative log likelihood, a place, of the order in which the first ``n_top`` columns stand.

    Column r is chosen by a softmax over itself, the best columns behind it, and all columns from ``n_top`` on.

    Args:
        student: (B, C) scores; the first ``n_top`` columns hold the teacher's best items, the best first.
        there: (B, C) bool; the others are no items.
        n_top: columns with an order.
    """
    scores = student.float().masked_fill(~there, LOW)
    behind = torch.logcumsumexp(scores.flip(1), 1).flip(1)[:, :n_top]
    lost = torch.where(there[:, :n_top], behind - scores[:, :n_top], 0.0)
    return (lost.sum(1) / there[:, :n_top].sum(1).clamp(min=1)).mean()


def _standardised(scores: Tensor, there: Tensor) -> Tensor:
    """Return (B, C) scores of mean 0 and deviation 1 over the items of each row."""
    n = there.sum(1, keepdim=True).clamp(min=1)
    centred = torch.where(there, scores - (scores * there).sum(1, keepdim=True) / n, 0.0)
    return centred / (centred.square().sum(1, keepdim=True) / n + 1e-12).sqrt()


# --- what the teacher says -------------------------------------------------------------------------------------------


class _Known:
    """What is known of each user at the end of the training part, as a scoring batch."""

    def __init__(self, data: SplitData, task: Task) -> None:
        rows = data.complete_train
        memory, _ = held(rows, task)
        self.users = torch.from_numpy(np.unique(data.train.user).astype(np.int64))
        self.n_users, self.n_items = data.n_users, data.n_items
        self.sequences = Sequences.of(memory, data.n_items, None)
        self.offsets = torch.from_numpy(memory.offsets)
        self.seen = unique_pairs(rows.user, rows.item, data.n_users, data.n_items)

    def batch(self, users: Tensor, max_history: int) -> Batch:
        there = users.cpu()
        fields = self.sequences.windows(self.offsets[there], self.offsets[there + 1], max_history)
        batch = Batch(user=there, seen=take(self.seen, there), **(fields if max_history else {}))  # type: ignore[arg-type]
        return batch.to(users.device)


class _Rankings:
    """For each training user the teacher's best unseen items, the best first, and drawn other unseen ones.

    In memory stand one row of (top + others) ids and scores for each training user.
    """

    def __init__(self, known: _Known, n_top: int, items: Tensor, scores: Tensor) -> None:
        self.known, self.n_top, self.items, self.scores = known, n_top, items, scores
        self.place = torch.full((known.n_users,), -1)
        self.place[known.users] = torch.arange(len(known.users))

    @classmethod
    def of(cls, teacher: Recommender, known: _Known, top: int, others: int, size: int) -> _Rankings:
        top = min(top, known.n_items)
        others = min(others, known.n_items - top)
        items, scores = [], []
        for users in known.users.split(size):
            batch = known.batch(users.to(teacher.device), teacher.batch_spec().max_history)
            found = teacher.score(batch).float()
            assert batch.seen is not None
            free = found.clone()
            free[batch.seen.row, batch.seen.values] = OUT
            best, chosen = free.topk(top, dim=1)
            chance = torch.rand(free.shape).to(free.device).masked_fill(free == OUT, OUT).scatter(1, chosen, OUT)
            beside = chance.topk(others, dim=1).indices
            items.append(torch.cat([chosen, beside], 1).int().cpu())
            # what a user has is no item of the list: of users who have nearly everything, some places stay empty
            drawn = torch.where(chance.gather(1, beside) == OUT, OUT, free.gather(1, beside))
            scores.append(torch.cat([best, drawn], 1).cpu())
        return cls(known, top, torch.cat(items), torch.cat(scores))

    def lesson(self, users: Tensor, max_history: int) -> tuple[Batch, Tensor, Tensor, Tensor]:
        """Return what is known of (B,) users, and (B, C) items, the teacher's scores, and which of them are there."""
        rows = self.place[users.cpu()]
        scores = self.scores[rows].to(users.device)
        there = scores > OUT
        batch = self.known.batch(users, max_history)
        return batch, self.items[rows].long().to(users.device), scores.masked_fill(~there, 0.0), there


class _Labels:
    """The teacher's logit of each labelled training row."""

    def __init__(self, keys: Tensor, values: Tensor, n_items: int) -> None:
        order = keys.argsort()
        self.keys, self.values, self.n_items = keys[order], values[order], n_items

    @classmethod
    def of(cls, teacher: Recommender, data: SplitData, task: Task, size: int) -> _Labels:
        spec = BatchSpec(kind="pointwise", negatives=0, max_history=teacher.batch_spec().max_history)
        rows = TrainRows(data, task, spec, 0)
        keys, values = [], []
        for index in rows.all.split(size):
            batch = rows[index]
            assert batch.item is not None
            keys.append(batch.user * data.n_items + batch.item)
            wanted = replace(batch, candidates=batch.item.unsqueeze(1), item=None, label=None)
            values.append(teacher.score(wanted.to(teacher.device))[:, 0].float().cpu())
        return cls(torch.cat(keys), torch.cat(values), data.n_items)

    def logits(self, user: Tensor, item: Tensor) -> Tensor:
        """Return the (B,) logits of training rows."""
        place = torch.searchsorted(self.keys, (user * self.n_items + item).cpu())
        return self.values[place].to(user.device)
