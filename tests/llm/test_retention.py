"""Retention: numbers against plain transformers and textbook formulas; the pretrained model of every kind of PEFT."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmark.errors import InputError
from benchmark.llm.adapters import SOFT, Peft, PeftKind
from benchmark.llm.backbone import Backbone
from benchmark.llm.encoder import Encoder
from benchmark.llm.language_model import LanguageModel
from benchmark.llm.loading import Loading
from benchmark.llm.locate import resolve
from benchmark.llm.plain_texts import plain_texts
from benchmark.llm.retention import (
    Retention,
    distinct,
    linear_cka,
    logits_of,
    measure,
    neighbour_overlap,
    repetition,
    sample,
    vectors,
)
from benchmark.llm.two_tower import TwoTower
from tests.contract import fit
from tests.llm.test_protect import moved
from tests.llm.tiny import tiny, tiny_bert
from tests.planted import planted

LOADING = Loading(dtype="float32")
KINDS: tuple[PeftKind, ...] = get_args(PeftKind)
FEW = Retention(texts=6, length=10)


def decoder(kind: PeftKind = "lora", family: str = "llama") -> LanguageModel:
    return LanguageModel(tiny(family), Peft(kind=kind, virtual_tokens=3, dropout=0.0), LOADING, seed=0)


# --- the pretrained model --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_pretrained_model_is_there_whatever_was_tuned(kind: PeftKind) -> None:
    model = moved(decoder(kind)).eval()
    text = torch.tensor([[1, 50, 60, 70], [1, 80, 90, 100]])
    plain = AutoModelForCausalLM.from_pretrained(tiny("llama")).eval()
    expected = plain(text).logits[:, -1]
    before = model.next_logits(text, torch.ones_like(text))
    for keep in (False, True):
        model.keep_reference(keep)
        with model.pretrained():
            torch.testing.assert_close(model.next_logits(text, torch.ones_like(text)), expected)
        assert torch.equal(model.next_logits(text, torch.ones_like(text)), before), "tuned again behind it"
    assert torch.allclose(before, expected, atol=1e-4) == (kind == "frozen")
    assert [p.requires_grad for p in model.parameters()] == [p.requires_grad for p in decoder(kind).parameters()]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in SOFT])
def test_an_untrained_adapter_has_changed_nothing(kind: PeftKind) -> None:
    told = measure(decoder(kind), FEW)
    assert told["base_kl"] == pytest.approx(0, abs=1e-7)
    assert told["next_token_agreement"] == 1
    assert told["tuned_perplexity"] == pytest.approx(told["base_perplexity"])
    assert told["distinct_2"] == told["base_distinct_2"], "the same seed says the same"
    encoder = Encoder(tiny_bert(), Peft(kind=kind), LOADING, seed=0)
    assert measure(encoder, FEW) == {
        "base_cka": pytest.approx(1),
        "neighbour_overlap": pytest.approx(1, abs=0.01),
        "neighbour_overlap_se": pytest.approx(0, abs=0.01),
    }


def test_inside_of_merged_the_first_weights_are_not_at_hand() -> None:
    model = decoder()
    with model.merged(), pytest.raises(RuntimeError, match="merged"), model.pretrained():
        pass


# --- language models -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lora", "full"])
@torch.no_grad()
def test_numbers_are_those_of_plain_transformers(kind: PeftKind, tmp_path: Path) -> None:
    """KL, perplexities and agreement, one text at a time without padding, by models that this house has not loaded."""
    model = moved(decoder(kind), 0.05)
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("The rocket and the planet\n\nThe oven\n", encoding="utf-8")
    told = measure(model, Retention(texts=6, length=10, corpus=corpus))
    model.save_adapter(tmp_path / "tuned")
    base = AutoModelForCausalLM.from_pretrained(tiny("llama")).eval()
    tuned = AutoModelForCausalLM.from_pretrained(tiny("llama")).eval()
    if kind == "full":
        tuned = AutoModelForCausalLM.from_pretrained(tmp_path / "tuned").eval()
    else:
        from peft import PeftModel

        tuned = PeftModel.from_pretrained(tuned, tmp_path / "tuned").eval()

    def compared(texts: list[list[int]]) -> tuple[float, float, float, float]:
        kl, nll, same = [], {"base": [], "tuned": []}, []  # type: ignore[var-annotated]
        for text in texts:
            ids = torch.tensor([[1, *text]])
            p, q = (m(input_ids=ids).logits[0, :-1].double().log_softmax(-1) for m in (base, tuned))
            kl += (p.exp() * (p - q)).sum(-1).tolist()
            same += (p.argmax(-1) == q.argmax(-1)).tolist()
            for name, log_p in (("base", p), ("tuned", q)):
                nll[name] += (-log_p[torch.arange(len(text)), torch.tensor(text)]).tolist()
        return np.mean(kl), np.exp(np.mean(nll["base"])), np.exp(np.mean(nll["tuned"])), np.mean(same)  # type: ignore[return-value]

    with model.pretrained():
        said = sample(model, 6, 10)
    texts = [row[: int(n)].tolist() for row, n in zip(said.ids, said.mask.sum(1), strict=True)]
    names = ("base_kl", "base_perplexity", "tuned_perplexity", "next_token_agreement")
    assert [told[name] for name in names] == pytest.approx(compared(texts), rel=1e-3)
    tokenizer = AutoTokenizer.from_pretrained(tiny("llama"))
    lines = [
        tokenizer(t, add_special_tokens=False)["input_ids"][:10] for t in ("The rocket and the planet", "The oven")
    ]
    _, on_base, on_tuned, _ = compared(lines)
    assert told["corpus_base_perplexity"] == pytest.approx(on_base, rel=1e-3)
    assert told["corpus_perplexity"] == pytest.approx(on_tuned, rel=1e-3)


@torch.no_grad()
def test_standard_errors_are_what_leaving_out_a_text_at_a_time_says(tmp_path: Path) -> None:
    """The jackknife over texts, each with all of its tokens, of means over tokens."""
    model = moved(decoder(), 0.05).eval()
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(plain_texts()[:50]), encoding="utf-8")
    told = measure(model, Retention(texts=60, length=30, corpus=corpus))
    with model.pretrained():
        said = sample(model, 60, 30)
    ends = torch.arange(60)
    tuned, real = logits_of(model, said).log_softmax(-1), said.mask > 0
    with model.pretrained():
        base = logits_of(model, said).log_softmax(-1)
    losses = [-m.gather(2, said.ids.unsqueeze(2)).squeeze(2) for m in (base, tuned)]
    numbers = {
        "base_kl_se": (base.exp() * (base - tuned)).sum(-1),
        "next_token_agreement_se": (base.argmax(-1) == tuned.argmax(-1)).float(),
        "base_perplexity_log_se": losses[0],
        "tuned_perplexity_log_se": losses[1],
    }
    for name, values in numbers.items():
        without = np.array([float(values[ends != i][real[ends != i]].mean()) for i in range(60)])
        assert told[name] == pytest.approx(np.sqrt(59 * without.var()), rel=0.05), name
    assert 0 < told["corpus_perplexity_log_se"] < 1
    assert 0 < told["corpus_base_perplexity_log_se"] < 1
    alone = measure(model, Retention(texts=1, length=10))
    assert not any(name.endswith("_se") for name in alone), "one text tells nothing of the spread"


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5", "bart"])
@torch.no_grad()
def test_texts_are_drawn_from_the_models_own_distribution(family: str) -> None:
    model = decoder("frozen", family).eval()
    global_state, n = torch.get_rng_state(), 800
    texts = sample(model, n, 2, temperature=0.1, seed=3)
    assert torch.equal(torch.get_rng_state(), global_state)
    assert torch.equal(sample(model, n, 2, temperature=0.1, seed=3).ids, texts.ids)
    assert not torch.equal(sample(model, n, 2, temperature=0.1, seed=4).ids, texts.ids)
    chance = (logits_of(model, texts.rows(torch.tensor([0])))[0, 0] / 0.1).softmax(-1)
    drawn = torch.bincount(texts.ids[:, 0], minlength=len(chance)) / n
    by_luck = float((2 * chance * (1 - chance) / (np.pi * n)).sqrt().sum())  # mean distance of n draws
    assert float((drawn - chance).abs().sum()) < 1.3 * by_luck
    assert float((drawn - chance.flip(0)).abs().sum()) > 2 * by_luck


def test_a_text_ends_with_its_closing_token() -> None:
    model = decoder("frozen").eval()
    model.tokenizer.eos_token = model.tokenizer.convert_ids_to_tokens(50)
    texts = sample(model, 300, 30, temperature=5.0)
    for ids, mask in zip(texts.ids.tolist(), texts.mask.tolist(), strict=True):
        ends = [i for i, token in enumerate(ids[: sum(mask)]) if token in (1, 50)]
        assert mask == sorted(mask, reverse=True)
        assert ends in ([], [sum(mask) - 1])
    assert 0 < float((texts.mask.sum(1) < 30).float().mean()) < 1


def test_distinct_and_repetition_by_hand() -> None:
    texts = [np.array(t) for t in ([1, 2, 1, 2, 1, 2, 1], [3, 4, 5, 6, 7], [1, 2])]
    assert distinct(texts, 1) == 7 / 14
    assert distinct(texts, 2) == 6 / 14, "1 2, 2 1, 3 4, 4 5, 5 6, 6 7"
    assert repetition(texts, 4) == pytest.approx(((1 - 2 / 4) + 0) / 2), "the last has no four tokens"
    assert (distinct([np.array([1])], 3), repetition([np.array([1])], 4)) == (0.0, 0.0)


# --- encoders --------------------------------------------------------------------------------------------------------


def test_cka_is_the_textbooks() -> None:
    """HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with centred Gram matrices (Kornblith et al., section 3)."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 7)), rng.normal(size=(40, 5))
    y[:, :3] += x[:, :3]
    h = np.eye(40) - 1 / 40

    def hsic(k: np.ndarray, other: np.ndarray) -> float:
        return float(np.trace(k @ h @ other @ h)) / 39**2

    k, other = x @ x.T, y @ y.T
    expected = hsic(k, other) / np.sqrt(hsic(k, k) * hsic(other, other))
    assert linear_cka(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(expected, rel=1e-9)
    turn, _ = np.linalg.qr(rng.normal(size=(7, 7)))
    assert linear_cka(torch.from_numpy(x), torch.from_numpy(3 * x @ turn + 5)) == pytest.approx(1)


def test_neighbours_by_hand() -> None:
    x = torch.nn.functional.normalize(torch.randn(60, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    y = torch.nn.functional.normalize(x + 0.3 * torch.randn(60, 8, generator=torch.Generator().manual_seed(1)), dim=-1)
    near = [
        [{j for j in np.argsort(-(v @ v[i]).numpy(), kind="stable") if j != i} and
         set([j for j in np.argsort(-(v @ v[i]).numpy(), kind="stable") if j != i][:10]) for i in range(60)]
        for v in (x, y)
    ]  # fmt: skip
    expected = np.mean([len(a & b) / 10 for a, b in zip(*near, strict=True)])
    assert neighbour_overlap(x, y) == pytest.approx(expected, abs=1e-6)
    assert neighbour_overlap(x, x) == 1
    assert neighbour_overlap(x[:3], y[:3]) == 1, "of three texts the two others are the nearest"


def test_an_encoder_is_compared_on_plain_texts_or_a_corpus(tmp_path: Path) -> None:
    encoder = moved(Encoder(tiny_bert(), Peft(), LOADING, seed=0), 0.3).eval()
    told = measure(encoder, Retention())
    assert 0 < told["base_cka"] < 1
    with torch.no_grad():
        tuned = vectors(encoder, plain_texts())
        with encoder.pretrained():
            base = vectors(encoder, plain_texts())
    assert told["base_cka"] == linear_cka(base, tuned)
    order = [[set(np.argsort(-(v @ v[i]).numpy())[:11]) - {i} for i in range(len(v))] for v in (base, tuned)]
    shares = [len(a & b) / 10 for a, b in zip(*order, strict=True)]
    assert told["neighbour_overlap"] == pytest.approx(np.mean(shares), abs=1e-3)
    assert told["neighbour_overlap_se"] == pytest.approx(np.std(shares, ddof=1) / len(shares) ** 0.5, rel=0.01)
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(plain_texts()[:40]), encoding="utf-8")
    assert measure(encoder, Retention(corpus=corpus))["base_cka"] == pytest.approx(linear_cka(base[:40], tuned[:40]))


# --- settings --------------------------------------------------------------------------------------------------------


def test_a_row_tells_it_only_where_it_is_asked() -> None:
    data, task = planted("ranking")
    config: dict[str, Any] = {"backbone": tiny_bert(), "learning_rate": 0.01}
    plain = fit(TwoTower, config, data, task)
    asked = fit(TwoTower, {**config, "retention": {}}, data, task)
    assert asked.metrics == plain.metrics
    more = asked.model.report().keys() - plain.model.report().keys()
    assert more == {"base_cka", "neighbour_overlap", "neighbour_overlap_se"}


def test_a_corpus_that_is_not_there_or_empty_is_one_line_before_anything_runs(tmp_path: Path) -> None:
    data, _ = planted("ranking")
    (tmp_path / "empty.txt").write_text("\n \n", encoding="utf-8")
    for name, said in (
        ("none.txt", "cannot be read .No such file"),
        ("empty.txt", "is empty; expected one text a line"),
    ):
        config = TwoTower.Config(backbone=tiny_bert(), retention={"corpus": tmp_path / name})
        with pytest.raises(InputError, match=rf"retention.corpus: .*{name} {said}"):
            TwoTower.check(config, data.catalogue())


def test_a_variable_in_a_backbones_name_is_filled_in_and_kept_in_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(tiny_bert())
    monkeypatch.setenv("TINY_MODELS", str(folder.parent))
    name = f"$TINY_MODELS/{folder.name}"
    assert resolve(name) == folder
    model: Backbone = Encoder(name, loading=LOADING)
    assert model.name == name
    assert model.base.config._name_or_path == name, "an adapter's folder names no path of this machine"
    monkeypatch.delenv("TINY_MODELS")
    with pytest.raises(InputError, match="the environment variable TINY_MODELS is not set"):
        resolve(name)
