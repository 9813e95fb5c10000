"""Schedules: how RecBole's special trainers walk through the epochs, as hooks of one Lightning loop.

A schedule says which loss a step takes, which parameters it may move, how many passes an epoch makes over the rows,
how many epochs of pre-training come first, and what happens before and after an epoch. ``Schedule`` itself is RecBole's
plain ``Trainer``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from baselines.recbole import compat
from baselines.recbole.config import RecBoleConfig
from baselines.recbole.graph import Graph


class Schedule:
    """Every step takes the model's own loss and moves all parameters (RecBole's ``Trainer``).

    Args:
        model: the model of RecBole.
        config: its parameters.
        graph: the knowledge graph, where the model reads one.
        seed: of what a schedule draws itself.
    """

    def __init__(self, model: Any, config: RecBoleConfig, graph: Graph | None, seed: int) -> None:
        self.model, self.config, self.graph, self.seed = model, config, graph, seed

    @staticmethod
    def pretrain_epochs(config: RecBoleConfig) -> int:
        """Return the epochs that come before those of the trainer."""
        return 0

    @staticmethod
    def passes(config: RecBoleConfig) -> int:
        """Return how often an epoch goes through the rows."""
        return 1

    def start(self, epoch: int) -> bool:
        """Prepare an epoch; return True where the optimiser is to forget what it has gathered."""
        return False

    def loss(self, rows: Any, step: int, n_steps: int) -> Any:
        """Return the loss of step ``step`` of ``n_steps``, a tensor or a tuple of parts; None for a step of rest."""
        return self.model.calculate_loss(rows)

    def resting(self) -> Iterable[nn.Parameter]:
        """Return the parameters that the step just taken may not move."""
        return ()

    def extra_losses(self, epoch: int) -> Iterator[Tensor]:
        """Yield the losses of steps that follow the rows of an epoch, one after each has been taken."""
        return iter(())

    def end(self, epoch: int) -> None:
        """Do what comes after all steps of an epoch."""

    def loaded(self) -> None:
        """Bring what depends on the weights up to date after they were loaded."""

    def finished(self) -> None:
        """Put the model into its last stage, for scoring."""


# --- knowledge graphs ------------------------------------------------------------------------------------------------


class _Triples(Schedule):
    """Draws batches of triples with a negative tail each, the same in every process."""

    def _batches(self, epoch: int) -> Iterator[dict[str, Tensor]]:
        assert self.graph is not None
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        names = self.model
        device = next(self.model.parameters()).device
        order = torch.randperm(len(self.graph), generator=generator)
        head, relation, tail = (torch.from_numpy(x) for x in (self.graph.head, self.graph.relation, self.graph.tail))
        for index in order.split(self.config.batch_size or self.config.value("train_batch_size")):
            fields = {
                names.HEAD_ENTITY_ID: head[index],
                names.RELATION_ID: relation[index],
                names.TAIL_ENTITY_ID: tail[index],
                names.NEG_TAIL_ENTITY_ID: self.graph.negative_tails(head[index], generator),
            }
            yield {name: value.to(device) for name, value in fields.items()}

    def _graph_losses(self, epoch: int) -> Iterator[Tensor]:
        make = compat.load("data.interaction").Interaction
        for fields in self._batches(epoch):
            yield self.model.calculate_kg_loss(make(fields))


class Joint(_Triples):
    """Each step sees a batch of rows and a batch of triples (``KGTrainer`` with both in one loss: CKE, CFKG)."""

    def start(self, epoch: int) -> bool:
        self.epoch, self.round, self.triples = epoch, 0, self._batches(epoch)
        return False

    def loss(self, rows: Any, step: int, n_steps: int) -> Any:
        fields = next(self.triples, None)
        if fields is None:  # the graph is shorter than the rows: once more
            self.round += 1
            self.triples = self._batches(self.epoch + 1_000_000 * self.round)
            fields = next(self.triples)
        return self.model.calculate_loss(compat.load("data.interaction").Interaction({**rows.interaction, **fields}))


class Alternating(_Triples):
    """Some epochs of rows, then some of triples (``KGTrainer`` with ``train_rec_step``, ``train_kg_step``: KTUP)."""

    def start(self, epoch: int) -> bool:
        rows, triples = self.config.value("train_rec_step"), self.config.value("train_kg_step")
        self.on_rows = epoch % (rows + triples) < rows
        return False

    def loss(self, rows: Any, step: int, n_steps: int) -> Any:
        return self.model.calculate_loss(rows) if self.on_rows else None

    def extra_losses(self, epoch: int) -> Iterator[Tensor]:
        return iter(()) if self.on_rows else self._graph_losses(epoch)


class KGAT(_Triples):
    """Rows, then triples, then new attention, in each epoch (``KGATTrainer``)."""

    def extra_losses(self, epoch: int) -> Iterator[Tensor]:
        return self._graph_losses(epoch)

    def end(self, epoch: int) -> None:
        training = self.model.training
        self.model.eval()
        with torch.no_grad():
            self.model.update_attentive_A()
        self.model.train(training)

    def loaded(self) -> None:
        self.end(0)


class MKR(_Triples):
    """Rows in each epoch, triples in every ``kge_interval``-th (``MKRTrainer``)."""

    def loss(self, rows: Any, step: int, n_steps: int) -> Any:
        return self.model.calculate_rs_loss(rows)

    def extra_losses(self, epoch: int) -> Iterator[Tensor]:
        return iter(()) if epoch % self.config.value("kge_interval") else self._graph_losses(epoch)


# --- stages ----------------------------------------------------------------------------------------------------------


class _Staged(Schedule):
    """Stages one after the other; the optimiser starts afresh with each, as in a run of its own."""

    stage = -1

    def _stage(self, epoch: int) -> int:
        raise NotImplementedError

    def _enter(self, stage: int) -> None:
        raise NotImplementedError

    def start(self, epoch: int) -> bool:
        stage = self._stage(epoch)
        new = epoch > 0 and stage != self._stage(epoch - 1)
        if new and hasattr(self.model, "update"):
            self.model.update = 0  # RaCT anneals its KL loss over the steps of a stage
        if stage != self.stage:
            self.stage = stage
            self._enter(stage)
        return new

    def finished(self) -> None:
        self.stage = self._stage(10**9)
        self._enter(self.stage)


class S3Rec(_Staged):
    """``pretrain_epochs`` on attributes, items and segments, then next items (``S3RecTrainer``)."""

    @staticmethod
    def pretrain_epochs(config: RecBoleConfig) -> int:
        return config.value("pretrain_epochs")

    def _stage(self, epoch: int) -> int:
        return int(epoch >= self.pretrain_epochs(self.config))

    def _enter(self, stage: int) -> None:
        if stage == 0:
            self.model.train_stage, self.model.loss_fct = "pretrain", nn.BCEWithLogitsLoss(reduction="none")
            return
        bpr = compat.load("model.loss").BPRLoss
        self.model.train_stage = "finetune"
        self.model.loss_fct = bpr() if self.model.loss_type == "BPR" else nn.CrossEntropyLoss()


class RaCT(_Staged):
    """``pretrain_epochs`` of the actor, as many of the critic, then the actor by its critic (``RaCTTrainer``)."""

    def __init__(self, model: Any, *args: Any) -> None:
        super().__init__(model, *args)
        model.requires_grad_(True)  # RecBole freezes the critic as it is built, for the first stage

    @staticmethod
    def pretrain_epochs(config: RecBoleConfig) -> int:
        return 2 * config.value("pretrain_epochs")

    def _stage(self, epoch: int) -> int:
        one = self.config.value("pretrain_epochs")
        return 2 if epoch >= 2 * one else int(epoch >= one)

    def _enter(self, stage: int) -> None:
        self.model.train_stage = ("actor_pretrain", "critic_pretrain", "finetune")[stage]

    def resting(self) -> Iterable[nn.Parameter]:
        model = self.model
        parts = (model.encoder, model.decoder) if self.stage == 1 else (model.critic_net,)
        return (parameter for part in parts for parameter in part.parameters())


class KDDAGFM(_Staged):
    """The teacher, then the student by distillation, then the student alone, up to ``phase``.

    RecBole asks for a checkpoint of the earlier phase; here each earlier phase takes ``pretrain_epochs``.
    """

    phases = ("teacher_training", "distillation", "finetuning")

    @classmethod
    def _last(cls, config: RecBoleConfig) -> int:
        return cls.phases.index(config.value("phase"))

    @staticmethod
    def pretrain_epochs(config: RecBoleConfig) -> int:
        return KDDAGFM._last(config) * config.value("pretrain_epochs")

    def _stage(self, epoch: int) -> int:
        return min(epoch // max(self.config.value("pretrain_epochs"), 1), self._last(self.config))

    def _enter(self, stage: int) -> None:
        self.model.phase = self.phases[stage]

    def resting(self) -> Iterable[nn.Parameter]:
        return self.model.teacher_network.parameters() if self.stage else self.model.student_network.parameters()


# --- others ----------------------------------------------------------------------------------------------------------


class RecVAE(Schedule):
    """``n_enc_epochs`` passes of the encoder, a new prior, ``n_dec_epochs`` of the decoder (``RecVAETrainer``)."""

    encoding: bool | None = None

    @staticmethod
    def passes(config: RecBoleConfig) -> int:
        return config.value("n_enc_epochs") + config.value("n_dec_epochs")

    def loss(self, rows: Any, step: int, n_steps: int) -> Any:
        before = self.encoding
        self.encoding = step * self.passes(self.config) // n_steps < self.config.value("n_enc_epochs")
        if before and not self.encoding:
            self.model.update_prior()
        return self.model.calculate_loss(rows, encoder_flag=self.encoding)

    def resting(self) -> Iterable[nn.Parameter]:
        moved = self.model.encoder if self.encoding else self.model.decoder
        chosen = {id(parameter) for parameter in moved.parameters()}
        return (parameter for parameter in self.model.parameters() if id(parameter) not in chosen)


class NCL(Schedule):
    """New clusters every ``m_step`` epochs; their loss counts from ``warm_up_step`` on (``NCLTrainer``)."""

    def start(self, epoch: int) -> bool:
        self.epoch = epoch
        if epoch % self.config.value("m_step") == 0 or self.model.user_centroids is None:
            self.model.run_kmeans = self._kmeans
            self.model.e_step()
        return False

    def _kmeans(self, x: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return normalised centroids and the cluster of each row; scikit-learn in the place of FAISS on a GPU."""
        from sklearn.cluster import KMeans

        found = KMeans(self.model.k, n_init=1, max_iter=25, random_state=self.seed).fit(x)  # FAISS: 25 rounds, once
        device = self.model.user_embedding.weight.device
        centroids = torch.from_numpy(found.cluster_centers_).float().to(device)
        return nn.functional.normalize(centroids, dim=1), torch.from_numpy(found.labels_).long().to(device)

    def loss(self, rows: Any, step: int, n_steps: int) -> Any:
        parts = self.model.calculate_loss(rows)
        return parts[:-1] if self.epoch < self.config.value("warm_up_step") else parts


SCHEDULES: dict[str, type[Schedule]] = {
    "CFKG": Joint,
    "CKE": Joint,
    "KGAT": KGAT,
    "KD_DAGFM": KDDAGFM,
    "KTUP": Alternating,
    "MKR": MKR,
    "NCL": NCL,
    "RaCT": RaCT,
    "RecVAE": RecVAE,
    "S3Rec": S3Rec,
}


def schedule_of(name: str) -> type[Schedule]:
    """Return how a model is trained."""
    return SCHEDULES.get(name, Schedule)
