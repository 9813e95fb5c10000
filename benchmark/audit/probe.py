"""Probe: asks a language model, as it comes, to go on with the data set's titles and lines; what it said is kept.

After Di Palma et al., "Do LLMs Memorize Recommendation Datasets? A Preliminary Study on MovieLens-1M", SIGIR 2025
(arXiv:2505.10212), who ask for the rows of the files; a title that is known by heart may come of other texts too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import torch
from scipy import stats

from benchmark.audit.plain import begins, plain
from benchmark.data.schema import ITEM_ID, TITLE
from benchmark.data.seeded import permutation
from benchmark.data.text import offsets_of
from benchmark.runs.record import whole_file

if TYPE_CHECKING:
    from benchmark.llm.language_model import LanguageModel
    from benchmark.llm.prompts import TokenBatch

MOST = 200  # titles, and lines, that are asked for
WORDS = 3  # a shorter title has no half to be asked for
BEFORE = 5  # lines that stand above the one that is asked for
_AT_ONCE, _STEPS = 32, 48


@dataclass(frozen=True)
class Question:
    """A text to go on with, and what must come next."""

    text: str
    answer: str


@dataclass(frozen=True)
class Rate:
    """How many of the questions were answered by heart."""

    hits: int
    asked: int

    @property
    def share(self) -> float:
        return self.hits / self.asked

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of Wilson (JASA 1927)."""
        found = stats.binomtest(self.hits, self.asked).proportion_ci(method="wilson")
        return float(found.low), float(found.high)


def questions(items: pl.DataFrame, seed: int = 0) -> dict[str, list[Question]]:
    """Return what is asked, by kind; none where too little of the catalogue has titles.

    ``titles``: the second half of the words of a title. ``made_up``: the same of titles whose words were dealt anew
    among them: what a model completes by chance or by grammar. ``lines``: the title in a line "item_id,title" below the
    lines of the file that stand before it. ``mixed``: the same with the titles dealt anew among the ids.
    """
    raw = items.select(pl.col(ITEM_ID).cast(pl.String), pl.col(TITLE).cast(pl.String)).drop_nulls()
    raw = raw.filter(pl.col(TITLE).str.strip_chars() != "").with_columns(pl.col(TITLE).str.replace_all(r"\s+", " "))
    number = raw[ITEM_ID].cast(pl.Float64, strict=False)
    raw = raw[np.argsort((raw[ITEM_ID] if number.null_count() else number).to_numpy(), kind="stable")]
    ids, titles = raw[ITEM_ID].to_list(), raw[TITLE].to_list()
    long = sorted({title for title in titles if len(title.split()) >= WORDS})
    chosen = [long[i].split() for i in permutation(len(long), seed, 1)[:MOST]]
    words = [word for title in chosen for word in title]
    dealt = iter([words[i] for i in permutation(len(words), seed, 2)])
    made_up = [[next(dealt) for _ in title] for title in chosen]
    places = BEFORE + permutation(max(len(titles) - BEFORE, 0), seed, 3)[:MOST]
    mixed = [titles[i] for i in permutation(len(titles), seed, 4)]
    return {
        "titles": [_halved(title) for title in chosen],
        "made_up": [_halved(title) for title in made_up],
        "lines": [_line(ids, titles, i) for i in places.tolist()],
        "mixed": [_line(ids, mixed, i) for i in places.tolist()],
    }


def _halved(words: list[str]) -> Question:
    half = (len(words) + 1) // 2
    return Question(" ".join(words[:half]), " ".join(words[half:]))


def _line(ids: list[str], titles: list[str], i: int) -> Question:
    above = [f"{ids[j]},{titles[j]}\n" for j in range(i - BEFORE, i)]
    return Question("".join(above) + f"{ids[i]},", titles[i])


def kept(root: Path, source: Path | str, asked: dict[str, list[Question]]) -> dict[str, Rate] | None:
    """Return what a backbone has answered before, None where it has not been asked."""
    try:
        told = json.loads(_file(root, source, asked).read_text(encoding="utf-8"))
        return {kind: Rate(**rate) for kind, rate in told.items()}
    except (OSError, ValueError, TypeError):
        return None


def keep(root: Path, source: Path | str, asked: dict[str, list[Question]], rates: dict[str, Rate]) -> None:
    """Write what a backbone answered, for the next time."""
    with whole_file(_file(root, source, asked)) as temporary:
        told = {kind: asdict(rate) for kind, rate in rates.items()}
        temporary.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def _file(root: Path, source: Path | str, asked: dict[str, list[Question]]) -> Path:
    """Return the file of what a backbone, by its files or hub name, answered to these very questions."""
    files: Any = str(source)
    if isinstance(source, Path):
        found = sorted([*source.glob("*.json"), *source.glob("*.safetensors")])
        files = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in found]
    told = [files, {kind: [asdict(q) for q in those] for kind, those in asked.items()}, _STEPS]
    return root / "audit" / f"{hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]}.json"


def ask(
    model: LanguageModel, asked: dict[str, list[Question]], advance: Callable[[int], None] = lambda n: None
) -> dict[str, Rate]:
    """Return how many questions of each kind a model answers, when it always says the likeliest token.

    Args:
        model: a decoder goes on with the text; an encoder-decoder may say the answer alone or the text with it.
        asked: as ``questions`` gives them.
        advance: is told after so many more questions.
    """
    return {kind: Rate(sum(_right(model, those, advance)), len(those)) for kind, those in asked.items()}


@torch.no_grad()
def _right(model: LanguageModel, asked: list[Question], advance: Callable[[int], None]) -> list[bool]:
    from benchmark.llm.prompts import TokenBatch

    tokenizer = model.tokenizer
    end = model.n_tokens if tokenizer.eos_token_id is None else int(tokenizer.eos_token_id)
    answers = [len(tokenizer(q.answer, add_special_tokens=False)["input_ids"]) for q in asked]
    prompts = [list(tokenizer(q.text)["input_ids"]) for q in asked]
    if model.kind == "decoder":  # a text that is to be gone on with must not be closed
        prompts = [ids[:-1] if ids[-1] == end else ids for ids in prompts]
    prompts = [ids[-(model.max_length - _STEPS) :] for ids in prompts]
    lengths = np.array([len(ids) for ids in prompts])
    batch = TokenBatch(
        np.array([token for ids in prompts for token in ids], np.int32),
        offsets_of(lengths),
        np.zeros(len(prompts), np.int64),
        int(tokenizer.pad_token_id),
    )
    out = [False] * len(asked)
    order = np.argsort(answers, kind="stable")  # those that need few words share a pass
    for rows in np.split(order, range(_AT_ONCE, len(order), _AT_ONCE)):
        said = _likeliest(model, batch, rows, min(answers[rows[-1]] + 4, _STEPS), end)
        for row, tokens in zip(rows.tolist(), said, strict=True):
            out[row] = _is_answer(model, asked[row], prompts[row], tokens)
        advance(len(rows))
    return out


def _likeliest(model: LanguageModel, batch: TokenBatch, rows: np.ndarray, steps: int, end: int) -> list[list[int]]:
    """Return the tokens that the model says after each prompt, the likeliest each time, up to the closing one."""
    state = model.begin(*model.pad(batch, rows))
    said: list[torch.Tensor] = []
    while len(said) < steps:
        said.append(state.logits.argmax(1, keepdim=True))
        if bool((torch.cat(said, 1) == end).any(1).all()):
            break
        _, state = model.read_on(state, said[-1], torch.ones_like(said[-1]))
    return [tokens[: tokens.index(end)] if end in tokens else tokens for tokens in torch.cat(said, 1).tolist()]


def _is_answer(model: LanguageModel, question: Question, prompt: list[int], said: list[int]) -> bool:
    def text(tokens: list[int]) -> str:
        return plain(model.tokenizer.decode(tokens, skip_special_tokens=True))

    answer = plain(question.answer)
    if model.kind == "seq2seq":
        return begins(text(said), answer) or begins(text(said), plain(f"{question.text} {question.answer}"))
    # decoded as a whole, since the first token may go on with the last word
    return begins(text(prompt + said), f"{text(prompt)} {answer}")
