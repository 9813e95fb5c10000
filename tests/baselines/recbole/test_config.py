"""What is refused before anything runs, in one line that names the nearest valid thing."""

from __future__ import annotations

from typing import Any

import pytest

from baselines.recbole import RecBole, compat
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
