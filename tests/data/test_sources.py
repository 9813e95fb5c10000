"""Sources: what they give for good files, and the one line they say about bad ones."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest
from pydantic import TypeAdapter, ValidationError

from benchmark.data.schema import Dataset
from benchmark.data.sources import Csv, MovieLens100K, RecBoleAtomic, Source
from benchmark.data.sources.canonical import canonical
from benchmark.errors import InputError
from tests.data.make import frame, shuffled

needs_recbole = pytest.mark.skipif(importlib.util.find_spec("recbole") is None, reason="recbole is not installed")


@pytest.fixture(autouse=True)
def _working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load(text: str | bytes, file: str = "log.csv", **settings: object) -> Dataset:
    Path(file).write_bytes(text if isinstance(text, bytes) else text.encode())
    return Csv.model_validate({"source": "csv", "interactions": file, **settings}).load()


def says(text: str | bytes, expected: str, file: str = "log.csv", **settings: object) -> None:
    """Assert that loading fails with exactly this one line."""
    with pytest.raises(InputError) as raised:
        load(text, file, **settings)
    assert str(raised.value) == expected


# --- the union -------------------------------------------------------------------------------------------------------


def test_the_field_source_chooses_the_class() -> None:
    source = TypeAdapter(Source).validate_python({"source": "csv", "interactions": "log.csv"})
    assert isinstance(source, Csv)


def test_an_unknown_source_or_key_is_refused() -> None:
    with pytest.raises(ValidationError, match="movielens-100k"):
        TypeAdapter(Source).validate_python({"source": "movielens-10k"})
    with pytest.raises(ValidationError, match="separater"):
        TypeAdapter(Source).validate_python({"source": "csv", "interactions": "a.csv", "separater": ";"})


# --- movielens-100k --------------------------------------------------------------------------------------------------


@needs_recbole
def test_movielens_is_the_published_data() -> None:
    source = MovieLens100K()
    data = source.load()
    assert (data.interactions.height, data.users.height, data.items.height) == (100_000, 943, 1_682)
    assert data.interactions["rating"].value_counts().sort("rating")["count"].to_list() == [
        6_110, 11_370, 27_145, 34_174, 21_201,
    ]  # fmt: skip
    assert (
        hashlib.sha256(source.files()[0].read_bytes()).hexdigest()
        == "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff"
    )


@needs_recbole
def test_movielens_has_texts_features_and_a_graph() -> None:
    data = MovieLens100K().load()
    film = data.items.row(by_predicate=pl.col("item_id") == "1", named=True)
    assert film == {"item_id": "1", "title": "Toy Story", "year": 1995, "genres": "Animation, Children's, Comedy"}
    person = data.users.row(by_predicate=pl.col("user_id") == "101", named=True)
    assert person["zip_code"] == "05146"
    assert person["age"] == 15
    assert data.graph is not None
    assert data.graph.columns == ["head", "relation", "tail"]
    assert data.links is not None
    assert data.links.columns == ["item_id", "entity_id"]


@needs_recbole
def test_movielens_does_not_import_recbole() -> None:
    code = (
        "import sys; from benchmark.data.sources import MovieLens100K; MovieLens100K().load(); "
        "sys.exit('recbole' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_movielens_without_recbole_says_how_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmark.data.sources.movielens_100k.find_spec", lambda name: None)
    with pytest.raises(InputError, match=re.escape("pip install --no-deps recbole==1.2.1")):
        MovieLens100K().load()


# --- csv: what it reads ----------------------------------------------------------------------------------------------


def test_ids_stay_text_and_rows_point_into_sorted_tables() -> None:
    data = load("user_id,item_id,rating\n007,b,1\n7,a,2\n")
    assert data.users["user_id"].to_list() == ["007", "7"]
    assert data.items["item_id"].to_list() == ["a", "b"]
    assert data.interactions.to_dict(as_series=False) == {"user": [0, 1], "item": [1, 0], "rating": [1.0, 2.0]}
    assert [str(dtype) for dtype in data.interactions.dtypes] == ["Int32", "Int32", "Float32"]


def test_columns_maps_our_names_to_the_files() -> None:
    data = load(
        "who;what;stars;when\nx;y;4;100\n",
        columns={"user_id": "who", "item_id": "what", "rating": "stars", "timestamp": "when"},
        separator=";",
    )
    assert data.interactions.row(0) == (0, 0, 4.0, 100.0)


def test_items_and_users_bring_features_and_may_be_incomplete() -> None:
    Path("items.csv").write_text('item_id,name,price\nb,"Milk, whole",1.5\nz,never bought,\n')
    Path("users.tsv").write_text("user_id\tzip\nx\t05146\n")
    data = load("user_id,item_id\nx,a\ny,b\n", items="items.csv", users="users.tsv", columns={"title": "name"})
    assert data.items.to_dict(as_series=False) == {
        "item_id": ["a", "b", "z"],
        "title": [None, "Milk, whole", "never bought"],
        "price": [None, 1.5, None],
    }
    assert data.users.to_dict(as_series=False) == {"user_id": ["x", "y"], "zip": ["05146", None]}


@pytest.mark.parametrize(
    "dates",
    [
        ("86400", "1"),
        ("1970-01-02", "1970-01-01 00:00:01"),
        ("1970-01-02T00:00:00Z", "1970-01-01T00:00:01Z"),
        ("1970-01-02 02:00:00+02:00", "1970-01-01 02:00:01+02:00"),
    ],
)
def test_timestamps_are_numbers_or_dates_in_utc(dates: tuple[str, str]) -> None:
    if len(dates[0]) != len(dates[1]) and "-" in dates[0]:
        dates = (dates[0] + " 00:00:00", dates[1])  # one form a file
    data = load(f"user_id,item_id,timestamp\na,b,{dates[0]}\na,c,{dates[1]}\n")
    assert data.interactions["timestamp"].to_list() == [86400.0, 1.0]


def test_gzip_tsv_and_parquet_give_what_csv_gives() -> None:
    raw = frame(50)
    raw.write_csv("a.csv")
    Path("a.csv.gz").write_bytes(gzip.compress(Path("a.csv").read_bytes()))
    raw.write_csv("a.tsv", separator="\t")
    raw.write_parquet("a.parquet")
    prints = {Csv(interactions=Path(name)).load().fingerprint() for name in ("a.csv", "a.csv.gz", "a.tsv", "a.parquet")}
    assert len(prints) == 1


def test_parquet_dates_and_whole_number_ids() -> None:
    pl.DataFrame({"user_id": [10, 9], "item_id": [1, 1], "timestamp": [datetime(1970, 1, 2)] * 2}).write_parquet(
        "a.parquet"
    )
    data = Csv(interactions=Path("a.parquet")).load()
    assert data.users["user_id"].to_list() == ["10", "9"]
    assert data.interactions["user"].to_list() == [0, 1]
    assert data.interactions["timestamp"].to_list() == [86400.0] * 2


def test_a_byte_order_mark_and_windows_line_ends_are_read() -> None:
    assert load(b"\xef\xbb\xbfuser_id,item_id,rating\r\na,b,5\r\n").interactions["rating"].to_list() == [5.0]


def test_three_files_are_the_predefined_parts() -> None:
    for part in ("train", "valid", "test"):
        Path(f"{part}.csv").write_text(f"user_id,item_id\n{part},a\n")
    data = Csv(train=Path("train.csv"), valid=Path("valid.csv"), test=Path("test.csv"), name="mine").load()
    assert data.name == "mine"
    assert data.interactions["part"].cast(pl.String).to_list() == ["train", "valid", "test"]


def test_a_part_column_is_read() -> None:
    data = load("user_id,item_id,fold\na,b,test\na,c,train\n", columns={"part": "fold"})
    assert data.interactions["part"].cast(pl.String).to_list() == ["test", "train"]


def test_the_order_of_rows_in_any_file_does_not_matter() -> None:
    raw = frame(100)
    items = pl.DataFrame({"item_id": [f"i{n}" for n in range(40)], "title": [f"t{n}" for n in range(40)]})
    graph = pl.DataFrame({"head": ["a", "b"], "relation": ["r", "s"], "tail": ["c", "d"]})
    one = canonical("x", raw, items, graph=graph)
    two = canonical("x", shuffled(raw, 1), shuffled(items, 2), graph=graph.reverse())
    assert one.fingerprint() == two.fingerprint()
    assert one.fingerprint() != canonical("x", raw[1:], items, graph=graph).fingerprint()


# --- csv: what it says -----------------------------------------------------------------------------------------------


def test_a_missing_file_names_the_most_similar_one() -> None:
    Path("ratings.csv").write_text("")
    with pytest.raises(InputError) as raised:
        Csv(interactions=Path("rating.csv")).load()
    assert str(raised.value) == "rating.csv: no such file; did you mean 'ratings.csv'?"


def test_a_missing_folder_is_said() -> None:
    with pytest.raises(InputError) as raised:
        Csv(interactions=Path("data/log.csv")).load()
    assert str(raised.value) == "data/log.csv: no such file (there is no folder data)"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "empty, expected a line of column names"),
        ("user_id,item_id\n", "no interactions"),
        ("user,item_id\na,b\n", "no column 'user_id'; did you mean 'user'?"),
        ("user_id,item_id,item_id\na,b,c\n", "line 1: column 'item_id' stands there twice"),
        ("user_id,item_id\na,b\n,c\n", "line 3, column 'user_id': found None, expected an id"),
        ('user_id,item_id\na,""\n', "line 2, column 'item_id': found '', expected an id"),
        ("user_id,item_id,rating\na,b,1\na,c,good\n", "line 3, column 'rating': found 'good', expected a number"),
        ("user_id,item_id,rating\na,b,\n", "line 2, column 'rating': found None, expected a finite number"),
        ("user_id,item_id,rating\na,b,nan\n", "line 2, column 'rating': found nan, expected a finite number"),
        ("user_id,item_id,rating\na,b,inf\n", "line 2, column 'rating': found inf, expected a finite number"),
        ("user_id,item_id,timestamp\na,b,NaN\n", "line 2, column 'timestamp': found nan, expected a finite number"),
        ("user_id,item_id,timestamp\na,b,-inf\n", "line 2, column 'timestamp': found -inf, expected a finite number"),
        (
            "user_id,item_id,timestamp\na,b,1999-12-31\na,c,yesterday\n",
            "line 3, column 'timestamp': found 'yesterday', expected a number, or a date as 2024-12-31T23:59:59",
        ),
        (
            "user_id,item_id,part\na,b,dev\n",
            "line 2, column 'part': found 'dev', expected one of train, valid, test, known",
        ),
        ("user_id,item_id\na,b\nc,d,e\n", "line 3: found 3 fields, expected 2 as in line 1"),
        ('user_id,item_id\na,b\n"c,d\n', "line 3: unexpected end of data; is a quote left open?"),
        (b"user_id,item_id\na,b\nc,\xff\n", "line 3, byte 22: not UTF-8, expected UTF-8 text"),
        (b"user_id,item\xe9\na,b\n", "line 1, byte 12: not UTF-8, expected UTF-8 text"),
    ],
)  # fmt: skip
def test_bad_csv(text: str | bytes, expected: str) -> None:
    says(text, f"log.csv: {expected}")


def test_not_utf8_far_into_a_long_file() -> None:
    head = b"user_id,item_id\n" + b"user,\xc3\xa9t\n" * 700_000
    says(head + b"a,\xff\n", f"log.csv: line 700002, byte {len(head) + 2}: not UTF-8, expected UTF-8 text")


def test_a_line_with_too_many_fields_is_found_where_only_some_columns_are_read() -> None:
    says("user_id,text,item_id\na,fine,x\na,one, two,x\n", "log.csv: line 3: found 4 fields, expected 3 as in line 1")


def test_a_mapped_column_is_named_as_in_the_file() -> None:
    says("u,item_id,stars\na,b,x\n", "log.csv: line 2, column 'stars': found 'x', expected a number",
         columns={"user_id": "u", "rating": "stars"})  # fmt: skip
    says("u,item_id,stars\na,b,1\n", "log.csv: no column 'star'; did you mean 'stars'?",
         columns={"user_id": "u", "rating": "star"})  # fmt: skip


def test_an_item_twice_in_the_items() -> None:
    Path("items.csv").write_text("item_id,title\na,A\nb,B\na,C\n")
    says(
        "user_id,item_id\nx,a\n",
        "items.csv: line 4, column 'item_id': found 'a', expected each id once",
        items="items.csv",
    )


@pytest.mark.parametrize("damage", ["nonsense", "empty", "cut", "flipped"])
def test_a_damaged_parquet_file_is_one_line(damage: str) -> None:
    pl.DataFrame({"user_id": range(50_000), "item_id": range(50_000)}).write_parquet("log.parquet")
    good = Path("log.parquet").read_bytes()
    flipped = bytearray(good)
    flipped[-300:-8] = bytes(255 - byte for byte in good[-300:-8])  # the list of columns
    bad = {"nonsense": b"PAR1 nonsense", "empty": b"", "cut": good[:9000], "flipped": bytes(flipped)}[damage]
    with pytest.raises(InputError, match=r"^log\.parquet: cannot be read as parquet: .+$") as raised:
        load(bad, "log.parquet")
    assert "\n" not in str(raised.value)


def test_a_damaged_gzip_file_is_one_line() -> None:
    with pytest.raises(InputError, match=r"^log\.csv\.gz: cannot be read as a text table: .+$"):
        load(gzip.compress(b"user_id,item_id\na,b\n" * 100)[:-20], "log.csv.gz")


@pytest.mark.parametrize("dtype", [pl.Int8, pl.UInt8, pl.Int64, pl.UInt64, pl.Int128, pl.String, pl.Categorical])
@pytest.mark.parametrize("ids", [(-128, 127, -128), (0, 255, 0), (2**63 - 1, 0, 2**63 - 1), (2**64 - 1, 7, 2**64 - 1)])
def test_whole_number_ids_of_any_width_are_their_text(dtype: type[pl.DataType], ids: tuple[int, ...]) -> None:
    texts = [str(number) for number in ids]
    try:
        column = pl.Series(ids, dtype=pl.Int128).cast(pl.String).cast(dtype)
    except pl.exceptions.PolarsError:
        pytest.skip("does not fit")
    data = canonical("x", pl.DataFrame({"user_id": column, "item_id": ["a", "b", "c"]}))
    assert data.users["user_id"].to_list() == sorted(set(texts))
    assert data.users["user_id"].gather(data.interactions["user"]).to_list() == texts


def test_fractional_ids_are_refused() -> None:
    pl.DataFrame({"user_id": [1.0], "item_id": [2]}).write_parquet("a.parquet")
    with pytest.raises(InputError) as raised:
        Csv(interactions=Path("a.parquet")).load()
    assert str(raised.value) == "a.parquet: column 'user_id': found type Float64, expected text or whole numbers"


def test_an_error_in_one_of_three_parts_names_its_file() -> None:
    for part in ("train", "valid", "test"):
        Path(f"{part}.csv").write_text("user_id,item_id,rating\na,b,1\n")
    Path("valid.csv").write_text("user_id,item_id,rating\na,b,inf\n")
    with pytest.raises(InputError, match=r"^valid\.csv: line 2, column 'rating': found inf"):
        Csv(train=Path("train.csv"), valid=Path("valid.csv"), test=Path("test.csv")).load()


def test_files_are_given_one_way() -> None:
    for settings in ({}, {"interactions": "a", "train": "b"}, {"train": "a", "test": "b"}):
        with pytest.raises(ValidationError, match="give either 'interactions', or all of"):
            Csv.model_validate(settings)


# --- recbole-atomic --------------------------------------------------------------------------------------------------


def atomic(folder: str = "tiny") -> Path:
    path = Path(folder)
    path.mkdir()
    (path / "tiny.inter").write_text(
        "user_id:token\titem_id:token\tlabel:float\ttimestamp:float\nu\ta\t1\t5\nu\tb\t0\t6\n"
    )
    (path / "tiny.item").write_text(
        'item_id:token\tclass:token_seq\tname:token_seq\tprice:float\na\tnew big\tThe "A"\t2.5\n'
    )
    return path


def test_atomic_files() -> None:
    data = RecBoleAtomic(folder=atomic(), rating="label").load()
    assert data.name == "tiny"
    assert data.interactions["rating"].to_list() == [1.0, 0.0]
    assert data.items.to_dicts()[0] == {"item_id": "a", "title": 'The "A"', "class": "new, big", "price": 2.5}


def test_a_label_is_no_rating_unless_said() -> None:
    assert not RecBoleAtomic(folder=atomic()).load().has_rating


@needs_recbole
def test_movielens_as_atomic_files() -> None:
    folder = MovieLens100K().files()[0].parent
    data = RecBoleAtomic(folder=folder).load()
    assert data.interactions.equals(MovieLens100K().load().interactions)
    assert "title" in data.items.columns
    assert data.graph is not None


def test_bad_atomic_files() -> None:
    folder = atomic()
    with pytest.raises(InputError) as raised:
        RecBoleAtomic(folder=folder, rating="lable").load()
    assert str(raised.value) == "tiny/tiny.inter: no column 'lable'; did you mean 'label'?"
    with pytest.raises(InputError) as raised:
        RecBoleAtomic(folder=folder, name="tinny").load()
    assert str(raised.value) == "tiny/tinny.inter: no such file; did you mean 'tiny.inter'?"
    (folder / "tiny.inter").write_text("user_id:token\titem_id:tokn\nu\ta\n")
    with pytest.raises(InputError) as raised:
        RecBoleAtomic(folder=folder).load()
    assert str(raised.value) == (
        "tiny/tiny.inter: line 1: found 'item_id:tokn', expected a column as 'name:type', type one of "
        "token, token_seq, float, float_seq; did you mean 'token'?"
    )
