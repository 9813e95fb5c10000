"""Source book-crossing: ratings of books, from the original dump or from its cleaned subset in plain CSV."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import polars as pl
from pydantic import Field

from benchmark.data.schema import ITEM_ID, RATING, TITLE, USER_ID, Dataset
from benchmark.data.sources.canonical import canonical, check_interactions
from benchmark.data.sources.downloads import Download, Downloaded, Pack, locate
from benchmark.data.sources.files import read_table
from benchmark.data.sources.raw import Raw
from benchmark.data.sources.texts import readable, whole

DOWNLOAD = Download(
    "book-crossing",
    "book-crossing",
    "BX-CSV-Dump.zip",
    "http://www2.informatik.uni-freiburg.de/~cziegler/BX/ or, where that no longer answers, a mirror of it",
    "for research, citing Ziegler et al., WWW 2005",
)
DUMP = ("BX-Book-Ratings.csv", "BX-Books.csv", "BX-Users.csv")
_ESCAPE = re.compile(rb"\\(.)", re.DOTALL)


class BookCrossing(Downloaded):
    """Ratings of books from 1 to 10, without times (Ziegler et al., WWW 2005).

    Items have ``title``, ``author``, ``year`` and ``publisher`` (``isbn`` in the subset; in the dump it is the id);
    users have ``age`` and ``location``. Books that only the dump's ratings name have no title.
    """

    source: Literal["book-crossing"] = "book-crossing"
    implicit: bool = Field(False, description="All that a user took up, rated or not (0 in the dump), without ratings.")

    def _places(self) -> dict[str, Path | Raw]:
        rows = "history.csv.gz" if self.implicit else "ratings.csv"
        packs = (Pack(DUMP, "BX-CSV-Dump.zip"), Pack((rows, "items.csv", "users.csv")))
        return locate(DOWNLOAD, self.folder, *packs)

    def load(self) -> Dataset:
        """Read and check the files.

        Raises:
            InputError: a file, column or value that cannot be used, in one line.
        """
        places = list(self._places().items())
        if places[0][0] == DUMP[0]:
            return self._dump([_utf8(place) for _, place in places])
        ratings, books, people = (place for _, place in places)
        columns = {USER_ID: USER_ID, ITEM_ID: ITEM_ID} | ({} if self.implicit else {RATING: "rating"})
        rows, origin = read_table(ratings, columns)
        about = {name: name for name in ("author", "year", "publisher", "isbn")}
        items, of_items = read_table(books, {ITEM_ID: ITEM_ID, TITLE: "title", **about})
        users, of_users = read_table(people, {USER_ID: USER_ID, "age": "age", "location": "location"})
        origins = {"interactions": origin, "items": of_items, "users": of_users}
        return canonical("book-crossing", rows, _typed(items, "year"), _typed(users, "age"), origins=origins)

    def _dump(self, places: list[Raw]) -> Dataset:
        columns = {USER_ID: "User-ID", ITEM_ID: "ISBN", RATING: "Book-Rating"}
        rows, origin = read_table(places[0], columns, ";")
        check_interactions(rows, origin)
        bad = ~rows[RATING].is_between(0, 10).fill_null(False)
        if bad.any():
            row = int(bad.arg_max() or 0)
            raise origin.error(row, RATING, rows[RATING][row], "a number from 0 to 10")
        origins = {"interactions": origin}
        rows = rows.drop(RATING) if self.implicit else rows.filter(pl.col(RATING) > 0)
        about = {
            "author": "Book-Author",
            "year": "Year-Of-Publication",
            "publisher": "Publisher",
            "_end": "Image-URL-L",
        }
        items, origins["items"] = read_table(places[1], {ITEM_ID: "ISBN", TITLE: "Book-Title", **about}, ";")
        users, origins["users"] = read_table(places[2], {USER_ID: "User-ID", "age": "Age", "location": "Location"}, ";")
        items = _typed(_parted(items), "year").with_columns(pl.when(pl.col("year") != 0).then("year").alias("year"))
        return canonical("book-crossing", rows, items, _typed(users, "age"), origins=origins)


def _utf8(place: Path | Raw) -> Raw:
    """Return the text of the dump: Latin-1, with a backslash before a quote where CSV doubles it."""
    path, member = (place.path, place.member) if isinstance(place, Raw) else (place, None)
    return Raw(path, member, "latin-1", _doubled)


def _doubled(text: bytes) -> bytes:
    return _ESCAPE.sub(lambda found: b'""' if found[1] == b'"' else found[1], text)


def _parted(books: pl.DataFrame) -> pl.DataFrame:
    """Return the books with title and author parted where the dump runs them together as ``title";author``.

    Such a row is one field short, and its author, year and publisher stand one field too far left.
    """
    run = pl.col("_end").is_null() & pl.col(TITLE).str.contains('";', literal=True)
    pieces = pl.col(TITLE).str.splitn('";', 2).struct
    return books.select(
        ITEM_ID,
        pl.when(run).then(pieces[0]).otherwise(TITLE).alias(TITLE),
        pl.when(run).then(pieces[1]).otherwise("author").alias("author"),
        pl.when(run).then("author").otherwise("year").alias("year"),
        pl.when(run).then("year").otherwise("publisher").alias("publisher"),
    )


def _typed(table: pl.DataFrame, number: str) -> pl.DataFrame:
    """Return the table with readable text, and ``number`` as whole numbers, null where it is none."""
    texts = [name for name in table.columns if name not in (ITEM_ID, USER_ID, number, "isbn")]
    return table.with_columns(*(readable(table[name]) for name in texts), whole(table[number]))
