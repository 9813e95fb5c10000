"""Prompts: token lists put together from pieces that are tokenised once; pure functions over flat arrays."""

from __future__ import annotations

import datetime
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from benchmark.data.batch import Batch
from benchmark.data.text import TokenTable, flat_index, offsets_of
from benchmark.errors import InputError
from benchmark.llm.templates import LISTS, Template, parse

EMBEDDINGS = ("user_embedding", "item_embedding")  # slot j becomes the one token id ``n_tokens + j``
LABELS = string.ascii_uppercase  # of the options of a list-wise prompt
_FIRST_MONTH, _MONTHS = 1970, 12 * 131
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


@dataclass(frozen=True)
class _Pieces:
    """Where the tokens of n pieces stand in the pool: (n,) starts and lengths."""

    start: np.ndarray
    length: np.ndarray


class PromptTokens:
    """A prompt's pieces, tokenised once: fixed words, item texts, user profiles, ratings, months, special tokens.

    White space at the end of fixed words belongs to the piece that follows, as tokenizers see it; so the joined pieces
    are the tokens of the whole text (where words do not melt into each other without white space between them). White
    space at the very end of a template belongs to the answer.

    Args:
        template: what the prompt says.
        tokenizer: a Hugging Face tokenizer with a pad token.
        items: text of each item.
        profiles: profile of each user, "" where nothing is known; not needed without ``{profile}``.
        ratings: (n,) the ratings that may stand in a history; for ``{rating}``.
        time_unit: seconds of a unit of the timestamps, None where they are no dates; for ``{time}``.
        n_tokens: rows of the model's embedding table; for ``{user_embedding}`` and ``{item_embedding}``.
        answer_follows: the model goes on from here: no closing special tokens, and the chat template's turn. Otherwise
            the answer is a text of its own (a seq2seq model's decoder says it).
        answers: words that the model chooses from with one token.
        cache: folder of the token cache, or None.

    Attributes:
        answer_ids: the token of each of ``answers``. What all of them begin with (a blank of its own, in some small
            vocabularies) stands at the end of the prompt.

    Raises:
        InputError: a slot has nothing that could fill it, or the tokenizer has no token that tells an answer apart.
    """

    def __init__(
        self,
        template: Template,
        tokenizer: Any,
        items: Sequence[str],
        profiles: Sequence[str] = (),
        *,
        ratings: np.ndarray | None = None,
        time_unit: float | None = None,
        n_tokens: int = 0,
        answer_follows: bool = False,
        answers: Sequence[str] = (),
        cache: Path | str | None = None,
    ) -> None:
        if "profile" in template.slots and not profiles:
            raise InputError(f"template '{template.text}' has the slot 'profile', but there are no user profiles")
        self.template, self.tokenizer, self.cache = template, tokenizer, cache
        self.pad_id = int(tokenizer.pad_token_id)
        self.time_unit = time_unit
        self._texts, self._size = items, 0
        self._pool: list[np.ndarray] = []
        self._item_tables: dict[str, _Pieces] = {}
        self.n_tokens = n_tokens
        parts, bos, eos = _with_special_tokens(template, tokenizer, answer_follows)
        self.parts: list[tuple[str, _Pieces]] = [("words", self._add(_table([bos])))]
        self.empty: dict[str, _Pieces] = {}
        lead: str | None = None
        for kind, text in parts:
            if kind == "words":
                words, blank = _split_blank(text)
                if words:
                    self.parts.append(("words", self._words(words, lead)))
                    lead = blank
                else:
                    lead = (lead or "") + blank
                continue
            self.parts.append((text, self._slot(text, lead, profiles)))
            lead = ""
        self.answer_lead = (lead or "") if answer_follows else None
        shared, self.answer_ids = self._answer_tokens(answers)
        self.parts.append(("words", self._add(_table([[*shared, *eos]]))))
        self._build_entries(ratings)
        self._build_options()
        # what depends on the candidate comes last: what stands before it is read once for all candidates
        names = [name for name, _ in self.parts]
        self.cut = next((i for i, name in enumerate(names) if name in ("candidate", "item_embedding")), len(names))
        self.lists_in_tail = any(name in LISTS for name in names[self.cut :])
        self.pool = np.concatenate(self._pool) if self._pool else np.zeros(0, np.int32)
        del self._pool, self._texts, self._item_tables

    # --- tokenising ------------------------------------------------------------------------------------------------

    def _slot(self, name: str, lead: str | None, profiles: Sequence[str]) -> _Pieces:
        if name in EMBEDDINGS:
            return self._add(_table([[self.n_tokens + EMBEDDINGS.index(name)]]))
        if name == "profile":
            return self._many([profile or self.template.no_profile for profile in profiles], lead)
        if name in LISTS:
            self.empty[name] = self._words(self.template.no_items, lead)
            return self.empty[name]
        if name == "candidates":
            return self._words("", lead)
        return self._titles(lead)

    def _build_entries(self, ratings: np.ndarray | None) -> None:
        """Tokenise what the items of a history are made of."""
        template = self.template
        separator, between = _split_blank(template.separator)
        self.separator = self._words(separator, "")
        self.ratings = np.zeros(0, np.float32)
        self.entry: list[tuple[str, _Pieces]] = []
        if not self.empty:
            return
        lead: str | None = between
        for kind, text in parse(template.entry, "entry"):
            if kind == "words":
                words, blank = _split_blank(text)
                if words:
                    self.entry.append(("words", self._words(words, lead)))
                    lead = blank
                else:
                    lead = (lead or "") + blank
                continue
            if text == "rating":
                self.ratings = np.unique(np.concatenate([ratings if ratings is not None else [], [0.0, 1.0]]))
                said: Mapping[float, str] = template.ratings or {}
                pieces = self._many([said.get(float(r), f"{r:g}") for r in self.ratings], lead)
            elif text == "time":
                pieces = self._many(self._months(), lead)
            else:
                pieces = self._titles(lead)
            self.entry.append((text, pieces))
            lead = ""

    def _months(self) -> list[str]:
        if self.time_unit is None:
            raise InputError(
                f"entry '{self.template.entry}': nothing fills the slot 'time': the data has no timestamps that are "
                "dates (seconds or milliseconds since 1970)"
            )
        days = (datetime.date(_FIRST_MONTH + m // 12, m % 12 + 1, 1) for m in range(_MONTHS))
        return [day.strftime(self.template.time) for day in days]

    def _build_options(self) -> None:
        """Tokenise what the options of a list are made of."""
        self.option: list[tuple[str, _Pieces]] = []
        separator, between = _split_blank(self.template.option_separator)
        self.option_separator = self._words(separator, "")
        if not any(name == "candidates" for name, _ in self.parts):
            return
        lead = between
        for kind, text in parse(self.template.option, "option"):
            if kind == "words":
                words, blank = _split_blank(text)
                if words:
                    self.option.append(("words", self._words(words, lead)))
                    lead = blank
                else:
                    lead += blank
                continue
            self.option.append((text, self._many(list(LABELS), lead) if text == "label" else self._titles(lead)))
            lead = ""

    def _titles(self, lead: str | None) -> _Pieces:
        """Return the item texts; one table serves every place where the same blank stands before them."""
        key = "start" if lead is None else f"after {lead}"
        if key not in self._item_tables:
            self._item_tables[key] = self._many(self._texts, lead)
        return self._item_tables[key]

    def _many(self, texts: Sequence[str], lead: str | None) -> _Pieces:
        return self._add(TokenTable.build(texts, self.tokenizer, lead, self.cache))

    def _words(self, text: str, lead: str | None) -> _Pieces:
        if not text:
            return self._add(_table([[]]))
        return self._add(TokenTable.build([text], self.tokenizer, lead))

    def _add(self, table: TokenTable) -> _Pieces:
        pieces = _Pieces(table.offsets[:-1] + self._size, table.lengths)
        self._pool.append(table.tokens)
        self._size += len(table.tokens)
        return pieces

    # --- what a batch needs ----------------------------------------------------------------------------------------

    def entry_rows(self, name: str, history: History, index: np.ndarray) -> np.ndarray:
        """Return which piece of an entry's part each of the history items ``index`` (m,) takes: (m,) int64."""
        if name == "title":
            return history.items[index]
        if name == "rating":
            place = np.searchsorted(self.ratings, history.label[index])
            return np.minimum(place, len(self.ratings) - 1)
        if name == "time":
            if history.time is None:
                raise InputError(f"entry '{self.template.entry}': nothing fills the slot 'time': no timestamps")
            seconds = (history.time[index] * (self.time_unit or 1)).astype("datetime64[s]")
            return np.clip(seconds.astype("datetime64[M]").astype(np.int64), 0, _MONTHS - 1)
        return np.zeros(len(index), np.int64)

    def _answer_tokens(self, words: Sequence[str]) -> tuple[list[int], list[int]]:
        """Return the tokens that all answers begin with, and the one token behind them that tells each apart."""
        table = TokenTable.build(words, self.tokenizer, self.answer_lead) if words else _table([])
        rows = [table.tokens[a:b].tolist() for a, b in zip(table.offsets[:-1], table.offsets[1:], strict=True)]
        shared: list[int] = []
        while self.answer_lead is not None and rows and all(len(r) > 1 and r[0] == rows[0][0] for r in rows):
            shared.append(rows[0][0])
            rows = [row[1:] for row in rows]
        ids = [row[0] if len(row) == 1 else -1 for row in rows]
        unknown = getattr(self.tokenizer, "unk_token_id", None)
        for word, row, number in zip(words, rows, ids, strict=True):
            if number in (-1, unknown) or ids.count(number) > 1:
                raise InputError(
                    f"prompt.answers: the tokenizer has no single token for '{word}' after this prompt (found "
                    f"{len(row)}, or one that it shares with another answer); choose other words, such as [A, B]"
                )
        return shared, ids

    def answers(self, words: Sequence[str]) -> TokenTable:
        """Return the tokens of many answers that stand after the prompt."""
        return TokenTable.build(words, self.tokenizer, self.answer_lead, self.cache)

    def text(self, tokens: np.ndarray) -> str:
        """Return what a token list says; vectors are shown by the name of their slot."""
        shown, run = "", []
        for token in [*tokens.tolist(), None]:
            if token is not None and (not self.n_tokens or token < self.n_tokens):
                run.append(token)
                continue
            shown += self.tokenizer.decode(run) if run else ""
            run = []
            if token is not None:
                shown += f"<{EMBEDDINGS[token - self.n_tokens]}>"
        return shown


def _with_special_tokens(
    template: Template, tokenizer: Any, answer_follows: bool
) -> tuple[list[tuple[str, str]], list[int], list[int]]:
    """Return the parts with a chat template around them, and the special tokens before and after."""
    parts = template.parts
    has = getattr(tokenizer, "chat_template", None) is not None
    if template.chat and not has:
        raise InputError("prompt.chat: this tokenizer has no chat template; leave it out")
    if not answer_follows or template.chat is False or not has:
        bos, eos = special_tokens(tokenizer)
        return parts, bos, [] if answer_follows else eos
    mark = "\x00prompt\x00"
    messages = [{"role": "user", "content": mark}]
    if template.system:
        messages.insert(0, {"role": "system", "content": template.system})
    around = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    before, _, after = around.partition(mark)
    # white space before the answer is the chat template's own
    if parts and parts[-1][0] == "words":
        parts = [*parts[:-1], ("words", parts[-1][1].rstrip())]
    joined: list[tuple[str, str]] = []
    for kind, text in [("words", before), *parts, ("words", after)]:
        if kind == "words" and joined and joined[-1][0] == "words":
            text = joined.pop()[1] + text
        if text:
            joined.append((kind, text))
    return joined, [], []


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


def flat_prompts(
    pieces: PromptTokens,
    max_length: int,
    candidate: np.ndarray | None = None,
    history: History | None = None,
    profile: np.ndarray | None = None,
    options: np.ndarray | None = None,
    section: Section = "all",
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

    Raises:
        InputError: a slot's argument is missing, or fixed words and items alone exceed ``max_length`` tokens.
    """
    chosen_parts = {"all": pieces.parts, "head": pieces.parts[: pieces.cut], "tail": pieces.parts[pieces.cut :]}[
        section
    ]
    given = {"candidate": candidate, "profile": profile, "candidates": options, **dict.fromkeys(LISTS, history)}
    for name, _ in chosen_parts:
        if name in given and given[name] is None:
            raise InputError(f"template '{pieces.template.text}': nothing was given for the slot '{name}'")
    n = next((len(rows) for rows in (candidate, history, profile, options) if rows is not None), 1)
    option_length = np.zeros(n, np.int64) if options is None else _options_length(pieces, options)

    fixed = option_length.copy()
    profile_length = np.zeros(n, np.int64)
    for name, table in pieces.parts:
        if name == "candidate":
            fixed += int(table.length.max())
        elif name == "profile":
            profile_length = table.length[profile] if profile is not None else profile_length
        else:
            fixed += int(table.length[0])
    if n and int(fixed.max()) > max_length:
        longest = next((int(table.length.argmax()) for name, table in pieces.parts if name == "candidate"), None)
        item = "" if longest is None else f" (candidate item {longest}, the longest)"
        raise InputError(
            f"a prompt{item} needs {int(fixed.max())} tokens without profile and history, but max_length is "
            f"{max_length}: raise max_length or shorten the item text"
        )
    profile_length = np.minimum(profile_length, max_length - fixed)

    lists = [name for name, _ in pieces.parts if name in LISTS]
    inside = any(name in LISTS for name, _ in chosen_parts)
    kept, dropped = _fit(pieces, lists if inside else [], history, max_length - fixed - profile_length)

    # every prompt is a row of segments (start in the pool, length); first their number, then their places
    entry, option = len(pieces.entry) + 1, len(pieces.option) + 1
    counts = np.ones((n, len(chosen_parts)), np.int64)
    for column, (name, _) in enumerate(chosen_parts):
        if name in LISTS:
            counts[:, column] = np.maximum(entry * np.bincount(kept[name].row, minlength=n) - 1, 1)
        elif name == "candidates":
            assert options is not None
            counts[:, column] = option * options.shape[1] - 1
    first = offsets_of(counts.ravel())[:-1].reshape(counts.shape)
    start, length = np.zeros(int(counts.sum()), np.int64), np.zeros(int(counts.sum()), np.int64)

    def put(place: np.ndarray, table: _Pieces, rows: Any) -> None:
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
        elif name in LISTS:
            put(at, pieces.empty[name], 0)
            chosen = kept[name]
            place = at[chosen.row] + entry * chosen.rank
            for j, (kind, part) in enumerate(pieces.entry):
                assert history is not None
                put(place + j, part, pieces.entry_rows(kind, history, chosen.index))
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
        own += part.length[pieces.entry_rows(kind, history, used)]
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
