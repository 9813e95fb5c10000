"""Trie and beam search: titles as a tree of tokens, and a search that finds what counting every sequence finds."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.data.batch import Ragged
from benchmark.data.text import TokenTable, offsets_of
from benchmark.llm.adapters import Peft
from benchmark.llm.beam import NEVER, beam_search
from benchmark.llm.language_model import LanguageModel
from benchmark.llm.trie import Trie
from tests.llm.tiny import tiny

END = 2
TITLES = st.lists(st.lists(st.integers(3, 6), min_size=1, max_size=4), min_size=1, max_size=12)


def table(titles: list[list[int]]) -> TokenTable:
    return TokenTable(np.array(list(itertools.chain(*titles)), np.int32), offsets_of(np.array(list(map(len, titles)))))


@settings(max_examples=60, deadline=None)
@given(TITLES)
def test_every_title_is_a_path_and_every_path_a_title(titles: list[list[int]]) -> None:
    trie = Trie(table(titles), END)
    for item, title in enumerate(titles):
        node = torch.tensor([0])
        for token in [*title, END]:
            assert not bool(trie.is_leaf[node])
            node = trie.step(node, torch.tensor([token]))
            assert int(node) >= 0
        assert int(node) == int(trie.leaf[item])
        _, items = trie.items_of(node)
        assert sorted(items.tolist()) == [i for i, t in enumerate(titles) if t == title]
    assert int(trie.is_leaf.sum()) == len({tuple(t) for t in titles})
    assert int(trie.step(torch.tensor([0]), torch.tensor([99]))) == -1
    assert int(trie.step(torch.tensor([-1]), torch.tensor([3]))) == -1


@settings(max_examples=60, deadline=None)
@given(TITLES, st.data())
def test_nodes_that_lead_to_left_out_items_alone_are_closed(titles: list[list[int]], data: st.DataObject) -> None:
    trie = Trie(table(titles), END)
    out = sorted(data.draw(st.sets(st.integers(0, len(titles) - 1))))
    lists = Ragged(torch.tensor([0, len(out)]), torch.tensor(out, dtype=torch.int64))
    open_nodes = trie.open_nodes(lists, 1)[0]
    kept = [i for i in range(len(titles)) if i not in out]
    expected = torch.zeros(trie.n_nodes, dtype=torch.bool)
    for item in kept:
        expected[trie.path[item][trie.path[item] >= 0]] = True
    assert torch.equal(open_nodes[1:], expected[1:])


@torch.no_grad()
def test_a_search_as_wide_as_the_catalogue_ranks_all_titles_by_their_probability() -> None:
    model = LanguageModel(tiny("llama"), Peft(kind="frozen")).eval()
    titles = [[40, 41], [40, 41, 42], [40, 43], [50], [51, 52, 53, 54], [50, 51]]
    trie = Trie(table(titles), END)
    ids = torch.tensor([[1, 60, 61], [1, 70, 71]])
    state = model.begin(ids, torch.ones_like(ids))
    beams = beam_search(model, state.take(torch.arange(2)), 8, trie.depth, END, trie)
    for row in range(2):
        expected = []
        for title in titles:
            answer = torch.tensor([[*title, END]])
            expected.append(float(model.log_probs(ids[row : row + 1], ids[:1] * 0 + 1, answer, answer * 0 + 1).sum()))
        order = np.argsort(expected)[::-1]
        found = beams.log_prob[row]
        torch.testing.assert_close(found[:6], torch.tensor(expected)[order.copy()], rtol=1e-4, atol=1e-4)
        assert bool((found[6:] == NEVER).all())
        _, items = trie.items_of(beams.node[row, :6])
        assert items.tolist() == order.tolist()
        best = beams.tokens[row, 0]
        assert best[best >= 0].tolist() == [*titles[order[0]], END]


@torch.no_grad()
def test_a_free_search_equals_transformers_own() -> None:
    model = LanguageModel(tiny("llama"), Peft(kind="frozen")).eval()
    ids = torch.tensor([[1, 60, 61, 62]])
    beams = beam_search(model, model.begin(ids, torch.ones_like(ids)), 4, 5, END)
    theirs = model.base.generate(
        ids, attention_mask=torch.ones_like(ids), num_beams=4, max_new_tokens=5, do_sample=False, eos_token_id=END,
        num_return_sequences=4, length_penalty=0.0, return_dict_in_generate=True, output_scores=True, pad_token_id=0,
        use_cache=True,
    )  # fmt: skip
    torch.testing.assert_close(beams.log_prob[0], theirs.sequences_scores, rtol=1e-4, atol=1e-4)
    assert beams.tokens[0].tolist() == theirs.sequences[:, 4:].tolist()
