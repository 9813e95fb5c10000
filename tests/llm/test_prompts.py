"""Prompts: pieces tokenised once join to the tokens of the whole text, and nothing but history is ever dropped."""

from __future__ import annotations

import os

import numpy as np
import pytest

from benchmark.errors import InputError
from benchmark.llm.locate import DEFAULT_BACKBONE, resolve
from benchmark.llm.pieces import PromptTokens, special_tokens
from benchmark.llm.prompts import History, flat_prompts
from benchmark.llm.templates import Prompt, Template

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


def template(text: str, **fields: str) -> Template:
    return Template(way="pointwise", template=text, answers=("Yes", "No"), **fields)  # type: ignore[arg-type]


SHIPPED = Prompt().filled("pointwise")
TEMPLATES = [
    SHIPPED,
    template("{candidate} after {history}? {{yes/no}}:", separator="; "),
    template('[{profile}] likes:\n{liked}\nand "{candidate}"? not\n{disliked}', separator="\n", no_items="none"),
    template("Liked: {liked}", no_items="-"),
    template("{profile} {candidate}, {history}"),
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
    history = History(rng.integers(0, len(ITEMS), total), offsets, (rng.random(total) < 0.6).astype(np.float32))
    return rng.integers(0, len(ITEMS), n), rng.integers(0, len(PROFILES), n), history


def assemble(pieces: PromptTokens, max_length: int, *args: object):
    prompts = flat_prompts(pieces, max_length, *args)  # type: ignore[arg-type]
    return (*prompts.pad(), prompts.dropped)


def naive(
    prompt: Template, tokenizer, titles: list[str], candidate: str, profile: str, items, liked, budget: int
) -> tuple[list[int], int]:
    """Render and tokenise a row again and again, with one old item less, until it would fit with any candidate."""
    slots = ["liked" if flag else "disliked" for flag in liked]
    shown = [i for i, slot in enumerate(slots) if "history" in prompt.slots or slot in prompt.slots]
    for skip in range(len(shown) + 1):
        keep = shown[skip:]
        shown_items, flags = [items[i] for i in keep], [bool(liked[i]) for i in keep]
        longest = max(len(tokenizer(prompt.render(profile, shown_items, flags, t))["input_ids"]) for t in titles)
        if longest <= budget:
            return tokenizer(prompt.render(profile, shown_items, flags, candidate))["input_ids"], skip
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
            prompt,
            tokenizer,
            titles,
            titles[candidate[row]],
            PROFILES[profile[row]],
            shown,
            history.liked[mine],
            budget,
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
    pieces = PromptTokens(SHIPPED, tokenizer, ITEMS, PROFILES)
    candidate, profile, history = rows(0, 20)
    prompts = flat_prompts(pieces, 512, candidate, history, profile)
    for row in range(20):
        mine = slice(history.offsets[row], history.offsets[row + 1])
        shown = [ITEMS[i] for i in history.items[mine]]
        text = SHIPPED.render(PROFILES[profile[row]], shown, history.liked[mine].tolist(), ITEMS[candidate[row]])
        assert prompts.tokens[prompts.offsets[row] : prompts.offsets[row + 1]].tolist() == tokenizer(text)["input_ids"]


def test_budget_drops_history_then_profile_never_the_candidate(wordpiece):
    pieces = PromptTokens(SHIPPED, wordpiece, ITEMS, ["word " * 300, "", ""])
    n = 5
    history = History(np.tile(np.arange(7), n), np.arange(0, 7 * n + 1, 7), np.ones(7 * n, np.float32))
    candidate = np.full(n, 6)
    ids, mask, dropped = assemble(pieces, 64, candidate, history, np.zeros(n, int))
    assert ids.shape == (n, 64)
    assert bool((mask == 1).all())
    assert dropped.tolist() == [7] * n
    text = wordpiece.decode(ids[0])
    assert "will the user like e. t. the alien?" in text
    assert "disliked : nothing" in text
    with pytest.raises(InputError, match=r"candidate item \d, the longest\) needs \d+ tokens"):
        assemble(pieces, 20, candidate, history, np.zeros(n, int))


def test_no_tokenizer_call_while_assembling(wordpiece):
    pieces = PromptTokens(SHIPPED, wordpiece, ITEMS, PROFILES)
    pieces.tokenizer = None
    candidate, profile, history = rows(0, 5)
    assert len(flat_prompts(pieces, 200, candidate, history, profile)) == 5


def test_histories():
    padded = np.array([[3, 1, 9, 9], [9, 9, 9, 9], [5, 4, 2, 0]])
    liked = np.array([[1, 0, 1, 1], [0, 0, 0, 0], [0, 1, 1, 0]], bool)
    history = History.from_padded(padded, np.array([2, 0, 4]), liked)
    assert history.items.tolist() == [3, 1, 5, 4, 2, 0]
    assert history.liked.tolist() == [True, False, False, True, True, False]
    twice = history.take(np.array([2, 1, 0, 0]))
    assert twice.items.tolist() == [5, 4, 2, 0, 3, 1, 3, 1]
    assert twice.offsets.tolist() == [0, 4, 4, 6, 8]


def test_other_profiles_take_the_place_of_the_users(wordpiece):
    template = Template(way="pointwise", template="User: {profile}. {candidate}", answers=("", ""))
    pieces = PromptTokens(template, wordpiece, ["red car", "blue boat"], ["24 years old", ""])
    asking = pieces.with_profiles(["24 years old, a boat", "", "cars"])

    def texts(of, candidate, profile):
        made = flat_prompts(of, 64, np.array(candidate), profile=np.array(profile))
        return [wordpiece.decode(made.tokens[a:b]) for a, b in zip(made.offsets[:-1], made.offsets[1:], strict=True)]

    whole = PromptTokens(template, wordpiece, ["red car", "blue boat"], ["24 years old, a boat", "", "cars"])
    assert texts(asking, [1, 0, 1], [0, 1, 2]) == texts(whole, [1, 0, 1], [0, 1, 2])
    assert texts(pieces, [1, 0], [0, 1]) == [t.replace(", a boat", "") for t in texts(whole, [1, 0], [0, 1])]


def test_templates_refused():
    with pytest.raises(InputError, match=r"unknown slot 'candidat'; did you mean 'candidate'"):
        Prompt(template="Like {candidat}?")
    with pytest.raises(InputError, match="more than once"):
        Prompt(template="{candidate} {candidate}").filled("pointwise")
    with pytest.raises(InputError, match="literally"):
        Prompt(template="{candidate")
    with pytest.raises(InputError, match="takes no format"):
        Prompt(template="{candidate:>9}")


def test_missing_arguments(wordpiece):
    with pytest.raises(InputError, match="no user profiles"):
        PromptTokens(SHIPPED, wordpiece, ITEMS)
    pieces = PromptTokens(SHIPPED, wordpiece, ITEMS, PROFILES)
    with pytest.raises(InputError, match="'liked'"):
        assemble(pieces, 100, np.array([0]), None, np.array([0]))


def test_special_tokens(wordpiece, byte_pairs):
    assert special_tokens(wordpiece) == ([101], [102])
    assert special_tokens(byte_pairs) == ([0], [])


def test_no_rows(wordpiece):
    pieces = PromptTokens(SHIPPED, wordpiece, ITEMS, PROFILES)
    none = np.zeros(0, np.int64)
    ids, _, dropped = assemble(pieces, 100, none, History(none, np.zeros(1, np.int64), none.astype(np.float32)), none)
    assert ids.shape == (0, 0)
    assert len(dropped) == 0
