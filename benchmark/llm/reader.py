"""Reader: batches of ids -> token lists of one template, with the texts of the catalogue; counts what was cut."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from benchmark.data.batch import Batch
from benchmark.data.schema import Catalogue
from benchmark.data.text import item_texts, user_profiles
from benchmark.llm.prompts import History, PromptTokens, Section, TokenBatch, flat_prompts
from benchmark.llm.taste import Tastes
from benchmark.llm.templates import Template

_SECONDS = ((1e11, 1e-3), (1e8, 1.0))  # newest timestamp from here on -> seconds of a unit


class Reader:
    """Reads batches: whose prompt it is, what was before, and which items are asked for.

    Args:
        template: what the prompt says.
        tokenizer: of the backbone.
        catalogue: texts of items, profiles of users.
        max_length: most tokens of a prompt.
        item_fields: columns that make an item's text; None: all.
        n_tokens: rows of the model's embedding table; None: of the tokenizer.
        answer_follows, answers: see ``PromptTokens``.
        max_history: newest items of a history that are listed; None: all that a batch holds.
    """

    def __init__(
        self,
        template: Template,
        tokenizer: Any,
        catalogue: Catalogue,
        max_length: int,
        item_fields: Sequence[str] | None = None,
        *,
        n_tokens: int | None = None,
        answer_follows: bool = False,
        answers: Sequence[str] = (),
        max_history: int | None = None,
    ) -> None:
        self.template, self.max_length, self.max_history = template, max_length, max_history
        self.items = item_texts(catalogue.items, item_fields)
        train = catalogue.train
        self.profiles = user_profiles(catalogue.users, template.profile) if "profile" in template.slots else []
        self.tastes = None if template.taste is None else Tastes(catalogue.items, template.taste)
        self.pieces = PromptTokens(
            template,
            tokenizer,
            self.items,
            self.profiles,
            ratings=train.rating,
            time_unit=_time_unit(train.time),
            n_tokens=len(tokenizer) if n_tokens is None else n_tokens,
            answer_follows=answer_follows,
            tastes=() if self.tastes is None else self.tastes.values,
            answers=answers,
            cache=catalogue.cache,
        )
        self.limit(max_length)
        self.prompts = self.prompts_cut = self.history_cut = 0.0
        self.tokens = self.computed = 0.0

    def limit(self, max_length: int) -> None:
        """Make prompts of at most so many tokens, where that is less than now.

        Raises:
            InputError: they need more even without profile and history.
        """
        self.max_length = min(self.max_length, max_length)
        self.pieces.check_fits(self.max_length)

    def read(
        self,
        batch: Batch,
        candidate: Tensor | None = None,
        options: Tensor | None = None,
        row: np.ndarray | None = None,
        section: Section = "all",
    ) -> TokenBatch:
        """Return the token lists of prompts.

        Args:
            batch: users and histories.
            candidate: (m,) item ids.
            options: (m, C) item ids.
            row: (m,) which row of the batch a prompt is for; None: one prompt a row, in order.
            section: all of the prompts, what stands before the candidate, or the rest.
        """
        pieces, user = self._asking(batch)
        listed = batch if self.max_history is None else batch.newest(self.max_history)
        # what stands behind the candidate is read once a candidate, and holds histories in unusual templates alone
        history = None if section == "tail" and not self.pieces.lists_in_tail else History.of(listed)
        taste = self._taste(batch)
        if row is not None:
            user, history = user[row], None if history is None else history.take(row)
            taste = None if taste is None else taste[row]
        prompts = flat_prompts(
            pieces,
            self.max_length,
            None if candidate is None else candidate.cpu().numpy(),
            history,
            user,
            None if options is None else options.cpu().numpy(),
            section,
            taste,
        )
        if section != "tail":
            self.prompts += len(prompts)
            self.prompts_cut += float((prompts.dropped > 0).sum())
            self.history_cut += float(prompts.dropped.sum())
        return prompts

    def _taste(self, batch: Batch) -> np.ndarray | None:
        """Return (B, top) what the histories of a batch mostly hold; None where no prompt tells it."""
        if self.tastes is None:
            return None
        history = History.of(batch.newest(self.tastes.taste.history))
        assert history is not None
        return self.tastes.top(history)

    def _asking(self, batch: Batch) -> tuple[PromptTokens, np.ndarray]:
        """Return the pieces, and which of their profiles is that of each row: what a user asks for is a part of it."""
        user = batch.user.cpu().numpy()
        if batch.query is None or not self.profiles:
            return self.pieces, user
        known = [self.profiles[u] for u in user]
        texts = [", ".join(filter(None, both)) for both in zip(known, batch.query, strict=True)]
        return self.pieces.with_profiles(texts), np.arange(len(user))

    def count(self, prompts: TokenBatch, parts: list[np.ndarray]) -> None:
        """Note the tokens of a training batch that is read in parts: real ones, and computed ones with padding."""
        self.tokens += float(prompts.lengths.sum())
        self.computed += float(sum(len(rows) * prompts.lengths[rows].max() for rows in parts))

    def show(self, batch: Batch, n: int, **options: Any) -> list[tuple[str, int, int]]:
        """Return text, number of tokens and dropped history items of the first n prompts of a batch."""
        prompts = self.read(batch, **options)
        return [
            (
                self.pieces.text(prompts.tokens[prompts.offsets[i] : prompts.offsets[i + 1]]),
                int(prompts.lengths[i]),
                int(prompts.dropped[i]),
            )
            for i in range(min(n, len(prompts)))
        ]

    def report(self) -> dict[str, float]:
        """Return what was read and cut, for the record."""
        return {
            "training_tokens": self.tokens,
            "padding_share": 1 - self.tokens / self.computed if self.computed else 0.0,
            "prompts_cut_share": self.prompts_cut / max(self.prompts, 1.0),
            "history_items_cut_a_prompt": self.history_cut / max(self.prompts, 1.0),
        }


def _time_unit(time: np.ndarray | None) -> float | None:
    """Return the seconds of a unit of the timestamps, or None where they are no dates."""
    newest = float(time.max()) if time is not None and len(time) else 0.0
    return next((unit for least, unit in _SECONDS if newest > least), None)
