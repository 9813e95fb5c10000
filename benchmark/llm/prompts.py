"""Prompts: histories in, token lists out, put together from tokenised pieces by pure functions over flat arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from benchmark.data.batch import Batch
from benchmark.data.text import flat_index, offsets_of
from benchmark.errors import InputError
from benchmark.llm.pieces import MONTHS, Pieces, PromptTokens
from benchmark.llm.templates import LISTS

Section = Literal["all", "head", "tail"]


@dataclass(frozen=True)
class History:
    """Histories of B rows, flat: row b is ``items[offsets[b]:offsets[b + 1]]``, oldest first; H items in all.

    Attributes:
        items: (H,) int64 item ids.
        offsets: (B + 1,) int64.
        label: (H,) float32 ratings, or likes (1) and dislikes (0).
        time: (H,) float64 timestamps, or None.
    """

    items: np.ndarray
    offsets: np.ndarray
    label: np.ndarray
    time: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def liked(self) -> np.ndarray:
        """(H,) bool."""
        return self.label > 0.5

    @classmethod
    def from_padded(
        cls,
        items: np.ndarray,
        length: np.ndarray,
        label: np.ndarray | None = None,
        time: np.ndarray | None = None,
    ) -> History:
        """Flatten (B, L) arrays padded on the right, as a ``Batch`` has them; ``length`` (B,)."""
        real = np.arange(items.shape[1]) < length[:, None]
        flags = np.ones(int(length.sum()), np.float32) if label is None else label[real].astype(np.float32)
        return cls(
            items[real].astype(np.int64, copy=False), offsets_of(length), flags, None if time is None else time[real]
        )

    @classmethod
    def of(cls, batch: Batch) -> History | None:
        """Return the histories of a batch, or None where it has none."""
        if batch.history is None or batch.history_length is None:
            return None
        label, time = (
            None if values is None else values.cpu().numpy() for values in (batch.history_label, batch.history_time)
        )
        return cls.from_padded(batch.history.cpu().numpy(), batch.history_length.cpu().numpy(), label, time)

    def take(self, rows: np.ndarray) -> History:
        """Return the histories of ``rows`` (m,), in that order; a user with C candidates is taken C times."""
        starts, lengths = self.offsets[:-1][rows], np.diff(self.offsets)[rows]
        index = flat_index(starts, lengths)
        time = None if self.time is None else self.time[index]
        return History(self.items[index], offsets_of(lengths), self.label[index], time)


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

    def costs(self) -> Tensor:
        """Return the (B,) int64 lengths as a ``BatchSpec.cost`` gives them."""
        return torch.from_numpy(self.lengths)

    def pad(self, rows: np.ndarray | None = None, left: bool = False) -> tuple[Tensor, Tensor]:
        """Return ``input_ids`` and ``attention_mask`` (R, T) int64 of ``rows`` (all by default).

        T is the longest of these rows; padding stands on the right, or on the left.
        """
        starts, lengths = self.offsets[:-1], self.lengths
        if rows is not None:
            starts, lengths = starts[rows], lengths[rows]
        width = int(lengths.max()) if len(lengths) else 0
        column = np.arange(width)
        mask = column >= width - lengths[:, None] if left else column < lengths[:, None]
        ids = np.full(mask.shape, self.pad_id, np.int64)
        ids[mask] = self.tokens[flat_index(starts, lengths)]
        return torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64))


def flat_prompts(
    pieces: PromptTokens,
    max_length: int,
    candidate: np.ndarray | None = None,
    history: History | None = None,
    profile: np.ndarray | None = None,
    options: np.ndarray | None = None,
    section: Section = "all",
    taste: np.ndarray | None = None,
) -> TokenBatch:
    """Put the tokens of B prompts together; no tokenizer is called, and no loop runs over rows.

    Where a prompt has more than ``max_length`` tokens, its oldest history items are dropped, then the end of its
    profile is cut; candidates, options and fixed words never are. Room is kept for the longest item of the catalogue,
    so that what a user's prompt holds does not depend on the candidate.

    Args:
        pieces: the prompt's pieces.
        max_length: most tokens of a prompt, special tokens included.
        candidate: (B,) item ids, for ``{candidate}``.
        history: of B rows, for ``{liked}``, ``{disliked}``, ``{history}``.
        profile: (B,) user ids, for ``{profile}``.
        options: (B, C) item ids, for ``{candidates}``.
        section: all of it, or what stands before the candidate (head), or the rest (tail).
        taste: (B, top) numbers of values, -1 behind the last, for ``{taste}``.

    Raises:
        InputError: a slot's argument is missing, or fixed words and items alone exceed ``max_length`` tokens.
    """
    chosen_parts = {"all": pieces.parts, "head": pieces.parts[: pieces.cut], "tail": pieces.parts[pieces.cut :]}[
        section
    ]
    given: dict[str, Any] = {"candidate": candidate, "profile": profile, "candidates": options, "taste": taste}
    given |= dict.fromkeys(LISTS, history)
    for name, _ in chosen_parts:
        if name in given and given[name] is None:
            raise InputError(f"template '{pieces.template.text}': nothing was given for the slot '{name}'")
    n = next((len(rows) for rows in (candidate, history, profile, options) if rows is not None), 1)
    option_length = np.zeros(n, np.int64) if options is None else _options_length(pieces, options)

    pieces.check_fits(max_length)
    room = max_length - pieces.fixed - option_length
    if n and int(room.min()) < 0:
        raise InputError(
            f"a prompt with its options needs {max_length - int(room.min())} tokens without profile and history, but "
            f"max_length is {max_length}: raise max_length or shorten the item text"
        )
    profiles = next((table.length for name, table in pieces.parts if name == "profile"), None)
    profile_length = np.zeros(n, np.int64) if profile is None or profiles is None else profiles[profile]
    profile_length = np.minimum(profile_length, room)

    lists = [name for name, _ in pieces.parts if name in LISTS]
    inside = any(name in LISTS for name, _ in chosen_parts)
    kept, dropped = _fit(pieces, lists if inside else [], history, room - profile_length)

    # every prompt is a row of segments (start in the pool, length); first their number, then their places
    entry, option = len(pieces.entry) + 1, len(pieces.option) + 1
    counts = np.ones((n, len(chosen_parts)), np.int64)
    for column, (name, _) in enumerate(chosen_parts):
        if name in LISTS:
            counts[:, column] = np.maximum(entry * np.bincount(kept[name].row, minlength=n) - 1, 1)
        elif name == "candidates":
            assert options is not None
            counts[:, column] = option * options.shape[1] - 1
        elif name == "taste":
            assert taste is not None
            counts[:, column] = np.maximum(2 * (taste >= 0).sum(1) - 1, 1)
    first = offsets_of(counts.ravel())[:-1].reshape(counts.shape)
    start, length = np.zeros(int(counts.sum()), np.int64), np.zeros(int(counts.sum()), np.int64)

    def put(place: np.ndarray, table: Pieces, rows: Any) -> None:
        start[place], length[place] = table.start[rows], table.length[rows]

    for column, (name, table) in enumerate(chosen_parts):
        at = first[:, column]
        if name == "candidate":
            put(at, table, candidate)
        elif name == "profile":
            start[at], length[at] = table.start[profile], profile_length
        elif name == "candidates":
            assert options is not None
            place = at[:, None] + option * np.arange(options.shape[1])
            for j, (kind, part) in enumerate(pieces.option):
                number = np.broadcast_to(np.arange(options.shape[1]), options.shape)
                put(place + j, part, {"label": number, "title": options}.get(kind, np.zeros_like(options)))
            put(place[:, 1:] - 1, pieces.option_separator, 0)
        elif name == "taste":
            assert taste is not None
            assert pieces.tastes is not None
            put(at, table, 0)
            which, rank = np.nonzero(taste >= 0)
            put(at[which] + 2 * rank, pieces.tastes, taste[which, rank])
            put(at[which[rank > 0]] + 2 * rank[rank > 0] - 1, pieces.separator, 0)
        elif name in LISTS:
            put(at, pieces.empty[name], 0)
            chosen = kept[name]
            place = at[chosen.row] + entry * chosen.rank
            for j, (kind, part) in enumerate(pieces.entry):
                assert history is not None
                put(place + j, part, _entry_rows(pieces, kind, history, chosen.index))
            put(place[chosen.rank > 0] - 1, pieces.separator, 0)
        else:
            put(at, table, 0)
    row_length = np.add.reduceat(length, first[:, 0]) if n else np.zeros(0, np.int64)
    return TokenBatch(pieces.pool[flat_index(start, length)], offsets_of(row_length), dropped, pieces.pad_id)


def _options_length(pieces: PromptTokens, options: np.ndarray) -> np.ndarray:
    """Return (B,) tokens of each row's options."""
    total = np.full(len(options), int(pieces.option_separator.length[0]) * (options.shape[1] - 1), np.int64)
    for kind, part in pieces.option:
        if kind == "title":
            total += part.length[options].sum(1)
        elif kind == "label":
            total += int(part.length[: options.shape[1]].sum())
        else:
            total += int(part.length[0]) * options.shape[1]
    return total


def _entry_rows(pieces: PromptTokens, name: str, history: History, index: np.ndarray) -> np.ndarray:
    """Return which piece of an entry's part each of the history items ``index`` (m,) takes: (m,) int64."""
    if name == "title":
        return history.items[index]
    if name == "rating":
        place = np.searchsorted(pieces.ratings, history.label[index])
        return np.minimum(place, len(pieces.ratings) - 1)
    if name == "time":
        if history.time is None:
            raise InputError(f"entry '{pieces.template.entry}': nothing fills the slot 'time': no timestamps")
        seconds = (history.time[index] * (pieces.time_unit or 1)).astype("datetime64[s]")
        return np.clip(seconds.astype("datetime64[M]").astype(np.int64), 0, MONTHS - 1)
    return np.zeros(len(index), np.int64)


@dataclass(frozen=True)
class _Chosen:
    """Items of one list: the row each stands in, its place there (0 is the oldest), its number in the history."""

    row: np.ndarray
    rank: np.ndarray
    index: np.ndarray


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
    begins = offsets_of(np.bincount(row, minlength=len(room)))
    own = np.zeros(len(used), np.int64)
    for kind, part in pieces.entry:
        own += part.length[_entry_rows(pieces, kind, history, used)]
    cost = np.zeros(len(used), np.int64)
    for name in lists:
        mine = member[name][used]
        newer = _count_after(mine, row, begins)
        # the newest item of a list takes the place of the words for an empty one; others bring a separator
        extra = np.where(newer == 0, -pieces.empty[name].length[0], pieces.separator.length[0])
        cost += np.where(mine, own + extra, 0)
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
        chosen[name] = _Chosen(rows, np.arange(len(rows)) - ends[rows], used[mine])
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
