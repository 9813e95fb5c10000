"""mind: clicks of the impressions and what the histories hold beyond them, against the log read by hand."""

from __future__ import annotations

import csv
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from benchmark.data.sources import Mind
from benchmark.errors import InputError
from tests.data.make import items_of, rows_of

TRAIN = """\
1\tU1\t11/11/2019 9:05:58 AM\tN1 N2 N3\tN4-1 N5-0
2\tU1\t11/12/2019 12:00:00 AM\tN1 N2 N3\tN6-0 N7-1 N8-1
3\tU2\t11/11/2019 12:30:00 PM\t\tN4-0 N5-0
4\tU3\t11/11/2019 9:05:58 AM\tN2\tN4-1 N4-1
"""
DEV = "1\tU1\t11/15/2019 1:02:03 PM\tN1 N2 N3 N4 N9\tN5-1 N10-0\n2\tU4\t11/15/2019 2:00:00 AM\tN2 N9\tN4-1\n"
NEWS = """\
N1\tsports\tgolf\tHe said "no\tAn "open quote, é\thttps://a\t[{"Label": "x"}]\t[]
N4\tnews\tworld\tÉlan, two\t\thttps://a\t[]\t[]
"""
DEV_NEWS = "N4\tnews\tworld\tÉlan, two\t\thttps://a\t[]\t[]\nN9\tnews\tus\tThree\tText\thttps://a\t[]\t[]\n"
SHOWN = "ids of news with -0 or -1 behind them, one blank between"


@pytest.fixture(autouse=True)
def _working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LEVELFIELD_DATA", raising=False)


def put(part: str, log: str | bytes, news: str) -> Path:
    folder = Path(f"data/mind/MINDsmall_{part}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "behaviors.tsv").write_bytes(log.encode() if isinstance(log, str) else log)
    (folder / "news.tsv").write_text(news, encoding="utf-8")
    return folder


def clicks_by_hand(*logs: str) -> list[tuple[str, str, float]]:
    found = []
    for log in logs:
        for _, user, time, _, shown in csv.reader(log.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE):
            when = datetime.strptime(time, "%m/%d/%Y %I:%M:%S %p").replace(tzinfo=UTC).timestamp()
            found += [(user, entry[:-2], when) for entry in shown.split(" ") if entry.endswith("-1")]
    return sorted(found)


def test_clicks_as_read_by_hand() -> None:
    put("train", TRAIN, NEWS)
    put("dev", DEV, DEV_NEWS)
    assert rows_of(Mind(history=False).load()) == clicks_by_hand(TRAIN, DEV)
    assert rows_of(Mind(history=False, parts=("train",)).load()) == clicks_by_hand(TRAIN)


def test_histories_come_before_the_log_in_their_order() -> None:
    put("train", TRAIN, NEWS)
    put("dev", DEV, DEV_NEWS)
    data = Mind().load()
    clicks = clicks_by_hand(TRAIN, DEV)
    start = min(time for *_, time in clicks)
    earlier = [row for row in rows_of(data) if row not in clicks]
    # U1: N1 N2 N3 N4 N9 in the longest history, of which N4 is in the log
    assert earlier == [
        ("U1", "N1", start - 5),
        ("U1", "N2", start - 4),
        ("U1", "N3", start - 3),
        ("U1", "N9", start - 1),
        ("U3", "N2", start - 1),
        ("U4", "N2", start - 2),
        ("U4", "N9", start - 1),
    ]
    assert len(rows_of(data)) == len(earlier) + len(clicks)


def test_news_are_read_without_quoting_and_once() -> None:
    put("train", TRAIN, NEWS)
    put("dev", DEV, DEV_NEWS)
    items = items_of(Mind().load())
    assert items["N1"] == {
        "title": 'He said "no',
        "category": "sports",
        "subcategory": "golf",
        "abstract": 'An "open quote, é',
    }
    assert items["N4"]["abstract"] is None
    assert items["N8"] == dict.fromkeys(items["N1"])


@pytest.mark.parametrize("inside", ["", "MINDsmall_train/"])
def test_the_zip_gives_what_the_folder_gives(inside: str) -> None:
    folder = put("train", TRAIN, NEWS)
    source = Mind(parts=("train",))
    unpacked = source.load()
    with zipfile.ZipFile("data/mind/MINDsmall_train.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(folder.iterdir()):
            file.write(path, inside + path.name)
            path.unlink()
    assert source.files() == [Path("data/mind/MINDsmall_train.zip")]
    assert source.load().fingerprint() == unpacked.fingerprint()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "5\tU1\t2019-11-11\tN1\tN4-1",
            "line 5, column 'time': found '2019-11-11', expected a time as 11/13/2019 8:36:57 AM",
        ),
        ("5\tU1\t11/11/2019 9:05:58 AM\tN1\tN4 N5", "line 5, column 'impressions': found 'N4 N5', expected " + SHOWN),
        ("5\tU1\t11/11/2019 9:05:58 AM\tN1\t", "line 5, column 'impressions': found None, expected " + SHOWN),
        ("5\t\t11/11/2019 9:05:58 AM\tN1\tN4-1", "line 5, column 'user_id': found None, expected an id"),
        ("5\tU1\t11/11/2019 9:05:58 AM\tN1\tN4-1\tN5-1", "line 5: found 6 fields, expected 5"),
    ],
)
def test_wrong_lines(line: str, expected: str) -> None:
    put("train", TRAIN + line + "\n", NEWS)
    with pytest.raises(InputError) as raised:
        Mind(parts=("train",)).load()
    assert str(raised.value) == f"data/mind/MINDsmall_train/behaviors.tsv: {expected}"


def test_text_that_is_not_utf8() -> None:
    put("train", TRAIN.encode() + b"5\tU\xff\t\t\t\n", NEWS)
    with pytest.raises(InputError, match=r"behaviors\.tsv: line 5, byte \d+: not UTF-8"):
        Mind(parts=("train",)).load()


def test_missing_files_are_a_line_with_the_address() -> None:
    put("train", TRAIN, NEWS)
    with pytest.raises(InputError) as raised:
        Mind().files()
    assert str(raised.value) == (
        "mind small: no MINDsmall_dev/behaviors.tsv, MINDsmall_dev/news.tsv or MINDsmall_dev.zip in data/mind; "
        "download MINDsmall_train.zip (52,952,752 bytes) and MINDsmall_dev.zip (30,945,572 bytes) from "
        "https://msnews.github.io (Microsoft Research License Terms, not commercial) into data/mind, or give its place "
        "as 'folder'"
    )


def test_settings() -> None:
    for settings in ({"parts": []}, {"parts": ["test"]}, {"version": "medium"}):
        with pytest.raises(ValidationError):
            Mind.model_validate(settings)
