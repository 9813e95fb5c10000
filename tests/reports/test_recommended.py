"""What a person reads of a list: how titles were understood, the list itself, and why."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from rich.console import Console

from benchmark.reports.recommended import converse, show
from benchmark.serving.titles import Titles
from benchmark.serving.trained import Recommendations, Recommended
from tests.serving.test_titles import namesakes  # noqa: F401  a fixture


def shown(found: Recommendations) -> str:
    console = Console(width=150, record=True, quiet=False)
    model: Any = SimpleNamespace(spec=SimpleNamespace(label="tower"), record=SimpleNamespace(key="abcd"), titles=[1])
    show(model, found, console)
    return console.export_text()


def test_words_of_the_query_stand_beside_the_items_that_have_them() -> None:
    items = [
        Recommended("1", "Toy Story", "Toy Story, 1995, Children's", 1.5, asked=("children",)),
        Recommended("2", "Babe", "Babe, 1995, Drama", 1.0),
    ]
    text = shown(Recommendations(items, [], "for children", None, True, {}))
    assert "words asked for" in text
    assert "nearest in words" not in text, "there is no history to be near to"
    assert "children" in next(line for line in text.splitlines() if "Toy Story" in line)
    assert "words asked for" not in shown(Recommendations(items[1:], [], "for children", None, True, {}))


def test_what_a_title_was_taken_for_is_said_above_the_list() -> None:
    note = "'Sabrina' may be 2 items: taken for Sabrina (1954); there is also Sabrina [1995]"
    text = shown(Recommendations([], ["Sabrina (1954)"], None, None, True, {}, [note]))
    assert text.splitlines()[0] == note


def test_a_conversation_asks_for_the_item_that_was_meant(namesakes: Titles, monkeypatch: Any) -> None:  # noqa: F811
    asked: list[list[str]] = []

    class Model:
        titles = namesakes
        spec = SimpleNamespace(label="tower")
        record = SimpleNamespace(key="abcd")

        def recommend(self, history: list[str], *others: Any) -> Recommendations:
            asked.append(history)
            return Recommendations([], [], None, None, True, {})

    lines = iter(["Sabrina", "Sabrina 1995", "quit"])
    monkeypatch.setattr("builtins.input", lambda *_: next(lines))
    console = Console(width=150, record=True)
    model: Any = Model()
    converse(model, [], None, 5, None, console)
    assert asked == [["a"], ["a", "c"]]
    assert console.export_text().count("taken for Sabrina (1954); there is also Sabrina (1995)") == 1
