"""amazon-reviews: the sequences of 2014 and the raw reviews of 2018 and 2023, against the same files read by hand."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from benchmark.data.sources import AmazonReviews
from benchmark.errors import InputError
from tests.data.make import items_of, rows_of

SEQUENCES = "user_id\titem_ids\nA1\t0001 B2 B3\nA2\tB3 0001\n"
ITEMS = 'item_id\ttitle\tshort_text\tgram_id\n0001\tThe "Café", red\tcafe red\t▁a|b\nB2\t\tblue mug\t▁a\nB3\tC\t\t▁b\n'
OLD = [
    {"reviewerID": "A1", "asin": "0001", "overall": 5.0, "unixReviewTime": 1252800000, "reviewText": 'He said "é"\n'},
    {
        "reviewerID": "A2",
        "asin": "0001",
        "overall": 1.0,
        "unixReviewTime": 1252800001,
        "vote": "1,234",
        "style": {"a": "b"},
    },
    {"reviewerID": "A2", "asin": "0001", "overall": 1.0, "unixReviewTime": 1252800001},
    {"reviewerID": "A2", "asin": "B9", "overall": 3, "unixReviewTime": 5},
]
OLD_META = [
    {
        "asin": "0001",
        "title": 'Tea &amp; "Co", é',
        "brand": "X\ty",
        "category": ["A", "B &amp; C"],
        "description": ["one", "", "two\n"],
        "price": "$1,012.50",
        "details": {"x": "y"},
    },
    {"asin": "0001", "title": "a second time"},
    {"asin": "NEVER", "title": "not reviewed"},
    {"asin": "B9", "title": "<script> var t = a.getTime();", "brand": "", "category": [], "price": ".a-box{}"},
]
NEW = [
    {"user_id": "AF", "parent_asin": "B1", "asin": "B0", "rating": 4.0, "timestamp": 1588687728923, "title": "no"},
    {"user_id": "AF", "parent_asin": "B2", "asin": "B2", "rating": 5, "timestamp": 1588687728000, "images": []},
]
NEW_META = [
    {
        "parent_asin": "B1",
        "title": "A",
        "store": "S",
        "categories": ["c", "d"],
        "features": ["Soft.", "Red."],
        "description": [],
        "price": 12.99,
        "main_category": "M",
        "details": {"Brand": "q"},
    },
    {
        "parent_asin": "B2",
        "title": None,
        "store": None,
        "categories": None,
        "features": [],
        "description": "text",
        "price": "from 3.00",
    },
]


@pytest.fixture(autouse=True)
def _working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LEVELFIELD_DATA", raising=False)


def pack(path: str, text: str | bytes | list[dict[str, object]]) -> Path:
    file = Path("data") / path
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(text, list):
        text = "".join(json.dumps(row) + "\n" for row in text)
    data = text.encode() if isinstance(text, str) else text
    file.write_bytes(gzip.compress(data) if file.suffix == ".gz" else data)
    return file


def sequences(table: str = SEQUENCES, **settings: str) -> AmazonReviews:
    pack("amazon2014-5core/Toys/sequences.tsv.gz", table)
    pack("amazon2014-5core/Toys/items.tsv.gz", ITEMS)
    return AmazonReviews.model_validate({"version": "2014-5core-sequences", "category": "Toys", **settings})


def old(reviews: str | bytes | list[dict[str, object]] = OLD, suffix: str = ".gz") -> AmazonReviews:
    pack(f"amazon-reviews-2018/All_Beauty.json{suffix}", reviews)
    pack(f"amazon-reviews-2018/meta_All_Beauty.json{suffix}", OLD_META)
    return AmazonReviews(version="2018", category="All_Beauty")


def says(source: AmazonReviews, expected: str) -> None:
    with pytest.raises(InputError) as raised:
        source.load()
    assert str(raised.value) == expected


# --- 2014 ------------------------------------------------------------------------------------------------------------


def test_sequences_have_their_place_as_the_time() -> None:
    data = sequences().load()
    by_hand = [line.split("\t") for line in SEQUENCES.splitlines()[1:]]
    expected = [(user, item, float(n)) for user, items in by_hand for n, item in enumerate(items.split(" "))]
    assert rows_of(data) == sorted(expected)
    assert items_of(data) == {"0001": {"title": 'The "Café", red'}, "B2": {"title": None}, "B3": {"title": "C"}}
    assert not data.has_rating


def test_short_text_stands_in_where_there_is_no_title() -> None:
    data = sequences(text="short_text").load()
    assert items_of(data) == {"0001": {"title": 'The "Café", red'}, "B2": {"title": "blue mug"}, "B3": {"title": "C"}}


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("A3\t", "line 4, column 'item_ids': found None, expected item ids with one blank between them"),
        ("A3\tB2  B3", "line 4, column 'item_ids': found 'B2  B3', expected item ids with one blank between them"),
        ("A1\tB2", "line 4, column 'user_id': found 'A1', expected each user once"),
        ("\tB2", "line 4, column 'user_id': found None, expected an id"),
        ("A3\tB2\tB3", "line 4: found 3 fields, expected 2 as in line 1"),
    ],
)
def test_wrong_sequences(line: str, expected: str) -> None:
    says(sequences(SEQUENCES + line + "\n"), f"data/amazon2014-5core/Toys/sequences.tsv.gz: {expected}")


def test_a_category_is_not_mistaken_for_another() -> None:
    sequences()
    settings = {"version": "2014-5core-sequences", "category": "Beauty"}
    source = AmazonReviews.model_validate({**settings, "folder": "data/amazon2014-5core/Toys"})
    with pytest.raises(InputError, match=r"no Beauty/sequences\.tsv\.gz, Beauty/items\.tsv\.gz in .*/Toys; download"):
        source.files()


# --- 2018 and 2023 ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".gz", ""])
def test_2018_as_json_reads_it(suffix: str) -> None:
    source = old(suffix=suffix)
    data = source.load()
    with gzip.open(source.files()[0]) if suffix else source.files()[0].open("rb") as file:
        by_hand = [json.loads(line) for line in file]
    keys = ("reviewerID", "asin", "overall", "unixReviewTime")
    assert rows_of(data) == sorted(tuple(row[key] for key in keys) for row in by_hand)
    assert data.name == "amazon-all-beauty-2018"
    assert items_of(data) == {
        "0001": {
            "title": 'Tea & "Co", é',
            "brand": "X y",
            "category": "A, B & C",
            "description": "one two",
            "price": 1012.5,
        },
        "B9": {"title": None, "brand": None, "category": None, "description": None, "price": None},
    }


def test_2018_five_core_has_a_file_of_its_own() -> None:
    pack("amazon-reviews-2018/All_Beauty_5.json.gz", OLD[:1])
    pack("amazon-reviews-2018/meta_All_Beauty.json.gz", OLD_META)
    assert len(rows_of(AmazonReviews(version="2018", category="All_Beauty", five_core=True).load())) == 1


def test_2023_counts_its_time_in_milliseconds() -> None:
    pack("amazon-reviews-2023/Video_Games.jsonl.gz", NEW)
    pack("amazon-reviews-2023/meta_Video_Games.jsonl.gz", NEW_META)
    data = AmazonReviews(version="2023", category="Video_Games").load()
    assert rows_of(data) == [("AF", "B1", 4.0, 1588687728.923), ("AF", "B2", 5.0, 1588687728.0)]
    assert items_of(data) == {
        "B1": {
            "title": "A",
            "store": "S",
            "categories": "c, d",
            "features": "Soft. Red.",
            "description": None,
            "price": 12.99,
        },
        "B2": {"title": None, "store": None, "categories": None, "features": None, "description": None, "price": None},
    }


def test_numbers_in_quotes_are_numbers() -> None:
    reviews = [row | {"overall": str(row["overall"])} for row in OLD]
    assert rows_of(old(reviews).load()) == rows_of(old().load())


@pytest.mark.parametrize(
    ("reviews", "expected"),
    [
        ([*OLD, OLD[0] | {"overall": "good"}], "line 5, column 'overall': found 'good', expected a number"),
        (
            [*OLD, OLD[0] | {"unixReviewTime": None}],
            "line 5, column 'unixReviewTime': found None, expected a finite number",
        ),
        ([*OLD, OLD[0] | {"asin": None}], "line 5, column 'asin': found None, expected an id"),
        (
            [{"user_id": "a", "asin": "b", "overall": 1, "unixReviewTime": 1}],
            "no column 'reviewerID'; known: asin, overall, unixReviewTime, user_id",
        ),
        (
            [{"reviewerId": "a", "asin": "b", "overall": 1, "unixReviewTime": 1}],
            "no column 'reviewerID'; did you mean 'reviewerId'?",
        ),
        ('{"asin": "a"}\n{"asin": \n', "line 2: not JSON at character 11: Expecting value"),
        ('{"asin": "a"}\n[1]\n', "line 2: found b'[1]', expected a JSON object"),
        (b'{"asin": "a"}\n{"asin": "\xff"}\n', "line 2, byte 24: not UTF-8, expected UTF-8 text"),
        ("", "no interactions"),
    ],
)
def test_wrong_reviews(reviews: str | bytes | list[dict[str, object]], expected: str) -> None:
    says(old(reviews), f"data/amazon-reviews-2018/All_Beauty.json.gz: {expected}")


def test_a_cut_gzip_is_one_line() -> None:
    source = old(OLD * 100)
    path = source.files()[0]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"^data/.*All_Beauty\.json\.gz: cannot be read as JSON lines: [^\n]+$"):
        source.load()


def test_missing_files_are_a_line_with_the_address() -> None:
    with pytest.raises(InputError) as raised:
        AmazonReviews(version="2023", category="Video_Games").files()
    assert str(raised.value) == (
        "amazon-reviews 2023 Video_Games: no Video_Games.jsonl.gz, meta_Video_Games.jsonl.gz in "
        "data/amazon-reviews-2023; download review_categories/Video_Games.jsonl.gz and "
        "meta_categories/meta_Video_Games.jsonl.gz from "
        "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/raw (no licence stated; cite the authors) into "
        "data/amazon-reviews-2023, or give its place as 'folder'"
    )


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"version": "2014-5core-sequences", "category": "Beuaty"}, "did you mean 'Beauty'"),
        ({"version": "2018", "category": "Toys", "text": "short_text"}, "needs 'version: 2014-5core-sequences'"),
        ({"version": "2023", "category": "Toys", "five_core": True}, "needs 'version: 2018'"),
        ({"version": "2018", "category": "../secret"}, "pattern"),
    ],
)
def test_settings(settings: dict[str, object], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        AmazonReviews.model_validate(settings)
