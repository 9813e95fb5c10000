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
        history: titles as the catalogue has them, oldest first.
        query: what is asked for, or None.
    """

    def __init__(self, titles: Titles) -> None:
        self.titles = titles
        self.history: list[str] = []
        self.query: str | None = None

    def take(self, line: str) -> None:
        """Read a line.

        Raises:
            InputError: no such title, or it was not named before.
        """
        line = line.strip()
        if line == "new":
            self.history, self.query = [], None
        elif line.startswith("?"):
            self.query = line[1:].strip() or None
        elif line.startswith("- "):
            name = self._name(line[2:].strip())
            if name not in self.history:
                raise InputError(f"'{name}' was not named before")
            self.history.remove(name)
        elif line:
            name = self._name(line)
            self.history = [*(other for other in self.history if other != name), name]

    def _name(self, text: str) -> str:
        return self.titles.names[self.titles.find(text)]
