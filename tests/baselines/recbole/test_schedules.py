"""RecBole's special trainers as schedules: which parameters move when, and what an epoch holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer
from torch import Tensor, nn

from baselines.recbole import RecBole
from tests.contract import fit, quiet
from tests.planted import planted


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with quiet():
        yield


class Moves(Callback):
    """Notes after each epoch which children of RecBole's model have moved in it, and how many steps were taken."""

    def __init__(self) -> None:
        self.moved: list[set[str]] = []
        self.steps: list[int] = []
        self.before: dict[str, list[Tensor]] = {}

    @staticmethod
    def parts(model: nn.Module) -> dict[str, list[Tensor]]:
        return {name: [p.detach().clone() for p in child.parameters()] for name, child in model.named_children()}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.before = self.parts(pl_module.recbole)
        self.steps.append(0)

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.steps[-1] += 1

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        after = self.parts(pl_module.recbole)
        pairs = {name: zip(old, after[name], strict=True) for name, old in self.before.items()}
        self.moved.append({name for name, both in pairs.items() if any(not torch.equal(a, b) for a, b in both)})


def trained(name: str, epochs: int, **parameters: Any) -> tuple[Any, Moves]:
    """Train so many epochs, those of pre-training included, and judge after each."""
    data, task = planted("ranking")
    config, moves = {"model": name, "parameters": {"learning_rate": 0.01, **parameters}}, Moves()
    options = {"max_epochs": epochs, "check_val_every_n_epoch": 1, "callbacks": [moves], "test": False}
    return fit(RecBole, config, data, task, **options).model, moves


def test_ktup_goes_through_rows_for_some_epochs_and_through_triples_for_others() -> None:
    _, moves = trained("KTUP", 4, train_rec_step=2, train_kg_step=1, embedding_size=8)
    rows, triples = {"user_embedding", "item_embedding"}, {"relation_norm_embedding"}
    for epoch in (0, 1, 3):
        assert rows <= moves.moved[epoch]
    assert triples <= moves.moved[2]
    assert "user_embedding" not in moves.moved[2]


def test_mkr_takes_triples_every_few_epochs() -> None:
    model, moves = trained("MKR", 4, kge_interval=3, embedding_size=8, kg_embedding_size=8, train_batch_size=256)
    with_triples = ["relation_embeddings_lookup" in moved for moved in moves.moved]
    assert with_triples == [True, False, False, True], sorted(name for name, _ in model.recbole.named_children())


def test_kgats_attention_follows_from_the_weights() -> None:
    model, _ = trained("KGAT", 1, embedding_size=8, kg_embedding_size=8, layers=[8], train_batch_size=256)
    kept = model.recbole.A_in.to_dense().clone()
    model.recbole.A_in = None
    model.load_state_dict(model.state_dict())
    torch.testing.assert_close(model.recbole.A_in.to_dense(), kept)


def test_recvae_moves_encoder_and_decoder_in_turns_within_an_epoch() -> None:
    data, _ = planted("ranking")
    model, moves = trained("RecVAE", 1, hidden_dimension=16, latent_dimension=8, train_batch_size=32)
    one_pass = -(-(data.n_users - 2) // 32)  # two users are unseen in training
    assert moves.steps == [4 * one_pass]  # three passes of the encoder, one of the decoder
    assert {"encoder", "decoder", "prior"} <= moves.moved[0]  # the prior is the encoder as it was before the decoder
    old, new = model.recbole.prior.encoder_old.state_dict(), model.recbole.encoder.state_dict()
    assert all(torch.equal(old[name], value) for name, value in new.items())


def test_ract_trains_the_actor_then_the_critic_then_the_actor() -> None:
    small = {"mlp_hidden_size": [16], "latent_dimension": 8, "metrics_k": 20, "train_batch_size": 64}
    model, moves = trained("RaCT", 4, pretrain_epochs=1, **small)
    actor, critic = {"encoder", "decoder"}, {"critic_net"}
    assert [actor <= moved for moved in moves.moved] == [True, False, True, True]
    assert [critic <= moved for moved in moves.moved] == [False, True, False, False]
    assert model.pretrain_epochs == 2


def test_s3rec_learns_attributes_before_next_items() -> None:
    small = {"hidden_size": 8, "inner_size": 8, "n_layers": 1, "MAX_ITEM_LIST_LENGTH": 8, "item_attribute": "genres"}
    model, moves = trained("S3Rec", 2, pretrain_epochs=1, **small)
    assert "feature_embedding" in moves.moved[0]
    assert "feature_embedding" not in moves.moved[1]
    assert model.recbole.train_stage == "finetune"


def test_kd_dagfm_teaches_before_it_distils() -> None:
    model, moves = trained("KD_DAGFM", 3, phase="finetuning", pretrain_epochs=1)
    teacher = ["teacher_network" in moved for moved in moves.moved]
    student = ["student_network" in moved for moved in moves.moved]
    assert teacher == [True, False, False]
    assert student == [False, True, True]
    assert model.pretrain_epochs == 2


def test_ncl_counts_its_prototypes_after_the_warm_up() -> None:
    model, _ = trained("NCL", 1, num_clusters=5, embedding_size=8, warm_up_step=0)
    assert model.recbole.user_centroids.shape == (5, 8)
    lengths = model.recbole.user_centroids.norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths))
    assert model.recbole.item_2cluster.max() < 5


def test_what_a_model_counts_while_it_learns_is_in_its_checkpoint() -> None:
    model, moves = trained("MultiVAE", 3, mlp_hidden_size=[16], latent_dimension=4, train_batch_size=64)
    steps = sum(moves.steps)
    assert model.recbole.update == steps
    other = RecBole(model.config, model.catalogue)
    other.load_state_dict(model.state_dict())
    assert other.recbole.update == steps  # its KL weight is annealed over the steps
