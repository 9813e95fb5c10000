"""Recommendations for people: the list, what each item has to do with the history, and how long it took."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from benchmark.errors import InputError
from benchmark.serving.conversation import HELP, Conversation
from benchmark.serving.trained import Reason, Recommendations, TrainedModel

SHOWN = 8  # newest items of a history that are named


def show(model: TrainedModel, found: Recommendations, console: Console) -> None:
    """Print a list of recommendations, with reasons where there are any."""
    for note in found.notes:
        console.print(note, highlight=False, markup=False)
    earlier = len(found.history) - SHOWN
    before = f"{earlier} others; " if earlier > 0 else ""
    asked = [f"after {before}{'; '.join(found.history[-SHOWN:])}"] if found.history else []
    asked += [f"asked for '{found.query}'"] if found.query else []
    title = f"{model.spec.label} ({model.record.key[:8]}): {', '.join(asked)}"
    table = Table(title=title, title_justify="left", box=None, header_style="bold")
    table.add_column("")
    table.add_column("item", overflow="fold")
    table.add_column("score", justify="right")
    table.add_column("what is known of it", overflow="fold", style="dim")
    explained = bool(found.history)
    worded = any(item.asked for item in found.items)
    if worded:
        table.add_column("words asked for", overflow="fold")
    if explained:
        table.add_column("nearest in words", overflow="fold")
        table.add_column("counted most", overflow="fold")
    for place, item in enumerate(found.items, 1):
        text = item.text.removeprefix(item.title).lstrip(", ")
        row = [str(place), item.title, f"{item.score:.3f}", text, *([", ".join(item.asked)] if worded else [])]
        table.add_row(*row, *([_reason(item.nearest), _reason(item.counted)] if explained else []))
    console.print(table, highlight=False)
    if not found.reads_history:
        who = "anybody new" if found.user is None else f"{found.user}, whom it knows from training,"
        console.print(f"'{model.spec.label}' does not read the history: {who} is recommended this", highlight=False)
    took = ", ".join(f"{name} {1000 * s:.0f} ms" for name, s in found.seconds.items())
    console.print(f"{len(model.titles):,} items: {took}", style="dim", highlight=False)


def _tell(said: Conversation, console: Console) -> None:
    if said.note:
        console.print(said.note, highlight=False, markup=False)


def _reason(reason: Reason | None) -> str:
    return "" if reason is None else f"{reason.title} ({reason.value:.2f})"


def converse(
    model: TrainedModel, history: Sequence[str], query: str | None, k: int, user: str | None, console: Console
) -> None:
    """Read lines of a person until there are no more, and print a list after each.

    Raises:
        InputError: one of ``history`` is no title; what is typed later is answered instead.
    """
    said = Conversation(model.titles)
    said.query = query
    for title in history:
        said.take(title)
        _tell(said, console)
    console.print(HELP, style="dim", highlight=False)
    while True:
        try:
            line = console.input("> ").strip()
        except EOFError:
            return
        if line in ("quit", "exit", "q"):
            return
        try:
            said.take(line)
            _tell(said, console)
            if said.items or said.query or user:
                show(model, model.recommend(said.ids, said.query, k, user), console)
        except InputError as error:
            console.print(str(error), highlight=False)
