"""Prompts: a model that prints its target, a history that holds it, a double of it; and prompts that tell nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from benchmark.audit.finding import Finding
from benchmark.audit.plain import holds, plain
from benchmark.audit.prompts import prompts
from benchmark.data.batch import Batch
from benchmark.data.schema import Catalogue
from benchmark.llm.pointwise import Pointwise
from benchmark.recommender import Recommender
from tests.audit.small import frame, material, only, titles
from tests.llm.tiny import tiny

PREFERENCE = {"kind": "preference", "metrics": ["auc"], "history": "before_target"}
READER = {"llm": {"class": "benchmark.llm.pointwise.Pointwise", "backbone": tiny("llama")}}


class Telling(Pointwise):
    """Shows what no model may read: the relevant items of the row."""

    @classmethod
    def examples(cls, config: Any, catalogue: Catalogue, batch: Batch, n: int) -> list[tuple[str, int, int]]:
        assert batch.relevant is not None
        names = catalogue.items["title"].to_list()
        shown = [names[i] for i in batch.relevant.values[batch.relevant.offsets[:-1]].tolist()]
        return [(f"The user will like {title}. Will she?", 9, 0) for title in shown]


def test_prompts_with_another_candidate_tell_nothing(tmp_path: Path) -> None:
    finding = only(prompts(material(tmp_path, task=PREFERENCE, models=READER)))
    assert finding.level == "fine"
    assert finding.numbers["prompts"] == 64


@pytest.mark.parametrize("way", ["listwise.Listwise", "generative.Generative", "collaborative.Collaborative"])
def test_other_ways_to_ask(tmp_path: Path, way: str) -> None:
    entry = {"class": f"benchmark.llm.{way}", "backbone": tiny("llama")}
    entry |= {"first_stage": "popularity"} if "Listwise" in way else {}
    entry |= {"collaborative": "mf"} if "Collaborative" in way else {}
    models = {
        "popularity": {"class": "baselines.popularity.Popularity"}, "mf": {"class": "baselines.mf.MF"}, "llm": entry
    }  # fmt: skip
    task = {"split": {"kind": "leave_last_out"}}
    assert only(prompts(material(tmp_path, task=task, models=models))).level == "fine"


def test_a_model_that_prints_its_target_is_a_fault(tmp_path: Path) -> None:
    models = {"llm": {"class": f"{__name__}.Telling", "backbone": tiny("llama")}}
    finding = only(prompts(material(tmp_path, task={"split": {"kind": "leave_last_out"}}, models=models)))
    assert finding.level == "fault"
    assert "llm (60 of 60 prompts)" in finding.said


def test_a_history_that_holds_the_target_is_a_fault(tmp_path: Path) -> None:
    found = material(tmp_path, task=PREFERENCE, models=READER)
    assert only(prompts(found)).level == "fine"
    found.test.stop += 1  # each history ends with its own target
    assert only(prompts(found)).level == "fault"


def test_another_item_of_the_same_title_is_a_warning(tmp_path: Path) -> None:
    half = titles().with_columns(title=pl.Series([titles()["title"][i % 20] for i in range(40)]))
    found: list[Finding] = prompts(material(tmp_path, task=PREFERENCE, models=READER, items=half))
    assert [f.level for f in found] == ["warning"]
    assert "as that of another item" in found[0].said


def test_words_of_the_template_and_short_titles_are_no_leak(tmp_path: Path) -> None:
    words = titles().with_columns(
        title=pl.when(pl.col("item_id") < "i010")
        .then(pl.lit("The User"))
        .when(pl.col("item_id") < "i020")
        .then(pl.lit("It"))
        .otherwise("title")
    )
    finding = prompts(material(tmp_path, task=PREFERENCE, models=READER, items=words))[-1]
    assert finding.level in ("fine", "warning"), "the user stands in every prompt"
    assert "fault" not in {f.level for f in prompts(material(tmp_path, task=PREFERENCE, models=READER, items=words))}


def test_what_cannot_be_built_says_why(tmp_path: Path) -> None:
    models = {"llm": {"class": "benchmark.llm.pointwise.Pointwise", "backbone": "nobody/has-this"}}
    finding = only(prompts(material(tmp_path, task=PREFERENCE, models=models)))
    assert finding.level == "unknown"
    assert "nobody/has-this" in finding.said
    assert only(prompts(material(tmp_path))).said == "No model of this experiment reads prompts."
    assert only(prompts(material(tmp_path, frame(), items=pl.DataFrame({"item_id": ["i000"]})))).level == "unknown"


def test_titles_are_found_as_a_tokenizer_gives_them_back() -> None:
    assert plain("Amélie's  Café!") == plain("amelie ' s cafe")
    assert holds(plain("She liked amelie ' s cafe."), plain("Amélie's Café"))
    assert not holds(plain("In the Heats of it"), plain("Heat"))
    assert plain("长江图") == plain("长 江 图")
    assert issubclass(Telling, Recommender)
