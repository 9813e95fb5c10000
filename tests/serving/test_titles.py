"""What a person types is understood, or the nearest titles are named."""

import polars as pl
import pytest

from benchmark.errors import InputError
from benchmark.serving.titles import Titles

FILMS = ["Toy Story (1995)", "Matrix, The (1999)", "Alien (1979)", "Aliens (1986)", "Aladdin (1992)", "Se7en (1995)"]


@pytest.fixture(scope="module")
def titles() -> Titles:
    return Titles(pl.DataFrame({"item_id": [f"m{i}" for i in range(len(FILMS))], "title": FILMS}))


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("Toy Story (1995)", "Toy Story (1995)"),
        ("toy story", "Toy Story (1995)"),
        ("toi story 1995", "Toy Story (1995)"),
        ("The Matrix (1999)", "Matrix, The (1999)"),
        ("Alien (1979)", "Alien (1979)"),
        ("aliens 1986", "Aliens (1986)"),
        ("  ALADDIN  ", "Aladdin (1992)"),
        ("m5", "Se7en (1995)"),
    ],
)
def test_slips_years_and_articles_are_forgiven(titles: Titles, typed: str, meant: str) -> None:
    assert titles.names[titles.find(typed)] == meant


@pytest.mark.parametrize("typed", ["Casablanca", "Toy", "", "!!"])
def test_another_title_is_refused_and_the_nearest_are_named(titles: Titles, typed: str) -> None:
    with pytest.raises(InputError, match=f"no item is called '{typed}'") as error:
        titles.find(typed)
    assert "\n" not in str(error.value)
    if typed == "Toy":
        assert "the nearest are 'Toy Story (1995)'" in str(error.value)


def test_items_without_titles_go_by_their_ids() -> None:
    titles = Titles(pl.DataFrame({"item_id": ["a1", "b2"]}))
    assert titles.names == ["a1", "b2"]
    assert titles.find("b2") == 1
    assert titles.find("B2") == 1


def test_a_part_of_a_word_is_no_title() -> None:
    titles = Titles(pl.DataFrame({"item_id": ["1", "2"], "title": ["Stargate", "Heat"]}))
    for typed in ("Star", "Heat and Dust"):
        with pytest.raises(InputError, match=f"no item is called '{typed}'; the nearest are '"):
            titles.find(typed)
    assert titles.names[titles.find("star gate")] == "Stargate"


def test_a_title_of_which_words_are_missing_is_said() -> None:
    titles = Titles(pl.DataFrame({"item_id": ["1", "2"], "title": ["Star Kid", "Lion King, The (1994)"]}))
    assert titles.understand("Star").note == "'Star' is taken for Star Kid"
    assert titles.understand("star kids").note is None
    assert titles.understand("lion king").note is None, "a year and an article are nothing"


@pytest.fixture(scope="module")
def namesakes() -> Titles:
    rows = [
        ("a", "Sabrina", 1954, "Comedy"),
        ("b", "Heat", 1995, "Crime"),
        ("c", "Sabrina", 1995, "Comedy"),
        ("d", "Emma", 1996, "Jane Austen"),
        ("e", "Emma", 1996, "Alexander McCall Smith"),
        ("f", "Ice Storm, The", 1997, "Drama"),
        ("g", "Ice Storm, The", 1997, "Drama"),
    ]
    return Titles(pl.DataFrame(rows, schema=["item_id", "title", "year", "by"], orient="row"))


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("Sabrina 1995", "c"),
        ("sabrina (1954)", "a"),
        ("Sabrinna, 1995", "c"),
        ("heat 1995", "b"),
        ("Emma, Jane Austen", "d"),
        ("emma (alexander mccall smith)", "e"),
    ],
)
def test_what_follows_a_name_chooses_among_its_items(namesakes: Titles, typed: str, meant: str) -> None:
    found = namesakes.understand(typed)
    assert namesakes.ids[found.item] == meant
    assert found.note is None


@pytest.mark.parametrize(
    ("typed", "meant", "note"),
    [
        ("Sabrina", "a", "'Sabrina' may be 2 items: taken for Sabrina (1954); there is also Sabrina (1995)"),
        (
            "emma 1996",
            "d",
            "'emma 1996' may be 2 items: taken for Emma (Jane Austen); there is also Emma (Alexander McCall Smith)",
        ),
        (
            "the ice storm",
            "f",
            "'the ice storm' may be 2 items: taken for Ice Storm, The (item f); there is also Ice Storm, The (item g)",
        ),
        ("Heat (1996)", "b", "'Heat (1996)' is taken for Heat, of which 1996 is not known"),
        (
            "Sabrina 1996",
            "a",
            "'Sabrina 1996' may be 2 items, of which 1996 is not known: taken for Sabrina (1954); there is also "
            "Sabrina (1995)",
        ),
    ],
)
def test_what_could_be_another_item_is_said_in_one_line(namesakes: Titles, typed: str, meant: str, note: str) -> None:
    found = namesakes.understand(typed)
    assert namesakes.ids[found.item] == meant
    assert found.note == note


def test_of_many_namesakes_three_are_named() -> None:
    titles = Titles(pl.DataFrame({"item_id": list("abcdefg"), "title": ["Hamlet"] * 7}))
    assert str(titles.understand("hamlet").note).endswith("Hamlet (item c); Hamlet (item d) and 3 more")


def test_years_in_titles_choose_too(titles: Titles) -> None:
    both = Titles(pl.DataFrame({"item_id": ["a", "b"], "title": ["Sabrina (1954)", "Sabrina (1995)"]}))
    assert both.understand("sabrina 1995").item == 1
    note = "'sabrina' may be 2 items: taken for Sabrina (1954); there is also Sabrina (1995)"
    assert (both.understand("sabrina").item, both.understand("sabrina").note) == (0, note)
    wrong = titles.understand("toy story 1996")
    assert wrong.note == "'toy story 1996' is taken for Toy Story (1995), of which 1996 is not known"
    assert titles.understand("toi story 1995").note is None
    assert titles.understand("alien").note is None
