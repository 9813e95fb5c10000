"""Writers: a real local model against plain transformers, and an endpoint that answers, hesitates and fails."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from benchmark.enrichment.cache import Answer
from benchmark.enrichment.writers import Endpoint, LocalModel, content_of
from benchmark.errors import InputError
from benchmark.experiment.settings import Enrichment
from tests.enrichment.server import Server, completion
from tests.llm.tiny import tiny, tiny_bert

PROMPTS = [f"film {'x ' * (i % 5)}{i}" for i in range(20)]


def endpoint(server: Server, **settings: Any) -> Endpoint:
    return Endpoint(Enrichment(**{"prompt": "{title}", "model": "loud", "endpoint": server.url, **settings}))


def test_the_local_model_writes_what_plain_transformers_writes(stories: str) -> None:
    import torch
    import transformers

    folder = os.path.expandvars(stories)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    prompts = ["Once upon a time", "Lily had a red ball. She", "A cat", "The dog was sad because he", "Tom saw"]
    found = dict(LocalModel(stories, max_tokens=24).write(prompts))
    for i, prompt in enumerate(prompts):
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            written = model.generate(ids, max_new_tokens=24, do_sample=False, pad_token_id=0)
        text = tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True).strip()
        n = written.shape[1] - ids.shape[1]
        assert found[i] == Answer(text, ids.shape[1], n, cut=n == 24)


def test_draws_depend_on_the_seed_and_the_prompt_alone(stories: str) -> None:
    prompts = ["Once upon a time", "Lily had a red ball. She", "A cat"]

    def written(order: list[str], seed: int) -> dict[str, str]:
        model = LocalModel(stories, max_tokens=12, temperature=1.0, seed=seed)
        return {order[i]: answer.text for i, answer in model.write(order)}

    first = written(prompts, 0)
    assert written(prompts[::-1], 0) == first
    assert written(prompts[1:], 0).items() <= first.items()
    assert written(prompts, 1) != first


def test_chat_templates_and_encoder_decoders() -> None:
    plain, chat = LocalModel(tiny("llama"), 4), LocalModel(tiny("llama", chat=True), 4)
    assert dict(chat.write(["The rocket"]))[0].tokens_in > dict(plain.write(["The rocket"]))[0].tokens_in
    found = dict(LocalModel(tiny("t5"), 4).write(["The rocket", "The bread and the oven"]))
    assert all(1 <= answer.tokens_out <= 4 for answer in found.values())


def test_a_long_prompt_loses_its_beginning(stories: str) -> None:
    model = LocalModel(stories, max_tokens=8)
    end = "Once upon a time there was a cat. " * 60
    (_, long), (_, longer) = model.write([end, "A dog ran. " * 90 + end])
    assert long.tokens_in == longer.tokens_in == 504
    assert long.text == longer.text


def test_a_model_that_cannot_write_is_one_line(stories: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="max_tokens: found 512, the model takes 512 in all"):
        LocalModel(stories, max_tokens=512).load()
    with pytest.raises(InputError, match="encoder"):
        LocalModel(tiny_bert(), max_tokens=8).load()
    with pytest.raises(InputError, match="there is no such folder"):
        LocalModel("./nowhere", max_tokens=8).load()
    monkeypatch.delenv("LEVELFIELD_SHARED")
    with pytest.raises(InputError, match="the environment variable LEVELFIELD_SHARED is not set"):
        LocalModel(stories, max_tokens=8).identity()


def test_a_folder_is_known_by_its_content_and_a_hub_name_by_itself(tmp_path: Path) -> None:
    assert content_of("Qwen/Qwen2.5-0.5B-Instruct") == "Qwen/Qwen2.5-0.5B-Instruct"
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "config.json").write_text("{}")
        (tmp_path / place / "model.safetensors").write_bytes(b"weights")
    assert content_of(str(tmp_path / "a")) == content_of(str(tmp_path / "b"))
    (tmp_path / "b" / "model.safetensors").write_bytes(b"others")
    assert content_of(str(tmp_path / "a")) != content_of(str(tmp_path / "b"))


def test_an_endpoint_is_asked_for_each_prompt_once_and_several_at_a_time(server: Server) -> None:
    server.slowness = 0.02
    settings = {"max_tokens": 9, "temperature": 0.5, "seed": 3, "parameters": {"top_k": 5}, "concurrency": 3}
    found = dict(endpoint(server, **settings).write(PROMPTS))
    assert found == {i: Answer(p.upper(), len(p.split()), 2 * len(p.split())) for i, p in enumerate(PROMPTS)}
    assert set(server.asked.values()) == {1}
    # the server may still be closing one answer when the next is asked for
    assert 1 < server.most_at_once <= settings["concurrency"] + 1
    for name, value in {"model": "loud", "max_tokens": 9, "temperature": 0.5, "seed": 3, "top_k": 5}.items():
        assert all(body[name] == value for body in server.requests)


def test_a_server_that_is_busy_is_asked_again(server: Server) -> None:
    server.behave = lambda number: {0: 429, 1: 503, 2: "drop"}.get(number)
    found = dict(endpoint(server, concurrency=1, retries=4).write(PROMPTS[:2]))
    assert [found[i].text for i in range(2)] == [p.upper() for p in PROMPTS[:2]]
    assert len(server.requests) == 5
    assert set(server.answered.values()) == {1}


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (500, r"endpoint http://127.0.0.1:\d+/v1 answers 500: .*no luck"),
        (429, "answers 429"),
        (400, "answers 400"),
        (401, "asks for a key, and the environment variable OPENAI_API_KEY is not set"),
        ("drop", "cannot be reached"),
    ],
)
def test_what_was_answered_before_a_failure_is_kept_and_nothing_is_asked_after_it(
    server: Server, status: int | str, said: str
) -> None:
    server.behave = lambda number: status if number >= 7 else None
    found: dict[int, Answer] = {}
    writing = endpoint(server, concurrency=3, retries=0).write(PROMPTS)
    with pytest.raises(InputError, match=said) as caught:
        found.update(writing)
    assert "\n" not in str(caught.value)
    assert {PROMPTS[i] for i in found} == set(server.answered)
    assert len(found) == 7
    assert len(server.requests) <= 7 + 3


def test_what_is_under_way_at_an_interruption_is_waited_for_and_kept(server: Server) -> None:
    server.slowness = 0.1

    def interrupted(number: int) -> None:
        if number == 5:
            os.kill(os.getpid(), signal.SIGINT)

    server.behave = interrupted
    found: dict[int, Answer] = {}
    writing = endpoint(server, concurrency=3, retries=0).write(PROMPTS)
    with pytest.raises(KeyboardInterrupt):
        found.update(writing)
    assert {PROMPTS[i] for i in found} == set(server.answered)
    assert 3 <= len(found) <= 8
    assert set(server.asked.values()) == {1}


def test_an_endpoint_that_is_down_and_a_wrong_path(server: Server) -> None:
    wrong = endpoint(server, endpoint=server.url.replace("/v1", "/v2"), retries=0)
    with pytest.raises(InputError, match="answers 404"):
        list(wrong.write(PROMPTS))
    server.stop()
    with pytest.raises(InputError, match=r"endpoint .* cannot be reached \(.*[Cc]onnection refused"):
        list(endpoint(server, retries=0).write(PROMPTS))


def test_the_key_comes_from_the_environment_and_goes_nowhere_else(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    asked = endpoint(server, retries=0)
    list(asked.write(PROMPTS[:1]))
    assert server.keys == ["Bearer sk-secret"]
    assert "secret" not in str(asked.identity()) + str(asked.settings)
    for status, said in ((401, "OPENAI_API_KEY is not accepted"), (400, "no luck with Bearer ...")):
        server.behave = lambda number, status=status: status  # type: ignore[misc]
        with pytest.raises(InputError, match=said) as caught:
            list(asked.write(PROMPTS[:1]))
        assert "secret" not in str(caught.value)


def with_message(**message: Any) -> dict[str, Any]:
    said = completion("x")
    said["choices"][0]["message"] = {"role": "assistant", **message}
    return said


@pytest.mark.parametrize(
    ("body", "came"),
    [
        ("<html>\n<body>Welcome to the site</body></html>", "<html> <body>Welcome to the site</body></html>"),
        ({"error": {"message": "no such\nmodel"}}, '{"error": {"message": "no such\\nmodel"}}'),
        ({"choices": []}, '{"choices": []}'),
        ([], "[]"),
        ("", "nothing"),
    ],
)
def test_an_answer_that_is_no_chat_completion_is_one_line(server: Server, body: Any, came: str) -> None:
    server.behave = lambda number: None
    server.body = lambda prompt: completion(prompt) if prompt == PROMPTS[0] else body
    found: dict[int, Answer] = {}
    with pytest.raises(InputError) as caught:
        found.update(endpoint(server, concurrency=1, retries=0).write(PROMPTS))
    assert str(caught.value) == (
        f"endpoint {server.url} answers 200 with {came}, expected a chat completion; does the URL end in /v1?"
    )
    assert list(found) == [0], "what has been paid is kept"
    assert len(server.requests) == 2


def test_a_long_page_is_told_by_its_first_words_and_never_with_the_key(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    server.body = lambda prompt: "<p>sk-secret</p>" * 100
    with pytest.raises(InputError, match=r"answers 200 with <p>\.\.\.</p>") as caught:
        list(endpoint(server, retries=0).write(PROMPTS))
    assert "secret" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_completion_without_text_or_usage_is_an_empty_answer(server: Server) -> None:
    bodies = {
        "none": with_message(content=None) | {"usage": None},
        "cut": completion("", "a film ab", "length"),
        "silent": {"choices": [{"finish_reason": "length", "message": {}}]},
    }
    server.body = bodies.__getitem__
    found = dict(endpoint(server).write(list(bodies)))
    assert found == {0: Answer(""), 1: Answer("a film ab", 0, 6, cut=True), 2: Answer("", cut=True)}


def test_a_limit_of_null_is_left_out_of_the_request(server: Server) -> None:
    list(endpoint(server, max_tokens=None, parameters={"max_completion_tokens": 7}).write(PROMPTS[:1]))
    list(endpoint(server).write(PROMPTS[:1]))
    assert "max_tokens" not in server.requests[0]
    assert server.requests[0]["max_completion_tokens"] == 7
    assert server.requests[1]["max_tokens"] == 64


def test_a_local_text_that_reached_its_limit_is_cut(stories: str) -> None:
    prompts = ["Once upon a time", "The end."]
    found = [answer for _, answer in LocalModel(stories, max_tokens=3).write(prompts)]
    assert [answer.cut for answer in found] == [answer.tokens_out == 3 for answer in found]
    assert any(answer.cut for answer in found)
