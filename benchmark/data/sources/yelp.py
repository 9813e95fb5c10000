"""Source yelp: reviews of businesses, from the JSON lines of the Yelp Open Dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from benchmark.data.schema import ITEM_ID, RATING, TIMESTAMP, TITLE, USER_ID, Dataset
from benchmark.data.sources.canonical import canonical
from benchmark.data.sources.downloads import Download, Downloaded, Pack, locate
from benchmark.data.sources.json_lines import read_json_lines
from benchmark.data.sources.raw import Raw
from benchmark.data.sources.texts import readable

REVIEWS, BUSINESSES = "yelp_academic_dataset_review.json", "yelp_academic_dataset_business.json"
DOWNLOAD = Download(
    "yelp",
    "yelp",
    f"and unpack the JSON archive, which holds {REVIEWS} and {BUSINESSES},",
    "https://business.yelp.com/data/resources/open-dataset/",
    "Yelp Dataset User Agreement: academic, not commercial, not to be passed on",
)


class Yelp(Downloaded):
    """Reviews with 1 to 5 stars and their time (seconds, the file's dates taken as UTC).

    Items have ``title`` (the business's name), ``city``, ``state`` and ``categories``.
    """

    source: Literal["yelp"] = "yelp"

    def _places(self) -> dict[str, Path | Raw]:
        packs = (Pack((REVIEWS, BUSINESSES)), Pack((REVIEWS + ".gz", BUSINESSES + ".gz")))
        return locate(DOWNLOAD, self.folder, *packs)

    def load(self) -> Dataset:
        """Read and check the files.

        Raises:
            InputError: a file, key or value that cannot be used, in one line.
        """
        reviews, businesses = self.files()
        columns = {USER_ID: "user_id", ITEM_ID: "business_id", RATING: "stars", TIMESTAMP: "date"}
        rows, origin = read_json_lines(reviews, columns)
        about = {ITEM_ID: "business_id", TITLE: "name"} | {name: name for name in ("city", "state", "categories")}
        items, of_items = read_json_lines(businesses, about)
        items = items.with_columns(readable(items[name]) for name in about if name != ITEM_ID)
        return canonical("yelp", rows, items, origins={"interactions": origin, "items": of_items})
