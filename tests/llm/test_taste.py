"""Taste: the values that a history mostly holds, counted from what came before, told in the prompt."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from benchmark.data.datamodule import RecDataModule
from benchmark.errors import InputError
from benchmark.llm.pointwise import Pointwise
from benchmark.llm.prompts import History
from benchmark.llm.taste import Tastes
from benchmark.llm.templates import Prompt, Taste
from tests.contract import fit
from tests.llm.tiny import tiny, tiny_bert
from tests.planted import planted

TEXT = "User: {profile}; mostly takes {taste}. Liked: {liked}. {question} "
PROMPT = {"template": TEXT, "taste": {"column": "genres", "top": 2, "history": 8}}


def test_counts_the_liked_items_of_each_history() -> None:
    rng = np.random.default_rng(0)
    genres = [", ".join(rng.permutation(list("abcdef"))[: rng.integers(0, 4)]) for _ in range(30)]
    items = pl.DataFrame({"item_id": [str(i) for i in range(30)], "genres": genres})
    tastes = Tastes(items, Taste(column="genres", top=3))
    length = rng.integers(0, 12, 40)
    total = int(length.sum())
    label = (rng.random(total) < 0.6).astype(np.float32)
    history = History(rng.integers(0, 30, total), np.r_[0, length.cumsum()], label)
    for row, found in enumerate(tastes.top(history)):
        mine = slice(history.offsets[row], history.offsets[row + 1])
        liked = [genres[i] for i, like in zip(history.items[mine], history.label[mine], strict=True) if like]
        count = Counter(g for text in liked for g in text.split(", ") if g)
        expected = sorted(count, key=lambda g: (-count[g], g))[:3]
        assert [tastes.values[v] for v in found if v >= 0] == expected


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ([1995.0, 1989.0, None, 1991.0], ["1980s", "1990s"]),
        ([["b", "a"], ["a"], None, []], ["a", "b"]),
        (["b , a", "", None, "a"], ["a", "b"]),
    ],
)
def test_columns_of_years_lists_and_text(column: list[Any], expected: list[str]) -> None:
    tastes = Tastes(pl.DataFrame({"x": column}), Taste(column="x"))
    assert tastes.values == expected
    history = History(np.array([0, 2, 3, 1]), np.array([0, 3, 4]), np.ones(4, np.float32))
    assert tastes.top(history).shape == (2, len(expected))


@pytest.mark.parametrize("backbone", [tiny("llama"), tiny_bert()], ids=["llama", "bert"])
def test_prompts_tell_it_as_if_the_whole_text_had_been_tokenised(backbone: str) -> None:
    data, task = planted("preference")
    model = Pointwise(Pointwise.Config(backbone=backbone, prompt=PROMPT, max_history=3), data.catalogue()).eval()
    assert model.batch_spec().max_history == 8
    rows = RecDataModule(data, task, model.batch_spec()).rows("test")
    batch = rows[rows.all[:30]]
    assert batch.candidates is not None
    assert batch.history is not None
    assert batch.history_length is not None
    assert batch.history_label is not None
    prompts = model.read(batch, candidate=batch.candidates[:, 0])
    reader, genres = model.reader, data.items["genres"].to_list()
    told = set()
    for b in range(30):
        n = int(batch.history_length[b])
        before = batch.history[b, :n].tolist()
        like = (batch.history_label[b, :n] > 0.5).tolist()
        count = Counter(g for i, liked in zip(before, like, strict=True) if liked for g in genres[i].split(", "))
        taste = sorted(count, key=lambda g: (-count[g], g))[:2]
        listed = [reader.items[i] for i in before[-3:]]
        candidate = reader.items[int(batch.candidates[b, 0])]
        text = reader.template.render(reader.profiles[int(batch.user[b])], listed, like[-3:], candidate, taste)
        tokens = prompts.tokens[prompts.offsets[b] : prompts.offsets[b + 1]]
        assert tokens.tolist() == reader.pieces.tokenizer(text)["input_ids"]
        told.add(tuple(taste))
    assert len(told) > 3


def test_a_user_profile_may_be_told_by_some_columns() -> None:
    data, _ = planted("preference")
    data.users.insert_column(1, pl.Series("town", ["Ely"] * data.n_users))
    for columns, expected in ((["town"], "Ely"), (None, f"{data.users['age'][5]} years old, Ely")):
        config = Pointwise.Config(backbone=tiny("llama"), prompt={"profile": columns})
        assert Pointwise(config, data.catalogue()).reader.profiles[5] == expected
    config = Pointwise.Config(backbone=tiny("llama"), prompt={"profile": ["twon"]})
    with pytest.raises(InputError, match="unknown user field 'twon'; did you mean 'town'"):
        Pointwise.check(config, data.catalogue())


def test_it_trains_and_scores_with_a_taste() -> None:
    data, task = planted("preference")
    fitted = fit(Pointwise, {"backbone": tiny_bert(), "prompt": PROMPT, "max_history": 2}, data, task, test=False)
    batch = fitted.batch()
    scores = fitted.score(batch)
    assert scores.isfinite().all()
    assert batch.history_length is not None
    # older items than those that are listed count too
    longer = torch.where(batch.history_length > 2)[0]
    shorter = fitted.score(batch.newest(2))
    assert not torch.equal(scores[longer], shorter[longer])


def test_what_cannot_be_told() -> None:
    catalogue = planted("preference")[0].catalogue()
    with pytest.raises(InputError, match=r"prompt\.taste\.column: no item column 'genre'; did you mean 'genres'"):
        Tastes(catalogue.items, Taste(column="genre"))
    with pytest.raises(InputError, match=r"prompt\.taste\.column: 'x' is empty for every item"):
        Tastes(pl.DataFrame({"x": [None, ""]}), Taste(column="x"))
    for prompt in (Prompt(template="{taste} {candidate}"), Prompt(taste=Taste(column="genres"))):
        with pytest.raises(InputError, match=r"the slot \{taste\} and prompt\.taste, which fills it, go together"):
            prompt.filled("pointwise")
