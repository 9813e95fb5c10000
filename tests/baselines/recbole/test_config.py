"""What is refused before anything runs, in one line that names the nearest valid thing."""

from __future__ import annotations

from typing import Any

import pytest

from baselines.recbole import RecBole, compat, zoo
from baselines.recbole.config import _ranges, defaults
from benchmark.errors import InputError
from benchmark.experiment import model_config


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "models.x.model: required, and not there"),
        ({"model": "LightGNC"}, "models.x.model: RecBole has no model 'LightGNC'; did you mean 'LightGCN'?"),
        ({"model": "lightgcn"}, "models.x.model: RecBole has no model 'lightgcn'; did you mean 'LightGCN'?"),
        ({"model": "KSR"}, "models.x.model: RecBole's KSR cannot be adapted: it reads pre-trained entity and relation"),
        (
            {"model": "LightGCN", "parameters": {"n_layer": 2}},
            "models.x.parameters: RecBole's LightGCN has no parameter 'n_layer'; did you mean 'n_layers'?",
        ),
        (
            {"model": "LightGCN", "parameters": {"n_layers": 1.5}},
            "models.x.parameters: 'n_layers': found 1.5, expected something like 2",
        ),
        (
            {"model": "BPR", "parameters": {"embedding_size": "64"}},
            "models.x.parameters: 'embedding_size': found '64', expected something like 64",
        ),
        (
            {"model": "BPR", "parameters": {"topk": [10]}},
            "models.x.parameters: 'topk' is no parameter of the model here: set task.metrics instead",
        ),
        (
            {"model": "BPR", "parameters": {"eval_args": {"mode": "full"}}},
            "models.x.parameters: 'eval_args' is no parameter of the model here: set task.split and task.candidates",
        ),
        ({"model": "BPR", "parameters": {"epochs": 5}}, "set trainer.max_epochs instead"),
        (
            {"model": "BPR", "parameters": {"learner": "adan"}},
            "models.x.parameters: 'learner': found 'adan'; did you mean 'adam'?",
        ),
        (
            {"model": "BPR", "parameters": {"train_neg_sample_args": {"distribution": "popularity"}}},
            "negatives are drawn uniformly for every model",
        ),
        ({"model": "NeuMF", "parameters": {"mf_pretrain_path": "x.pth"}}, "RecBole's checkpoints are pickles"),
        (
            {"model": "SASRec", "parameters": {"train_neg_sample_args": {"sample_num": 1}}},
            "SASRec learns from all items (loss_type CE; BPR draws negatives) and draws none; leave it out",
        ),
        (
            {"model": "DCN", "parameters": {"mlp_hidden_size": [256, "x"]}},
            "'mlp_hidden_size': found [256, 'x'], expected something like [256, 256, 256]",
        ),
        ({"model": "S3Rec", "parameters": {"pre_model_path": "x.pth"}}, "RecBole's checkpoints are pickles"),
        ({"model": "S3Rec", "parameters": {"train_stage": "finetune"}}, "set pretrain_epochs, which come before"),
        ({"model": "FM", "parameters": {"threshold": {"rating": 3}}}, "set task.positive_rating instead"),
        (
            {"model": "SASRec", "parameters": {"loss_type": "BCE"}},
            "models.x.parameters: 'loss_type': found 'BCE', expected one of BPR, CE",
        ),
        (
            {"model": "KGAT", "parameters": {"aggregator_type": "gnc"}},
            "models.x.parameters: 'aggregator_type': found 'gnc', expected one of gcn, graphsage, bi",
        ),
        (
            {"model": "SimpleX", "parameters": {"margin": 1.5}},
            "models.x.parameters: 'margin': found 1.5, expected a number from -1 to 1",
        ),
        (
            {"model": "SASRec", "parameters": {"hidden_dropout_prob": 1.5}},
            "models.x.parameters: 'hidden_dropout_prob': found 1.5, expected a number from 0 to 1",
        ),
        (
            {"model": "BPR", "parameters": {"embedding_size": 0}},
            "models.x.parameters: 'embedding_size': found 0, expected more than 0",
        ),
        (
            {"model": "SASRec", "parameters": {"n_heads": 3}},
            "models.x.parameters: 'n_heads': 3 does not divide hidden_size 64",
        ),
        ({"model": "SASRec", "parameters": {"n_heads": 0}}, "'n_heads': found 0, expected 1 or more"),
        ({"model": "SASRec", "parameters": {"hidden_act": "gleu"}}, "'hidden_act': found 'gleu', expected one of gelu"),
        ({"model": "SASRec", "parameters": {"n_layers": 0}}, "'n_layers': found 0, expected more than 0"),
        (
            {"model": "BPR", "parameters": {"learning_rate": float("nan")}},
            "'learning_rate': found nan, expected a finite",
        ),
        ({"model": "CKE", "parameters": {"reg_weights": [0.1]}}, "'reg_weights': found 1 numbers, expected 2"),
        ({"model": "DeepFM", "parameters": {"mlp_hidden_size": []}}, "'mlp_hidden_size': found an empty list"),
        (
            {"model": "BPR", "parameters": {"clip_grad_norm": {"max_nrom": 1}}},
            "'clip_grad_norm': found {'max_nrom': 1}",
        ),
        ({"model": "KTUP", "parameters": {"train_kg_step": 0}}, "'train_rec_step' and 'train_kg_step': found a 0"),
        ({"model": "MKR", "parameters": {"kge_interval": 0}}, "'kge_interval': found 0, expected more than 0"),
        (
            {"model": "KD_DAGFM", "parameters": {"phase": "distillation", "pretrain_epochs": 0}},
            "'pretrain_epochs': found 0, expected 1 or more before the phase distillation",
        ),
        (
            {"model": "LightGBM", "parameters": {"lgb_params": {"objective": "regression"}}},
            "'lgb_params.objective': found 'regression', expected 'binary'",
        ),
        ({"model": "FM", "parameters": {"load_col": {"user": [5]}}}, "'load_col': found {'user': [5]}"),
        ({"model": "SASRecF", "parameters": {"selected_features": [["genres"]]}}, "expected the name of a column"),
        ({"model": "CORE", "parameters": {"loss_type": "BPR"}}, "'loss_type': found 'BPR', expected one of CE"),
        ({"model": "DMF", "parameters": {"inter_matrix_type": "rating"}}, "expected one of 01"),
        ({"model": "FM", "parameters": {"load_col": ["age"]}}, "expected something like {user: [age], item: [genres]}"),
        ({"model": "FM", "parameters": {"load_col": {"inter": ["age"]}}}, "'load_col' has no 'inter' here"),
        ({"model": "LDiffRec", "parameters": {"n_cate": 2}}, "'n_cate': more than 1 needs a file of item vectors"),
        (
            {"model": "CKE", "parameters": {"entity_kg_num_interval": "5"}},
            "'entity_kg_num_interval': found '5', expected an interval such as '[5,inf)'",
        ),
        (
            {"model": "BPR", "batch_size": 8, "parameters": {"train_batch_size": 8}},
            "models.x: batch_size and parameters.train_batch_size are both given; keep one",
        ),
    ],
)
def test_mistakes_are_named(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        model_config(RecBole, parameters, "models.x")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_recbole_missing_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat.importlib.util, "find_spec", lambda name: None)
    compat.models.cache_clear()
    with pytest.raises(InputError, match=r"pip install --no-deps recbole==1\.2\.1 .*levelfield\[recbole\]"):
        model_config(RecBole, {"model": "BPR"}, "models.x")


def test_recboles_own_defaults_are_within_its_ranges() -> None:
    for name in zoo.usable():
        RecBole.Config(
            model=name,
            parameters={k: v for k, v in defaults(name).items() if k in _ranges(name) and v and k != "train_stage"},
        )


def test_numbers_may_be_written_without_a_point() -> None:
    RecBole.Config(model="DCN", parameters={"reg_weight": 0.5})  # RecBole's default is the whole number 2
    RecBole.Config(model="SASRecCPR", parameters={"hidden_dropout_prob": 0.1})  # and 0 here
    RecBole.Config(model="LightGCN", parameters={"reg_weight": 1})


def test_what_recbole_can_do_is_not_refused() -> None:
    RecBole.Config(model="Caser", parameters={"loss_type": "BPR"})  # its yaml states no range
    RecBole.Config(model="FEARec", parameters={"global_ratio": 0.6})
    RecBole.Config(model="SASRecCPR", parameters={"reranker_CAN_NUM": "500,100,20"})
    RecBole.Config(model="BPR", parameters={"clip_grad_norm": {"max_norm": 5}})


def test_boosters_keep_what_is_not_given() -> None:
    config = RecBole.Config(model="XGBoost", parameters={"xgb_params": {"max_depth": 6}})
    assert config.value("xgb_params")["objective"] == "binary:logistic"
    assert config.value("xgb_params")["max_depth"] == 6
