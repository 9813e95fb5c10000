"""Where the files of a download are looked for, what is said where they are not, and how odd text is made readable."""

from __future__ import annotations

import zipfile
from pathlib import Path

import polars as pl
import pytest

from benchmark.data.filters import Filters
from benchmark.data.sources import MovieLens
from benchmark.data.sources.downloads import Download, Downloaded, Pack, locate
from benchmark.data.sources.files import read_header, read_table
from benchmark.data.sources.raw import Raw
from benchmark.data.sources.texts import joined, readable, whole
from benchmark.errors import InputError

LOST = Download("lost", "lost-1m", "lost.zip (3 bytes)", "https://example.org/lost", "for research")
PACK = Pack(("a.csv", "b.csv"), "lost.zip", "lost")


@pytest.fixture(autouse=True)
def _working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LEVELFIELD_DATA", raising=False)


def put(folder: str, *names: str) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        (Path(folder) / name).write_text("x,y\n1,2\n")


def said(folder: Path | None = None, *packs: Pack) -> str:
    with pytest.raises(InputError) as raised:
        locate(LOST, folder, *(packs or (PACK,)))
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_the_line_says_what_to_get_where_and_on_what_terms() -> None:
    assert said() == (
        "lost: no lost/a.csv, lost/b.csv or lost.zip in data/lost-1m; download lost.zip (3 bytes) from "
        "https://example.org/lost (for research) into data/lost-1m, or give its place as 'folder'"
    )


def test_folder_then_variable_then_data(monkeypatch: pytest.MonkeyPatch) -> None:
    put("data/lost-1m/lost", "a.csv", "b.csv")
    assert locate(LOST, None, PACK)["a.csv"] == Path("data/lost-1m/lost/a.csv")
    monkeypatch.setenv("LEVELFIELD_DATA", "elsewhere")
    assert locate(LOST, None, PACK)["a.csv"] == Path("data/lost-1m/lost/a.csv")
    put("elsewhere/lost-1m/lost", "a.csv", "b.csv")
    assert locate(LOST, None, PACK)["a.csv"] == Path("elsewhere/lost-1m/lost/a.csv")
    put("mine/lost", "a.csv", "b.csv")
    assert locate(LOST, Path("mine"), PACK)["b.csv"] == Path("mine/lost/b.csv")
    assert locate(LOST, Path("mine/lost"), PACK)["b.csv"] == Path("mine/lost/b.csv")
    assert said(Path("nowhere")).startswith("lost: no lost/a.csv, lost/b.csv or lost.zip in nowhere; download ")
    assert "in elsewhere/lost-1m or data/lost-1m; download" in said(None, Pack(("c.csv",)))


def test_files_of_another_version_are_not_taken() -> None:
    put("data/lost-1m", "a.csv", "b.csv")
    assert "no lost/a.csv" in said()


def test_what_is_half_there_is_named() -> None:
    put("data/lost-1m/lost", "a.csv", "bb.csv")
    assert said().startswith("lost: no lost/b.csv or lost.zip in data/lost-1m; did you mean 'bb.csv'?; download")


def test_the_zip_is_read_as_it_is() -> None:
    put(".", "a.csv")
    with zipfile.ZipFile("lost.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.write("a.csv", "lost/a.csv")
        file.write("a.csv", "b.csv")
    before = sorted(Path().rglob("*"))
    places = locate(LOST, Path(), PACK)
    assert places == {"a.csv": Raw(Path("lost.zip"), "lost/a.csv"), "b.csv": Raw(Path("lost.zip"), "b.csv")}
    assert locate(LOST, Path("lost.zip"), PACK) == places

    class Lost(Downloaded):
        def _places(self) -> dict[str, Path | Raw]:
            return places

    assert Lost().files() == [Path("lost.zip")]
    assert read_header(places["a.csv"]) == ["x", "y"]
    assert read_table(places["b.csv"], {"x": "x"})[0]["x"].to_list() == ["1"]
    assert sorted(Path().rglob("*")) == before


def test_a_zip_without_the_member_or_damaged() -> None:
    with zipfile.ZipFile("lost.zip", "w") as file:
        file.writestr("lost/a.csv", "x\n1\n" * 100)
        file.writestr("lost/bb.csv", "x\n1\n")
    assert said(Path()) == "lost.zip: no member 'lost/b.csv'; did you mean 'lost/bb.csv'?"
    data = Path("lost.zip").read_bytes()
    Path("lost.zip").write_bytes(data[:-60])
    assert said(Path()) == "lost.zip: cannot be read as a zip: File is not a zip file"
    damaged = bytearray(data)
    damaged[60:64] = b"9999"
    Path("lost.zip").write_bytes(damaged)
    with pytest.raises(InputError, match=r"^lost\.zip/lost/a\.csv: cannot be read as a text table: Bad CRC"):
        read_table(Raw(Path("lost.zip"), "lost/a.csv"), {"x": "x"})


def test_a_wrong_byte_is_found_where_it_is_stored() -> None:
    Path("a.dat").write_bytes(b"1::caf\xc3\xa9\n2::\xff\n")
    text = Raw(Path("a.dat"), translate=lambda text: text.replace(b"::", b"\x1f"))
    with pytest.raises(InputError) as raised:
        read_table(text, {"title": "title"}, "\x1f", None, header=("id", "title"))
    assert str(raised.value) == "a.dat: line 2, byte 12: not UTF-8, expected UTF-8 text"


def test_a_table_without_a_line_of_names() -> None:
    Path("a.csv").write_text('1,"x, ""y"""\n2,z\n')
    frame, origin = read_table(Path("a.csv"), {"b": "second"}, header=("first", "second"))
    assert frame["b"].to_list() == ['x, "y"', "z"]
    assert origin.first_line == 1
    Path("a.csv").write_text("1,x\n2,z,3\n")
    with pytest.raises(InputError, match=r"^a\.csv: line 2: found 3 fields, expected 2$"):
        read_table(Path("a.csv"), {"b": "second"}, header=("first", "second"))


def test_the_hash_of_the_prepared_data_follows_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmark.data.cache import key, prepare

    monkeypatch.setenv("LEVELFIELD_DATA", "all")
    inside = Path("all/movielens/ml-20m")
    inside.mkdir(parents=True)
    (inside / "movies.csv").write_text("movieId,title,genres\n1,A (1999),Drama\n")
    (inside / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,1,5,0\n")
    source, filters = MovieLens(version="20m"), Filters()
    first = key(source, filters)
    assert (
        prepare(source, filters, Path("cache")).fingerprint() == prepare(source, filters, Path("cache")).fingerprint()
    )
    (inside / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,1,4,0\n")
    assert key(source, filters) != first


def test_readable_text() -> None:
    values = pl.Series(["a &amp; b&#39;s", " x \n\t y ", "", "&nothing; AT&T &copy shop", None, "  "])
    assert readable(values).to_list() == ["a & b's", "x y", None, "&nothing; AT&T &copy shop", None, None]
    assert joined(pl.Series([["a&amp;", None, "b"], [], None])).to_list() == ["a&, b", None, None]
    assert whole(pl.Series(["1999", "1999.0", "-750.0", "x", "", None, "nan", "inf"])).to_list() == [
        1999, 1999, -750, None, None, None, None, None,
    ]  # fmt: skip
