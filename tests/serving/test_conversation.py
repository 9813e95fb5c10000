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
