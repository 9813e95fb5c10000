"""movielens: the two layouts of GroupLens, from the folder and from the zip, against the files read by hand."""

from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from benchmark.data.sources import MovieLens, Source
from benchmark.errors import InputError
from tests.data.make import items_of, rows_of

RATINGS = "1::11::5::900000010\n2::22::3::900000020\n2::22::3::900000020\n1::33::1::900000005\n"
MOVIES = (
    '11::Señores, Los (1995)::Drama|Musical\n22::Robot: "The, End" (1979)::Sci-Fi\n33::No Year::Children\'s\n'
    "3::The Long Series (1975-1979)::Comedy\n"
)
USERS = "1::F::1::10::12345\n2::M::56::16::00123\n"


@pytest.fixture(autouse=True)
def _working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LEVELFIELD_DATA", raising=False)


def dat(inside: str = "ml-1m", encoding: str = "latin-1", **texts: str) -> Path:
    folder = Path("data/movielens") / inside
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in ({"ratings": RATINGS, "movies": MOVIES, "users": USERS} | texts).items():
        (folder / f"{name}.dat").write_bytes(text.encode(encoding))
    return folder


def table(rows: list[list[object]]) -> str:
    file = io.StringIO(newline="")
    csv.writer(file).writerows(rows)
    return file.getvalue()


def plain(inside: str) -> Path:
    folder = Path("data/movielens") / inside
    folder.mkdir(parents=True, exist_ok=True)
    ratings = [["userId", "movieId", "rating", "timestamp"], [1, 2, 3.5, 900000001], [1, 29, 4.0, 5], [7, 2, 0.5, 6]]
    movies = [
        ["movieId", "title", "genres"],
        [2, 'He said "No", é (2001) ', "Adventure|Children"],
        [29, "House of Lost, Things, The (Maison, La) (1995)", "(no genres listed)"],
        [30, "Never rated (2006–2007)", "Drama"],
    ]
    (folder / "ratings.csv").write_text(table(ratings))
    (folder / "movies.csv").write_text(table(movies), encoding="utf-8")
    return folder


def zipped(folder: Path, archive: str) -> None:
    with zipfile.ZipFile(folder.parent / archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(folder.iterdir()):
            file.write(path, f"{folder.name}/{path.name}")
            path.unlink()
    folder.rmdir()


def says(version: str, expected: str) -> None:
    with pytest.raises(InputError) as raised:
        MovieLens.model_validate({"version": version}).load()
    assert str(raised.value) == expected


def test_1m() -> None:
    dat()
    data = MovieLens(version="1m").load()
    by_hand = [line.split("::") for line in RATINGS.splitlines()]
    assert rows_of(data) == sorted((user, film, float(stars), float(time)) for user, film, stars, time in by_hand)
    assert data.name == "movielens-1m"
    assert items_of(data) == {
        "11": {"title": "Señores, Los", "year": 1995, "genres": "Drama, Musical"},
        "22": {"title": 'Robot: "The, End"', "year": 1979, "genres": "Sci-Fi"},
        "33": {"title": "No Year", "year": None, "genres": "Children's"},
        "3": {"title": "The Long Series", "year": 1975, "genres": "Comedy"},
    }
    assert data.users.to_dicts() == [
        {"user_id": "1", "gender": "F", "age": "under 18", "occupation": "K-12 student", "zip_code": "12345"},
        {"user_id": "2", "gender": "M", "age": "56+", "occupation": "self-employed", "zip_code": "00123"},
    ]


def test_10m_is_utf8_and_lies_in_a_folder_of_another_name() -> None:
    dat("ml-10M100K", "utf-8", ratings="1::22::3.5::5\n1::11::.5::6\n")
    data = MovieLens(version="10m").load()
    assert rows_of(data) == [("1", "11", 0.5, 6.0), ("1", "22", 3.5, 5.0)]
    assert items_of(data)["11"]["title"] == "Señores, Los"
    assert data.users.columns == ["user_id"]


@pytest.mark.parametrize("version", ["20m", "25m", "32m", "latest-small", "latest"])
def test_csv_as_pandas_reads_it(version: str) -> None:
    pandas = pytest.importorskip("pandas")
    folder = plain(f"ml-{version}")
    data = MovieLens.model_validate({"version": version}).load()
    ratings = pandas.read_csv(folder / "ratings.csv", dtype={"userId": str, "movieId": str})
    assert rows_of(data) == sorted(ratings.itertuples(index=False, name=None))
    movies = pandas.read_csv(folder / "movies.csv", dtype=str)
    assert sorted(items_of(data)) == sorted(movies["movieId"])
    assert items_of(data)["2"] == {"title": 'He said "No", é', "year": 2001, "genres": "Adventure, Children"}
    assert items_of(data)["29"] == {"title": "House of Lost, Things, The (Maison, La)", "year": 1995, "genres": None}
    assert items_of(data)["30"] == {"title": "Never rated", "year": 2006, "genres": "Drama"}


@pytest.mark.parametrize(("version", "inside"), [("1m", "ml-1m"), ("25m", "ml-25m")])
def test_the_zip_gives_what_the_folder_gives(version: str, inside: str) -> None:
    folder = dat(inside) if version == "1m" else plain(inside)
    source = MovieLens.model_validate({"version": version})
    unpacked = source.load()
    zipped(folder, f"ml-{version}.zip")
    assert source.files() == [Path(f"data/movielens/ml-{version}.zip")]
    assert source.load().fingerprint() == unpacked.fingerprint()
    direct = MovieLens.model_validate({"version": version, "folder": f"data/movielens/ml-{version}.zip"})
    assert direct.load().fingerprint() == unpacked.fingerprint()
    assert not folder.exists()


def test_missing_files_are_a_line_with_the_address() -> None:
    says(
        "25m",
        "movielens 25m: no ml-25m/ratings.csv, ml-25m/movies.csv or ml-25m.zip in data/movielens; download ml-25m.zip "
        "(261,978,986 bytes, MD5 6b51fb2759a8657d3bfcbfc42b592ada) from "
        "https://files.grouplens.org/datasets/movielens/ml-25m.zip (for research, not commercial, not to be passed on: "
        "its README) into data/movielens, or give its place as 'folder'",
    )


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (
            {"ratings": "1::2::3::4\n1::2::good::4\n"},
            "ratings.dat: line 2, column 'rating': found 'good', expected a number",
        ),
        (
            {"ratings": "1::2::3::4\n1::2::3\n"},
            "ratings.dat: line 2, column 'timestamp': found None, expected a finite number",
        ),
        ({"ratings": "1::2::3::4\n1::2::3::4::5\n"}, "ratings.dat: line 2: found 5 fields, expected 4"),
        ({"ratings": "1::2::3::4\n::2::3::4\n"}, "ratings.dat: line 2, column 'userId': found None, expected an id"),
        ({"movies": "1::A::B\n1::A::B\n"}, "movies.dat: line 2, column 'movieId': found '1', expected each id once"),
        (
            {"users": "1::F::1::10::4\n2::F::2::10::4\n"},
            "users.dat: line 2, column 'age': found '2', expected one of 1, 18, 25, 35, 45, 50, 56",
        ),
    ],
)
def test_wrong_values_of_1m(texts: dict[str, str], expected: str) -> None:
    dat(**texts)
    says("1m", f"data/movielens/ml-1m/{expected}")


def test_wrong_values_in_a_zip_are_named_by_member() -> None:
    folder = plain("ml-20m")
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,2,3,4\n1,2,3,soon\n")
    zipped(folder, "ml-20m.zip")
    says(
        "20m",
        "data/movielens/ml-20m.zip/ml-20m/ratings.csv: line 3, column 'timestamp': found 'soon', expected a number, or "
        "a date as 2024-12-31T23:59:59",
    )


def test_a_changed_header_names_the_nearest_column() -> None:
    folder = plain("ml-20m")
    (folder / "movies.csv").write_text("movieid,title,genres\n1,A,B\n")
    says("20m", "data/movielens/ml-20m/movies.csv: no column 'movieId'; did you mean 'movieid'?")


def test_text_that_is_not_utf8() -> None:
    folder = plain("ml-20m")
    (folder / "movies.csv").write_bytes(b"movieId,title,genres\n1,Caf\xe9 (1999),Drama\n")
    says("20m", "data/movielens/ml-20m/movies.csv: line 2, byte 26: not UTF-8, expected UTF-8 text")
    dat("ml-10M100K", "latin-1")
    says("10m", "data/movielens/ml-10M100K/movies.dat: line 1, byte 6: not UTF-8, expected UTF-8 text")


def test_a_zip_that_is_cut_or_lacks_a_member() -> None:
    folder = plain("ml-20m")
    (folder / "movies.csv").unlink()
    zipped(folder, "ml-20m.zip")
    archive = Path("data/movielens/ml-20m.zip")
    says("20m", f"{archive}: no member 'ml-20m/movies.csv'; did you mean 'ml-20m/ratings.csv'?")
    archive.write_bytes(archive.read_bytes()[:-30])
    says("20m", f"{archive}: cannot be read as a zip: File is not a zip file")


def test_settings() -> None:
    source = TypeAdapter(Source).validate_python({"source": "movielens", "version": "1m"})
    assert isinstance(source, MovieLens)
    with pytest.raises(ValidationError, match="'1m', '10m', '20m'"):
        TypeAdapter(Source).validate_python({"source": "movielens", "version": "2m"})
