"""Every model of the release: it trains, scores and comes back, or there is a stated reason why it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import seed_everything

from baselines.recbole import RecBole, compat, zoo
from benchmark.experiment import load_all
from tests.contract import fit, needs_no_user_id, quiet, tells_unseen_items_apart
from tests.planted import planted

ROOT = Path(__file__).parents[3]
# what the planted data is too small for, or names otherwise
PARAMETERS: dict[str, dict[str, Any]] = {
    "DGCF": {"train_batch_size": 256},
    "FDSA": {"selected_features": ["genres"]},
    "GRU4RecF": {"selected_features": ["genres"]},
    "KD_DAGFM": {"phase": "finetuning", "pretrain_epochs": 1},
    "GRU4RecCPR": {"reranker_CAN_NUM": 20},
    "KTUP": {"train_rec_step": 1, "train_kg_step": 1},
    "NCEPLRec": {"rank": 20},
    "NCL": {"num_clusters": 5},
    "SASRecCPR": {"reranker_CAN_NUM": 20},
    "RaCT": {"pretrain_epochs": 1, "metrics_k": 20},
    "S3Rec": {"pretrain_epochs": 1, "item_attribute": "genres"},
    "SASRecF": {"selected_features": ["genres"]},
}
# what would take long
SMALL: dict[str, dict[str, Any]] = {
    "ConvNCF": {
        "embedding_size": 16,
        "cnn_channels": [1, 8, 8],
        "cnn_kernels": [4, 4],
        "cnn_strides": [4, 4],
    },
    "DIEN": {"mlp_hidden_size": [16]},
    "DIN": {"mlp_hidden_size": [16]},
    "LightGBM": {"lgb_num_boost_round": 5},
    "MCCLK": {"embedding_size": 16},
    "NNCF": {"num_conv_kernel": 8, "mlp_hidden_size": [16]},
    "RippleNet": {"embedding_size": 8},
    "XGBoost": {"xgb_num_boost_round": 5},
    "xDeepFM": {"cin_layer_size": [8, 8]},
}


def config_of(name: str) -> dict[str, Any]:
    parameters = PARAMETERS.get(name, {}) | SMALL.get(name, {})
    if zoo.family(name) == "sequential":
        parameters = parameters | {"MAX_ITEM_LIST_LENGTH": 8}
    return {"model": name, "parameters": parameters, "eval_batch_size": 64}


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name in zoo.usable() for kind in sorted(zoo.traits(name).tasks)]
)
def test_trains_scores_and_comes_back(name: str, kind: str, tmp_path: Path) -> None:
    data, task = planted(kind)
    fitted = fit(RecBole, config_of(name), data, task, epochs=2)
    rows = fitted.module.rows("test")
    some = rows[rows.all[:10]]
    scores = fitted.score(some)
    assert scores.isfinite().all()
    if kind == "ranking":
        assert (scores.amax(1) > scores.amin(1)).any()  # it tells items apart
        assert needs_no_user_id(fitted) == ("users" in fitted.model.traits.unseen)
        assert tells_unseen_items_apart(fitted) == ("items" in fitted.model.traits.unseen)
    fitted.model.save(tmp_path)
    seed_everything(99, verbose=False)
    with quiet(), torch.no_grad():
        other = RecBole(fitted.model.config, fitted.model.catalogue).eval()
        other.restore(tmp_path)
        torch.testing.assert_close(other.score(some), scores, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(zoo.UNSUPPORTED))
def test_what_does_not_run_says_why(name: str) -> None:
    assert name in compat.models()
    with pytest.raises(ValueError, match=f"RecBole's {name} cannot be adapted: it (reads|draws)"):
        RecBole.Config(model=name)


def test_the_experiment_of_the_zoo_names_every_model_once() -> None:
    experiments = load_all(ROOT / "experiments" / "recbole-zoo.yaml")
    named = [
        entry.parameters["model"]
        for experiment in experiments
        for entry in experiment.models.values()
        if entry.class_path == "baselines.recbole.RecBole"
    ]
    assert sorted(named) == zoo.usable()
    assert len(compat.models()) == len(named) + len(zoo.UNSUPPORTED)
    assert len(compat.models()) == 94


@pytest.mark.parametrize(
    ("name", "values", "kind", "negatives"),
    [
        ("BPR", {}, "pairwise", True),
        ("NeuMF", {}, "pointwise", True),
        ("MultiVAE", {}, "user_rows", False),
        ("EASE", {}, "whole", False),
        ("SASRec", {"loss_type": "CE"}, "pointwise", False),
        ("SASRec", {"loss_type": "BPR"}, "pairwise", True),
        ("DIN", {}, "pointwise", True),
        ("FM", {}, "pointwise", True),
        ("CKE", {}, "pairwise", True),
        ("XGBoost", {}, "whole", True),
    ],
)
def test_batches_of_a_family(name: str, values: dict[str, Any], kind: str, negatives: bool) -> None:
    assert zoo.batch_kind(name, values) == kind
    assert zoo.learns_from_negatives(name, values) == negatives
