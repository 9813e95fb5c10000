"""Retention: how far fine-tuning has moved a language model from the one it was, on text that names no items."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from benchmark.errors import InputError
from benchmark.llm.backbone import Backbone
from benchmark.llm.buckets import TOKENS_PER_PASS
from benchmark.llm.encoder import Encoder
from benchmark.llm.language_model import LanguageModel
from benchmark.llm.pieces import PromptTokens
from benchmark.llm.plain_texts import plain_texts
from benchmark.llm.prompts import flat_prompts
from benchmark.llm.templates import ALONE

NEIGHBOURS = 10
CORPUS_LINES = 1000
_LOGITS_PER_PASS = 2**24  # numbers of a table of logits that is made at once
_MOST_TOKENS = 256  # of a plain text


class Retention(BaseModel):
    """What is measured of the fine-tuned model beside the ranking, see ``measure``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    texts: int = Field(64, gt=0, description="Texts that are sampled from a model with a language model head.")
    length: int = Field(64, ge=4, description="Most tokens of such a text, and of a line of the corpus.")
    temperature: float = Field(1.0, gt=0, description="Of the sampling; 1: the model's own distribution.")
    corpus: Path | None = Field(
        None, description=f"A .txt file, one held-out text a line, the first {CORPUS_LINES:,} of which are read."
    )
    seed: int = Field(0, ge=0, description="Of the sampling.")


@dataclass(frozen=True)
class Texts:
    """Token lists of N texts behind the opening of a model.

    Attributes:
        ids: (N, L) int64, padded on the right.
        mask: (N, L) int64, 1 at real tokens, the closing one included.
    """

    ids: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, rows: Tensor) -> Texts:
        """Return the texts of ``rows``, as wide as the longest of them."""
        mask = self.mask[rows]
        width = max(int(mask.sum(1).max()), 1)
        return Texts(self.ids[rows, :width], mask[:, :width])


def measure(backbone: Backbone, settings: Retention) -> dict[str, float]:
    """Return what is left of the pretrained model in a fine-tuned one; nothing of the recommender's data is read.

    With a language model head, on texts sampled from the pretrained model behind its opening token (an
    encoder-decoder's decoder behind an empty prompt), means over their tokens:

    - ``base_kl``: KL(base || tuned) of the next token, in nats.
    - ``base_perplexity``, ``tuned_perplexity``: exp of the mean - log P of both models.
    - ``next_token_agreement``: share of places where both hold the same token for the most probable.
    - ``corpus_perplexity``, ``corpus_base_perplexity``: tuned and base on the corpus, where there is one.

    On texts sampled from the tuned model with the same settings, and (``base_...``) on those of the base:
    ``distinct_1``, ``distinct_2``, ``distinct_3``, ``repetition_4``, see ``distinct`` and ``repetition``.

    Of an encoder, on the corpus or, without one, on ``plain_texts``, from normalised vectors: ``base_cka``,
    ``neighbour_overlap``, see ``linear_cka`` and ``neighbour_overlap``.

    Of two texts or more also the standard error over texts of what is a mean: ``base_kl_se``,
    ``next_token_agreement_se``, ``neighbour_overlap_se``, and of the log of each perplexity,
    ``tuned_perplexity_log_se`` and so on.
    """
    mode = backbone.training
    backbone.eval()
    try:
        with torch.no_grad():
            if isinstance(backbone, LanguageModel):
                return _of_language_model(backbone, settings)
            assert isinstance(backbone, Encoder)
            lines = plain_texts() if settings.corpus is None else read_corpus(settings.corpus)
            tuned = vectors(backbone, lines)
            with backbone.pretrained():
                base = vectors(backbone, lines)
            out = {"base_cka": linear_cka(base, tuned), "neighbour_overlap": neighbour_overlap(base, tuned)}
            if len(lines) > 1:
                shares = _same_neighbours(base, tuned, NEIGHBOURS).double().mean(1)
                out["neighbour_overlap_se"] = _standard_error(shares, torch.ones_like(shares))
            return out
    finally:
        backbone.train(mode)


def read_corpus(path: Path) -> list[str]:
    """Return the first lines of a corpus that are not empty.

    Raises:
        InputError: the file cannot be read, or holds no text.
    """
    try:
        with path.open(encoding="utf-8") as file:
            lines = [text for line in file if (text := line.strip())][:CORPUS_LINES]
    except (OSError, UnicodeDecodeError) as error:
        said = getattr(error, "strerror", None) or "no UTF-8 text"
        raise InputError(f"retention.corpus: {path} cannot be read ({said}); expected one text a line") from None
    if not lines:
        raise InputError(f"retention.corpus: {path} is empty; expected one text a line")
    return lines


# --- with a language model head ------------------------------------------------------------------------------------


def _of_language_model(model: LanguageModel, settings: Retention) -> dict[str, float]:
    wanted = settings.texts, settings.length, settings.temperature, settings.seed
    with model.pretrained():
        base = sample(model, *wanted)
    tuned = sample(model, *wanted)
    found = _compared(model, base)
    out = {
        "base_kl": found.kl,
        "base_perplexity": found.base_perplexity,
        "tuned_perplexity": found.tuned_perplexity,
        "next_token_agreement": found.agreement,
    }
    names = ("base_kl_se", "base_perplexity_log_se", "tuned_perplexity_log_se", "next_token_agreement_se")
    out |= dict(zip(names, found.errors, strict=False))
    for prefix, texts in (("", tuned), ("base_", base)):
        tokens = _spoken(model, texts)
        out |= {f"{prefix}distinct_{n}": distinct(tokens, n) for n in (1, 2, 3)}
        out[f"{prefix}repetition_4"] = repetition(tokens, 4)
    if settings.corpus is not None:
        held_out = _compared(model, _tokenised(model, read_corpus(settings.corpus), settings.length))
        out |= {"corpus_perplexity": held_out.tuned_perplexity, "corpus_base_perplexity": held_out.base_perplexity}
        of_corpus = ("corpus_base_perplexity_log_se", "corpus_perplexity_log_se")
        out |= dict(zip(of_corpus, held_out.errors[1:3], strict=False))
    return out


def opening(model: LanguageModel, n: int) -> tuple[Tensor, Tensor]:
    """Return ids and mask (n, P) that stand before a text: the opening token, or an encoder-decoder's empty prompt."""
    text = model.tokenizer
    if model.kind == "seq2seq":
        first = list(text("")["input_ids"]) or [text.pad_token_id]
    else:
        known = (text.bos_token_id, text.eos_token_id, text.pad_token_id)
        first = [next(token for token in known if token is not None)]
    ids = torch.tensor([first], device=model.device).expand(n, -1)
    return ids, torch.ones_like(ids)


def _ends(model: LanguageModel) -> Tensor:
    """Return the tokens that end a text: the closing one, and the opening one, with which the next would begin."""
    known = (model.tokenizer.eos_token_id, model.tokenizer.bos_token_id)
    return torch.tensor([token for token in known if token is not None], device=model.device, dtype=torch.int64)


@torch.no_grad()
def sample(model: LanguageModel, n: int, length: int, temperature: float = 1.0, seed: int = 0) -> Texts:
    """Return n texts of at most ``length`` tokens (fewer where the model takes fewer), drawn token by token.

    Torch's global generator is left alone.
    """
    length = min(length, model.max_length - opening(model, 1)[0].shape[1])
    generator, ends = torch.Generator().manual_seed(seed), _ends(model)
    parts = []
    for rows in torch.arange(n).split(max(1, TOKENS_PER_PASS // length)):
        state = model.begin(*opening(model, len(rows)))
        ids = torch.zeros(len(rows), length, dtype=torch.int64, device=model.device)
        mask = torch.zeros_like(ids)
        going = torch.ones(len(rows), dtype=torch.bool, device=model.device)
        for place in range(length):
            chance = (state.logits / temperature).softmax(-1)
            token = torch.multinomial(chance.cpu(), 1, generator=generator).to(model.device)
            ids[:, place], mask[:, place] = token[:, 0], going
            going = going & ~torch.isin(token[:, 0], ends)
            if place == length - 1 or not bool(going.any()):
                break
            _, state = model.read_on(state, token, torch.ones_like(token))
        parts.append(Texts(ids, mask))
    return Texts(torch.cat([part.ids for part in parts]), torch.cat([part.mask for part in parts]))


def logits_of(model: LanguageModel, texts: Texts) -> Tensor:
    """Return (N, L, V) float32 logits of each token of texts, given what stands before it."""
    return model.answer_logits(*opening(model, len(texts)), texts.ids, texts.mask)


def kl_divergence(base: Tensor, tuned: Tensor) -> Tensor:
    """Return (...) KL(base || tuned) in nats from logits (..., V)."""
    base, tuned = F.log_softmax(base, dim=-1), F.log_softmax(tuned, dim=-1)
    return (base.exp() * (base - tuned)).sum(-1)


@dataclass(frozen=True)
class _Compared:
    kl: float
    base_perplexity: float
    tuned_perplexity: float
    agreement: float
    errors: tuple[float, ...]  # standard errors over texts of these four, of the perplexities' logs; none of one text


def _compared(model: LanguageModel, texts: Texts) -> _Compared:
    """Return both models on texts, means over tokens."""
    size = max(1, _LOGITS_PER_PASS // (texts.ids.shape[1] * model.n_tokens))
    parts = []
    for rows in torch.arange(len(texts), device=model.device).split(size):
        part = texts.rows(rows)
        real = part.mask > 0
        tuned = logits_of(model, part)[real]
        with model.pretrained():
            base = logits_of(model, part)[real]
        said = part.ids[real]
        values = (
            kl_divergence(base, tuned),
            F.cross_entropy(base, said, reduction="none"),
            F.cross_entropy(tuned, said, reduction="none"),
            (base.argmax(-1) == tuned.argmax(-1)).float(),
        )
        grid = torch.zeros(4, *real.shape, dtype=torch.float64, device=model.device)
        grid[:, real] = torch.stack(values).double()
        parts.append(grid.sum(2))
    sums, tokens = torch.cat(parts, dim=1), texts.mask.sum(1)
    kl, base_loss, tuned_loss, same = (sums.sum(1) / tokens.sum()).tolist()
    errors = tuple(_standard_error(row, tokens) for row in sums) if len(texts) > 1 else ()
    # rounding can leave a divergence of nothing a hair below 0
    return _Compared(max(kl, 0.0), _exp(base_loss), _exp(tuned_loss), same, errors)


def _standard_error(sums: Tensor, counts: Tensor) -> float:
    """Return the standard error over texts of sum(sums) / sum(counts), (n,) each: a ratio of two sums over texts
    (Cochran, Sampling Techniques, 1977, chapter 6).
    """
    n, left = len(sums), sums - counts * (sums.sum() / counts.sum())
    return float(((left**2).sum() * n / (n - 1)).sqrt() / counts.sum())


def _exp(loss: float) -> float:
    return math.exp(min(loss, 700.0))  # a float holds no more


def _tokenised(model: LanguageModel, lines: list[str], length: int) -> Texts:
    """Return lines as a model's tokens, cut."""
    length = min(length, model.max_length - opening(model, 1)[0].shape[1])
    rows = [row[:length] for row in model.tokenizer(lines, add_special_tokens=False)["input_ids"] if row]
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), 1
    return Texts(ids.to(model.device), mask.to(model.device))


def _spoken(model: LanguageModel, texts: Texts) -> list[np.ndarray]:
    """Return the tokens of each text, without the closing one."""
    ends = _ends(model).tolist()
    return [
        row[: int(n) - bool(row[int(n) - 1] in ends)]
        for row, n in zip(texts.ids.cpu().numpy(), texts.mask.sum(1).tolist(), strict=True)
    ]


def _grams(text: np.ndarray, n: int) -> np.ndarray:
    """Return the (m, n) n-grams of a text of m + n - 1 tokens."""
    return np.lib.stride_tricks.sliding_window_view(text, n) if len(text) >= n else np.empty((0, n), text.dtype)


def distinct(texts: list[np.ndarray], n: int) -> float:
    """Return the number of different n-grams of all texts over the number of their tokens.

    distinct-n of Li et al. (NAACL 2016, arXiv:1510.03055), over tokens; it falls with the number of texts.
    """
    tokens = sum(map(len, texts))
    grams = np.concatenate([_grams(text, n) for text in texts])
    return len(np.unique(grams, axis=0)) / tokens if tokens else 0.0


def repetition(texts: list[np.ndarray], n: int) -> float:
    """Return the share of a text's n-grams that it has said before, mean over the texts that have any.

    seq-rep-n of Welleck et al. (ICLR 2020, arXiv:1908.04319): 1 - different n-grams / n-grams.
    """
    shares = [
        1 - len(np.unique(grams, axis=0)) / len(grams) for grams in (_grams(text, n) for text in texts) if len(grams)
    ]
    return float(np.mean(shares)) if shares else 0.0


# --- of an encoder ---------------------------------------------------------------------------------------------------


def vectors(model: Encoder, texts: list[str]) -> Tensor:
    """Return (n, d) normalised vectors of texts."""
    pieces = PromptTokens(ALONE, model.tokenizer, texts)
    length = min(model.max_length, _MOST_TOKENS)
    pieces.cut_candidates(length)
    return F.normalize(model.encode_all(flat_prompts(pieces, length, candidate=np.arange(len(texts)))), dim=-1)


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Return the linear centred kernel alignment of two sets of vectors of the same n texts, (n, d) and (n, e).

    ||Y' X||^2 / (||X' X|| ||Y' Y||) of centred X and Y, Frobenius norms (Kornblith et al., ICML 2019, arXiv:1905.00414,
    section 3): 1 where they differ by a rotation and a factor. With fewer texts than dimensions it is too high: to be
    compared between rows alone.
    """
    x, y = (v.double() - v.double().mean(0) for v in (x, y))
    between = torch.linalg.matrix_norm(y.T @ x) ** 2
    within = torch.linalg.matrix_norm(x.T @ x) * torch.linalg.matrix_norm(y.T @ y)
    return min(float(between / within), 1.0) if float(within) else 0.0


def neighbour_overlap(x: Tensor, y: Tensor, k: int = NEIGHBOURS) -> float:
    """Return the share of a text's k nearest others, by cosine, that are the same in both (n, d), mean over texts."""
    return float(_same_neighbours(x, y, k).float().mean())


def _same_neighbours(x: Tensor, y: Tensor, k: int) -> Tensor:
    """Return (n, k) whether each of a text's k nearest others in x is one in y; of a text alone, (1, 1) True."""
    k = min(k, len(x) - 1)
    if k < 1:
        return torch.ones(1, 1, dtype=torch.bool)
    near = []
    for v in (x, y):
        v = F.normalize(v, dim=-1)
        near.append((v @ v.T).fill_diagonal_(float("-inf")).topk(k, dim=1).indices)
    return (near[0].unsqueeze(2) == near[1].unsqueeze(1)).any(2)
