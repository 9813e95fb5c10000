"""Candidates: a positive that always stands first, ids that follow the label, uniform negatives; the clean cases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from benchmark.audit.candidates import candidates
from tests.audit.small import MODELS, frame, material, only

SAMPLED = {"candidates": {"kind": "sampled", "n": 20}, "split": {"kind": "leave_last_out"}}
PREFERENCE = {"kind": "preference", "metrics": ["auc"]}


def test_drawn_candidates_tell_nothing(tmp_path: Path) -> None:
    finding = only(candidates(material(tmp_path, frame(users=300), task=SAMPLED)))
    assert finding.level == "fine"
    assert abs(finding.numbers["auc_position"] - 0.5) < 0.05


def test_a_positive_that_stands_first_is_a_fault(tmp_path: Path) -> None:
    found = material(tmp_path, frame(users=100), task=SAMPLED)
    rows = found.test
    assert rows.candidates is not None
    assert rows.relevant is not None
    positive = rows.relevant.values.unsqueeze(1)
    others = rows.candidates[rows.candidates != positive].view(len(rows), -1)
    rows.candidates = torch.cat([positive, others], 1)
    finding = next(f for f in candidates(found) if f.level == "fault")
    assert finding.numbers["auc_position"] == 0
    assert "told by its position in the list alone" in finding.said
    assert "AUC 0.000" in finding.said


def test_uniform_negatives_let_popularity_win(tmp_path: Path) -> None:
    rows = frame(users=200, n_items=100, skew=1.2)
    task = {**SAMPLED, "candidates": {"kind": "sampled", "n": 20}}
    finding = only([f for f in candidates(material(tmp_path, rows, task=task)) if f.level == "warning"])
    assert finding.title == "Positives told by popularity"
    assert finding.numbers["popularity_first"] > 3 * finding.numbers["chance_first"]
    fair = {**SAMPLED, "candidates": {"kind": "sampled", "n": 20, "strategy": "popularity"}}
    assert only(candidates(material(tmp_path, rows, task=fair))).level == "fine"


def test_raw_ids_in_the_order_of_popularity(tmp_path: Path) -> None:
    rows = frame(users=200, n_items=100, skew=1.2)
    order = rows["item_id"].value_counts(sort=True)["item_id"].to_list()
    told = rows.with_columns(item_id=pl.col("item_id").replace({item: str(i) for i, item in enumerate(order)}))
    found = {f.title: f for f in candidates(material(tmp_path, told, task=SAMPLED))}["Positives told by the raw id"]
    assert found.level == "warning"
    assert found.numbers["auc_raw_id"] < 0.3
    reader = {**MODELS, "llm": {"class": "benchmark.llm.two_tower.TwoTower", "item_fields": ["item_id"]}}
    given = {f.title: f for f in candidates(material(tmp_path, told, task=SAMPLED, models=reader))}
    assert given["Positives told by the raw id"].level == "fault"


def test_labels_that_follow_the_id_are_a_fault(tmp_path: Path) -> None:
    found = material(tmp_path, frame(users=200), task=PREFERENCE)
    assert only(candidates(found)).level == "fine"
    rows = found.test
    assert rows.candidates is not None
    chance = np.random.default_rng(0).random(len(rows))
    rows.label = torch.from_numpy((rows.candidates[:, 0].numpy() / 40 > 0.25 + chance / 2).astype(np.float32))
    finding = next(f for f in candidates(found) if f.level == "fault")
    assert finding.numbers["auc_id"] > 0.7
    assert "told by its integer id alone" in finding.said


def test_the_full_catalogue_has_no_list(tmp_path: Path) -> None:
    assert only(candidates(material(tmp_path))).level == "fine"


def test_of_many_users_a_sample_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmark.audit.material.MOST_USERS", 50)
    found = material(tmp_path, frame(users=100), task=SAMPLED)
    assert len(found.sampled) == 50
    assert "(a sample of 50 of 100 users)" in only(candidates(found)).said
