"""LanguageModel: one pass over a shared prefix equals whole prompts; states are read on in every way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from benchmark.data.datamodule import RecDataModule
from benchmark.llm.adapters import Peft
from benchmark.llm.language_model import LanguageModel
from benchmark.llm.pointwise import Pointwise
from tests.contract import quiet
from tests.llm.tiny import tiny
from tests.planted import planted

TEXTS = ["User: unknown. Liked: The bread", "The rocket and the goal. Answer Yes or No:", "Which"]
ANSWERS = torch.tensor([[40, 41, 2], [42, 2, 0], [43, 44, 2]])
ANSWER_MASK = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 1, 1]])
FAMILIES = ("llama", "qwen2", "gpt2", "t5", "bart")


def padded(model: LanguageModel, texts: list[str] = TEXTS) -> tuple[torch.Tensor, torch.Tensor]:
    side = "left" if model.kind == "decoder" else "right"
    tokens = model.tokenizer(texts, padding=True, return_tensors="pt", padding_side=side)
    return tokens["input_ids"], tokens["attention_mask"]


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return LanguageModel(tiny(request.param), Peft(kind="frozen")).eval()


@torch.no_grad()
def test_log_probs_equal_the_models_own_loss(model: LanguageModel) -> None:
    found = model.log_probs(*padded(model), ANSWERS, ANSWER_MASK).sum(1)
    for row, text in enumerate(TEXTS):
        ids, _ = padded(model, [text])
        answer = ANSWERS[row : row + 1, : int(ANSWER_MASK[row].sum())]
        if model.kind == "seq2seq":
            loss = model.base(input_ids=ids, labels=answer).loss
        else:
            labels = torch.cat([torch.full_like(ids, -100), answer], 1)
            loss = model.base(input_ids=torch.cat([ids, answer], 1), labels=labels).loss
        torch.testing.assert_close(-found[row], loss * answer.shape[1], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_reading_on_equals_reading_at_once(model: LanguageModel) -> None:
    state = model.begin(*padded(model))
    torch.testing.assert_close(state.logits, model.next_logits(*padded(model)), rtol=1e-4, atol=1e-5)
    expected = model.log_probs(*padded(model), ANSWERS, ANSWER_MASK)
    rows = torch.tensor([2, 0, 0, 1])
    found = model.log_probs_after(state.take(rows), ANSWERS[rows], ANSWER_MASK[rows])
    torch.testing.assert_close(found, expected[rows], rtol=1e-4, atol=1e-4)
    # one token after the other; the first state is as it was
    logits, step = [state.logits], state.take(torch.arange(3))
    for column in range(2):
        _, step = model.read_on(step, ANSWERS[:, column : column + 1], ANSWER_MASK[:, column : column + 1])
        logits.append(step.logits)
    log_p = torch.stack(logits, 1).log_softmax(-1).gather(2, ANSWERS.unsqueeze(2))[:, :, 0] * ANSWER_MASK
    torch.testing.assert_close(log_p, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_candidates_behind_a_shared_prefix_score_as_whole_prompts(family: str) -> None:
    data, task = planted("ranking")
    with quiet():
        model = Pointwise(Pointwise.Config(backbone=tiny(family)), data.catalogue()).eval()
    rows = RecDataModule(data, task, model.batch_spec()).rows("test")
    batch = rows[rows.all[:7]]
    assert model.words
    scores = model.score(batch)
    everything = torch.arange(data.n_items).expand(7, -1)
    torch.testing.assert_close(scores, model._score_each(batch, everything), rtol=0, atol=1e-4)


def test_a_prompt_is_read_once_for_all_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    data, task = planted("ranking")
    with quiet():
        model = Pointwise(Pointwise.Config(backbone=tiny("llama")), data.catalogue()).eval()
    rows = RecDataModule(data, task, model.batch_spec()).rows("test")
    computed: list[int] = []
    decode = model.backbone._decode  # type: ignore[union-attr]
    monkeypatch.setattr(
        model.backbone, "_decode", lambda ids, *a, **k: (computed.append(ids.numel()), decode(ids, *a, **k))[1]
    )
    batch = rows[rows.all[:1]]
    model.score(batch)
    head = int(model.read(batch, section="head").lengths[0])
    assert computed[0] == head
    every = torch.arange(data.n_items)
    tails = model.read(batch, candidate=every, row=every.numpy() * 0, section="tail").lengths
    assert sum(computed[1:]) <= 1.06 * tails.sum()


def real_llama() -> str:
    shared = os.environ.get("LEVELFIELD_SHARED")
    if not shared:
        pytest.skip("LEVELFIELD_SHARED is not set: no real Llama")
    return str(Path(shared) / "models" / "stories260K")


@torch.no_grad()
def test_the_real_llama_tells_its_story() -> None:
    model = LanguageModel(real_llama(), Peft(kind="frozen")).eval()
    ids = torch.tensor([[model.tokenizer.bos_token_id]])
    state = model.begin(ids, torch.ones_like(ids))
    said = []
    for _ in range(40):
        token = state.logits.argmax(1, keepdim=True)
        said.append(int(token))
        _, state = model.read_on(state, token, torch.ones_like(token))
    assert model.tokenizer.decode(said).startswith("Once upon a time, there was a little girl named Lily.")


def test_the_real_llama_without_the_answer_words_is_one_line() -> None:
    from benchmark.errors import InputError

    data, _ = planted("preference")
    with pytest.raises(InputError, match=r"no single token for 'Yes'.*choose other words, such as \[A, B\]"):
        Pointwise(Pointwise.Config(backbone=real_llama(), max_length=400), data.catalogue())


@torch.no_grad()
def test_the_real_llama_scores_behind_a_shared_prefix() -> None:
    data, task = planted("ranking")
    config = Pointwise.Config(backbone=real_llama(), max_length=400, prompt={"answers": ["a", "b"]})
    model = Pointwise(config, data.catalogue()).eval()
    rows = RecDataModule(data, task, model.batch_spec()).rows("test")
    batch = rows[rows.all[:3]]
    batch.candidates = torch.arange(20).expand(3, -1)
    torch.testing.assert_close(model.score(batch), model._score_each(batch, batch.candidates), rtol=0, atol=1e-4)
