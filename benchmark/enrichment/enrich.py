"""Puts written texts into the tables of items and users, asks for what is not kept yet, and counts what it cost."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl
from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from benchmark.data.schema import ITEM_ID, USER_ID, Dataset, SplitData, Step, update_digest
from benchmark.enrichment.cache import Answer, TextCache, key_of
from benchmark.enrichment.prompts import check_fields, prompts_of
from benchmark.enrichment.writers import Writer, writer_of
from benchmark.errors import InputError
from benchmark.experiment.settings import Enrichment

_LOCK = "texts.lock"


@dataclass(frozen=True)
class Enriched:
    """Data with written columns.

    Attributes:
        dataset: with a step for each column, whose note says what it cost.
        split: with the columns in ``items`` and ``users``.
        fingerprint: of the data set and the written texts.
    """

    dataset: Dataset
    split: SplitData
    fingerprint: str


def enrich(
    columns: Mapping[str, Enrichment],
    dataset: Dataset,
    split: SplitData,
    folder: Path,
    console: Console | None = None,
    write: bool = True,
) -> Enriched:
    """Return the data with the columns, each of which may read those before it.

    A text is looked for among those that are kept and asked for once, whatever happens meanwhile: a killed command goes
    on, and lost are only the requests under way. One process writes at a time, the others wait and take what it kept.

    Args:
        columns: what is written, by the name of the column.
        dataset: what was split.
        split: its parts.
        folder: where texts are kept.
        console: for the progress and what was paid.
        write: False asks for nothing.

    Raises:
        InputError: an unknown field, a column that is there already, a writer that fails (it says how many texts are
            kept), a column of empty texts alone, or texts that are missing although nothing is to be written.
    """
    writers = _check(columns, split)
    cache, console = TextCache(folder), console or Console(quiet=True)
    unchecked = list(columns)
    missing: dict[str, int] = {}
    steps: list[Step] = []
    for name, settings in columns.items():
        with _about(name):
            prompts = prompts_of(settings, split)
            identity = writers[name].identity()
            keys = {prompt: key_of(identity, prompt) for prompt in prompts if prompt}
            kept = cache.get(keys.values())
        before = set(kept)
        if len(kept) < len(keys) and not write:
            missing[name] = len(keys) - len(kept)
        elif len(kept) < len(keys):
            while unchecked:  # all that may have to write, before the first does
                with _about(later := unchecked.pop(0)):
                    writers[later].check()
            with _about(name):
                kept = _written(name, writers[name], keys, cache, folder, console)
        if name in unchecked:
            unchecked.remove(name)
        if kept and len(kept) == len(keys) and not any(answer.text for answer in kept.values()):
            raise InputError(f"dataset.enrich.{name}: {_nothing(settings, kept.values())}")
        found = [kept.get(keys[prompt]) if prompt else None for prompt in prompts]
        texts = pl.Series(name, [(one.text or None) if one else None for one in found], dtype=pl.String)
        table = getattr(split, settings.of).with_columns(texts)
        split = replace(split, **{settings.of: table})
        note = _note(settings, kept, before)
        if len(before) < len(kept):
            console.print(f"{name}: {note}", highlight=False)
        last = dataset.steps[-1] if dataset.steps else Step("", 0, 0, 0)
        steps.append(replace(last, name=f"enrich {name}", note=note))
    if missing:
        counts = ", ".join(f"{name} {n:,}" for name, n in missing.items())
        raise InputError(
            f"dataset.enrich: texts are still to be written ({counts}), and this command writes none: "
            "levelfield prepare and levelfield run do"
        )
    dataset = replace(dataset, steps=(*dataset.steps, *steps))
    return Enriched(dataset, split, _fingerprint(dataset, split, columns))


@contextmanager
def _about(name: str) -> Iterator[None]:
    """Say of an error which column it is about."""
    try:
        yield
    except InputError as error:
        raise InputError(f"dataset.enrich.{name}: {error}") from None


def _check(columns: Mapping[str, Enrichment], split: SplitData) -> dict[str, Writer]:
    """Check what every column reads, before the first text is paid; return who writes it."""
    writers: dict[str, Writer] = {}
    there = {"items": split.items.columns, "users": split.users.columns}
    for name, settings in columns.items():
        mine = there[settings.of]
        if name in mine:
            raise InputError(f"dataset.enrich.{name}: the table of {settings.of} has such a column; take another name")
        try:
            check_fields(settings, mine, there["items"])
        except InputError as error:
            raise InputError(f"dataset.enrich.{name}.{error}") from None
        there[settings.of] = [*mine, name]
        with _about(name):
            writers[name] = writer_of(settings)
    return writers


def _written(
    name: str, writer: Writer, keys: Mapping[str, str], cache: TextCache, folder: Path, console: Console
) -> dict[str, Answer]:
    """Return the answers to all prompts, by key; those that are not kept are asked for, and kept as they come."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / _LOCK)
        lock.acquire()
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); choose another --runs folder") from None
    bar = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        kept = cache.get(keys.values())  # another process may have written meanwhile
        asked = [prompt for prompt, key in keys.items() if key not in kept]
        with Progress(*bar, console=console, transient=True) as progress:
            task = progress.add_task(f"writing {name}", total=len(keys), completed=len(kept))
            for place, answer in writer.write(asked):
                key = keys[asked[place]]
                cache.put(key, answer)
                kept[key] = answer
                progress.advance(task)
    except InputError as error:
        n = len(cache.get(keys.values()))
        raise InputError(
            f"{error}; {n:,} of {len(keys):,} texts are kept, and the same command goes on from there"
        ) from None
    finally:
        lock.release()
    return kept


def _note(settings: Enrichment, kept: Mapping[str, Answer], before: set[str]) -> str:
    """Return what the texts of a column cost in all, how much of it now, and how many came to nothing."""
    new = [answer for key, answer in kept.items() if key not in before]
    who = settings.rewrite or settings.model
    now = f"; of these now: {len(new):,}{_spent(settings, new) if new else ''}"
    empty = sum(not answer.text for answer in kept.values())
    faults = [f"empty: {empty:,}" if empty else "", _cut(settings, kept.values())]
    told = "".join(f"; {fault}" for fault in faults if fault)
    return f"{len(kept):,} texts by {who}{_spent(settings, kept.values())}{now}{told}"


def _nothing(settings: Enrichment, answers: Collection[Answer]) -> str:
    """Return what is said of a column that holds no text at all, although all were asked for."""
    found = f"all {len(answers):,} texts by {settings.rewrite or settings.model} are empty"
    if settings.rewrite is not None:
        return f"{found}, expected some words"
    cut = _cut(settings, answers)
    told = f" ({cut})" if cut else ""
    return f"{found}{told}, expected some words; they are kept, and another max_tokens, prompt or seed asks anew"


def _cut(settings: Enrichment, answers: Collection[Answer]) -> str:
    """Return how many answers end where no more may be said, "" where none does."""
    n = sum(answer.cut for answer in answers)
    limit = "the endpoint's limit" if settings.max_tokens is None else f"max_tokens {settings.max_tokens:,}"
    return f"cut off at {limit}: {n:,}" if n else ""


def _spent(settings: Enrichment, answers: Collection[Answer]) -> str:
    """Return what answers of a model took: nothing where a function rewrote."""
    if settings.rewrite is not None:
        return ""
    read, said = sum(a.tokens_in for a in answers), sum(a.tokens_out for a in answers)
    price = settings.price
    cost = "" if price is None else f", cost {(read * price.input + said * price.output) / 1e6:.6g}"
    return f", {read:,} tokens in, {said:,} out{cost}"


def _fingerprint(dataset: Dataset, split: SplitData, columns: Mapping[str, Enrichment]) -> str:
    """Return the SHA-256 of the data set and of the written columns, whatever the order of rows."""
    digest = hashlib.sha256(dataset.fingerprint().encode())
    for of, key in (("items", ITEM_ID), ("users", USER_ID)):
        names = [name for name, settings in columns.items() if settings.of == of]
        if names:
            digest.update(of.encode())
            update_digest(digest, getattr(split, of).select(key, *names).sort(key))
    return digest.hexdigest()
