"""book-crossing and goodbooks-10k, against the same files read by hand."""

from __future__ import annotations

import csv
import gzip
import io
import zipfile
from pathlib import Path

import pytest

from benchmark.data.sources import BookCrossing, Goodbooks10K
from benchmark.errors import InputError
from tests.data.make import items_of, rows_of

HEADER = '"ISBN";"Book-Title";"Book-Author";"Year-Of-Publication";"Publisher";"Image-URL-S";"Image-URL-M";"Image-URL-L"'
IMAGES = '"http://a/s.jpg";"http://a/m.jpg";"http://a/l.jpg"'
BOOKS = rf"""{HEADER}
"0001";"Das \"große\" Buch; Band 1";"Jörg";"1999";"P &amp; Q";{IMAGES}
"002X";"Readers: All of it (Level 4)\";Michael T.";"2000";"Print & Press Inc";{IMAGES}
"0003";"C:\\temp";"";"0";"";{IMAGES}
"""
PEOPLE = '"User-ID";"Location";"Age"\n"1";"köln, , germany";NULL\n"2";"n/a";"23"\n"9";"a\\\\b, \\"c\\"";"0"\n'
STARS = '"User-ID";"ISBN";"Book-Rating"\n"1";"0001";"0"\n"1";"002X";"5"\n"1";"002X";"5"\n"2";"\\"gone\\"";"10"\n'


@pytest.fixture(autouse=True)
def _working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LEVELFIELD_DATA", raising=False)


def dump(books: str = BOOKS, people: str = PEOPLE, stars: str = STARS) -> None:
    folder = Path("data/book-crossing")
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (("Books", books), ("Users", people), ("Book-Ratings", stars)):
        (folder / f"BX-{name}.csv").write_bytes(text.replace("\n", "\r\n").encode("latin-1"))


def by_hand(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text), delimiter=";", escapechar="\\"))[1:]


def table(name: str, rows: list[list[object]], folder: str) -> None:
    file = io.StringIO(newline="")
    csv.writer(file).writerows(rows)
    data = file.getvalue().encode()
    (Path("data") / folder).mkdir(parents=True, exist_ok=True)
    (Path("data") / folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)


def says(source: BookCrossing | Goodbooks10K, expected: str) -> None:
    with pytest.raises(InputError) as raised:
        source.load()
    assert str(raised.value) == expected


# --- book-crossing: the dump -----------------------------------------------------------------------------------------


def test_dump_of_ratings_as_the_csv_module_reads_it() -> None:
    dump()
    data = BookCrossing().load()
    assert rows_of(data) == sorted((u, b, float(r)) for u, b, r in by_hand(STARS) if r != "0")
    assert data.items["item_id"].to_list() == ['"gone"', "0001", "0003", "002X"]
    assert data.users.to_dicts() == [
        {"user_id": user, "age": None if age == "NULL" else int(age), "location": place}
        for user, place, age in by_hand(PEOPLE)
    ]


def test_dump_of_everything_has_no_ratings() -> None:
    dump()
    data = BookCrossing(implicit=True).load()
    assert rows_of(data) == sorted((user, book) for user, book, _ in by_hand(STARS))


def test_books_of_the_dump() -> None:
    dump()
    items = items_of(BookCrossing().load())
    title, author = by_hand(BOOKS)[0][1:3]
    assert items["0001"] == {"title": title, "author": author, "year": 1999, "publisher": "P & Q"}
    assert items["0001"]["title"] == 'Das "große" Buch; Band 1'
    assert items["002X"] == {
        "title": "Readers: All of it (Level 4)",
        "author": "Michael T.",
        "year": 2000,
        "publisher": "Print & Press Inc",
    }
    assert items["0003"] == {"title": "C:\\temp", "author": None, "year": None, "publisher": None}
    assert items['"gone"'] == {"title": None, "author": None, "year": None, "publisher": None}


def test_the_zip_gives_what_the_folder_gives() -> None:
    dump()
    unpacked = BookCrossing().load()
    folder = Path("data/book-crossing")
    with zipfile.ZipFile(folder / "BX-CSV-Dump.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(folder.glob("*.csv")):
            file.write(path, path.name)
            path.unlink()
    assert BookCrossing().files() == [folder / "BX-CSV-Dump.zip"]
    assert BookCrossing().load().fingerprint() == unpacked.fingerprint()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('"1";"0001";"good"', "line 6, column 'Book-Rating': found 'good', expected a number"),
        ('"1";"0001";"11"', "line 6, column 'Book-Rating': found 11.0, expected a number from 0 to 10"),
        ('"1";"";"1"', "line 6, column 'ISBN': found '', expected an id"),
        ('"1";"0001"', "line 6, column 'Book-Rating': found None, expected a finite number"),
        ('"1";"0001";"1";"2"', "line 6: found 4 fields, expected 3 as in line 1"),
        ('"1";"0001;"1"', "line 6: ';' expected after '\"'; is a quote left open?"),
    ],
)
def test_wrong_ratings(line: str, expected: str) -> None:
    dump(stars=STARS + line + "\n")
    says(BookCrossing(), f"data/book-crossing/BX-Book-Ratings.csv: {expected}")


def test_wrong_books() -> None:
    dump(books=BOOKS + BOOKS.splitlines()[1] + "\n")
    says(BookCrossing(), "data/book-crossing/BX-Books.csv: line 5, column 'ISBN': found '0001', expected each id once")


# --- book-crossing: the subset ---------------------------------------------------------------------------------------


def subset() -> None:
    table("ratings.csv", [["user_id", "item_id", "rating"], [1, 2, 7], [1, 2, 7], [3, 1, 10]], "book-crossing")
    table("history.csv.gz", [["user_id", "item_id"], [1, 2], [3, 1], [3, 2]], "book-crossing")
    table("users.csv", [["user_id", "age", "location"], [1, 31, "springfield, usa"], [3, "", "köln"]], "book-crossing")
    items = [
        ["item_id", "title", "author", "year", "publisher", "isbn"],
        [1, 'A "quoted", é', "B", 1999, "C", "0001"],
        [2, "D", "", "", "E", "002X"],
    ]
    table("items.csv", items, "book-crossing")


def test_subset() -> None:
    subset()
    data = BookCrossing().load()
    assert rows_of(data) == [("1", "2", 7.0), ("1", "2", 7.0), ("3", "1", 10.0)]
    assert items_of(data) == {
        "1": {"title": 'A "quoted", é', "author": "B", "year": 1999, "publisher": "C", "isbn": "0001"},
        "2": {"title": "D", "author": None, "year": None, "publisher": "E", "isbn": "002X"},
    }
    assert data.users.rows() == [("1", 31, "springfield, usa"), ("3", None, "köln")]
    assert rows_of(BookCrossing(implicit=True).load()) == [("1", "2"), ("3", "1"), ("3", "2")]


def test_a_cut_gzip_is_one_line() -> None:
    subset()
    path = Path("data/book-crossing/history.csv.gz")
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(InputError, match=r"^data/book-crossing/history\.csv\.gz: cannot be read as a text table: .+$"):
        BookCrossing(implicit=True).load()


def test_missing_files_are_a_line_with_the_address() -> None:
    says(
        BookCrossing(),
        "book-crossing: no BX-Book-Ratings.csv, BX-Books.csv, BX-Users.csv or BX-CSV-Dump.zip in data/book-crossing; "
        "download BX-CSV-Dump.zip from http://www2.informatik.uni-freiburg.de/~cziegler/BX/ or, where that no longer "
        "answers, a mirror of it (for research, citing Ziegler et al., WWW 2005) into data/book-crossing, or give its "
        "place as 'folder'",
    )
    subset()
    Path("data/book-crossing/items.csv").rename("data/book-crossing/item.csv")
    with pytest.raises(InputError, match=r"^book-crossing: no items\.csv in .*; did you mean 'item\.csv'\?; download"):
        BookCrossing().files()


# --- goodbooks-10k ---------------------------------------------------------------------------------------------------


def goodbooks() -> None:
    ratings = [["user_id", "book_id", "rating"], [1, 77, 5], [2, 77, 4], [2, 77, 4], [2, 7, 1]]
    table("ratings.csv", ratings, "goodbooks-10k")
    books = [
        ["book_id", "goodreads_book_id", "authors", "original_publication_year", "original_title", "title"],
        [77, 3, "A.B. Writer, Mary Peintré", 1987.0, "x", 'Devils &  "Saints" (Robert, #1)'],
        [7, 4, "Homer", -750.0, "", "The Iliad"],
        [9, 5, "", "", "", "Nobody's"],
    ]
    table("books.csv", books, "goodbooks-10k")


def test_goodbooks_as_pandas_reads_it() -> None:
    pandas = pytest.importorskip("pandas")
    goodbooks()
    data = Goodbooks10K().load()
    ratings = pandas.read_csv("data/goodbooks-10k/ratings.csv", dtype={"user_id": str, "book_id": str})
    assert rows_of(data) == sorted(ratings.astype({"rating": float}).itertuples(index=False, name=None))
    year = "original_publication_year"
    assert items_of(data) == {
        "77": {"title": 'Devils & "Saints" (Robert, #1)', "authors": "A.B. Writer, Mary Peintré", year: 1987},
        "7": {"title": "The Iliad", "authors": "Homer", year: -750},
        "9": {"title": "Nobody's", "authors": None, year: None},
    }


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("ratings.csv", "user_id,book_id,rating\n1,2,x\n", "line 2, column 'rating': found 'x', expected a number"),
        ("ratings.csv", "user_id,bookid,rating\n1,2,3\n", "no column 'book_id'; did you mean 'bookid'?"),
        (
            "books.csv",
            "book_id,authors,title\n1,a,b\n",
            "no column 'original_publication_year'; known: authors, book_id, title",
        ),
        ("books.csv", b"book_id\n\xff\n", "no column 'title'; known: book_id"),
        (
            "books.csv",
            b"book_id,authors,original_publication_year,title\n1,\xff,,\n",
            "line 2, byte 50: not UTF-8, expected UTF-8 text",
        ),
    ],
)
def test_wrong_goodbooks(name: str, text: str | bytes, expected: str) -> None:
    goodbooks()
    path = Path("data/goodbooks-10k") / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    says(Goodbooks10K(), f"{path}: {expected}")


def test_missing_goodbooks() -> None:
    says(
        Goodbooks10K(),
        "goodbooks-10k: no ratings.csv, books.csv in data/goodbooks-10k; download ratings.csv (69 MB) and books.csv "
        "from https://github.com/zygmuntz/goodbooks-10k (CC BY-SA 4.0) into data/goodbooks-10k, or give its place as "
        "'folder'",
    )
