"""Text of items and users, and their tokens: flat ragged tables that are tokenised once and cached on disk."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import TfidfVectorizer

from benchmark.data.schema import ITEM_ID, TITLE, USER_ID
from benchmark.errors import InputError, nearest

# a text column the tokeniser sees in one call; bounds the memory of its Python lists
_CHUNK = 65536
# numbers that a sentence says nothing with
_NOT_IN_PROFILE = ("zip_code", "zip", "zipcode", "postal_code")
_PROFILE_FIRST = ("age", "gender", "occupation")
# what stands before a piece while it is tokenised; cut off afterwards
_ANCHOR = ":"
UNKNOWN = "unknown item "  # what an item without text is called, before its id


def item_texts(items: pl.DataFrame, fields: Sequence[str] | None = None, template: str | None = None) -> list[str]:
    """Return one text per row of ``items``; missing values are skipped.

    Args:
        items: (n) rows with ``item_id`` and features, e.g. ``Catalogue.items``.
        fields: columns to use, in this order, joined by ``", "``. None: ``title`` first, then ``year``, then every
            other column that holds words or numbers, or lists of words.
        template: instead of the joined fields, e.g. ``"{title}[ ({year})][. Genres: {genres}]"``. A part in square
            brackets vanishes where one of its fields is missing; outside of brackets a missing value is empty text.

    Returns:
        n texts. An item without any text becomes ``"unknown item <raw id>"``: rows keep their places, and the model
        sees something it can tell apart.

    Raises:
        InputError: an unknown field, a template with an unclosed bracket, or no text in the whole table.
    """
    if template is not None:
        sections = _sections(template)
        used = [field for _, names in sections for field in names]
    else:
        used = list(fields) if fields is not None else _text_columns(items, (TITLE, "year"), (ITEM_ID,))
        sections = []
    check_fields(items, used, "item")
    words = items.select(_as_text(items, name) for name in dict.fromkeys(used))
    if not used or all(words[name].null_count() == items.height for name in words.columns):
        raise InputError(
            f"no item has any text: expected '{TITLE}' or another column with words; found: {', '.join(items.columns)}"
        )
    if template is None:
        texts = words.select(pl.concat_str(pl.all(), separator=", ", ignore_nulls=True)).to_series()
    else:
        optional = [_section(words, text, names) for text, names in sections]
        texts = words.select(pl.concat_str(optional).str.strip_chars()).to_series()
        # fixed words alone are no text of the item
        texts = words.select(
            pl.when(pl.all_horizontal(pl.all().is_null())).then(pl.lit("")).otherwise(texts)
        ).to_series()
    ids = items[ITEM_ID].cast(pl.String) if ITEM_ID in items.columns else pl.Series(map(str, range(items.height)))
    unknown = pl.select(pl.concat_str(pl.lit(UNKNOWN), ids)).to_series()
    return pl.select(pl.when(texts == "").then(unknown).otherwise(texts)).to_series().to_list()


def text_vectors(items: pl.DataFrame) -> csr_array | None:
    """Return (n_items, d) sparse TF-IDF vectors of the items' texts, of length 1, or 0 where an item has no text.

    None where no item has any.
    """
    try:
        texts = item_texts(items)
    except InputError:
        return None
    told = [text if text != f"{UNKNOWN}{id}" else "" for text, id in zip(texts, items[ITEM_ID], strict=True)]
    try:
        return csr_array(TfidfVectorizer(sublinear_tf=True).fit_transform(told))
    except ValueError:  # single letters and punctuation alone
        return None


def user_profiles(users: pl.DataFrame, fields: Sequence[str] | None = None) -> list[str]:
    """Return one profile per row of ``users``, e.g. ``"24 years old, M, technician"``; "" where nothing is known.

    Args:
        users: (n) rows with ``user_id`` and features, e.g. ``Catalogue.users``.
        fields: columns to use, in this order. None: age, gender, occupation, then the other columns that hold words or
            numbers, without postal codes.

    Raises:
        InputError: an unknown field.
    """
    used = list(fields) if fields is not None else _text_columns(users, _PROFILE_FIRST, (USER_ID, *_NOT_IN_PROFILE))
    check_fields(users, used, "user")
    if not used:
        return [""] * users.height
    words = users.select(_as_text(users, name) for name in dict.fromkeys(used))
    if "age" in words.columns:
        words = words.with_columns(pl.concat_str("age", pl.lit(" years old")))
    return words.select(pl.concat_str(pl.all(), separator=", ", ignore_nulls=True)).to_series().to_list()


def column_texts(frame: pl.DataFrame, name: str) -> list[str | None]:
    """Return one column as n texts, None where a value is missing or blank."""
    return frame.select(_as_text(frame, name)).to_series().to_list()


def _text_columns(frame: pl.DataFrame, first: Sequence[str], without: Sequence[str]) -> list[str]:
    """Return the columns that hold words or numbers: ``first`` in that order, then the others as they stand."""
    names = [name for name, dtype in frame.schema.items() if name not in without and _is_text(dtype)]
    return [name for name in first if name in names] + [name for name in names if name not in first]


def _is_text(dtype: pl.DataType) -> bool:
    if isinstance(dtype, pl.List):
        return dtype.inner in (pl.String, pl.Categorical)
    return dtype in (pl.String, pl.Categorical, pl.Enum, pl.Boolean) or dtype.is_numeric()


def check_fields(frame: pl.DataFrame, fields: Sequence[str], kind: str) -> None:
    """Refuse a field that is no column of the items or users (``kind`` says which)."""
    for name in fields:
        if name not in frame.columns:
            raise InputError(f"unknown {kind} field '{name}'{nearest(name, frame.columns)}")


def _as_text(frame: pl.DataFrame, name: str) -> pl.Expr:
    """Return a String expression: lists joined, whole floats without '.0', blank text as null."""
    dtype, column = frame.schema[name], pl.col(name)
    if isinstance(dtype, pl.List):
        column = column.cast(pl.List(pl.String)).list.join(", ", ignore_nulls=True)
    elif dtype.is_float():
        known = frame[name].drop_nulls().drop_nans()
        column = column.fill_nan(None)
        if bool((known.is_finite() & (known == known.round(0))).all()):
            column = column.cast(pl.Int64)
    column = column.cast(pl.String).str.strip_chars().str.replace_all(r"\s+", " ")
    return pl.when(column != "").then(column).otherwise(None).alias(name)


def _sections(template: str) -> list[tuple[str, list[str]]]:
    """Split "{a}[ ({b})]" into its optional sections [("{a}", ["a"]), (" ({b})", ["b"])]; plain parts go by slot."""
    sections: list[tuple[str, list[str]]] = []
    for match in re.finditer(r"\[([^\[\]]*)\]|(\{\w+\})|([^\[\]{}]+)|(.)", template, re.DOTALL):
        optional, slot, words, stray = match.groups()
        if stray is not None:
            raise InputError(f"item template '{template}': stray '{stray}' at position {match.start() + 1}")
        text = next(part for part in (optional, slot, words) if part is not None)
        sections.append((text, re.findall(r"\{(\w+)\}", text)))
    return sections


def _section(words: pl.DataFrame, text: str, names: Sequence[str]) -> pl.Expr:
    """Return the expression of one section: empty where one of its fields is null."""
    parts = [pl.col(p[1:-1]) if p[:1] == "{" else pl.lit(p) for p in re.split(r"(\{\w+\})", text) if p]
    return pl.concat_str(parts, ignore_nulls=False).fill_null("") if parts else pl.lit("")


@dataclass(frozen=True)
class TokenTable:
    """Tokens of n texts: text i is ``tokens[offsets[i]:offsets[i + 1]]``.

    Attributes:
        tokens: (offsets[-1],) int32, without special tokens.
        offsets: (n + 1,) int64, starting at 0.
    """

    tokens: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """(n,) int64."""
        return np.diff(self.offsets)

    def gather(self, ids: np.ndarray) -> TokenTable:
        """Return the table of the texts ``ids`` (m,), in that order; repeated ids are allowed."""
        starts, lengths = self.offsets[:-1][ids], self.lengths[ids]
        return TokenTable(self.tokens[flat_index(starts, lengths)], offsets_of(lengths))

    @classmethod
    def build(
        cls, texts: Sequence[str], tokenizer: Any, lead: str | None = None, cache: Path | str | None = None
    ) -> TokenTable:
        """Tokenise ``texts`` in batched calls, or read the table that an earlier call left in ``cache``.

        Args:
            texts: n texts.
            tokenizer: a Hugging Face tokenizer.
            lead: what stands before each text in a prompt: ``" "`` or ``""`` inside a sentence, None for the beginning
                of a prompt. Byte-pair tokenizers give a word other tokens after a blank; pieces tokenised with their
                lead join to the tokens of the whole sentence.
            cache: folder for the table, made if missing; the file's name is the SHA-256 of the texts, the lead and the
                tokenizer. None: no cache.

        Raises:
            InputError: the cache folder cannot be written.
        """
        path = None if cache is None else Path(cache) / f"{_key(texts, tokenizer, lead)}.safetensors"
        if path is not None and (table := _read(path)) is not None:
            return table
        table = cls._tokenise(texts, tokenizer, lead)
        if path is not None:
            _write(path, table)
        return table

    @classmethod
    def _tokenise(cls, texts: Sequence[str], tokenizer: Any, lead: str | None) -> TokenTable:
        rows: list[list[int]] = []
        anchor = [] if lead is None else _encode(tokenizer, [_ANCHOR])[0]
        before = "" if lead is None else _ANCHOR + lead
        for start in range(0, len(texts), _CHUNK):
            rows += _encode(tokenizer, [before + text for text in texts[start : start + _CHUNK]])
        cut = len(anchor)
        if cut:
            # where the anchor melted into the text, the text is tokenised by itself
            melted = [i for i, row in enumerate(rows) if row[:cut] != anchor]
            alone = iter(_encode(tokenizer, [(lead or "") + texts[i] for i in melted]) if melted else [])
            rows = [row[cut:] for row in rows]
            for i in melted:
                rows[i] = next(alone)
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        tokens = np.fromiter((token for row in rows for token in row), np.int32, int(lengths.sum()))
        return cls(tokens, offsets_of(lengths))


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    """Return the (n + 1,) int64 offsets of lists of these (n,) lengths."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def flat_index(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the concatenation of ``range(starts[i], starts[i] + lengths[i])`` as (lengths.sum(),) int64."""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total, dtype=np.int64) + np.repeat(starts - (ends - lengths), lengths)


def _encode(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    # verbose=False: a text over the model's length is cut later, when prompts are put together
    encoded = tokenizer(
        texts, add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False, verbose=False
    )
    return encoded["input_ids"]


def _key(texts: Sequence[str], tokenizer: Any, lead: str | None) -> str:
    digest = hashlib.sha256(json.dumps(["tokens-1", lead, tokenizer_identity(tokenizer)]).encode())
    for text in texts:
        raw = text.encode()
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return digest.hexdigest()


def tokenizer_identity(tokenizer: Any) -> str:
    """Return the SHA-256 of what decides the tokens: the whole fast tokenizer, or class and vocabulary of a slow one.

    Padding and truncation are left out: a fast tokenizer changes them from call to call.
    """
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is not None:
        state = json.loads(fast.to_str())
        state = {name: value for name, value in state.items() if name not in ("padding", "truncation")}
    else:
        state = {"class": type(tokenizer).__name__, "vocabulary": dict(sorted(tokenizer.get_vocab().items()))}
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> TokenTable | None:
    """Return the cached table, or None where there is none or it is broken (it is then built anew)."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays: Mapping[str, np.ndarray] = load_file(path)
        return TokenTable(arrays["tokens"], arrays["offsets"])
    except (OSError, SafetensorError, KeyError):
        return None


def _write(path: Path, table: TokenTable) -> None:
    """Write next to ``path`` and rename, so that no reader ever sees half a file."""
    from safetensors.numpy import save

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.stem[:16], suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(save({"tokens": table.tokens, "offsets": table.offsets}))
            os.replace(name, path)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as error:
        raise InputError(f"token cache {path.parent}: cannot be written ({error.strerror})") from error
