"""Duplicates over parts: pairs, items under two ids, doubled accounts; and what only the test knows."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from benchmark.audit.cold import cold
from benchmark.audit.duplicates import items, pairs, users
from tests.audit.small import frame, material, only, titles


def test_a_pair_in_two_parts_is_a_fault_unless_it_is_meant(tmp_path: Path) -> None:
    assert only(pairs(material(tmp_path))).level == "fine"
    rows = frame()
    old = rows.filter(pl.col("timestamp") == 3)  # user 3's first one comes again at the end
    again = pl.concat([rows, old.with_columns(timestamp=pl.lit(11500.0))])
    finding = only(pairs(material(tmp_path, again)))
    assert finding.level == "fault"
    assert "1 in train and test" in finding.said
    assert only(pairs(material(tmp_path, again, task={"allow_repeats": True}))).level == "fine"


def test_an_item_that_comes_back_under_another_id(tmp_path: Path) -> None:
    assert only(items(material(tmp_path))).level == "fine"
    first, second = titles()["title"][:2]
    doubled = titles().with_columns(
        title=pl.when(pl.col("title") == second).then(pl.lit(f" {first.upper()}")).otherwise("title")
    )
    finding = only(items(material(tmp_path, items=doubled)))
    assert finding.level == "warning"
    assert finding.numbers["items"] == 2
    assert 0 < finding.numbers["test_share"] < 0.2
    years = doubled.with_columns(year=pl.int_range(40) + 1950)  # the remake is another film
    assert only(items(material(tmp_path, items=years))).level == "fine"
    assert (
        only(items(material(tmp_path, items=titles().drop("title").with_columns(genre=pl.lit("x"))))).level == "unknown"
    )


def test_a_doubled_account(tmp_path: Path) -> None:
    assert only(users(material(tmp_path))).level == "fine"
    rows = frame()
    twin = rows.filter(pl.col("user_id") == "u005").with_columns(user_id=pl.lit("u999"))
    finding = only(users(material(tmp_path, pl.concat([rows, twin]))))
    assert finding.level == "warning"
    assert finding.numbers["users"] == 2


def test_what_the_test_alone_knows(tmp_path: Path) -> None:
    known_items, known_users = cold(material(tmp_path))
    assert known_items.level == known_users.level == "fine"
    rows = frame()
    late = rows.with_columns(  # nobody knew the new item before the test, nor the first ten users
        item_id=pl.when(pl.col("timestamp") >= 11000).then(pl.lit("new")).otherwise("item_id")
    ).filter(~pl.col("user_id").str.starts_with("u00") | (pl.col("timestamp") >= 11000))
    new_items, new_users = cold(
        material(
            tmp_path, late, items=pl.concat([titles(), pl.DataFrame({"item_id": ["new"], "title": ["a new thing"]})])
        )
    )
    assert new_items.level == new_users.level == "warning"
    assert new_items.numbers["items"] == 1
    assert new_users.numbers["users"] == 10
    assert new_items.numbers["test_share"] > 0.3
    assert "of 10 of them there is no history either" in new_users.said


@pytest.mark.parametrize(("kind", "place"), [("cold_items", 0), ("cold_users", 1)])
def test_a_cold_split_means_it(tmp_path: Path, kind: str, place: int) -> None:
    finding = cold(material(tmp_path, task={"split": {"kind": kind}}))[place]
    assert finding.level == "fine"
    assert finding.numbers["test_share"] == 1
    assert f"the split {kind} means them to be" in finding.said
