"""Prompts: pieces tokenised once join to the tokens of the whole text, and nothing but history is ever dropped."""

from __future__ import annotations

import os

import numpy as np
import pytest

from benchmark.errors import InputError
from benchmark.llm.backbone import DEFAULT_BACKBONE, resolve
from benchmark.llm.prompts import History, Prompt, PromptTokens, assemble, flat_prompts, length_buckets, special_tokens

transformers = pytest.importorskip("transformers")

ITEMS = [
    "Toy Story, 1995",
    "Heat",
    "Die Hard: With a Vengeance",
    "Amélie (2001)",
    "12 Monkeys",
    "Се7en",
    "E.T. the Alien",
]
# byte pairs may take a bracket and the full stop behind it as one token: there, titles end in a word
WORDS_LAST = [title.replace(" (2001)", "") for title in ITEMS]
PROFILES = ["24 years old, M, technician", "", "F, writer"]
TEMPLATES = [
    Prompt(),
    Prompt(template="{candidate} after {history}? {{yes/no}}:", separator="; "),
    Prompt(template='[{profile}] likes:\n{liked}\nand "{candidate}"? not\n{disliked}', separator="\n", no_items="none"),
    Prompt(template="Liked: {liked}", no_items="-"),
    Prompt(template="{profile} {candidate}, {history}"),
]


@pytest.fixture(scope="module")
def wordpiece():
    return transformers.AutoTokenizer.from_pretrained(resolve(DEFAULT_BACKBONE))


@pytest.fixture(scope="module")
def byte_pairs():
    """A byte-level BPE tokenizer with <s>, trained here on the words of the tests."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    texts = [p.render(PROFILES[0], ITEMS, None, ITEMS[0]) for p in TEMPLATES]
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<s>", "<pad>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", pad_token="<pad>")


def rows(seed: int, n: int = 60) -> tuple[np.ndarray, np.ndarray, History]:
    """Random candidates, profiles and histories, some of them empty."""
    rng = np.random.default_rng(seed)
    length = rng.integers(0, 12, n)
    offsets = np.concatenate([[0], np.cumsum(length)])
    total = int(offsets[-1])
    history = History(rng.integers(0, len(ITEMS), total), offsets, rng.random(total) < 0.6)
    return rng.integers(0, len(ITEMS), n), rng.integers(0, len(PROFILES), n), history


def naive(prompt: Prompt, tokenizer, candidate: str, profile: str, items, liked, budget: int) -> tuple[list[int], int]:
    """Render and tokenise a row again and again, with one old item less, until it fits."""
    slots = ["liked" if flag else "disliked" for flag in liked]
    shown = [i for i, slot in enumerate(slots) if "history" in prompt.slots or slot in prompt.slots]
    for skip in range(len(shown) + 1):
        keep = shown[skip:]
        text = prompt.render(profile, [items[i] for i in keep], [bool(liked[i]) for i in keep], candidate)
        ids = tokenizer(text)["input_ids"]
        if len(ids) <= budget:
            return ids, skip
    raise AssertionError("the budget of a test has room for everything but the history")


@pytest.mark.parametrize("kind", ["wordpiece", "byte_pairs"])
@pytest.mark.parametrize("template", range(len(TEMPLATES)))
@pytest.mark.parametrize("budget", [500, 60])
def test_equals_tokenising_each_row(kind, template, budget, request):
    tokenizer, prompt = request.getfixturevalue(kind), TEMPLATES[template]
    titles = ITEMS if kind == "wordpiece" else WORDS_LAST
    pieces = PromptTokens(prompt, tokenizer, titles, PROFILES)
    candidate, profile, history = rows(template)
    if kind == "byte_pairs":
        budget *= 2
    ids, mask, dropped = assemble(pieces, budget, candidate, history, profile)
    assert ids.shape == mask.shape
    assert ids.shape[1] <= budget
    for row in range(len(candidate)):
        mine = slice(history.offsets[row], history.offsets[row + 1])
        shown = [titles[i] for i in history.items[mine]]
        expected, skipped = naive(
            prompt, tokenizer, titles[candidate[row]], PROFILES[profile[row]], shown, history.liked[mine], budget
        )
        assert ids[row][mask[row] == 1].tolist() == expected
        assert (ids[row][mask[row] == 0] == tokenizer.pad_token_id).all()
        assert int(dropped[row]) == skipped


def test_real_llama_tokenizer():
    shared = os.environ.get("LEVELFIELD_SHARED")
    if not shared:
        pytest.skip("LEVELFIELD_SHARED is not set: no real Llama tokenizer")
    tokenizer = transformers.AutoTokenizer.from_pretrained(f"{shared}/models/stories260K")
    tokenizer.pad_token = tokenizer.unk_token
    pieces = PromptTokens(Prompt(), tokenizer, ITEMS, PROFILES)
    candidate, profile, history = rows(0, 20)
    prompts = flat_prompts(pieces, 512, candidate, history, profile)
    for row in range(20):
        mine = slice(history.offsets[row], history.offsets[row + 1])
        shown = [ITEMS[i] for i in history.items[mine]]
        text = Prompt().render(PROFILES[profile[row]], shown, history.liked[mine].tolist(), ITEMS[candidate[row]])
        assert prompts.tokens[prompts.offsets[row] : prompts.offsets[row + 1]].tolist() == tokenizer(text)["input_ids"]


def test_budget_drops_history_then_profile_never_the_candidate(wordpiece):
    prompt = Prompt()
    pieces = PromptTokens(prompt, wordpiece, ITEMS, ["word " * 300, "", ""])
    n = 5
    history = History(np.tile(np.arange(7), n), np.arange(0, 7 * n + 1, 7), np.ones(7 * n, bool))
    candidate = np.full(n, 6)
    ids, mask, dropped = assemble(pieces, 64, candidate, history, np.zeros(n, int))
    assert ids.shape == (n, 64)
    assert bool((mask == 1).all())
    assert dropped.tolist() == [7] * n
    text = wordpiece.decode(ids[0])
    assert "will the user like e. t. the alien?" in text
    assert "disliked : nothing" in text
    with pytest.raises(InputError, match=r"candidate item 6 needs \d+ tokens"):
        assemble(pieces, 20, candidate, history, np.zeros(n, int))


def test_no_tokenizer_call_while_assembling(wordpiece):
    pieces = PromptTokens(Prompt(), wordpiece, ITEMS, PROFILES)
    assert not any(callable(value) for value in vars(pieces).values())


def test_histories():
    padded = np.array([[3, 1, 9, 9], [9, 9, 9, 9], [5, 4, 2, 0]])
    liked = np.array([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 1, 0]], bool)
    history = History.from_padded(padded, np.array([2, 0, 4]), liked)
    assert history.items.tolist() == [3, 1, 5, 4, 2, 0]
    assert history.liked.tolist() == [True, False, False, True, True, False]
    twice = history.take(np.array([2, 1, 0, 0]))
    assert twice.items.tolist() == [5, 4, 2, 0, 3, 1, 3, 1]
    assert twice.offsets.tolist() == [0, 4, 4, 6, 8]


def test_templates_refused():
    with pytest.raises(InputError, match=r"unknown slot 'candidat'; did you mean 'candidate'"):
        Prompt(template="Like {candidat}?")
    with pytest.raises(InputError, match="more than once"):
        Prompt(template="{candidate} {candidate}")
    with pytest.raises(InputError, match="literally"):
        Prompt(template="{candidate")
    with pytest.raises(InputError, match="takes no format"):
        Prompt(template="{candidate:>9}")


def test_missing_arguments(wordpiece):
    with pytest.raises(InputError, match="no user profiles"):
        PromptTokens(Prompt(), wordpiece, ITEMS)
    pieces = PromptTokens(Prompt(), wordpiece, ITEMS, PROFILES)
    with pytest.raises(InputError, match="'liked'"):
        assemble(pieces, 100, np.array([0]), None, np.array([0]))


def test_special_tokens(wordpiece, byte_pairs):
    assert special_tokens(wordpiece) == ([101], [102])
    assert special_tokens(byte_pairs) == ([0], [])


def test_no_rows(wordpiece):
    pieces = PromptTokens(Prompt(), wordpiece, ITEMS, PROFILES)
    none = np.zeros(0, np.int64)
    ids, _, dropped = assemble(pieces, 100, none, History(none, np.zeros(1, np.int64), none.astype(bool)), none)
    assert ids.shape == (0, 0)
    assert len(dropped) == 0


def waste(batches: list[np.ndarray], lengths: np.ndarray) -> float:
    padded = sum(int(lengths[b].max()) * len(b) for b in batches)
    return 1 - int(lengths.sum()) / padded


@pytest.mark.parametrize("n", [1, 31, 512, 20000])
@pytest.mark.parametrize("how", [{"batch_size": 32}, {"tokens_per_batch": 2048}, {"batch_size": 32, "seed": None}])
def test_buckets_waste_little_and_keep_every_row(n, how):
    lengths = np.random.default_rng(n).lognormal(4, 0.5, n).astype(np.int64).clip(5, 512)
    batches = length_buckets(lengths, **how)
    assert sorted(np.concatenate(batches).tolist()) == list(range(n))
    assert waste(batches, lengths) <= 0.05
    for batch in batches:
        if "batch_size" in how:
            assert len(batch) <= 32
        else:
            assert len(batch) == 1 or lengths[batch].max() * len(batch) <= 2048
    # cutting for the sake of padding leaves most batches whole
    if n == 20000 and "batch_size" in how:
        assert len(batches) < 1.05 * n / 32


def test_buckets_are_seeded():
    lengths = np.random.default_rng(0).integers(10, 200, 3000)
    first, again, other = (length_buckets(lengths, 16, seed=seed) for seed in (1, 1, 2))
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert any(a.tolist() != b.tolist() for a, b in zip(first, other, strict=False))
    assert [int(lengths[b].max()) for b in first] != sorted(int(lengths[b].max()) for b in first)
    assert length_buckets(lengths[:0], 16) == []
    with pytest.raises(InputError, match="expected batch_size or tokens_per_batch"):
        length_buckets(lengths)
