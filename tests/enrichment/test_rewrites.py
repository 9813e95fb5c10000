"""Rewritings: synonyms as often as asked, there and back through two models, and what a wrong function gets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmark.enrichment.rewrites import back_translation, synonyms
from benchmark.enrichment.writers import LocalModel, Rewriter
from benchmark.errors import InputError
from tests.llm.tiny import tiny


@pytest.fixture
def words(tmp_path: Path) -> str:
    path = tmp_path / "words.json"
    path.write_text(json.dumps({"car": ["auto", "vehicle"], "Red": ["crimson"]}), encoding="utf-8")
    return str(path)


def test_words_are_replaced_as_often_as_asked(words: str) -> None:
    assert synonyms(["Red car, redcar"], words, share=1.0)[0] in ("Crimson auto, redcar", "Crimson vehicle, redcar")
    assert synonyms(["Red car"], words, share=0.0) == ["Red car"]
    texts = [f"red car {i}" for i in range(2000)]
    found = synonyms(texts, words, share=0.3, seed=1)
    for word, other in (("red", "crimson"), ("car", "auto"), ("car", "vehicle")):
        expected = 0.3 if other == "crimson" else 0.15
        assert sum(other in text.split() for text in found) / 2000 == pytest.approx(expected, abs=0.03)
        assert all(word in text or text != before for text, before in zip(found, texts, strict=True))


def test_a_texts_synonyms_depend_on_itself_and_the_seed(words: str) -> None:
    texts = [f"red car {i}" for i in range(50)]
    found = synonyms(texts, words)
    assert synonyms(texts[::-1], words) == found[::-1]
    assert synonyms(texts, words, seed=1) != found


@pytest.mark.parametrize("content", ["[1]", '{"car": "auto"}', '{"car": []}', "{"])
def test_a_file_that_holds_no_synonyms_is_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "words.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"synonyms: .*words.json: (expected|cannot be read)"):
        synonyms(["car"], str(path))


def test_back_translation_is_one_model_behind_the_other() -> None:
    there, back = tiny("t5"), tiny("bart")
    texts = ["The rocket and the planet", "The bread", "The ghost and the oven"]
    between = [answer.text for _, answer in sorted(LocalModel(there, 8).write(texts), key=lambda one: one[0])]
    expected = [answer.text for _, answer in sorted(LocalModel(back, 8).write(between), key=lambda one: one[0])]
    assert back_translation(texts, [there, back], max_tokens=8) == expected
    with pytest.raises(InputError, match="models: found 1, expected two: there, and back"):
        back_translation(texts, [there])


def one_less(texts: list[str]) -> list[str]:
    return texts[1:]


def no_list(texts: list[str]) -> str:
    return "".join(texts)


def no_text(texts: list[str]) -> list[None]:
    return [None] * len(texts)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("one_less", "returned 1 texts for 2; expected one for each"),
        ("no_list", "returned str for 2; expected one for each"),
        ("no_text", "returned None; expected texts"),
    ],
)
def test_a_function_that_returns_something_else_is_one_line(name: str, said: str) -> None:
    with pytest.raises(InputError, match=f"rewrite: {__name__}.{name} {said}"):
        list(Rewriter(f"{__name__}.{name}", {}).write(["a", "b"]))


@pytest.mark.parametrize(
    ("path", "arguments", "said"),
    [
        ("synonyms", {}, "'synonyms' is not a path like"),
        ("benchmark.enrichment.rewrite.synonyms", {}, "rewrite: no module 'benchmark.enrichment.rewrite'"),
        ("benchmark.enrichment.rewrites.synonym", {}, "has no function 'synonym'; did you mean 'synonyms'?"),
        ("benchmark.enrichment.rewrites.synonyms", {}, "arguments: .* missing a required argument: 'file'"),
        ("benchmark.enrichment.rewrites.synonyms", {"file": "a", "sede": 1}, "unexpected keyword argument 'sede'"),
    ],
)
def test_a_path_that_names_no_function_is_one_line(path: str, arguments: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Rewriter(path, arguments)


def test_a_rewriting_is_another_one_with_another_file(words: str) -> None:
    path = "benchmark.enrichment.rewrites.synonyms"
    before = Rewriter(path, {"file": words}).identity()
    assert Rewriter(path, {"file": words}).identity() == before
    Path(words).write_text('{"car": ["bus"]}', encoding="utf-8")
    assert Rewriter(path, {"file": words}).identity() != before
