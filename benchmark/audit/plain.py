"""Plain: texts as their words alone, so that neither signs nor a tokenizer's blanks matter in a comparison."""

from __future__ import annotations

import re
import unicodedata

_WORD = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff]|[^\W\u3040-\u30ff\u4e00-\u9fff]+")  # of Chinese, each sign


def plain(text: str) -> str:
    """Return the words in small letters, without accents and punctuation, with one blank between two."""
    letters = unicodedata.normalize("NFKD", text.lower())
    return " ".join(_WORD.findall("".join(c for c in letters if not unicodedata.combining(c))))


def holds(text: str, words: str) -> bool:
    """Return whether a plain text holds some plain words one after the other, as whole words."""
    return f" {words} " in f" {text} "


def begins(text: str, words: str) -> bool:
    """Return whether a plain text begins with some plain words, as whole words."""
    return f"{text} ".startswith(f"{words} ")
