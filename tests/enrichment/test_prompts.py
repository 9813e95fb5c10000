"""Prompts: columns and training histories, written out; a missing value, a missing row, an unknown field."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from benchmark.data.split import Temporal, split
from benchmark.enrichment.prompts import check_fields, histories, prompts_of
from benchmark.errors import InputError
from benchmark.experiment.settings import Enrichment
from tests.planted import dataset, planted


def asked(**settings: Any) -> Enrichment:
    return Enrichment(**{"model": "m", **settings})


def test_fields_are_columns_and_a_missing_one_is_unknown() -> None:
    data, _ = planted("ranking")
    table = pl.DataFrame({"item_id": ["a", "b", "c"], "title": ["Alien", "Bread", None], "year": [1979.0, None, None]})
    data = data.__class__(**{**vars(data), "items": table})
    prompts = prompts_of(asked(prompt="{{Describe}} {title} ({year}), {title}."), data)
    assert prompts == ["{Describe} Alien (1979), Alien.", "{Describe} Bread (unknown), Bread.", None]


def test_histories_are_the_newest_titles_of_the_training_part_alone() -> None:
    """Compared with a loop over the interactions; no title of a validation or test interaction is told."""
    data, _ = planted("ranking")  # two users have no training interaction
    titles = data.items["title"].to_list()
    expected: list[str | None] = []
    for user in range(data.n_users):
        mine = [titles[i] for u, i in zip(data.train.user, data.train.item, strict=True) if u == user]
        expected.append("; ".join(mine[-3:]) or None)
    assert histories(data, 3) == expected
    assert None in expected
    prompts = prompts_of(asked(of="users", prompt="Liked: {history}.", history=3), data)
    assert prompts == [None if text is None else f"Liked: {text}." for text in expected]


def test_a_history_reads_nothing_that_is_held_out() -> None:
    data = split(dataset(), Temporal(valid=0.2, test=0.2), 0)
    before = histories(data, 100)
    other = data.__class__(**{**vars(data), "valid": data.test, "test": data.valid})
    assert histories(other, 100) == before
    assert sum(len(text.split("; ")) for text in before if text) == len(data.train)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"prompt": "{titel}"}, "prompt: unknown item field 'titel'; did you mean 'title'?"),
        ({"prompt": "{history}"}, "prompt: unknown item field 'history'"),
        ({"of": "users", "prompt": "{histori} {age}"}, "unknown user field 'histori'; did you mean 'history'?"),
        ({"model": None, "rewrite": "a.b", "field": "titl"}, "field: unknown item field 'titl'; did you mean 'title'?"),
    ],
)
def test_an_unknown_field_names_the_nearest(settings: dict[str, Any], said: str) -> None:
    enrichment = asked(**settings)
    columns = ["item_id", "title"] if enrichment.of == "items" else ["user_id", "age"]
    with pytest.raises(InputError) as caught:
        check_fields(enrichment, columns, ["item_id", "title"])
    assert said in str(caught.value)
    with pytest.raises(InputError, match=r"\{history\} needs items with a 'title'; found: item_id"):
        check_fields(asked(of="users", prompt="{history}"), ["user_id"], ["item_id"])
