"""Source movielens: the rating files of GroupLens from 1M to 32M, unpacked or in the zip as it is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import polars as pl

from benchmark.data.schema import ITEM_ID, RATING, TIMESTAMP, TITLE, USER_ID, Dataset
from benchmark.data.sources.canonical import Origin, canonical
from benchmark.data.sources.downloads import Download, Downloaded, Pack, locate
from benchmark.data.sources.files import read_table
from benchmark.data.sources.raw import Raw

TERMS = "for research, not commercial, not to be passed on: its README"
# version -> folder inside the zip, what GroupLens says of the zip
VERSIONS = {
    "1m": ("ml-1m", "5,917,549 bytes, MD5 c4d9eecfca2ab87c1945afe126590906"),
    "10m": ("ml-10M100K", "65,566,137 bytes, MD5 ce571fd55effeba0271552578f2648bd"),
    "20m": ("ml-20m", "198,702,078 bytes, MD5 cd245b17a1ae2cc31bb14903e1204af3"),
    "25m": ("ml-25m", "261,978,986 bytes, MD5 6b51fb2759a8657d3bfcbfc42b592ada"),
    "32m": ("ml-32m", "238,950,008 bytes, MD5 d472be332d4daa821edc399621853b57"),
    "latest-small": ("ml-latest-small", "about 1 MB, changes over time"),
    "latest": ("ml-latest", "changes over time"),
}
# the files that are separated by "::" have no line of names
DAT = {
    "ratings": ("userId", "movieId", "rating", "timestamp"),
    "movies": ("movieId", "title", "genres"),
    "users": ("userId", "gender", "age", "occupation", "zip"),
}
AGES = {
    "1": "under 18",
    "18": "18-24",
    "25": "25-34",
    "35": "35-44",
    "45": "45-49",
    "50": "50-55",
    "56": "56+",
}
OCCUPATIONS = (
    *("other", "academic/educator", "artist", "clerical/admin", "college/grad student", "customer service"),
    *("doctor/health care", "executive/managerial", "farmer", "homemaker", "K-12 student", "lawyer", "programmer"),
    *("retired", "sales/marketing", "scientist", "self-employed", "technician/engineer", "tradesman/craftsman"),
    *("unemployed", "writer"),
)


class MovieLens(Downloaded):
    """Ratings of films on MovieLens (Harper and Konstan, ACM TiiS 2015), with their time.

    Items have ``title``, ``year`` (out of the title's parentheses) and ``genres``; users of ``1m`` have ``gender``,
    ``age`` (a range), ``occupation`` and ``zip_code``. 100K is the source ``movielens-100k``.
    """

    source: Literal["movielens"] = "movielens"
    version: Literal["1m", "10m", "20m", "25m", "32m", "latest-small", "latest"]

    @property
    def _dat(self) -> bool:
        return self.version in ("1m", "10m")

    def _places(self) -> dict[str, Path | Raw]:
        inside, said = VERSIONS[self.version]
        archive = f"ml-{self.version}.zip"
        address = f"https://files.grouplens.org/datasets/movielens/{archive}"
        tables = ("ratings", "movies", "users") if self.version == "1m" else ("ratings", "movies")
        names = tuple(f"{table}.{'dat' if self._dat else 'csv'}" for table in tables)
        download = Download(f"movielens {self.version}", "movielens", f"{archive} ({said})", address, TERMS)
        return locate(download, self.folder, Pack(names, archive, inside))

    def load(self) -> Dataset:
        """Read and check the files.

        Raises:
            InputError: a file, column or value that cannot be used, in one line.
        """
        places = {name.partition(".")[0]: place for name, place in self._places().items()}
        ids = {USER_ID: "userId", ITEM_ID: "movieId"}
        ratings, origin = self._table(places, "ratings", {**ids, RATING: "rating", TIMESTAMP: "timestamp"})
        films, of_films = self._table(places, "movies", {ITEM_ID: "movieId", TITLE: "title", "genres": "genres"})
        origins = {"interactions": origin, "items": of_films}
        people = None
        if "users" in places:
            columns = {name: name for name in ("gender", "age", "occupation")}
            raw, origins["users"] = self._table(places, "users", {USER_ID: "userId", **columns, "zip_code": "zip"})
            people = raw.with_columns(
                _meaning(raw, "age", AGES, origins["users"]),
                _meaning(raw, "occupation", {str(n): name for n, name in enumerate(OCCUPATIONS)}, origins["users"]),
            )
        return canonical(f"movielens-{self.version}", ratings, _films(films), people, origins=origins)

    def _table(self, places: dict[str, Path | Raw], name: str, columns: dict[str, str]) -> tuple[pl.DataFrame, Origin]:
        place = places[name]
        if not self._dat:
            return read_table(place, columns, ",")
        path, member = (place.path, place.member) if isinstance(place, Raw) else (place, None)
        text = Raw(path, member, "latin-1" if self.version == "1m" else "utf-8", _one_byte)
        return read_table(text, columns, "\x1f", quote=None, header=DAT[name])


def _one_byte(text: bytes) -> bytes:
    return text.replace(b"::", b"\x1f")


def _films(films: pl.DataFrame) -> pl.DataFrame:
    """Return the films with the year, or the first year of several, split off the title."""
    year = r"\s*\((\d{4})(?:[-–]\d{0,4})?\)\s*$"
    genres = pl.col("genres").str.replace_all("|", ", ", literal=True)
    return films.select(
        ITEM_ID,
        pl.col(TITLE).str.replace(year, "").str.strip_chars(),
        pl.col(TITLE).str.extract(year).cast(pl.Int64).alias("year"),
        pl.when(genres != "(no genres listed)").then(genres).alias("genres"),
    )


def _meaning(people: pl.DataFrame, column: str, meanings: dict[str, str], origin: Origin) -> pl.Series:
    """Return a column of codes as what they stand for; raises InputError for an unknown code."""
    known = people[column].is_in(list(meanings)).fill_null(False)
    if not known.all():
        row = int((~known).arg_max() or 0)
        raise origin.error(row, column, people[column][row], f"one of {', '.join(meanings)}")
    return people[column].replace_strict(meanings, return_dtype=pl.String)
