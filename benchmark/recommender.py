"""Recommender: the one LightningModule contract that every model of the level field fulfils."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, final

import torch
from lightning import LightningModule
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmark.data.augment import Augment
from benchmark.data.batch import Batch, BatchKind, BatchSpec
from benchmark.data.negatives import Sampling, SamplingKind, popularity
from benchmark.data.schema import Catalogue
from benchmark.data.task import Task
from benchmark.data.train_rows import with_negatives
from benchmark.errors import InputError
from benchmark.evaluation.evaluator import PreferenceEvaluator, RankingEvaluator
from benchmark.evaluation.generations import GenerationEvaluator
from benchmark.evaluation.metrics import GENERATION_METRICS, parse_metric

Group = Literal["trivial", "collaborative", "sequential", "content", "llm-zero-shot", "llm", "ensemble"]
WEIGHTS = "model.safetensors"
CHECK_EVERY = 50  # steps after which an accelerator is asked for its loss: reading the number stalls it
OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}
TOP_K = 20  # length of the recommendation lists that are kept with a run


class ModelConfig(BaseModel):
    """Hyper-parameters every model has; a model's own Config adds to it. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch_size: int = Field(2048, gt=0, description="Rows of a training batch.")
    eval_batch_size: int = Field(1024, gt=0, description="Rows of a scoring batch.")


class GradientConfig(ModelConfig):
    """Hyper-parameters of models that are trained by gradients."""

    learning_rate: float = Field(1e-3, gt=0, description="Step size.")
    optimizer: Literal["adamw", "adam"] = Field(
        "adamw", description="adamw: weight_decay is decoupled; adam: it is part of the gradient, as in older papers."
    )
    weight_decay: float = Field(0.0, ge=0, description="Weight decay.")
    negatives: int = Field(1, gt=0, description="Drawn negatives for each positive.")
    negative_sampling: Sampling = Field(Sampling(), description="How they are drawn: uniform, popularity or hard.")
    augment: Augment | None = Field(None, description="Crop, thin out or reorder the histories in training.")


@dataclass(frozen=True)
class Traits:
    """What a configuration of a model is: its place in the table, its tasks, whether its scores are logits, and whom it
    can score that training does not know (see ``Recommender.unseen``)."""

    group: Group
    tasks: frozenset[str]
    probability: bool
    unseen: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Below:
    """A row that another one stands on, as it is known before anything is trained."""

    label: str
    model: type[Recommender]
    config: ModelConfig
    traits: Traits


def unseen_by_all(stages: dict[str, Traits]) -> frozenset[str]:
    """Return which unseen ids all of these models can score, for ``traits_on`` of a model that needs them all."""
    return frozenset.intersection(*(traits.unseen for traits in stages.values()))


class TrainingDiverged(RuntimeError):
    """The loss became NaN or infinite."""


class Recommender(LightningModule):
    """A model of the level field: ``Config``, ``training_step`` and ``score``; the rest is done here.

    Subclasses set:
        Config: their hyper-parameters, a pydantic model.
        batch_kind: what one training batch is (see ``benchmark.data.batch.Batch``). With ``"whole"`` (closed forms)
            ``training_step`` is called once with the whole training part and returns nothing.
        group: where the table shows the model.
        tasks: which task kinds the model can do.
        probability: True if ``score`` is a logit of P(like), so that log loss means something.
        unseen: which ids that training does not know it scores with sense. "users": scores need no id of the user; they
            follow from history or profile, or are in one order for everybody. "items": texts, features or vectors tell
            apart two items without any interaction, and ids do not.
        max_history: longest history the model reads; 0 for models that read none (a Config field of that name wins).
        reads_queries: True if ``score`` heeds ``batch.query``, what users ask for in words. An instance may set it.
        differentiable: False if ``score`` gives no gradients in training, so that it can learn from no teacher.
        scores_with_stages: False if the models it stands on are needed in training alone; they are then not loaded with
            a stored one.
        pretrain_epochs: so many epochs come before those of the trainer; they count neither for the selection of the
            best weights nor for the patience of early stopping. An instance may set it.

    A model may stand on trained models of the same experiment, such as a reranker on its first stage: ``stages_of``
    names them, ``stage`` gives them, trained and frozen. They are no submodules: their weights are not its own, and
    ``train()`` would wake their dropout.

    Args:
        config: an instance of the class's Config.
        catalogue: sizes, texts and training interactions.
    """

    Config: ClassVar[type[ModelConfig]] = ModelConfig
    batch_kind: ClassVar[BatchKind] = "pointwise"
    group: ClassVar[Group] = "collaborative"
    tasks: ClassVar[frozenset[str]] = frozenset({"ranking"})
    probability: ClassVar[bool] = False
    unseen: ClassVar[frozenset[str]] = frozenset()
    max_history: ClassVar[int] = 0
    reads_queries: bool = False
    differentiable: ClassVar[bool] = True
    scores_with_stages: ClassVar[bool] = True
    pretrain_epochs: int = 0

    def __init__(self, config: ModelConfig, catalogue: Catalogue) -> None:
        super().__init__()
        self.traits = self.traits_of(config)
        self.config: Any = config
        self.catalogue = catalogue
        self.strict_loading = False  # checkpoints of PEFT models hold the adapter alone
        self._loss_sum: Tensor | float = 0.0
        self._loss_steps = 0
        self.scoring_seconds = 0.0
        self.scored_rows = 0
        self.stages: dict[str, Recommender] = {}
        self._chance: Tensor | None = None
        self.generations: GenerationEvaluator | None = None
        self.metrics: dict[str, dict[str, float]] = {}  # as computed; Lightning's own copies are rounded to float32
        if self.batch_kind == "whole":
            self.automatic_optimization = False
            self.anchor = nn.Parameter(torch.zeros(()))  # DDP refuses a module without parameters

    # --- what a model author writes --------------------------------------------------------------------------------

    @classmethod
    def traits_of(cls, config: ModelConfig) -> Traits:
        """Return group, tasks, probability and unseen; override it only where a hyper-parameter decides them."""
        return Traits(cls.group, cls.tasks, cls.probability, cls.unseen)

    @classmethod
    def traits_on(cls, config: ModelConfig, stages: dict[str, Traits]) -> Traits:
        """Return the traits of a model that stands on others, whose traits these are, by role.

        Override it only where they decide them.
        """
        return cls.traits_of(config)

    @classmethod
    def check(cls, config: ModelConfig, catalogue: Catalogue) -> None:
        """Say before anything runs what the model needs and the data lacks (features, a graph ...); nothing by default.

        Raises:
            InputError: one line that names what is missing.
        """

    @classmethod
    def stages_of(cls, config: ModelConfig) -> dict[str, str]:
        """Return which other models of the experiment this one stands on: role -> label, such as
        ``{"first_stage": "ease"}``. The role is the key of the config that names the label, or ``key.0``, ``key.1`` ...
        where it names several.
        """
        return {}

    @classmethod
    def check_below(cls, config: ModelConfig, below: dict[str, Below], task: Task) -> None:
        """Refuse, before anything is trained, rows that this one cannot stand on, by role; nothing by default.

        Raises:
            InputError: one line that names the key and the row.
        """

    @classmethod
    def made_of(cls, config: ModelConfig) -> tuple[str, ...]:
        """Return the paths of other model classes this one builds, such as a student's: their code decides runs too."""
        return ()

    def attach(self, stages: dict[str, Recommender]) -> None:
        """Take the trained models this one stands on, by role: frozen, in eval mode, on the CPU.

        Called where ``stages_of`` names any, after construction and before ``batch_spec()``, training and restoring.
        Extend it to build what depends on them, such as a projection of their vectors.
        """
        self.stages = stages
        self.traits = self.traits_on(self.config, {role: stage.traits for role, stage in stages.items()})

    @classmethod
    def samplings(cls, config: ModelConfig) -> frozenset[SamplingKind]:
        """Return the kinds of negatives it can be trained with in a ranking; "uniform" stands for none drawn, too.

        All of them where the DataModule draws (pairwise, pointwise). Models that draw by themselves say what they heed.
        """
        drawn = cls.batch_kind in ("pairwise", "pointwise")
        return frozenset({"uniform", "popularity", "hard"}) if drawn else frozenset({"uniform"})

    @classmethod
    def augmentable(cls, config: ModelConfig) -> bool:
        """Return whether training batches have histories that ``augment`` can change."""
        return cls.batch_kind != "whole" and getattr(config, "max_history", cls.max_history) > 0

    @classmethod
    def check_training(cls, config: ModelConfig, task: Task) -> None:
        """Refuse what would change nothing.

        Raises:
            InputError: ``negative_sampling`` where no negatives are drawn so, or ``augment`` without histories.
        """
        sampling, augment = getattr(config, "negative_sampling", None), getattr(config, "augment", None)
        if sampling is not None and sampling.kind != "uniform":
            known = cls.samplings(config) if task.kind == "ranking" else frozenset({"uniform"})
            if sampling.kind not in known:
                raise InputError(
                    f"negative_sampling: found '{sampling.kind}', and {cls.__name__} with these settings has no "
                    f"negatives drawn so in a {task.kind} task; expected {' or '.join(sorted(known))}"
                )
        if augment is not None and not cls.augmentable(config):
            raise InputError(f"augment: {cls.__name__} with these settings is not trained on histories; leave it out")

    @classmethod
    def examples(cls, config: Any, catalogue: Catalogue, batch: Batch, n: int) -> list[tuple[str, int, int]]:
        """Return (text, tokens, history items left out) of n prompts, for ``levelfield prepare --show``.

        Models that read no text return nothing; others need the tokenizer for it, not the weights.
        """
        return []

    def batch_spec(self) -> BatchSpec:
        """Return what the model asks of the DataModule; override it only where a hyper-parameter decides the kind."""
        config = self.config
        # the models this one stands on read the same batches
        histories = [getattr(config, "max_history", self.max_history)]
        histories += [stage.batch_spec().max_history for stage in self.stages.values()]
        return BatchSpec(
            kind=self.batch_kind,
            batch_size=config.batch_size,
            eval_batch_size=config.eval_batch_size,
            negatives=getattr(config, "negatives", 1),
            max_history=max(histories),
            sampling=getattr(config, "negative_sampling", None),
            augment=getattr(config, "augment", None),
        )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """Return the loss (gradient models), or take the statistics of the whole batch (closed forms).

        Models without anything to learn keep this one.
        """
        return None

    def score(self, batch: Batch) -> Tensor:
        """Return finite scores, higher is better: (B, C) for ``batch.candidates``, or (B, n_items) when it is None."""
        raise NotImplementedError

    def configure_optimizers(self) -> Any:
        if self.batch_kind == "whole":
            return None
        parameters = [p for p in self.parameters() if p.requires_grad]
        fused = all(p.is_floating_point() for p in parameters)
        optimizer = OPTIMIZERS[self.config.optimizer]
        return optimizer(parameters, lr=self.config.learning_rate, weight_decay=self.config.weight_decay, fused=fused)

    def user_embeddings(self, batch: Batch) -> Tensor:
        """Return (B, d) vectors of the users of a batch, for models that stand on this one.

        Raises:
            InputError: this model has none.
        """
        raise InputError(f"{type(self).__name__} has no embeddings to give (user_embeddings, item_embeddings)")

    def item_embeddings(self) -> Tensor:
        """Return (n_items, d) vectors of all items, of the width of ``user_embeddings``.

        Raises:
            InputError: this model has none.
        """
        raise InputError(f"{type(self).__name__} has no embeddings to give (user_embeddings, item_embeddings)")

    def embed_items(self, items: Tensor) -> Tensor:
        """Return (m, d) vectors of (m,) items, with gradients in training; override it to make these alone."""
        return self.item_embeddings()[items]

    # --- helpers for authors ---------------------------------------------------------------------------------------

    def stage(self, role: str, batch: Batch) -> tuple[Recommender, Batch]:
        """Return the model of a role, on this device, and the batch with as much history as that model reads."""
        stage = self.stages[role]
        return stage.to(self.device), batch.newest(stage.batch_spec().max_history)

    def note_generations(self, names_an_item: Tensor) -> None:
        """Say of the (B, K) generations of a scored batch, the best first, whether each names an item (``valid@k``)."""
        if self.generations is not None:
            self.generations.update(names_an_item)

    @property
    def n_users(self) -> int:
        return self.catalogue.n_users

    @property
    def n_items(self) -> int:
        """Number of items; also the padding id of histories."""
        return self.catalogue.n_items

    def drawn_items(self, *shape: int) -> Tensor:
        """Return items drawn as ``negative_sampling`` says, the user's own among them, for who draws by himself."""
        if self.config.negative_sampling.kind == "popularity":
            chance = self._item_chance()
            return torch.multinomial(chance, math.prod(shape), replacement=True).view(shape)
        return torch.randint(self.n_items, shape, device=self.device)

    def expected_among(self, n: int, items: Tensor) -> Tensor | float:
        """Return how often each of ``items`` (m,) is to be expected among n ``drawn_items``."""
        return (
            n * self._item_chance()[items] if self.config.negative_sampling.kind == "popularity" else n / self.n_items
        )

    def _item_chance(self) -> Tensor:
        if self._chance is None or self._chance.device != self.device:
            chance = popularity(self.catalogue.train.item, self.n_items, self.config.negative_sampling.power)
            self._chance = torch.from_numpy(chance).float().to(self.device)
        return self._chance

    @staticmethod
    def pick(scores: Tensor, batch: Batch) -> Tensor:
        """Return the columns of (B, n_items) scores that the batch asks for."""
        return scores if batch.candidates is None else scores.gather(1, batch.candidates)

    @staticmethod
    def dot(user: Tensor, item: Tensor, batch: Batch, bias: Tensor | None = None) -> Tensor:
        """Return user . item (+ item bias) for what the batch asks: user (B, d), item (n_items, d), bias (n_items,)."""
        if batch.candidates is None:
            return user @ item.T if bias is None else torch.addmm(bias, user, item.T)
        scores = torch.einsum("bd,bcd->bc", user, item[batch.candidates])
        return scores if bias is None else scores + bias[batch.candidates]

    def weights(self) -> dict[str, Tensor]:
        """Return what a checkpoint must hold: trainable parameters and persistent buffers, on the CPU."""
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        # tied weights stand under two names, and named_parameters gives the first of them alone
        others = {name for name, _ in self.named_parameters(remove_duplicate=False)} - trained
        kept: dict[str, Tensor] = {}
        seen: set[tuple[int, torch.Size]] = set()
        for name, value in self.state_dict().items():
            # some adapters share one buffer among their layers; a file holds it once
            place = value.data_ptr(), value.shape
            if name in others or name == "anchor" or (value.numel() and place in seen):
                continue
            seen.add(place)
            kept[name] = value.detach().cpu().contiguous()
        return kept

    def save(self, folder: Path) -> None:
        """Write the weights to ``folder``; models with an adapter add it in PEFT's own layout."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.weights(), folder / WEIGHTS)

    def restore(self, folder: Path, new_users: int = 0) -> None:
        """Read what ``save`` wrote.

        Args:
            folder: where it was written to.
            new_users: so many last users of this catalogue were not there yet. What is kept of each user stays for
                them as it is, which is what it is for users unseen in training.

        Raises:
            InputError: a weight is missing, or has another shape than this catalogue and config ask for.
        """
        weights, expected = load_file(folder / WEIGHTS), self.weights()
        for name in expected.keys() | weights.keys():
            found = tuple(weights[name].shape) if name in weights else "nothing"
            wanted = tuple(expected[name].shape) if name in expected else "nothing"
            if new_users and wanted == (self.n_users, *wanted[1:]) and found == (self.n_users - new_users, *wanted[1:]):
                weights[name] = torch.cat([weights[name], expected[name][-new_users:]])
                continue
            if found != wanted:
                raise InputError(f"{folder / WEIGHTS}: {name}: found {found}, expected {wanted}: another model or data")
        self.load_state_dict(weights, strict=False)

    def forget(self) -> None:
        """Drop what was worked out for scoring, such as vectors of all items, as it is when weights are loaded."""
        self.load_state_dict({}, strict=False)

    def report(self) -> dict[str, float]:
        """Return numbers about the trained model that belong into the record (such as the share of padding)."""
        return {}

    def tensors(self) -> Iterator[Tensor]:
        """Yield what is held in memory for scoring: weights and buffers, those of the models it stands on too."""
        yield from self.parameters()
        yield from self.buffers()
        for stage in self.stages.values() if self.scores_with_stages else ():
            yield from stage.tensors()

    # --- what is the same for all ----------------------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        # Lightning notes the running hook 46 times a step; the checks of nn.Module would cost 4 % of a step of MF
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    @final
    def setup(self, stage: str) -> None:
        task: Task = self.trainer.datamodule.task  # type: ignore[attr-defined]
        if task.kind not in self.traits.tasks:
            raise InputError(f"{type(self).__name__} cannot do a {task.kind} task with this configuration")
        for part, top_k in (("valid", 0), ("test", TOP_K)):
            if task.kind == "ranking":
                ranked = tuple(m for m in task.metrics if parse_metric(m).name not in GENERATION_METRICS)
                evaluator: Any = RankingEvaluator(ranked, top_k=top_k)
                self.generations = GenerationEvaluator().to(self.device)
            else:
                evaluator = PreferenceEvaluator(task.metrics, probability=self.traits.probability)
            setattr(self, f"{part}_evaluator", evaluator.to(self.device))

    @final
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        kept = self.weights().keys()
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in kept}

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        sampling = getattr(self.config, "negative_sampling", None)
        if sampling is None or sampling.kind != "hard" or batch.negative is None:
            return batch
        batch.negative = self._hardest(batch, batch.negative.shape[1] // sampling.pool)
        pairwise = self.trainer.datamodule.spec.kind == "pairwise"  # type: ignore[attr-defined]
        return batch if pairwise else with_negatives(batch, batch.negative)

    @torch.no_grad()
    def _hardest(self, batch: Batch, n: int) -> Tensor:
        """Return the (B, n) candidates among ``batch.negative`` that the model as it is scores highest."""
        assert batch.negative is not None
        modes = {module: module.training for module in self.modules()}
        self.eval()  # nothing is dropped out and nothing drawn: the generators stay as they are
        try:
            scores = self.score(replace(batch, item=None, label=None, negative=None, candidates=batch.negative))
        finally:
            for module, training in modes.items():
                module.training = training
        return batch.negative.gather(1, scores.topk(n, dim=1, sorted=False).indices)

    def on_train_epoch_start(self) -> None:
        self._loss_sum, self._loss_steps = 0.0, 0

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if loss is not None:
            # summed on the device: reading the number here would stall every step
            self._loss_sum = self._loss_sum + loss.detach()
            self._loss_steps += 1
            if not loss.is_cuda or self._loss_steps % CHECK_EVERY == 0:
                self._check_loss(float(self._loss_sum))
            if self.trainer.is_last_batch:
                self._log_loss()

    def _log_loss(self) -> None:
        total = float(self._loss_sum)
        self._check_loss(total)
        self.log("train_loss", total / self._loss_steps, sync_dist=False, rank_zero_only=True)

    def _check_loss(self, total: float) -> None:
        if not math.isfinite(total):
            raise TrainingDiverged(
                f"the training loss is {total} in epoch {self.current_epoch} (step {self.global_step}); "
                "lower the learning rate"
            )

    @final
    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._judge(self.valid_evaluator, batch)

    @final
    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._judge(self.test_evaluator, batch)

    @final
    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        return self._timed_score(batch)

    @final
    def on_validation_epoch_end(self) -> None:
        self._log_metrics("valid", self.valid_evaluator)

    @final
    def on_test_epoch_start(self) -> None:
        self.scoring_seconds, self.scored_rows = 0.0, 0
        self.test_evaluator.reset()  # type: ignore[operator, union-attr]
        if self.generations is not None:
            self.generations.reset()

    @final
    def on_test_epoch_end(self) -> None:
        self._log_metrics("test", self.test_evaluator)

    def _log_metrics(self, part: str, evaluator: Any) -> None:
        self.metrics[part] = evaluator.compute()
        if self.generations is not None:
            self.metrics[part] |= self.generations.compute()
            self.generations.reset()
        if part == "valid":
            evaluator.reset()  # the ranks of the test part are kept: they go into the record
        # every process has computed the same numbers from the gathered ranks
        values = {f"{part}/{name}": value for name, value in self.metrics[part].items()}
        self.log_dict(values, sync_dist=False, rank_zero_only=False)

    def _timed_score(self, batch: Batch) -> Tensor:
        start = time.perf_counter()
        scores = self.score(batch)
        if scores.is_cuda:
            torch.cuda.synchronize(scores.device)
        self.scoring_seconds += time.perf_counter() - start
        self.scored_rows += len(batch)
        return scores

    def _judge(self, evaluator: Any, batch: Batch) -> None:
        scores = self._timed_score(batch)
        if batch.label is not None:
            evaluator.update(batch.user, batch.label, scores[:, 0], batch.row)
            return
        width = self.n_items if batch.candidates is None else batch.candidates.shape[1]
        if scores.shape != (len(batch), width):
            raise ValueError(
                f"{type(self).__name__}.score returned {tuple(scores.shape)}, expected ({len(batch)}, {width})"
            )
        assert batch.relevant is not None
        assert batch.excluded is not None
        evaluator.update(
            batch.user,
            batch.ranked(scores),
            batch.relevant.offsets,
            batch.relevant.values,
            batch.excluded.offsets,
            batch.excluded.values,
            candidates=batch.ranked_items(),
            draw=batch.draw,
        )


def trainable_parameters(model: nn.Module) -> int:
    """Return the number of parameters that training changes."""
    return sum(p.numel() for name, p in model.named_parameters() if p.requires_grad and name != "anchor")


def size_in_bytes(model: Recommender) -> int:
    """Return the bytes of what a model holds for scoring (``tensors``), what is shared counted once."""
    places = {}
    for tensor in list(model.tensors()):  # all at once: some are made for this, and places would be used again
        if tensor.layout is torch.strided:
            storage = tensor.untyped_storage()
            places[storage.data_ptr()] = storage.nbytes()
    return sum(places.values())
