"""Written: a text of users that was written from what is learned, and those that nobody learns from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from benchmark.audit.audit import CHECKS
from benchmark.audit.material import Material
from benchmark.audit.written import written
from tests.audit.small import material, only
from tests.llm.tiny import tiny

TASTE = {"of": "users", "prompt": "Liked {history}.", "model": "m", "history": 4}
JOB = {"of": "users", "prompt": "Somebody of {age}.", "model": "m"}
LLM = {"class": "benchmark.llm.pointwise.Pointwise", "backbone": tiny("llama")}


def planted(root: Path, enrich: dict[str, Any], **models: dict[str, Any]) -> Material:
    """Return data whose users have an age and the written columns."""
    dataset = {"source": "movielens-100k", "enrich": enrich}
    task = {"kind": "preference", "metrics": ["auc"], "history": "before_target"}
    found = material(root, task=task, models=models, dataset=dataset)
    users = found.split.users.with_columns(age=pl.lit(30), **{name: pl.lit(f"a {name}") for name in enrich})
    found.data = replace(found.data, split=replace(found.split, users=users))
    return found


def test_a_row_that_learns_from_a_text_of_its_own_answers_is_warned_of(tmp_path: Path) -> None:
    named = {**LLM, "prompt": {"profile": ["taste"]}}
    other = {**LLM, "prompt": {"profile": ["age", "job"]}}
    found = planted(tmp_path, {"taste": TASTE, "job": JOB}, all=LLM, named=named, other=other)
    finding = only(written(found))
    assert finding.level == "warning"
    assert "{history}, the newest 4 training interactions of a user" in finding.said
    assert "may name their own answer: all (taste) and named (taste)." in finding.said
    lengths = [found.split.train.offsets[u + 1] - found.split.train.offsets[u] for u in range(found.split.n_users)]
    assert finding.numbers["training_share"] == pytest.approx(sum(min(n, 4) for n in lengths) / sum(lengths))
    assert written in CHECKS


def test_a_text_written_from_such_a_text_is_one_too(tmp_path: Path) -> None:
    short = {"of": "users", "prompt": "In a word: {taste}", "model": "m"}
    again = {"of": "users", "rewrite": "benchmark.enrichment.rewrites.synonyms", "field": "short"}
    found = planted(
        tmp_path, {"taste": TASTE, "short": short, "again": again}, llm={**LLM, "prompt": {"profile": ["again"]}}
    )
    finding = only(written(found))
    assert finding.level == "warning"
    assert "llm (again)" in finding.said


def test_the_prompt_in_words_of_a_first_stage_is_looked_at(tmp_path: Path) -> None:
    entry = {"class": "benchmark.llm.collaborative.Collaborative", "backbone": tiny("llama"), "collaborative": "mf"}
    entry |= {"prompt": {"profile": ["age"]}, "text_prompt": {"profile": ["taste"]}}
    mf = {"class": "baselines.mf.MF", "loss": "bce"}
    assert "llm (taste)" in only(written(planted(tmp_path, {"taste": TASTE}, mf=mf, llm=entry))).said
    one_stage = planted(tmp_path, {"taste": TASTE}, mf=mf, llm={**entry, "text_epochs": 0})
    assert only(written(one_stage)).level == "fine"


@pytest.mark.parametrize(
    "entry",
    [
        {"class": "baselines.popularity.Popularity"},
        {**LLM, "zero_shot": True},
        {**LLM, "prompt": {"profile": ["age"]}},
        {**LLM, "prompt": {"template": "Liked: {liked}. {question}"}},
    ],
)
def test_a_text_that_nobody_learns_from_is_fine(tmp_path: Path, entry: dict[str, Any]) -> None:
    bias = {"class": "baselines.bias.Bias"}
    finding = only(written(planted(tmp_path, {"taste": TASTE}, bias=bias, row=entry)))
    assert finding.level == "fine"
    assert "holds what was written from {history} (`taste`)" in finding.said


def test_texts_written_from_what_a_user_is_are_nothing_to_check(tmp_path: Path) -> None:
    assert written(planted(tmp_path, {"job": JOB}, llm=LLM)) == []
    assert written(material(tmp_path)) == []
