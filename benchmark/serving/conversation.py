"""Conversation: lines that a person types -> a history and a query."""

from __future__ import annotations

from benchmark.errors import InputError
from benchmark.serving.titles import Titles

HELP = (
    "a title is something you liked; '? words' asks for something; '- title' takes one back; 'new' forgets all; 'quit'"
)


class Conversation:
    """What has been said so far.

    Attributes:
        items: rows of what is liked, oldest first.
        query: what is asked for, or None.
        note: what is to be said of how the last line was understood, or None.
    """

    def __init__(self, titles: Titles) -> None:
        self.titles = titles
        self.items: list[int] = []
        self.query: str | None = None
        self.note: str | None = None

    @property
    def history(self) -> list[str]:
        """Titles as the catalogue has them, oldest first."""
        return [self.titles.label(item) for item in self.items]

    @property
    def ids(self) -> list[str]:
        """Ids of the same items, by which each is found again whatever it is called."""
        return [self.titles.ids[item] for item in self.items]

    def take(self, line: str) -> None:
        """Read a line.

        Raises:
            InputError: no such title, or it was not named before.
        """
        line = line.strip()
        self.note = None
        if line == "new":
            self.items, self.query = [], None
        elif line.startswith("?"):
            self.query = line[1:].strip() or None
        elif line.startswith("- "):
            item = self.titles.understand(line[2:].strip(), self.items).item
            if item not in self.items:
                raise InputError(f"'{self.titles.label(item)}' was not named before")
            self.items.remove(item)
        elif line:
            found = self.titles.understand(line)
            self.note = found.note
            self.items = [*(other for other in self.items if other != found.item), found.item]
