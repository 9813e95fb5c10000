"""TrainedModel: a finished run that recommends to people: by what they name, by what they ask for, and why."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import TfidfVectorizer

from benchmark.data.batch import Batch, Ragged
from benchmark.data.schema import USER_ID
from benchmark.data.split import known
from benchmark.data.text import text_vectors
from benchmark.errors import InputError, nearest
from benchmark.experiment import RunSpec
from benchmark.llm.generative import Generative
from benchmark.llm.pointwise import Pointwise
from benchmark.recommender import Recommender
from benchmark.runs.execute import PreparedData, load_model, quiet
from benchmark.runs.record import RunRecord, RunStore
from benchmark.serving.titles import Titles

NOTHING = 1e-5  # of the range of a user's scores: smaller changes are none


@dataclass(frozen=True)
class Reason:
    """An item of the history, and how much it has to do with a recommended item."""

    title: str
    value: float


@dataclass(frozen=True)
class Recommended:
    """An item for a user.

    Attributes:
        item_id, title, text: of the item.
        score: of the model; comparable within one list alone.
        nearest: the item of the history whose text is most like this one's, with the cosine of their TF-IDF vectors;
            None where no word is shared.
        counted: the item of the history without which this one's score would fall most, by that much; None where the
            score falls with none of them.
        asked: words of the query that stand in this one's text, in their order.
    """

    item_id: str
    title: str
    text: str
    score: float
    nearest: Reason | None = None
    counted: Reason | None = None
    asked: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recommendations:
    """The first items of the whole catalogue for one user.

    Attributes:
        items: the best first, none of the history among them.
        history: titles as they were understood, oldest first.
        query: what was asked for.
        user: id of the user of the data, None for a new one.
        reads_history: whether the history makes any difference to this model's scores, of listed items or others.
        seconds: to score the whole catalogue, and to explain the list.
        notes: a line for each title that other items have too, or of which a given year is not known.
    """

    items: list[Recommended]
    history: list[str]
    query: str | None
    user: str | None
    reads_history: bool
    seconds: dict[str, float]
    notes: list[str] = field(default_factory=list)


class TrainedModel:
    """A model of a finished run, loaded when it is first asked.

    Args:
        spec: what was run.
        record: what came of it.
        data: what it was run on.
        store: where its weights are.
    """

    def __init__(self, spec: RunSpec, record: RunRecord, data: PreparedData, store: RunStore) -> None:
        self.spec, self.record, self.data, self.store = spec, record, data, store
        self.titles = Titles(data.split.items)
        self._loaded: dict[bool, Recommender] = {}
        self._warm = False

    def recommend(
        self,
        history: Sequence[str] = (),
        query: str | None = None,
        k: int = 10,
        user: str | None = None,
        explain: bool = True,
    ) -> Recommendations:
        """Return the k items of the catalogue that suit a person best.

        Args:
            history: titles or ids of what the person liked, oldest first.
            query: what the person asks for, in words; for models that read text.
            k: length of the list.
            user: id of a user of the data, whose own history comes before ``history``; None: a new one.
            explain: fill ``nearest``, ``asked`` and ``counted``; for the last, all is scored without each item of the
                history.

        Raises:
            InputError: an unknown title or user, nothing to go by, or a model that cannot serve what is asked.
        """
        understood = [self.titles.understand(text) for text in history]
        items = [found.item for found in understood]
        who = self._user(user)
        if who is not None:
            items = [*self._own(who), *items]
        items = list(dict.fromkeys(items))
        query = query.strip() if query else None
        if not items and not query:
            raise InputError("nothing to go by; name something liked (history), ask for something (query), or both")
        model = self.model(new_user=who is None)
        if query and not model.reads_queries:
            raise InputError(
                f"'{self.spec.label}' ({type(model).__name__}) reads no queries, only histories; models that read text "
                "do, such as TwoTower, Pointwise, TextEmbedding and TfIdf"
            )
        row = model.n_users - 1 if who is None else who
        start = time.perf_counter()
        scores = self._score(model, [items], row, query)[0]
        if items:
            scores[items] = float("-inf")
        if self.spec.task.domain is not None:  # of joined data sets, what it was judged on
            inside = torch.from_numpy(self.data.split.of_domains([self.spec.task.domain]))
            scores[: len(inside)].masked_fill_(~inside, float("-inf"))
        best = scores.topk(min(k, int(scores.isfinite().sum()))).indices
        # the first time, models of texts read all the catalogue
        seconds = {"score" if self._warm else "first score": time.perf_counter() - start}
        self._warm = True
        start = time.perf_counter()
        falls, reads = None, True
        if explain and items and len(best):
            falls, reads = self._falls(model, items, row, query, best, scores)
        nearest_of = self._nearest(items, best.tolist()) if explain and items else {}
        asked = self._asked(query, best.tolist()) if explain and query else {}
        seconds["explain"] = time.perf_counter() - start
        listed = []
        for place, item in enumerate(best.tolist()):
            counted = None
            if falls is not None and float(falls[:, place].max()) > 0:
                at = int(falls[:, place].argmax())
                counted = Reason(self.titles.label(items[at]), float(falls[at, place]))
            listed.append(
                Recommended(
                    self.titles.ids[item],
                    self.titles.names[item],
                    self.titles.texts[item],
                    float(scores[item]),
                    nearest_of.get(item),
                    counted,
                    asked.get(item, ()),
                )
            )
        notes = list(dict.fromkeys(found.note for found in understood if found.note))
        return Recommendations(listed, [self.titles.label(i) for i in items], query, user, reads, seconds, notes)

    def model(self, new_user: bool) -> Recommender:
        """Return the model, with room for one more user or as it was trained.

        Raises:
            InputError: the model has a place for each of its users and none for a new one.
        """
        if new_user not in self._loaded:
            try:
                with quiet():
                    model = load_model(self.spec, self.data, self.store, new_user, self.record.key)
            except InputError:
                if not new_user:
                    raise
                known = self.model(new_user=False)  # else something else is wrong, which is then said
                raise InputError(
                    f"'{self.spec.label}' ({type(known).__name__}) holds something of each of its users and cannot "
                    "serve a new one; --user takes one of the data's own"
                ) from None
            self._loaded[new_user] = model
        return self._loaded[new_user]

    # --- one user as a batch ---------------------------------------------------------------------------------------

    def _user(self, user: str | None) -> int | None:
        if user is None:
            return None
        ids = self.data.split.users[USER_ID].cast(str).to_list()
        if user not in ids:
            raise InputError(f"no user '{user}' in the data{nearest(user, ids) if len(ids) <= 100_000 else ''}")
        return ids.index(user)

    def _own(self, user: int) -> list[int]:
        """Return all that is known of a user of the data, the test part too: oldest first."""
        split = self.data.split
        parts = [known(split, "test"), split.test]
        return [int(i) for rows in parts for i in rows.item[rows.offsets[user] : rows.offsets[user + 1]]]

    def _score(
        self,
        model: Recommender,
        histories: list[list[int]],
        user: int,
        query: str | None,
        candidates: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return (B, n_items) scores, or (B, C) of (C,) candidates, of B histories of one user."""
        n, longest = len(histories), model.batch_spec().max_history
        newest = [items[max(len(items) - longest, 0) :] for items in histories]
        length = torch.tensor([len(items) for items in newest])
        width = max(int(length.max()), 1)
        history = torch.full((n, width), model.n_items)
        for row, items in enumerate(newest):
            history[row, : len(items)] = torch.tensor(items, dtype=torch.int64)
        real = history < model.n_items
        train = self.data.split.train
        # what a person names was liked, and it was lately
        liked = 1.0
        if train.rating is not None and self.spec.task.kind == "ranking":
            liked = float(train.rating.max())
        now = None if train.time is None else torch.where(real, float(train.time.max()), 0.0).double()
        seen = [sorted(set(items)) for items in histories]
        offsets = torch.tensor([0, *np.cumsum([len(items) for items in seen])])
        batch = Batch(
            user=torch.full((n,), user),
            seen=Ragged(offsets, torch.tensor([i for items in seen for i in items], dtype=torch.int64)),
            candidates=None if candidates is None else candidates.expand(n, -1),
            query=None if query is None else (query,) * n,
        )
        if longest:
            batch.history, batch.history_length = history, length
            batch.history_label, batch.history_time = torch.where(real, liked, 0.0), now
        with torch.no_grad():
            return model.score(batch.to(model.device)).float().cpu()

    # --- why -------------------------------------------------------------------------------------------------------

    def _falls(
        self,
        model: Recommender,
        items: list[int],
        user: int,
        query: str | None,
        best: torch.Tensor,
        scores: torch.Tensor,
    ) -> tuple[torch.Tensor, bool]:
        """Return (H, k): by how much the score of each listed item falls without each item of the history; and whether
        the history makes any difference to any score.

        The scores without it come about as those of the list did, since a rank or a place in a prompt depends on what
        else is scored; where an item costs a prompt of its own, the listed ones are read alone.
        """
        finite = scores.isfinite()
        # sums in another order differ in their last digits
        least = NOTHING * float(scores[finite].max() - scores[finite].min())
        histories = [[*items[:i], *items[i + 1 :]] for i in range(len(items))]
        histories += [[]] if len(items) > 1 else []
        if self._item_by_item(model):
            changes = scores[best] - self._score(model, histories, user, query, best)
            reads = bool((changes.abs() > least).any())
            if not reads:
                rest = self._score(model, [[]], user, query)[0]
                reads = bool(((scores - rest)[finite].abs() > least).any())
        else:
            size, reads, listed = model.batch_spec().eval_batch_size, False, []
            for start in range(0, len(histories), size):
                rest = self._score(model, histories[start : start + size], user, query)
                reads = reads or bool(((scores - rest)[:, finite].abs() > least).any())
                listed.append(scores[best] - rest[:, best])
            changes = torch.cat(listed)
        falls = changes[: len(items)]
        return torch.where(falls.abs() > least, falls, 0.0), reads

    def _item_by_item(self, model: Recommender) -> bool:
        """Return whether the model scores each item by itself, whatever it is listed with, and reads a prompt for it:
        then few items cost less than all of them, and get the same scores.
        """
        inner = getattr(model, "changed", None) or getattr(model, "student", None)  # of a derived or a distilled row
        if isinstance(inner, Recommender):
            return self._item_by_item(inner)
        # in a preference task every row is judged by itself
        by_itself = self.spec.task.kind == "preference" or isinstance(model, Pointwise)
        return by_itself or (isinstance(model, Generative) and model.config.search == "exact")

    @cached_property
    def _words(self) -> csr_array | None:
        return text_vectors(self.data.split.items)

    def _nearest(self, items: list[int], best: list[int]) -> dict[int, Reason]:
        """Return, by listed item, the item of the history whose text is most like it."""
        if self._words is None:
            return {}
        cosine = (self._words[best] @ self._words[items].T).toarray()
        at = cosine.argmax(1)
        return {
            item: Reason(self.titles.label(items[at[row]]), float(cosine[row, at[row]]))
            for row, item in enumerate(best)
            if cosine[row, at[row]] > 0
        }

    def _asked(self, query: str, best: list[int]) -> dict[int, tuple[str, ...]]:
        """Return, by listed item, which words of the query its text has; words such as "for" do not count."""
        words = TfidfVectorizer(stop_words="english").build_analyzer()
        wanted = list(dict.fromkeys(words(query)))
        own = {item: set(words(self.titles.texts[item])) for item in best}
        return {item: tuple(word for word in wanted if word in own[item]) for item in best}
