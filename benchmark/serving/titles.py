"""Titles: what a person types -> the item that is meant, with the nearest ones where that is not sure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl
from rapidfuzz import fuzz, process, utils

from benchmark.data.schema import ITEM_ID, TITLE
from benchmark.data.text import column_texts, item_texts
from benchmark.errors import InputError

SURE = 85.0  # of 100: a slip or a missing year is forgiven, another title is not
SHOWN = 3  # other items of a name that are named
SHORT = 40  # letters of what tells items of one name apart
ARTICLES = ("the", "a", "an")
YEAR = re.compile(r"(1[89]|20)\d\d")


@dataclass(frozen=True)
class Understood:
    """What a text was taken for.

    Attributes:
        item: its row.
        note: one line, where other items are called so, words are left out or a given year is not known of it.
    """

    item: int
    note: str | None = None


class Titles:
    """The names of a catalogue's items, found in spite of slips, missing years and articles.

    Items of one name are told apart by what follows the name: a year, or what another column says.

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
        self._items = items
        self._plain = [_plain(name) for name in self.names]
        self._by_id = {item_id: i for i, item_id in enumerate(self.ids)}
        self._of_name: dict[str, list[int]] = {}
        for i, name in enumerate(self._plain):
            self._of_name.setdefault(name, []).append(i)

    def __len__(self) -> int:
        return len(self.names)

    def find(self, text: str) -> int:
        """Return the item that ``text`` names, see ``understand``."""
        return self.understand(text).item

    def understand(self, text: str, among: Sequence[int] = ()) -> Understood:
        """Return the item that ``text`` names: by its id or title as they stand, else the title most like it.

        Args:
            text: what was typed.
            among: items that are meant rather than others of the same name.

        Raises:
            InputError: no title is like it; the nearest ones are named.
        """
        if text in self._by_id:
            return Understood(self._by_id[text])
        wanted = _plain(text)
        rows, unknown = self._of_name.get(wanted) or self._followed(wanted.split()), None
        if len(rows) == 1:
            return Understood(rows[0])
        if not rows:
            rows, unknown = self._alike(wanted)
        if rows:
            return self._chosen(text, [i for i in rows if i in among] or rows, unknown)
        near = process.extract(wanted, self._plain, scorer=_likeness, limit=3) if wanted else []
        names = "; ".join(f"'{self.names[i]}'" for _, _, i in near)
        raise InputError(f"no item is called '{text}'" + (f"; the nearest are {names}" if names else ""))

    def label(self, item: int) -> str:
        """Return an item's name; where others have it too, with what tells it apart."""
        same = self._of_name[self._plain[item]]
        if len(same) == 1:
            return self.names[item]
        for values in self._told(same):
            if len(set(values)) == len(same) and all(value and len(value) <= SHORT for value in values):
                return f"{self.names[item]} ({values[same.index(item)]})"
        return f"{self.names[item]} (item {self.ids[item]})"

    def _told(self, rows: Sequence[int]) -> list[list[str | None]]:
        """Return, column by column, what else is known of some items, the year first."""
        few = self._items[list(rows)]
        columns = sorted(
            (name for name in few.columns if name not in (ITEM_ID, TITLE)), key=lambda name: name != "year"
        )
        return [column_texts(few, name) for name in columns]

    def _of_which(self, rows: Sequence[int], value: str) -> list[int]:
        """Return those of the items of which a column says just this."""
        told = self._told(rows) if rows else []
        return [i for at, i in enumerate(rows) if any(_plain(values[at] or "") == value for values in told)]

    def _followed(self, words: Sequence[str]) -> list[int]:
        """Return the items whose name the first words are, and of which a column says what the others do."""
        for n in range(len(words) - 1, 0, -1):
            rows = self._of_which(self._of_name.get(" ".join(words[:n]), []), " ".join(words[n:]))
            if rows:
                return rows
        return []

    def _alike(self, wanted: str) -> tuple[list[int], str | None]:
        """Return the items whose titles are most like what is wanted, and the year in it that is not known of them."""
        *words, last = wanted.split() or [""]
        best = self._best(self._like(wanted), wanted)
        if not words or not YEAR.fullmatch(last):
            return best, None
        without = " ".join(words)
        like = self._like(without)
        rows = self._best(self._of_which(like, last), without) or [i for i in best if last in self._plain[i].split()]
        return (rows, None) if rows else (self._best(like, without) or best, last)

    def _like(self, wanted: str) -> list[int]:
        """Return the items whose titles are surely like what is wanted, the most like first."""
        near = process.extract(wanted, self._plain, scorer=_likeness, limit=None, score_cutoff=SURE) if wanted else []
        return [i for _, _, i in near]

    def _best(self, rows: Sequence[int], wanted: str) -> list[int]:
        """Return the items that are as like as the first."""
        likeness = [_likeness(wanted, self._plain[i]) for i in rows]
        return [i for i, value in zip(rows, likeness, strict=True) if value == likeness[0]]

    def _chosen(self, text: str, rows: Sequence[int], year: str | None) -> Understood:
        """Return the first of the items that may be meant, and what is to be said of it; ``year``: an unknown one."""
        unknown = f", of which {year} is not known" if year else ""
        first, *others = map(self.label, rows[: SHOWN + 1])
        if not others:
            sure = not year and _words(text) == _words(self.names[rows[0]])
            return Understood(rows[0], None if sure else f"'{text}' is taken for {first}{unknown}")
        more = f" and {len(rows) - SHOWN - 1} more" if len(rows) > SHOWN + 1 else ""
        also = f"there is also {'; '.join(others)}{more}"
        return Understood(rows[0], f"'{text}' may be {len(rows)} items{unknown}: taken for {first}; {also}")


def _plain(text: str) -> str:
    return " ".join(utils.default_process(text).split())


def _words(text: str) -> int:
    """Return how many words a title has, articles and years not counted."""
    return sum(word not in ARTICLES and not YEAR.fullmatch(word) for word in _plain(text).split())


def _likeness(wanted: str, name: str, **options: object) -> float:
    """Return 0 to 100: how alike two titles are, where one may lack what stands beside it in the other (a year)."""
    same = fuzz.ratio(wanted, name)
    shorter, longer = sorted((wanted, name), key=len)
    part = 0.0
    # a short text is a part of many titles; as much of a title must be there as half of it, and in whole words
    if 2 * len(shorter) >= len(longer) and len(shorter) > 3:
        words, n = longer.split(), len(shorter.split())
        parts = [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]
        part = max((fuzz.ratio(shorter, text) for text in parts), default=0.0)
    words_alike = fuzz.token_sort_ratio(wanted, name)  # "Matrix, The" for "The Matrix"
    return max(same, 0.97 * part, 0.98 * words_alike)
