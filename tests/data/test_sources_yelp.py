"""yelp: reviews and businesses, against the same lines read by the json module."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from benchmark.data.sources import Yelp
from benchmark.errors import InputError
from tests.data.make import items_of, rows_of

REVIEWS = [
    {
        "review_id": "r",
        "user_id": "-u1",
        "business_id": "_b",
        "stars": 3.0,
        "useful": 0,
        "text": 'A "b", é\n',
        "date": "2018-07-07 22:09:11",
    },
    {"review_id": "s", "user_id": "-u1", "business_id": "_b", "stars": 3.0, "text": "", "date": "2018-07-07 22:09:11"},
    {"review_id": "t", "user_id": "u2", "business_id": "gone", "stars": 1, "text": "", "date": "2005-02-16 03:23:22"},
]
BUSINESSES = [
    {
        "business_id": "_b",
        "name": 'Café "X", &amp; Co',
        "city": " Köln ",
        "state": "NW",
        "categories": "Food, Coffee & Tea",
        "attributes": {"WiFi": "u'free'"},
        "hours": None,
    },
    {"business_id": "n", "name": "Never", "city": "", "state": "AZ", "categories": None},
]
FOLDER = Path("data/yelp")


@pytest.fixture(autouse=True)
def _working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LEVELFIELD_DATA", raising=False)


def put(reviews: list[dict[str, object]], businesses: list[dict[str, object]] = BUSINESSES, suffix: str = "") -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, rows in (("review", reviews), ("business", businesses)):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        (FOLDER / f"yelp_academic_dataset_{name}.json{suffix}").write_bytes(gzip.compress(text) if suffix else text)


def says(expected: str) -> None:
    with pytest.raises(InputError) as raised:
        Yelp().load()
    assert str(raised.value) == expected


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_reviews_as_the_json_module_reads_them(suffix: str) -> None:
    put(REVIEWS, suffix=suffix)
    data = Yelp().load()
    raw = Yelp().files()[0].read_bytes()
    expected = []
    for line in (gzip.decompress(raw) if suffix else raw).splitlines():
        row = json.loads(line)
        when = datetime.fromisoformat(row["date"]).replace(tzinfo=UTC).timestamp()
        expected.append((row["user_id"], row["business_id"], float(row["stars"]), when))
    assert rows_of(data) == sorted(expected)
    assert items_of(data) == {
        "_b": {"title": 'Café "X", & Co', "city": "Köln", "state": "NW", "categories": "Food, Coffee & Tea"},
        "n": {"title": "Never", "city": None, "state": "AZ", "categories": None},
        "gone": {"title": None, "city": None, "state": None, "categories": None},
    }


def test_dates_without_a_time_are_midnight() -> None:
    put([row | {"date": str(row["date"])[:10]} for row in REVIEWS])
    assert {row[3] for row in rows_of(Yelp().load())} == {1530921600.0, 1108512000.0}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"date": "soon"}, "column 'date': found 'soon', expected a number, or a date as 2024-12-31T23:59:59"),
        ({"stars": "five"}, "column 'stars': found 'five', expected a number"),
        ({"stars": None}, "column 'stars': found None, expected a number"),
        ({"user_id": ""}, "column 'user_id': found '', expected an id"),
    ],
)
def test_wrong_reviews(change: dict[str, object], expected: str) -> None:
    put([*REVIEWS, REVIEWS[0] | change])
    says(f"data/yelp/yelp_academic_dataset_review.json: line 4, {expected}")


def test_a_business_twice() -> None:
    put(REVIEWS, [*BUSINESSES, BUSINESSES[0]])
    file = "data/yelp/yelp_academic_dataset_business.json"
    says(f"{file}: line 3, column 'business_id': found '_b', expected each id once")


def test_a_broken_line() -> None:
    put(REVIEWS)
    path = FOLDER / "yelp_academic_dataset_review.json"
    path.write_bytes(path.read_bytes()[:-10])
    says(f"{path}: line 3: not JSON at character 92: Unterminated string")
    path.write_bytes(b'{"user_id": "\xe9"}\n')
    says(f"{path}: line 1, byte 13: not UTF-8, expected UTF-8 text")


def test_a_cut_gzip_is_one_line() -> None:
    put(REVIEWS * 100, suffix=".gz")
    path = FOLDER / "yelp_academic_dataset_review.json.gz"
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(InputError, match=r"^data/.*review\.json\.gz: cannot be read as JSON lines: [^\n]+$"):
        Yelp().load()


def test_missing_files_are_a_line_with_the_address() -> None:
    says(
        "yelp: no yelp_academic_dataset_review.json, yelp_academic_dataset_business.json in data/yelp; download and "
        "unpack the JSON archive, which holds yelp_academic_dataset_review.json and "
        "yelp_academic_dataset_business.json, from https://business.yelp.com/data/resources/open-dataset/ (Yelp "
        "Dataset User Agreement: academic, not commercial, not to be passed on) into data/yelp, or give its place as "
        "'folder'"
    )
