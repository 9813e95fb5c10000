"""Unseen: the contract finds out a model that claims too much, or too little; a cold split leaves out who cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from baselines.mf import MF
from baselines.popularity import Popularity
from baselines.tfidf import TfIdf
from benchmark import Experiment
from benchmark.errors import InputError
from benchmark.recommender import Recommender
from tests.contract import Fitted, fit, needs_no_user_id, tells_unseen_items_apart
from tests.planted import planted


class Boasting(MF):
    """Knows users and items by their ids alone, and says that it needs none."""

    unseen = frozenset({"users", "items"})


class Modest(TfIdf):
    """Reads texts and histories, and says that it cannot."""

    unseen = frozenset()


@pytest.mark.parametrize("model", [Boasting, Modest])
def test_the_contract_finds_out_who_lies(model: type[Recommender]) -> None:
    data, task = planted("ranking")
    fitted: Fitted = fit(model, {}, data, task, epochs=2, test=False)
    unseen = fitted.model.traits.unseen
    assert tells_unseen_items_apart(fitted) != ("items" in unseen)
    assert needs_no_user_id(fitted) != ("users" in unseen)


def test_one_order_for_everybody_needs_no_user() -> None:
    data, task = planted("ranking")
    fitted = fit(Popularity, {}, data, task, test=False)
    assert needs_no_user_id(fitted)
    assert not tells_unseen_items_apart(fitted)


MODELS = """
name: cold
dataset: {source: movielens-100k}
task: {split: {kind: KIND}, metrics: [ndcg@10]}
models:
  random: {class: baselines.random.RandomScores}
  popularity: {class: baselines.popularity.Popularity}
  mf: {class: baselines.mf.MF}
  sasrec: {class: baselines.sasrec.SASRec}
  tfidf: {class: baselines.tfidf.TfIdf}
  fused: {class: baselines.fusion.Fusion, members: [tfidf, sasrec]}
  recbole-bpr: {class: baselines.recbole.RecBole, model: BPR}
  recbole-fm: {class: baselines.recbole.RecBole, model: FM}
  recbole-sasrec: {class: baselines.recbole.RecBole, model: SASRec}
  minilm: {class: benchmark.llm.two_tower.TwoTower}
  collm: {class: benchmark.llm.collaborative.Collaborative, collaborative: mf}
  collm-sasrec: {class: benchmark.llm.collaborative.Collaborative, collaborative: sasrec}
"""


def cold(tmp_path: Path, kind: str) -> Experiment:
    file = tmp_path / "cold.yaml"
    file.write_text(MODELS.replace("KIND", kind))
    return Experiment.load(file)


def test_a_cold_split_leaves_out_who_knows_nothing_but_ids(tmp_path: Path) -> None:
    items = cold(tmp_path, "cold_items")
    assert {spec.label for spec in items.specs()} == {"random", "tfidf", "minilm"}
    assert items.unable(short=True)["mf"] == "cannot score unseen items"
    assert items.unable()["mf"] == (
        "MF goes by the ids of items and cannot tell unseen ones apart (task.split: cold_items)"
    )
    users = cold(tmp_path, "cold_users")
    assert users.unable().keys() == {"mf", "recbole-bpr", "recbole-fm", "collm"}
    assert users.unable()["collm"] == (
        "Collaborative stands on 'mf', and MF goes by the ids of users and cannot tell unseen ones apart "
        "(task.split: cold_users)"
    )
    assert not cold(tmp_path, "temporal").unable()


def test_where_nobody_can_one_line_says_so(tmp_path: Path) -> None:
    items = cold(tmp_path, "cold_items")
    alone = items.model_copy(update={"models": {"mf": items.models["mf"]}})
    with pytest.raises(InputError, match=r"^models\.mf: MF goes by the ids of items and cannot tell"):
        alone.specs()
