"""Templates: shipped ones in two languages, one's own, ratings and times in the history, chat templates, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from benchmark.data.batch import BatchSpec
from benchmark.data.datamodule import RecDataModule
from benchmark.errors import InputError
from benchmark.experiment import model_config
from benchmark.llm.listwise import Listwise
from benchmark.llm.pieces import PromptTokens
from benchmark.llm.pointwise import Pointwise
from benchmark.llm.prompts import History, flat_prompts
from benchmark.llm.templates import NEEDED, SHIPPED, Prompt, Template
from tests.llm.tiny import tiny, tokenizer
from tests.planted import planted

TITLES = ["The bread", "The goal", "The rocket and the planet"]


def history(labels: list[float], times: list[float] | None = None) -> History:
    n = len(labels)
    stamps = None if times is None else np.array(times)
    return History(np.arange(n), np.array([0, n]), np.array(labels, np.float32), stamps)


def said(template: Template, chat: bool = False, **given: object) -> str:
    words = tokenizer(chat)
    pieces = PromptTokens(template, words, TITLES, ["24 years old, F"], answer_follows=True, **given.pop("build", {}))  # type: ignore[arg-type]
    prompts = flat_prompts(pieces, 400, **given)  # type: ignore[arg-type]
    return pieces.text(prompts.tokens)


@pytest.mark.parametrize(("way", "language"), SHIPPED)
def test_shipped_templates_hold_what_their_way_needs(way: str, language: str) -> None:
    template = Prompt(language=language).filled(way)  # type: ignore[arg-type]
    assert NEEDED[way] <= set(template.slots)  # type: ignore[index]
    assert template.way == way


def test_chinese() -> None:
    template = Prompt(language="chinese").filled("pointwise")
    text = said(template, candidate=np.array([1]), history=history([1, 0]), profile=np.array([0]))
    assert (
        text == "<s>用户：24 years old, F。喜欢：The bread。不喜欢：The goal。该用户会喜欢“The goal”吗？请回答是或否："
    )
    data, _ = planted("preference")
    model = Pointwise(Pointwise.Config(backbone=tiny("llama"), prompt={"language": "chinese"}), data.catalogue())
    assert [model.backbone.tokenizer.decode([t]) for t in model.answers.tolist()] == ["是", "否"]


def test_ones_own_template_changes_what_it_names_and_keeps_the_rest() -> None:
    own = Prompt(template="After {history} -> {question} ", question="And {candidate}?", separator=" | ")
    template = own.filled("pointwise")
    assert template.answers == ("Yes", "No")
    text = said(template, candidate=np.array([2]), history=history([1, 0]))
    assert text == "<s>After The bread | The goal -> And The rocket and the planet?"


def test_ratings_and_times_of_the_history() -> None:
    entry = Prompt(template="After {history}: {candidate} ", entry="{title} ({rating} stars, {time})").filled(
        "pointwise"
    )
    build = {"ratings": np.array([3.0, 4.5]), "time_unit": 1.0}
    shown = history([4.5, 3.0], [0.0, 951_868_800.0])  # 1970-01-01, 2000-03-01
    text = said(entry, candidate=np.array([0]), history=shown, build=build)
    assert text == "<s>After The bread (4.5 stars, January 1970), The goal (3 stars, March 2000): The bread"
    words = Prompt(template="After {history}: {candidate}", entry="{title} was {rating}", ratings={0: "bad", 1: "good"})
    text = said(words.filled("pointwise"), candidate=np.array([0]), history=history([1, 0]))
    assert text == "<s>After The bread was good, The goal was bad: The bread"
    with pytest.raises(InputError, match="no timestamps that are dates"):
        said(entry, candidate=np.array([0]), history=shown)


def test_options_of_a_list() -> None:
    template = Prompt(template="Of:\n{candidates}\n{question} ", question="Which?").filled("listwise")
    text = said(template, options=np.array([[2, 0, 1]]))
    assert text == "<s>Of:\nA. The rocket and the planet\nB. The bread\nC. The goal\nWhich?"


def test_chat_templates_are_honoured() -> None:
    template = Prompt(template="Like {candidate}? ", system="Answer in one word.").filled("pointwise")
    text = said(template, chat=True, candidate=np.array([0]))
    assert text == "<|system|>Answer in one word.</s><|user|>Like The bread?</s><|assistant|>"
    off = Prompt(template="Like {candidate}? ", chat=False).filled("pointwise")
    assert said(off, chat=True, candidate=np.array([0])) == "<s>Like The bread?"
    forced = Prompt(template="Like {candidate}? ", chat=True).filled("pointwise")
    with pytest.raises(InputError, match="this tokenizer has no chat template"):
        said(forced, candidate=np.array([0]))
    data, task = planted("preference")
    model = Pointwise(Pointwise.Config(backbone=tiny("llama", chat=True)), data.catalogue()).eval()
    rows = RecDataModule(data, task, model.batch_spec()).rows("test")
    batch = rows[rows.all[:4]]
    assert batch.candidates is not None
    prompts = model.read(batch, candidate=batch.candidates[:, 0])
    own = model.backbone.tokenizer
    for i in range(4):
        text = own.decode(prompts.tokens[prompts.offsets[i] : prompts.offsets[i + 1]])
        assert text.startswith("<|user|>User:")
        assert text.endswith("</s><|assistant|>")
        assert "<s>" not in text
    # the same tokens as the tokenizer's own way
    content = text.removeprefix("<|user|>").removesuffix("</s><|assistant|>")
    chat = own.apply_chat_template([{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True)
    assert own(chat, add_special_tokens=False)["input_ids"] == prompts.tokens[prompts.offsets[3] :].tolist()
    assert model.score(batch).shape == (4, 1)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({"template": "{candidat}"}, "unknown slot 'candidat'; did you mean 'candidate'"),
        ({"entry": "{titel}"}, "unknown slot 'titel'; did you mean 'title'"),
        ({"option": "{lable}"}, "unknown slot 'lable'; did you mean 'label'"),
        ({"language": "german"}, "expected one of english, chinese"),
        ({"tempalte": "x"}, "unknown key 'tempalte'; did you mean 'template'"),
    ],
)
def test_bad_prompts_are_one_line(prompt: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        model_config(Pointwise, {"prompt": prompt}, "models.llm")


def test_slots_that_nothing_fills() -> None:
    with pytest.raises(InputError, match=r"nothing fills the slot 'user_embedding' of a pointwise prompt"):
        Prompt(template="{candidate} {user_embedding}").filled("pointwise")
    with pytest.raises(InputError, match=r"a pointwise prompt needs the slot '\{candidate\}'"):
        Prompt(template="{history}").filled("pointwise")


def test_bad_settings_are_one_line() -> None:
    for parameters, message in (
        ({"peft": {"kind": "lorra"}}, "did you mean 'lora'"),
        ({"peft": {"rank": 0}}, "greater than or equal to 1"),
        ({"dtype": "float16"}, "expected one of auto, float32, bfloat16"),
        ({"attention": "flash"}, "expected one of auto, sdpa, eager"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"quantization": "2bit"}, "expected one of 8bit, 4bit"),
    ):
        with pytest.raises(InputError, match=message):
            model_config(Pointwise, parameters, "models.llm")
    with pytest.raises(ValidationError):
        Listwise.Config(first_stage="ease", n_candidates=1)


def test_a_prompt_longer_than_the_window_even_without_history() -> None:
    data, task = planted("ranking")
    with pytest.raises(InputError, match=r"needs \d+ tokens without profile and history, but max_length is 20"):
        Pointwise(Pointwise.Config(backbone=tiny("llama"), max_length=20), data.catalogue())
    config = Listwise.Config(backbone=tiny("llama"), first_stage="ease", max_length=70)
    model = Listwise(config, data.catalogue())
    rows = RecDataModule(data, task, model.batch_spec()).rows("test")
    with pytest.raises(InputError, match=r"a prompt with its options needs \d+ tokens"):
        model.read(rows[rows.all[:2]], options=torch.arange(20).expand(2, -1))


def test_examples_need_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmark.llm import backbone

    monkeypatch.setattr(backbone, "load_base", None)
    data, task = planted("ranking")
    batch = RecDataModule(data, task, BatchSpec("pointwise", max_history=5)).rows("test")
    some = batch[batch.all[:3]]
    some.candidates = torch.zeros(3, 1, dtype=torch.int64)
    config = Listwise.Config(backbone=tiny("llama"), first_stage="ease", n_candidates=3)
    text, tokens, _ = Listwise.examples(config, data.catalogue(), some, 2)[1]
    assert "Options:\nA. " in text
    assert tokens > 20
    assert len(Pointwise.examples(Pointwise.Config(backbone=tiny("llama")), data.catalogue(), some, 2)) == 2
