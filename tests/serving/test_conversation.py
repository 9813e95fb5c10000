"""Lines become a history and a query."""

import polars as pl
import pytest

from benchmark.errors import InputError
from benchmark.serving.conversation import Conversation
from benchmark.serving.titles import Titles


def test_titles_queries_and_second_thoughts() -> None:
    said = Conversation(Titles(pl.DataFrame({"item_id": ["1", "2", "3"], "title": ["Jaws", "Heat", "Fargo"]})))
    for line in ("jaws", "Heat", "? something quiet", "JAWS"):
        said.take(line)
    assert said.history == ["Heat", "Jaws"], "named again, it is the newest"
    assert said.query == "something quiet"
    said.take("- heat")
    said.take("?")
    assert (said.history, said.query) == (["Jaws"], None)
    with pytest.raises(InputError, match="'Fargo' was not named before"):
        said.take("- fargo")
    said.take("")
    assert said.history == ["Jaws"]
    said.take("new")
    assert (said.history, said.query) == ([], None)


def test_items_of_one_name_are_told_apart() -> None:
    films = {"item_id": ["1", "2"], "title": ["Sabrina", "Sabrina"], "year": [1954, 1995]}
    said = Conversation(Titles(pl.DataFrame(films)))
    said.take("Sabrina 1995")
    assert (said.history, said.ids, said.note) == (["Sabrina (1995)"], ["2"], None)
    said.take("- sabrina")
    assert said.history == [], "the one that was named is meant"
    said.take("sabrina")
    assert said.history == ["Sabrina (1954)"]
    assert said.note is not None
    assert "there is also Sabrina (1995)" in said.note
    said.take("? a comedy")
    assert said.note is None
