"""PromptTokens: what prompts of one template are put together from, tokenised once."""

from __future__ import annotations

import copy
import datetime
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmark.data.text import TokenTable, offsets_of
from benchmark.errors import InputError
from benchmark.llm.templates import LISTS, Template, parse

EMBEDDINGS = ("user_embedding", "item_embedding")  # slot j becomes the one token id ``n_tokens + j``
LABELS = string.ascii_uppercase  # of the options of a list-wise prompt
FIRST_MONTH, MONTHS = 1970, 12 * 131


@dataclass(frozen=True)
class Pieces:
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
        tastes: values that may stand in ``{taste}``.
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
        tastes: Sequence[str] = (),
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
        self._item_tables: dict[str, Pieces] = {}
        self.n_tokens = n_tokens
        parts, bos, eos = _with_special_tokens(template, tokenizer, answer_follows)
        self.empty: dict[str, Pieces] = {}
        slots, lead = self._joined(parts, None, lambda name, lead: self._slot(name, lead, profiles))
        self.parts = [("words", self._add(_table([bos]))), *slots]
        self.answer_lead = (lead or "") if answer_follows else None
        shared, self.answer_ids = self._answer_tokens(answers)
        self.parts.append(("words", self._add(_table([[*shared, *eos]]))))
        # what the items of a history, and the options of a list, are made of
        self.ratings = np.unique(np.concatenate([ratings if ratings is not None else [], [0.0, 1.0]]))
        separator, between = _split_blank(template.separator)
        self.separator = self._words(separator, "")
        entry = parse(template.entry, "entry") if any(name in self.empty for name in LISTS) else []
        self.entry, _ = self._joined(entry, between, self._entry_slot)
        self.tastes = self._many(tastes, between) if "taste" in self.empty else None
        separator, between = _split_blank(template.option_separator)
        self.option_separator = self._words(separator, "")
        option = parse(template.option, "option") if "candidates" in template.slots else []
        self.option, _ = self._joined(option, between, self._option_slot)
        # what depends on the candidate comes last: what stands before it is read once for all candidates
        names = [name for name, _ in self.parts]
        self.cut = next((i for i, name in enumerate(names) if name in ("candidate", "item_embedding")), len(names))
        # tokens without profile, history and options; room is kept for the longest candidate
        titles = next((table for name, table in self.parts if name == "candidate"), None)
        self.longest = None if titles is None else int(titles.length.argmax())
        self.fixed = sum(
            int(table.length.max() if name == "candidate" else table.length[0])
            for name, table in self.parts
            if name != "profile"
        )
        if self.tastes is not None and template.taste is not None:  # room is kept for the longest taste too
            most = template.taste.top * (int(self.tastes.length.max()) + int(self.separator.length[0]))
            self.fixed += max(most - int(self.empty["taste"].length[0]), 0)
        self.lists_in_tail = any(name in LISTS for name in names[self.cut :])
        self.pool = np.concatenate(self._pool) if self._pool else np.zeros(0, np.int32)
        del self._pool, self._texts, self._item_tables

    # --- tokenising ------------------------------------------------------------------------------------------------

    def _joined(
        self, parts: Sequence[tuple[str, str]], lead: str | None, slot: Callable[[str, str | None], Pieces]
    ) -> tuple[list[tuple[str, Pieces]], str | None]:
        """Return the pieces of parts that stand behind the blank ``lead``, and the blank behind the last of them."""
        out: list[tuple[str, Pieces]] = []
        for kind, text in parts:
            if kind == "slot":
                out.append((text, slot(text, lead)))
                lead = ""
                continue
            words, blank = _split_blank(text)
            if words:
                out.append(("words", self._words(words, lead)))
                lead = blank
            else:
                lead = (lead or "") + blank
        return out, lead

    def _slot(self, name: str, lead: str | None, profiles: Sequence[str]) -> Pieces:
        if name in EMBEDDINGS:
            return self._add(_table([[self.n_tokens + EMBEDDINGS.index(name)]]))
        if name == "profile":
            self._profile_lead = lead
            return self._many([profile or self.template.no_profile for profile in profiles], lead)
        if name in (*LISTS, "taste"):
            self.empty[name] = self._words(self.template.no_items, lead)
            return self.empty[name]
        if name == "candidates":
            return self._words("", lead)
        return self._titles(lead)

    def _entry_slot(self, name: str, lead: str | None) -> Pieces:
        if name == "rating":
            said: Mapping[float, str] = self.template.ratings or {}
            return self._many([said.get(float(r), f"{r:g}") for r in self.ratings], lead)
        return self._many(self._months(), lead) if name == "time" else self._titles(lead)

    def _option_slot(self, name: str, lead: str | None) -> Pieces:
        return self._many(list(LABELS), lead) if name == "label" else self._titles(lead)

    def _months(self) -> list[str]:
        if self.time_unit is None:
            raise InputError(
                f"entry '{self.template.entry}': nothing fills the slot 'time': the data has no timestamps that are "
                "dates (seconds or milliseconds since 1970)"
            )
        days = (datetime.date(FIRST_MONTH + m // 12, m % 12 + 1, 1) for m in range(MONTHS))
        return [day.strftime(self.template.time) for day in days]

    def _titles(self, lead: str | None) -> Pieces:
        """Return the item texts; one table serves every place where the same blank stands before them."""
        key = "start" if lead is None else f"after {lead}"
        if key not in self._item_tables:
            self._item_tables[key] = self._many(self._texts, lead)
        return self._item_tables[key]

    def _many(self, texts: Sequence[str], lead: str | None) -> Pieces:
        return self._add(TokenTable.build(texts, self.tokenizer, lead, self.cache))

    def _words(self, text: str, lead: str | None) -> Pieces:
        if not text:
            return self._add(_table([[]]))
        return self._add(TokenTable.build([text], self.tokenizer, lead))

    def _add(self, table: TokenTable) -> Pieces:
        pieces = Pieces(table.offsets[:-1] + self._size, table.lengths)
        self._pool.append(table.tokens)
        self._size += len(table.tokens)
        return pieces

    def with_profiles(self, profiles: Sequence[str]) -> PromptTokens:
        """Return the same pieces with other profiles in the place of the users', which are not kept on disk."""
        table = TokenTable.build([p or self.template.no_profile for p in profiles], self.tokenizer, self._profile_lead)
        other = copy.copy(self)
        own = Pieces(table.offsets[:-1] + len(self.pool), table.lengths)
        other.parts = [(name, own if name == "profile" else part) for name, part in self.parts]
        other.pool = np.concatenate([self.pool, table.tokens])
        return other

    def cut_candidates(self, max_length: int) -> int:
        """Cut the end of candidates that would not fit into a prompt of so many tokens; return how many there are."""
        tables = dict(self.parts)
        table = tables["candidate"]
        room = max(max_length - self.fixed + int(table.length.max()), 1)
        n = int((table.length > room).sum())
        shorter = Pieces(table.start, np.minimum(table.length, room))
        self.parts = [(name, shorter if name == "candidate" else part) for name, part in self.parts]
        self.fixed += int(shorter.length.max()) - int(table.length.max())
        return n

    # --- what is asked of them ---------------------------------------------------------------------------------------

    def check_fits(self, max_length: int) -> None:
        """Refuse a prompt that needs more tokens even without profile and history.

        Raises:
            InputError: how many it needs, and with which item.
        """
        if self.fixed > max_length:
            item = f" (candidate item {self.longest}, the longest)" if self.longest is not None else ""
            raise InputError(
                f"a prompt{item} needs {self.fixed} tokens without profile and history, but max_length is "
                f"{max_length}: raise max_length or shorten the item text"
            )

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
