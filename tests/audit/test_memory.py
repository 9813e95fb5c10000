"""Memory: a model that was trained on the titles is caught, real and random ones pass, encoders cannot be asked."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
import torch
from rich.console import Console

from benchmark.audit import memory as module
from benchmark.audit.finding import shown_name
from benchmark.audit.material import Material
from benchmark.audit.memory import finding, memory
from benchmark.audit.probe import BEFORE, Question, Rate, ask, questions
from benchmark.llm.adapters import Peft
from benchmark.llm.language_model import LanguageModel
from benchmark.llm.loading import Loading
from tests.audit.small import WORDS, frame, material, only
from tests.llm.tiny import tiny

STORIES = Path(os.environ.get("LEVELFIELD_SHARED", "/work/shared")) / "models" / "stories260K"
NAMES = [
    f"{WORDS[i % 10]} {WORDS[i // 10]} {WORDS[(3 * i + 1) % 10]} {WORDS[(7 * i + i // 10) % 10]}" for i in range(40)
]
ITEMS = pl.DataFrame({"item_id": [str(i + 1) for i in range(40)], "title": NAMES})


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Models this small wait for a second thread longer than it helps them."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def quiet() -> Console:
    return Console(file=io.StringIO())


def taught(folder: Path, texts: list[str], steps: int) -> str:
    """Return the folder of a tiny model that was trained on some texts until it knew them by heart."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny("llama")), AutoTokenizer.from_pretrained(tiny("llama"))
    batch = tokenizer([f"{text}</s>" for text in texts], return_tensors="pt", padding=True)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        loss = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def reciting(tmp_path_factory: pytest.TempPathFactory) -> str:
    return taught(tmp_path_factory.mktemp("reciting"), NAMES, 120)


def looked_at(tmp_path: Path, backbone: str) -> Material:
    rows = frame().with_columns(item_id=(pl.col("item_id").str.slice(1).cast(int) + 1).cast(str))
    models = {"llm": {"class": "benchmark.llm.pointwise.Pointwise", "backbone": backbone, "dtype": "float32"}}
    return material(tmp_path, rows, ITEMS, {"kind": "preference", "metrics": ["auc"]}, models)


def test_a_model_that_knows_the_titles_by_heart(tmp_path: Path, reciting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = looked_at(tmp_path, reciting)
    assert only(memory(found, None)).level == "unknown", "a report asks nobody"
    told = only(memory(found, quiet()))
    assert told.level == "warning"
    assert told.numbers["titles_rate"] > 0.8
    assert told.numbers["made_up_rate"] < 0.3
    assert str(tmp_path.parent) not in told.said, "no path of this machine"
    monkeypatch.setattr(module, "ask", None)
    assert only(memory(found, quiet())) == told, "asked once"
    assert only(memory(found, None)) == told, "and then told in every report"


def test_a_model_that_knows_the_lines_of_the_file(tmp_path: Path) -> None:
    items = pl.DataFrame({"item_id": [str(i) for i in range(25)], "title": [WORDS[(7 * i) % 10] for i in range(25)]})
    asked = questions(items)
    assert (len(asked["titles"]), len(asked["lines"])) == (0, 20), "one word has no half"
    folder = taught(tmp_path, [f"{question.text}{question.answer}" for question in asked["lines"]], 60)
    model = LanguageModel(folder, Peft(kind="frozen"), Loading(dtype="float32")).eval()
    told = finding("x", ask(model, {kind: asked[kind] for kind in ("lines", "mixed")}))
    assert told.level == "warning"
    assert told.numbers["lines_rate"] > told.numbers["mixed_rate"] + 0.4


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_a_model_that_has_never_read_them_passes(tmp_path: Path, family: str) -> None:
    told = only(memory(looked_at(tmp_path, tiny(family)), quiet()))
    assert told.level == "fine"
    assert told.numbers["titles_rate"] < 0.1


@pytest.mark.skipif(not STORIES.is_dir(), reason="the shared model is not on this machine")
def test_a_real_model_of_other_texts_passes(tmp_path: Path) -> None:
    told = only(memory(looked_at(tmp_path, str(STORIES)), quiet()))
    assert told.level == "fine"
    assert told.numbers["titles_rate"] <= 0.05


def test_who_cannot_be_asked(tmp_path: Path) -> None:
    encoder = only(memory(looked_at(tmp_path, tiny("bert")), quiet()))
    assert encoder.level == "unknown"
    assert "an encoder without a language head and cannot be asked" in encoder.said
    missing = only(memory(looked_at(tmp_path, "nobody/has-this"), quiet()))
    assert missing.level == "unknown"
    assert "nobody/has-this (llm) cannot be asked" in missing.said
    assert only(memory(material(tmp_path), quiet())).said == "No row of this table stands on a language model."


def test_what_is_asked() -> None:
    asked = questions(ITEMS, seed=0)
    assert {kind: len(those) for kind, those in asked.items()} == {
        "titles": 40,
        "made_up": 40,
        "lines": 35,
        "mixed": 35,
    }
    assert {f"{q.text} {q.answer}" for q in asked["titles"]} == set(NAMES)
    assert sorted(" ".join(f"{q.text} {q.answer}" for q in asked["made_up"]).split()) == sorted(" ".join(NAMES).split())
    line = asked["lines"][0]
    *above, last = line.text.split("\n")
    assert len(above) == BEFORE
    assert [int(text.split(",")[0]) for text in [*above, last]] == list(
        range(int(last[:-1]) - BEFORE, int(last[:-1]) + 1)
    )
    assert line.answer == NAMES[int(last[:-1]) - 1]
    assert questions(ITEMS, seed=0) == asked
    few = questions(ITEMS.head(3), seed=0)
    assert len(few["lines"]) == 0


def test_the_answer_must_be_whole_words(reciting: str) -> None:
    model = LanguageModel(reciting, Peft(kind="frozen"), Loading(dtype="float32")).eval()
    asked = questions(ITEMS, seed=0)["titles"]
    whole = next(question for question in asked if ask(model, {"a": [question]})["a"] == Rate(1, 1))
    assert ask(model, {"a": [Question(whole.text, whole.answer[:-1])]})["a"] == Rate(0, 1)
    assert ask(model, {"a": [Question(whole.text, whole.answer.upper() + "!")]})["a"] == Rate(1, 1)


def test_many_by_chance_too_are_no_memory() -> None:
    rates = {"titles": Rate(40, 200), "made_up": Rate(35, 200), "lines": Rate(0, 200), "mixed": Rate(0, 200)}
    assert finding("x", rates).level == "fine"
    assert finding("x", {**rates, "lines": Rate(30, 200)}).level == "warning"
    low, high = Rate(0, 200).interval
    assert (round(low, 3), round(high, 3)) == (0, 0.019)
    assert shown_name("/a/b/model") == "model"
    assert shown_name("a/b") == "a/b"
