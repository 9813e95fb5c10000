"""Source goodbooks-10k: six million ratings of the ten thousand books that were rated most."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from benchmark.data.schema import ITEM_ID, RATING, TITLE, USER_ID, Dataset
from benchmark.data.sources.canonical import canonical
from benchmark.data.sources.downloads import Download, Downloaded, Pack, locate
from benchmark.data.sources.files import read_table
from benchmark.data.sources.raw import Raw
from benchmark.data.sources.texts import readable, whole

DOWNLOAD = Download(
    "goodbooks-10k",
    "goodbooks-10k",
    "ratings.csv (69 MB) and books.csv",
    "https://github.com/zygmuntz/goodbooks-10k",
    "CC BY-SA 4.0",
)
YEAR = "original_publication_year"


class Goodbooks10K(Downloaded):
    """Ratings of books from 1 to 5 (Zajac, 2017), sorted by time, but without times: none are made up.

    Items have ``title``, ``authors`` and ``original_publication_year``, which is negative before Christ.
    """

    source: Literal["goodbooks-10k"] = "goodbooks-10k"

    def _places(self) -> dict[str, Path | Raw]:
        return locate(DOWNLOAD, self.folder, Pack(("ratings.csv", "books.csv")))

    def load(self) -> Dataset:
        """Read and check the files.

        Raises:
            InputError: a file, column or value that cannot be used, in one line.
        """
        places = self._places()
        columns = {USER_ID: "user_id", ITEM_ID: "book_id", RATING: "rating"}
        rows, origin = read_table(places["ratings.csv"], columns)
        about = {ITEM_ID: "book_id", TITLE: "title", "authors": "authors", YEAR: YEAR}
        books, of_books = read_table(places["books.csv"], about)
        books = books.with_columns(readable(books[TITLE]), readable(books["authors"]), whole(books[YEAR]))
        return canonical("goodbooks-10k", rows, books, origins={"interactions": origin, "items": of_books})
