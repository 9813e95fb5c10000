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
