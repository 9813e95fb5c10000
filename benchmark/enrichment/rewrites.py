"""Rewritings that are shipped: synonyms out of a file, and there and back through two translating models."""

from __future__ import annotations

import hashlib
import json
import re
from functools import lru_cache
from pathlib import Path

import numpy as np

from benchmark.enrichment.writers import LocalModel
from benchmark.errors import InputError
from benchmark.llm.locate import expanded

_WORD = re.compile(r"\w+")


def synonyms(texts: list[str], file: str, share: float = 0.3, seed: int = 0) -> list[str]:
    """Return the texts with some of their words replaced (as in EDA, Wei and Zou, EMNLP 2019, arXiv:1901.11196).

    Args:
        texts: to be rewritten; a text's draws depend on itself and the seed alone.
        file: JSON, {word: [alternatives]}, whatever the case of the words.
        share: chance of each word that has alternatives.
        seed: of the draws.

    Raises:
        InputError: the file cannot be read, or holds something else.
    """
    path = Path(expanded(file)).expanduser()
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"synonyms: {file}: cannot be read ({error})") from None
    fits = isinstance(found, dict) and all(
        isinstance(others, list) and others and all(isinstance(other, str) for other in others)
        for others in found.values()
    )
    if not fits:
        raise InputError(f'synonyms: {file}: expected {{"word": ["alternative", ...], ...}}')
    known = {word.lower(): others for word, others in found.items()}

    def rewritten(text: str) -> str:
        rng = np.random.default_rng(list(hashlib.sha256(f"{seed} {text}".encode()).digest()))

        def other(match: re.Match[str]) -> str:
            word = match[0]
            others = known.get(word.lower())
            if others is None or rng.random() >= share:
                return word
            chosen = others[rng.integers(len(others))]
            return chosen[:1].upper() + chosen[1:] if word[:1].isupper() else chosen

        return _WORD.sub(other, text)

    return [rewritten(text) for text in texts]


def back_translation(texts: list[str], models: list[str], max_tokens: int = 64) -> list[str]:
    """Return the texts translated by the first model, and back by the second (Sennrich et al., ACL 2016).

    Args:
        texts: to be rewritten.
        models: hub names or folders of two models that write, encoder-decoders as a rule.
        max_tokens: longest translation.

    Raises:
        InputError: not two models, or one that cannot be loaded.
    """
    if len(models) != 2:
        raise InputError(f"back_translation: models: found {len(models)}, expected two: there, and back")
    if not texts:  # the arguments alone are asked about
        for name in models:
            _translator(name, max_tokens).check()
        return []
    for name in models:
        translated = dict(_translator(name, max_tokens).write(texts))
        texts = [translated[i].text for i in range(len(texts))]
    return texts


@lru_cache(maxsize=2)
def _translator(name: str, max_tokens: int) -> LocalModel:
    return LocalModel(name, max_tokens)
