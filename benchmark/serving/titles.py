"""Titles: what a person types -> the item that is meant, with the nearest ones where that is not sure."""

from __future__ import annotations

import polars as pl
from rapidfuzz import fuzz, process, utils

from benchmark.data.schema import ITEM_ID, TITLE
from benchmark.data.text import item_texts
from benchmark.errors import InputError

SURE = 85.0  # of 100: a slip or a missing year is forgiven, another title is not


class Titles:
    """The names of a catalogue's items, found in spite of slips, missing years and articles.

    Args:
        items: row i describes item i; without titles, items go by their ids.
    """

    def __init__(self, items: pl.DataFrame) -> None:
        self.ids = items[ITEM_ID].cast(pl.String).to_list()
        named = items[TITLE].cast(pl.String).to_list() if TITLE in items.columns else [None] * items.height
        self.names = [name or item_id for name, item_id in zip(named, self.ids, strict=True)]
        try:
            self.texts = item_texts(items)
        except InputError:
            self.texts = list(self.names)
        self._plain = [utils.default_process(name) for name in self.names]
        self._by_id = {item_id: i for i, item_id in enumerate(self.ids)}

    def __len__(self) -> int:
        return len(self.names)

    def find(self, text: str) -> int:
        """Return the item that ``text`` names: by its id or title as they stand, else the title most like it.

        Raises:
            InputError: no title is like it; the nearest ones are named.
        """
        if text in self._by_id:
            return self._by_id[text]
        wanted = utils.default_process(text)
        if wanted in self._plain:
            return self._plain.index(wanted)
        near = process.extract(wanted, self._plain, scorer=_likeness, limit=3) if wanted else []
        if near and near[0][1] >= SURE:
            return near[0][2]
        names = "; ".join(f"'{self.names[i]}'" for _, _, i in near)
        raise InputError(f"no item is called '{text}'" + (f"; the nearest are {names}" if names else ""))


def _likeness(wanted: str, name: str, **options: object) -> float:
    """Return 0 to 100: how alike two titles are, where one may lack what stands at the other's end (a year)."""
    same = fuzz.ratio(wanted, name)
    shorter = min(len(wanted), len(name))
    # a short text is a part of many titles; as much of a title must be there as half of its words
    part = fuzz.partial_ratio(wanted, name) if 2 * shorter >= len(name) and shorter > 3 else 0.0
    words = fuzz.token_sort_ratio(wanted, name)  # "Matrix, The" for "The Matrix"
    return max(same, 0.97 * part, 0.98 * words)
