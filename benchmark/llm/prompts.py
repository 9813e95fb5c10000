"""Prompts: templates with named slots, put together from pieces that are tokenised once; pure functions."""

from __future__ import annotations

import heapq
import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator
from torch import Tensor

from benchmark.data.text import TokenTable, flat_index, offsets_of
from benchmark.errors import InputError, nearest

SLOTS = ("profile", "liked", "disliked", "history", "candidate")
_LISTS = ("liked", "disliked", "history")


class Prompt(BaseModel):
    """A prompt with named slots; each slot may stand at most once.

    Slots: ``{profile}`` of the user; ``{liked}``, ``{disliked}``, ``{history}`` (both) items of the history, oldest
    first; ``{candidate}`` item. Literal braces are doubled.

    Raises:
        InputError: an unknown or repeated slot, or a template that is no format string.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    template: str = Field(
        default="User: {profile}. Liked: {liked}. Disliked: {disliked}. Will the user like {candidate}?",
        description="Text with slots: {profile} {liked} {disliked} {history} {candidate}.",
    )
    separator: str = Field(default=", ", description="Stands between the items of a list.")
    no_profile: str = Field(default="unknown", description="Stands for the profile of a user of whom nothing is known.")
    no_items: str = Field(default="nothing", description="Stands for a list without items.")

    @field_validator("template")
    @classmethod
    def _known_slots(cls, template: str) -> str:
        slots = [text for kind, text in _parse(template) if kind == "slot"]
        for slot in slots:
            if slot not in SLOTS:
                raise InputError(f"template '{template}': unknown slot '{slot}'{nearest(slot, SLOTS)}")
            if slots.count(slot) > 1:
                raise InputError(f"template '{template}': slot '{slot}' stands more than once")
        return template

    @property
    def slots(self) -> tuple[str, ...]:
        return tuple(text for kind, text in _parse(self.template) if kind == "slot")

    def render(
        self,
        profile: str = "",
        history: Sequence[str] = (),
        liked: Sequence[bool] | None = None,
        candidate: str = "",
    ) -> str:
        """Return the text of one prompt, for display.

        Args:
            profile: of the user; "" becomes ``no_profile``.
            history: item texts, oldest first.
            liked: whether each was liked; None: all were.
            candidate: item text.
        """
        flags = [True] * len(history) if liked is None else liked
        chosen = {
            "liked": [text for text, flag in zip(history, flags, strict=True) if flag],
            "disliked": [text for text, flag in zip(history, flags, strict=True) if not flag],
            "history": list(history),
        }
        values = {name: self.separator.join(texts) or self.no_items for name, texts in chosen.items()}
        return self.template.format(profile=profile or self.no_profile, candidate=candidate, **values)


def _parse(template: str) -> list[tuple[str, str]]:
    """Return the parts of a template in order: ("words", text) and ("slot", name)."""
    parts: list[tuple[str, str]] = []
    try:
        for words, slot, form, conversion in string.Formatter().parse(template):
            if words:
                # doubled braces come as parts of their own
                if parts and parts[-1][0] == "words":
                    words = parts.pop()[1] + words
                parts.append(("words", words))
            if slot is not None:
                if form or conversion:
                    raise InputError(f"template '{template}': slot '{slot}' takes no format")
                parts.append(("slot", slot))
    except ValueError as error:
        raise InputError(f"template '{template}': {error}; double a brace that is meant literally") from error
    return parts


@dataclass(frozen=True)
class History:
    """Histories of B rows, flat: row b is ``items[offsets[b]:offsets[b + 1]]``, oldest first.

    Attributes:
        items: (H,) int64 item ids.
        offsets: (B + 1,) int64.
        liked: (H,) bool.
    """

    items: np.ndarray
    offsets: np.ndarray
    liked: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def from_padded(cls, items: np.ndarray, length: np.ndarray, liked: np.ndarray | None = None) -> History:
        """Flatten ``Batch.history`` (B, L), padded on the right; ``length`` (B,), ``liked`` (B, L) bool or None."""
        real = np.arange(items.shape[1]) < length[:, None]
        flags = np.ones(int(length.sum()), bool) if liked is None else liked[real]
        return cls(items[real].astype(np.int64, copy=False), offsets_of(length), flags)

    def take(self, rows: np.ndarray) -> History:
        """Return the histories of ``rows`` (m,), in that order; a user with C candidates is taken C times."""
        starts, lengths = self.offsets[:-1][rows], np.diff(self.offsets)[rows]
        index = flat_index(starts, lengths)
        return History(self.items[index], offsets_of(lengths), self.liked[index])


@dataclass(frozen=True)
class TokenBatch:
    """Token lists of B prompts: prompt b is ``tokens[offsets[b]:offsets[b + 1]]``, special tokens included.

    Attributes:
        tokens: (offsets[-1],) int32.
        offsets: (B + 1,) int64.
        dropped: (B,) int64, history items that had no room.
        pad_id: token that ``pad`` fills with.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    dropped: np.ndarray
    pad_id: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """(B,) int64."""
        return np.diff(self.offsets)

    def pad(self, rows: np.ndarray | None = None) -> tuple[Tensor, Tensor]:
        """Return ``input_ids`` and ``attention_mask`` (R, T) int64 of ``rows`` (all by default).

        T is the longest of these rows; padding stands on the right.
        """
        starts, lengths = self.offsets[:-1], self.lengths
        if rows is not None:
            starts, lengths = starts[rows], lengths[rows]
        width = int(lengths.max()) if len(lengths) else 0
        mask = np.arange(width) < lengths[:, None]
        ids = np.full(mask.shape, self.pad_id, np.int64)
        ids[mask] = self.tokens[flat_index(starts, lengths)]
        return torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64))


@dataclass(frozen=True)
class _Pieces:
    """Where the tokens of n pieces stand in the pool: (n,) starts and lengths."""

    start: np.ndarray
    length: np.ndarray


class PromptTokens:
    """A prompt's pieces, tokenised once: fixed words, item texts, user profiles, special tokens.

    White space at the end of fixed words belongs to the piece that follows, as tokenizers see it; so the joined pieces
    are the tokens of the whole text (where words do not melt into each other without white space between them). White
    space at the very end of a template is left out.

    Args:
        prompt: the template.
        tokenizer: a Hugging Face tokenizer with a pad token.
        items: text of each item.
        profiles: profile of each user, "" where nothing is known; not needed without ``{profile}``.
        cache: folder of the token cache, or None.

    Raises:
        InputError: the template has ``{profile}`` and there are no profiles.
    """

    def __init__(
        self,
        prompt: Prompt,
        tokenizer: Any,
        items: Sequence[str],
        profiles: Sequence[str] = (),
        cache: Path | str | None = None,
    ) -> None:
        if "profile" in prompt.slots and not profiles:
            raise InputError(f"template '{prompt.template}' has the slot 'profile', but there are no user profiles")
        self.prompt = prompt
        self.pad_id = int(tokenizer.pad_token_id)
        self._pool: list[np.ndarray] = []
        self._size = 0
        bos, eos = special_tokens(tokenizer)
        self.bos, self.eos = self._add(_table([bos])), self._add(_table([eos]))
        separator, between = _split_blank(prompt.separator)
        self.separator = self._words(separator, "", tokenizer)
        item_tables: dict[str, _Pieces] = {}
        self.parts: list[tuple[str, _Pieces]] = []
        self.empty: dict[str, _Pieces] = {}
        self.items: _Pieces | None = None
        lead: str | None = None
        for kind, text in _parse(prompt.template):
            if kind == "words":
                words, blank = _split_blank(text)
                if words:
                    self.parts.append(("words", self._words(words, lead, tokenizer)))
                    lead = blank
                else:
                    lead = (lead or "") + blank
                continue
            if text == "profile":
                known = [profile or prompt.no_profile for profile in profiles]
                pieces = self._add(TokenTable.build(known, tokenizer, lead, cache))
            else:
                # one table serves the candidate and the lists where the same blank stands before them
                before = between if text in _LISTS else lead
                key = "start" if before is None else f"after {before}"
                if key not in item_tables:
                    item_tables[key] = self._add(TokenTable.build(items, tokenizer, before, cache))
                pieces = item_tables[key]
                if text in _LISTS:
                    self.items = pieces
                    self.empty[text] = self._words(prompt.no_items, lead, tokenizer)
            self.parts.append((text, pieces))
            lead = ""
        self.pool = np.concatenate(self._pool) if self._pool else np.zeros(0, np.int32)
        del self._pool

    def _add(self, table: TokenTable) -> _Pieces:
        pieces = _Pieces(table.offsets[:-1] + self._size, table.lengths)
        self._pool.append(table.tokens)
        self._size += len(table.tokens)
        return pieces

    def _words(self, text: str, lead: str | None, tokenizer: Any) -> _Pieces:
        return self._add(TokenTable.build([text], tokenizer, lead))


def special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the tokens that the tokenizer itself puts before and after a text, e.g. ([CLS], [SEP]) or ([BOS], [])."""
    full = list(tokenizer("a")["input_ids"])
    bare = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    at = next(i for i in range(len(full) - len(bare) + 1) if full[i : i + len(bare)] == bare)
    return full[:at], full[at + len(bare) :]


def _table(rows: list[list[int]]) -> TokenTable:
    return TokenTable(
        np.array([token for row in rows for token in row], np.int32), offsets_of(np.array([len(row) for row in rows]))
    )


def _split_blank(text: str) -> tuple[str, str]:
    words = text.rstrip()
    return words, text[len(words) :]


def assemble(
    pieces: PromptTokens,
    max_length: int,
    candidate: np.ndarray | None = None,
    history: History | None = None,
    profile: np.ndarray | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``input_ids`` (B, T) int64, ``attention_mask`` (B, T) int64 and the number of dropped history items (B,).

    T <= ``max_length`` is the longest prompt of the batch; see ``flat_prompts`` for the arguments.
    """
    prompts = flat_prompts(pieces, max_length, candidate, history, profile)
    return (*prompts.pad(), torch.from_numpy(prompts.dropped))


def flat_prompts(
    pieces: PromptTokens,
    max_length: int,
    candidate: np.ndarray | None = None,
    history: History | None = None,
    profile: np.ndarray | None = None,
) -> TokenBatch:
    """Put the tokens of B prompts together; no tokenizer is called, and no loop runs over rows.

    Where a prompt has more than ``max_length`` tokens, its oldest history items are dropped, then the end of its
    profile is cut; the candidate and the fixed words never are.

    Args:
        pieces: the prompt's pieces.
        max_length: most tokens of a prompt, special tokens included.
        candidate: (B,) item ids, for ``{candidate}``.
        history: of B rows, for ``{liked}``, ``{disliked}``, ``{history}``.
        profile: (B,) user ids, for ``{profile}``.

    Raises:
        InputError: a slot's argument is missing, or candidate and fixed words alone exceed ``max_length`` tokens.
    """
    given = {"candidate": candidate, "profile": profile, **dict.fromkeys(_LISTS, history)}
    for slot in pieces.prompt.slots:
        if given[slot] is None:
            raise InputError(f"template '{pieces.prompt.template}': nothing was given for the slot '{slot}'")
    n = next((len(rows) for rows in (candidate, history, profile) if rows is not None), 1)

    fixed = np.full(n, int(pieces.bos.length[0] + pieces.eos.length[0]), np.int64)
    profile_length = np.zeros(n, np.int64)
    for name, table in pieces.parts:
        if name == "words":
            fixed += table.length[0]
        elif name == "candidate":
            fixed += table.length[candidate]
        elif name == "profile":
            profile_length = table.length[profile]
        else:
            fixed += pieces.empty[name].length[0]
    if n and int(fixed.max()) > max_length:
        row = int(fixed.argmax())
        item = "" if candidate is None else f" with candidate item {int(candidate[row])}"
        raise InputError(
            f"a prompt{item} needs {int(fixed[row])} tokens without profile and history, but max_length is "
            f"{max_length}: raise max_length or shorten the item text"
        )
    profile_length = np.minimum(profile_length, max_length - fixed)

    lists = [name for name in pieces.prompt.slots if name in _LISTS]
    kept, dropped = _fit(pieces, lists, history, max_length - fixed - profile_length)

    # every prompt is a row of segments (start in the pool, length); first their number, then their places
    counts = np.ones((n, len(pieces.parts) + 2), np.int64)
    for column, (name, _) in enumerate(pieces.parts, 1):
        if name in _LISTS:
            counts[:, column] = np.maximum(2 * np.bincount(kept[name].row, minlength=n) - 1, 1)
    first = offsets_of(counts.ravel())[:-1].reshape(counts.shape)
    start, length = np.zeros(int(counts.sum()), np.int64), np.zeros(int(counts.sum()), np.int64)
    start[first[:, 0]], length[first[:, 0]] = pieces.bos.start[0], pieces.bos.length[0]
    start[first[:, -1]], length[first[:, -1]] = pieces.eos.start[0], pieces.eos.length[0]
    for column, (name, table) in enumerate(pieces.parts, 1):
        at = first[:, column]
        if name == "words":
            start[at], length[at] = table.start[0], table.length[0]
        elif name == "candidate":
            start[at], length[at] = table.start[candidate], table.length[candidate]
        elif name == "profile":
            start[at], length[at] = table.start[profile], profile_length
        else:
            start[at], length[at] = pieces.empty[name].start[0], pieces.empty[name].length[0]
            chosen = kept[name]
            place = at[chosen.row] + 2 * chosen.rank
            start[place], length[place] = table.start[chosen.item], table.length[chosen.item]
            before = place[chosen.rank > 0] - 1
            start[before], length[before] = pieces.separator.start[0], pieces.separator.length[0]
    row_length = np.add.reduceat(length, first[:, 0]) if n else np.zeros(0, np.int64)
    return TokenBatch(pieces.pool[flat_index(start, length)], offsets_of(row_length), dropped, pieces.pad_id)


@dataclass(frozen=True)
class _Chosen:
    """Items of one list: the row each stands in, its place among the row's items (0 is the oldest), its id."""

    row: np.ndarray
    rank: np.ndarray
    item: np.ndarray


def _fit(
    pieces: PromptTokens, lists: Sequence[str], history: History | None, room: np.ndarray
) -> tuple[dict[str, _Chosen], np.ndarray]:
    """Choose the newest items of each history whose tokens fit into ``room`` (B,), and count those that do not."""
    dropped = np.zeros(len(room), np.int64)
    if history is None or not lists:
        return {}, dropped
    member = {name: _member(name, history.liked) for name in lists}
    used = np.flatnonzero(np.logical_or.reduce(list(member.values())))
    row = np.repeat(np.arange(len(room)), np.diff(history.offsets))[used]
    item = history.items[used]
    begins = offsets_of(np.bincount(row, minlength=len(room)))
    assert pieces.items is not None
    cost = np.zeros(len(used), np.int64)
    for name in lists:
        mine = member[name][used]
        newer = _count_after(mine, row, begins)
        # the newest item of a list takes the place of the words for an empty one; others bring a separator
        extra = np.where(newer == 0, -pieces.empty[name].length[0], pieces.separator.length[0])
        cost += np.where(mine, pieces.items.length[item] + extra, 0)
    # tokens of the k newest items, for every k; the largest k that fits wins
    total = _sum_from(cost, row, begins)
    index = np.arange(len(used))
    oldest = begins[1:].copy()
    fits = total <= room[row]
    np.minimum.at(oldest, row[fits], index[fits])
    keep = index >= oldest[row]
    dropped = np.bincount(row[~keep], minlength=len(room))
    chosen = {}
    for name in lists:
        mine = keep & member[name][used]
        rows = row[mine]
        ends = offsets_of(np.bincount(rows, minlength=len(room)))
        chosen[name] = _Chosen(rows, np.arange(len(rows)) - ends[rows], item[mine])
    return chosen, dropped


def _member(name: str, liked: np.ndarray) -> np.ndarray:
    """(H,) bool: the history items that belong to a list."""
    if name == "liked":
        return liked.astype(bool)
    return ~liked.astype(bool) if name == "disliked" else np.ones(len(liked), bool)


def _sum_from(values: np.ndarray, row: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """Return for each value the sum of it and the later values of its row."""
    before = offsets_of(values)
    return before[begins[1:]][row] - before[:-1]


def _count_after(flags: np.ndarray, row: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """Return for each value how many later flags of its row are set."""
    return _sum_from(flags.astype(np.int64), row, begins) - flags


def length_buckets(
    lengths: np.ndarray,
    batch_size: int | None = None,
    tokens_per_batch: int | None = None,
    seed: int | None = 0,
    max_waste: float = 0.05,
    chunk: int = 128,
) -> list[np.ndarray]:
    """Return batches of rows of near equal length, so that little padding is computed.

    Rows are shuffled, sorted by length within chunks of ``chunk`` batches, cut, and the batches are shuffled. Where the
    padding would exceed ``max_waste`` of all computed tokens (few rows, or a long tail), the batches with most
    padding are cut in two.

    Args:
        lengths: (n,) tokens of each row.
        batch_size: most rows of a batch; or
        tokens_per_batch: most tokens of a padded batch (a longer row is a batch by itself).
        seed: of the shuffles; the same seed gives the same batches. None: no shuffle, shortest batch first (scoring).
        max_waste: largest share of padding over all batches, 0 <= max_waste < 1.
        chunk: batches that are sorted together; more is less padding and less chance.

    Raises:
        InputError: not exactly one of ``batch_size`` and ``tokens_per_batch`` is given, or it is not positive.
    """
    size = batch_size if tokens_per_batch is None else tokens_per_batch
    if (batch_size is None) == (tokens_per_batch is None) or size is None or size < 1:
        raise InputError(
            f"length_buckets: expected batch_size or tokens_per_batch (>= 1), got {batch_size} and {tokens_per_batch}"
        )
    lengths = np.asarray(lengths)
    if not len(lengths):
        return []
    rng = np.random.default_rng(seed)
    order = np.arange(len(lengths)) if seed is None else rng.permutation(len(lengths))
    rows_per_batch = batch_size or max(1, int(size // max(1.0, float(lengths.mean()))))
    step = len(lengths) if seed is None else chunk * rows_per_batch
    batches: list[np.ndarray] = []
    for begin in range(0, len(order), step):
        part = order[begin : begin + step]
        part = part[np.argsort(lengths[part], kind="stable")]
        if batch_size is not None:
            batches += np.split(part, range(batch_size, len(part), batch_size))
            continue
        end = len(part)
        while end:
            rows = min(end, max(1, size // max(1, int(lengths[part[end - 1]]))))
            batches.append(part[end - rows : end])
            end -= rows
    batches = _split_wasteful(batches, lengths, max_waste)
    if seed is None:
        return sorted(batches, key=lambda batch: int(lengths[batch[-1]]))
    return [batches[i] for i in rng.permutation(len(batches))]


def _split_wasteful(batches: list[np.ndarray], lengths: np.ndarray, max_waste: float) -> list[np.ndarray]:
    """Cut the batch (sorted by length) with most padding at its best place, until ``max_waste`` holds."""

    def padding(batch: np.ndarray) -> int:
        own = lengths[batch]
        return int(own[-1]) * len(own) - int(own.sum())

    real = int(lengths.sum())
    heap = [(-padding(batch), i, batch) for i, batch in enumerate(batches)]
    heapq.heapify(heap)
    waste, number = -sum(entry[0] for entry in heap), len(heap)
    while waste > max_waste * (real + waste):
        most, _, batch = heapq.heappop(heap)
        own = lengths[batch]
        head = np.arange(1, len(own))
        cut = int(np.argmin(head * own[:-1] + (len(own) - head) * own[-1])) + 1
        waste += most
        for part in (batch[:cut], batch[cut:]):
            heapq.heappush(heap, (-padding(part), number, part))
            waste += padding(part)
            number += 1
    return [entry[2] for entry in heap]
