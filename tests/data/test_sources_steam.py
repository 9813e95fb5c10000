"""steam-200k: the original file and the two tables, against the csv module."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from pydantic import ValidationError

from benchmark.data.sources import Steam200K
from benchmark.errors import InputError
from tests.data.make import items_of, rows_of

ORIGINAL = """\
151,The Old Tale V,purchase,1.0,0
151,The Old Tale V,play,301.5,0
151,"Hammer 40,000 ""Dawn"" é",purchase,1.0,0
151,"Hammer 40,000 ""Dawn"" é",purchase,1.0,0
007,Seed,purchase,1.0,0
007,Seed,play,0.1,0
007,Seed,play,12.5,0
"""
FOLDER = Path("data/steam-200k")


@pytest.fixture(autouse=True)
def _working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LEVELFIELD_DATA", raising=False)


def put(**texts: str) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (FOLDER / f"{name.replace('_', '-')}.csv").write_text(text, encoding="utf-8")


def says(source: Steam200K, expected: str) -> None:
    with pytest.raises(InputError) as raised:
        source.load()
    assert str(raised.value) == expected


@pytest.mark.parametrize("behaviour", ["purchase", "play"])
def test_the_original_as_the_csv_module_reads_it(behaviour: str) -> None:
    put(steam_200k=ORIGINAL)
    data = Steam200K.model_validate({"behaviour": behaviour}).load()
    by_hand = [row for row in csv.reader(ORIGINAL.splitlines()) if row[2] == behaviour]
    hours = [(float(row[3]),) if behaviour == "play" else () for row in by_hand]
    expected = sorted((row[0], row[1], *hour) for row, hour in zip(by_hand, hours, strict=True))
    assert [row[:2] for row in rows_of(data)] == [row[:2] for row in expected]
    assert [row[2:] for row in rows_of(data)] == [pytest.approx(row[2:]) for row in expected]
    assert items_of(data) == {title: {"title": title} for _, title, *_ in by_hand}
    assert data.has_rating == (behaviour == "play")
    assert data.name == f"steam-200k-{behaviour}"


def test_the_two_tables() -> None:
    put(
        purchase="user_id,item_id\n1,1\n1,2\n1,2\n2,1\n",
        play="user_id,item_id,hours\n1,1,301.5\n1,1,0.5\n",
        items='item_id,title\n1,"A, ""B"" é"\n2,C\n',
    )
    assert rows_of(Steam200K(behaviour="purchase").load()) == [("1", "1"), ("1", "2"), ("1", "2"), ("2", "1")]
    played = Steam200K(behaviour="play").load()
    assert rows_of(played) == [("1", "1", 0.5), ("1", "1", 301.5)]
    assert items_of(played) == {"1": {"title": 'A, "B" é'}, "2": {"title": "C"}}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("1,A,play,many,0", "line 8, column 'value': found 'many', expected a number"),
        ("1,A,plays,1.0,0", "line 8, column 'behaviour': found 'plays', expected one of purchase, play"),
        ("1,,play,1.0,0", "line 8, column 'game': found None, expected an id"),
        ("1,Hammer 40,000,play,1.0,0", "line 8: found 6 fields, expected 5"),
        ('1,"A,play,1.0,0', "line 8: unexpected end of data; is a quote left open?"),
    ],
)
def test_wrong_lines_of_the_original(line: str, expected: str) -> None:
    put(steam_200k=ORIGINAL + line + "\n")
    says(Steam200K(behaviour="play"), f"data/steam-200k/steam-200k.csv: {expected}")


def test_wrong_tables() -> None:
    put(play="user_id,item_id,hours\n1,1,\n", items="item_id,title\n1,A\n")
    says(
        Steam200K(behaviour="play"),
        "data/steam-200k/play.csv: line 2, column 'hours': found None, expected a finite number",
    )
    (FOLDER / "items.csv").write_bytes(b"item_id,title\n1,\xe9\n")
    put(play="user_id,item_id,hours\n1,1,2\n")
    says(Steam200K(behaviour="play"), "data/steam-200k/items.csv: line 2, byte 16: not UTF-8, expected UTF-8 text")


def test_missing_files_are_a_line_with_the_address() -> None:
    says(
        Steam200K(behaviour="play"),
        "steam-200k: no steam-200k.csv in data/steam-200k; download steam-200k.csv (200,000 lines) from "
        "https://www.kaggle.com/datasets/tamber/steam-video-games (no licence stated) into data/steam-200k, or give "
        "its place as 'folder'",
    )


def test_the_behaviour_must_be_said() -> None:
    with pytest.raises(ValidationError, match="behaviour"):
        Steam200K.model_validate({})
