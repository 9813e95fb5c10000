"""Who writes texts: a local Hugging Face model, an OpenAI-compatible endpoint, or a function of the user's."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Protocol

import torch

from benchmark.data.sources.files import content_hash
from benchmark.enrichment.cache import Answer
from benchmark.errors import InputError, missing_extra, nearest
from benchmark.experiment.settings import Enrichment
from benchmark.llm.locate import expanded, resolve

_BATCH = 32  # prompts that a local model reads at once
_CHUNK = 256  # texts that a function rewrites at once; what it returned is kept before the next ones
_READ = ("*.safetensors", "config.json", "generation_config.json", "tokenizer*", "*.model", "vocab*", "merges.txt")


class Writer(Protocol):
    """Writes one text a prompt."""

    def identity(self) -> dict[str, Any]:
        """Return what, with a prompt, decides the text: the model, its settings and seed."""

    def check(self) -> None:
        """Look, before anything is written, at what can be looked at without writing.

        Raises:
            InputError: the writer cannot be had.
        """

    def write(self, prompts: Sequence[str]) -> Iterator[tuple[int, Answer]]:
        """Yield (position of the prompt, its answer) as they come, in any order.

        Raises:
            InputError: the writer cannot be had, or fails; what was yielded before stands.
        """


def writer_of(enrichment: Enrichment) -> Writer:
    """Return who writes; nothing is loaded and nobody is asked yet."""
    if enrichment.rewrite is not None:
        return Rewriter(enrichment.rewrite, enrichment.arguments)
    if enrichment.endpoint is not None:
        return Endpoint(enrichment)
    assert enrichment.model is not None
    assert enrichment.max_tokens is not None
    return LocalModel(enrichment.model, enrichment.max_tokens, enrichment.temperature, enrichment.seed)


def content_of(name: str) -> str:
    """Return what stands for a model in a key: the content of a local folder or file, else the name as it is."""
    path = Path(expanded(name)).expanduser()
    if path.is_file():
        return content_hash(path)
    if not path.is_dir():
        return name
    files = sorted({file for pattern in _READ for file in path.glob(pattern) if file.is_file()})
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {content_hash(file)}\n".encode())
    return digest.hexdigest()


class LocalModel:
    """A decoder or an encoder-decoder on this machine, from safetensors; chat templates are honoured.

    Temperature 0 takes the most likely token each time, a batch of prompts at once; others draw, each prompt from the
    seed and its own text. A prompt that is too long loses its beginning.

    Args:
        model: hub name or folder, in which environment variables may stand.
        max_tokens: longest text.
        temperature: of the softmax; 0 draws nothing.
        seed: of the draws.
    """

    def __init__(self, model: str, max_tokens: int, temperature: float = 0.0, seed: int = 0) -> None:
        self.name, self.max_tokens, self.temperature, self.seed = model, max_tokens, temperature, seed
        self._loaded: Any = None

    def identity(self) -> dict[str, Any]:
        settings = {"max_tokens": self.max_tokens, "temperature": self.temperature, "seed": self.seed}
        return {"model": content_of(self.name), **settings}

    def check(self) -> None:
        resolve(self.name)

    def load(self) -> Any:
        """Return the language model, loaded once.

        Raises:
            InputError: no such model, one that does not write, or too many tokens for it.
        """
        if self._loaded is None:
            from benchmark.llm.adapters import Peft
            from benchmark.llm.language_model import LanguageModel
            from benchmark.llm.loading import Loading

            device = "cuda" if torch.cuda.is_available() else "cpu"
            loading = Loading(dtype="bfloat16" if device == "cuda" else "float32")
            model = LanguageModel(self.name, Peft(kind="frozen"), loading).eval()
            if self.max_tokens >= model.max_length:
                raise InputError(f"max_tokens: found {self.max_tokens}, the model takes {model.max_length} in all")
            self._loaded = model.to(device)
        return self._loaded

    def write(self, prompts: Sequence[str]) -> Iterator[tuple[int, Answer]]:
        model = self.load()
        tokenizer = model.tokenizer
        if tokenizer.chat_template:
            said = [
                tokenizer.apply_chat_template(
                    [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
                )
                for prompt in prompts
            ]
            tokens = tokenizer(said, add_special_tokens=False)["input_ids"]
        else:
            tokens = tokenizer(list(prompts))["input_ids"]
        room = model.max_length - (self.max_tokens if model.kind == "decoder" else 0)
        tokens = [one[-room:] for one in tokens]
        order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
        size = 1 if self.temperature else _BATCH
        for start in range(0, len(order), size):
            some = order[start : start + size]
            seed = int(hashlib.sha256(f"{self.seed} {prompts[some[0]]}".encode()).hexdigest()[:15], 16)
            yield from zip(some, self._answers(model, [tokens[i] for i in some], seed), strict=True)

    @torch.no_grad()
    def _answers(self, model: Any, tokens: list[list[int]], seed: int) -> list[Answer]:
        tokenizer, device = model.tokenizer, model.device
        width = max(map(len, tokens))
        ids = torch.full((len(tokens), width), tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for row, one in enumerate(tokens):
            there = slice(width - len(one), None) if model.kind == "decoder" else slice(len(one))
            ids[row, there], mask[row, there] = torch.tensor(one), 1
        draws: dict[str, Any] = {"do_sample": False}
        if self.temperature:
            draws = {"do_sample": True, "temperature": self.temperature, "top_k": 0, "top_p": 1.0}
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), model.autocast(device):
            torch.manual_seed(seed)
            written = model.base.generate(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                max_new_tokens=self.max_tokens,
                num_beams=1,
                use_cache=True,
                pad_token_id=tokenizer.pad_token_id,
                **draws,
            )
        new = written[:, width:] if model.kind == "decoder" else written[:, 1:]
        ends = model.base.generation_config.eos_token_id
        ends = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
        out = []
        for one, row in zip(tokens, new.tolist(), strict=True):
            end = next((place for place, token in enumerate(row) if token in ends), len(row))
            text = tokenizer.decode(row[:end], skip_special_tokens=True).strip()
            out.append(Answer(text, len(one), min(end + 1, len(row)), cut=end == len(row)))
        return out


class Endpoint:
    """A server that speaks OpenAI's chat completions, such as vLLM; the key is read from OPENAI_API_KEY.

    ``concurrency`` requests are under way at once. Those that meet a lost connection, 408, 409, 429 or 5xx are repeated
    ``retries`` times with growing pauses (as the server says, where it does). When one is given up, those under way are
    waited for and kept, and no other is sent.
    """

    def __init__(self, enrichment: Enrichment) -> None:
        self.settings = enrichment

    def identity(self) -> dict[str, Any]:
        asked = self.settings
        return {
            "endpoint": asked.endpoint,
            "model": asked.model,
            "max_tokens": asked.max_tokens,
            "temperature": asked.temperature,
            "seed": asked.seed,
            "parameters": asked.parameters,
        }

    def check(self) -> None:
        try:
            import openai  # noqa: F401
        except ImportError as error:
            raise missing_extra("openai", "enrich") from error

    def write(self, prompts: Sequence[str]) -> Iterator[tuple[int, Answer]]:
        self.check()
        from openai import OpenAI, OpenAIError, omit

        asked = self.settings
        client = OpenAI(
            base_url=asked.endpoint, api_key=os.environ.get("OPENAI_API_KEY") or "none", max_retries=asked.retries
        )

        def ask(prompt: str) -> Answer:
            # as it came: the client takes whatever a server says with status 200 for a completion
            said = client.chat.completions.with_raw_response.create(
                model=asked.model or "",
                messages=[{"role": "user", "content": prompt}],
                max_tokens=omit if asked.max_tokens is None else asked.max_tokens,
                temperature=asked.temperature,
                seed=asked.seed,
                extra_body=asked.parameters or None,
            )
            return self._answer(said.text)

        waiting = iter(enumerate(prompts))
        running: dict[Future[Answer], int] = {}
        failure: BaseException | None = None

        def finished() -> Iterator[tuple[int, Answer]]:
            nonlocal failure
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                place = running.pop(future)
                error = future.exception()
                if error is None:
                    yield place, future.result()
                else:
                    failure = failure or error

        with ThreadPoolExecutor(asked.concurrency) as pool:
            try:
                while failure is None:
                    while len(running) < asked.concurrency and (one := next(waiting, None)) is not None:
                        running[pool.submit(ask, one[1])] = one[0]
                    if not running:
                        return
                    yield from finished()
            except KeyboardInterrupt as stop:
                failure = stop
            while running:
                yield from finished()
        if isinstance(failure, OpenAIError):
            raise self._said(failure) from None
        assert failure is not None
        raise failure

    def _answer(self, body: str) -> Answer:
        """Return what the body of a chat completion says.

        Raises:
            InputError: it is something else.
        """
        try:
            said = json.loads(body)
            choice, usage = said["choices"][0], said.get("usage") or {}
            text = (choice["message"].get("content") or "").strip()
            read, wrote = int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
            return Answer(text, read, wrote, cut=choice.get("finish_reason") == "length")
        except (ValueError, TypeError, LookupError, AttributeError):
            came = self._short(body, 150) or "nothing"
            raise InputError(
                f"endpoint {self.settings.endpoint} answers 200 with {came}, expected a chat completion; does the URL "
                "end in /v1?"
            ) from None

    def _short(self, text: str, most: int) -> str:
        """Return the first words of a text in one line, without the key."""
        if key := os.environ.get("OPENAI_API_KEY"):
            text = text.replace(key, "...")
        return " ".join(text.split())[:most]

    def _said(self, error: Exception) -> InputError:
        """Return the client's error as one line, without the key."""
        import openai

        where = f"endpoint {self.settings.endpoint}"
        if isinstance(error, openai.APITimeoutError):
            return InputError(f"{where} does not answer in time")
        if isinstance(error, openai.APIConnectionError):
            cause = " ".join(str(error.__cause__ or error).split())
            return InputError(f"{where} cannot be reached ({cause})")
        if isinstance(error, openai.AuthenticationError):
            state = "is not accepted" if os.environ.get("OPENAI_API_KEY") else "is not set"
            return InputError(f"{where} asks for a key, and the environment variable OPENAI_API_KEY {state}")
        code = f" {error.status_code}" if isinstance(error, openai.APIStatusError) else ""
        return InputError(f"{where} answers{code}: {self._short(str(error), 300)}")


class Rewriter:
    """A function list[str] -> list[str], named by its path; one text's rewriting must not depend on the others.

    It is given no texts at all first, so that it can say what is wrong with its arguments before anything is paid.

    Args:
        path: ``package.module.function``.
        arguments: its other arguments, by name. Paths may hold environment variables.

    Raises:
        InputError: no such function, or other arguments than it takes.
    """

    def __init__(self, path: str, arguments: dict[str, Any]) -> None:
        self.path, self.arguments = path, arguments
        self.function = _function(path)
        try:
            inspect.signature(self.function).bind([], **arguments)
        except TypeError as error:
            raise InputError(f"arguments: {path}: {error}") from None

    def identity(self) -> dict[str, Any]:
        source = inspect.getsourcefile(inspect.unwrap(self.function))
        code = content_hash(Path(source)) if source and Path(source).is_file() else ""
        return {"rewrite": self.path, "code": code, "arguments": _contents(self.arguments)}

    def check(self) -> None:
        try:
            self.function([], **self.arguments)
        except InputError:
            raise
        except Exception:  # one of the user's may need texts; what is wrong with it is said when it has some
            return

    def write(self, prompts: Sequence[str]) -> Iterator[tuple[int, Answer]]:
        for start in range(0, len(prompts), _CHUNK):
            given = list(prompts[start : start + _CHUNK])
            found = self.function(given, **self.arguments)
            if not isinstance(found, list) or len(found) != len(given):
                what = f"{len(found)} texts" if isinstance(found, list) else type(found).__name__
                raise InputError(f"rewrite: {self.path} returned {what} for {len(given)}; expected one for each")
            if wrong := [text for text in found if not isinstance(text, str)]:
                raise InputError(f"rewrite: {self.path} returned {wrong[0]!r}; expected texts")
            yield from ((start + i, Answer(text)) for i, text in enumerate(found))


def _contents(value: Any) -> Any:
    """Return arguments with the content of files and folders in the place of their paths."""
    if isinstance(value, dict):
        return {name: _contents(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_contents(one) for one in value]
    return content_of(value) if isinstance(value, str) else json.loads(json.dumps(value))


def _function(path: str) -> Callable[..., Any]:
    module_name, _, name = path.rpartition(".")
    if not module_name:
        raise InputError(f"rewrite: '{path}' is not a path like benchmark.enrichment.rewrites.synonyms")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and not module_name.startswith(error.name):
            raise
        raise InputError(f"rewrite: no module '{module_name}'") from None
    known = {name for name, value in vars(module).items() if inspect.isfunction(value) and not name.startswith("_")}
    function = getattr(module, name, None)
    if not callable(function):
        raise InputError(f"rewrite: {module_name} has no function '{name}'{nearest(name, known)}")
    return function
