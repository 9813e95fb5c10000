"""The nearest valid name, or a list that stays one readable line."""

import pytest

from benchmark.errors import nearest


@pytest.mark.parametrize(
    ("name", "said"),
    [("eas", "; did you mean 'ease'?"), ("EASE", "; did you mean 'ease'?"), ("zzzz", "; known: ease, mf, tfidf")],
)
def test_the_nearest_is_named_or_all_are(name: str, said: str) -> None:
    assert nearest(name, ["tfidf", "ease", "mf"]) == said


def test_of_many_options_that_are_all_unlike_a_few_are_named_and_the_others_counted() -> None:
    ids = [f"u{i:03}" for i in range(200)]
    assert nearest("somebody", ids) == f"; known: {', '.join(ids[:10])}, ... and 190 more"
    assert nearest("somebody", ids[:12]) == f"; known: {', '.join(ids[:12])}", "two more are named as soon as counted"


def test_without_options_nothing_is_said() -> None:
    assert nearest("ease", []) == ""
