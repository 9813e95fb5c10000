"""Item texts, user profiles and the token table."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from benchmark.data.text import TokenTable, flat_index, item_texts, text_vectors, tokenizer_identity, user_profiles
from benchmark.errors import InputError

ITEMS = pl.DataFrame(
    {
        "item_id": ["a", "b", "c", "d"],
        "genres": [["Crime", "Drama"], None, ["Comedy"], []],
        "year": [1995.0, None, 2001.0, None],
        "title": ["Heat", "  Toy   Story ", "", None],
        "vector": [[0.1], [0.2], [0.3], [0.4]],
    }
)


def test_item_texts_title_first_and_nulls_skipped():
    assert item_texts(ITEMS) == ["Heat, 1995, Crime, Drama", "Toy Story", "2001, Comedy", "unknown item d"]
    assert item_texts(ITEMS, ["year", "title"]) == ["1995, Heat", "Toy Story", "2001", "unknown item d"]


def test_item_template():
    texts = item_texts(ITEMS, template="{title}[ ({year})][. Genres: {genres}]")
    assert texts == ["Heat (1995). Genres: Crime, Drama", "Toy Story", "(2001). Genres: Comedy", "unknown item d"]


def test_items_refused():
    with pytest.raises(InputError, match=r"unknown item field 'titel'; did you mean 'title'"):
        item_texts(ITEMS, ["titel"])
    with pytest.raises(InputError, match="no item has any text"):
        item_texts(ITEMS.select("item_id"))
    with pytest.raises(InputError, match="no item has any text"):
        item_texts(ITEMS.select("item_id", pl.lit(None, pl.String).alias("title")))
    with pytest.raises(InputError, match=r"stray '\['"):
        item_texts(ITEMS, template="{title}[ ({year})")


def test_profiles():
    users = pl.DataFrame(
        {
            "user_id": ["1", "2", "3"],
            "zip_code": ["85711", "1", "2"],
            "occupation": ["technician", None, None],
            "age": ["24", None, "25-34"],
            "gender": ["M", None, "F"],
        }
    )
    assert user_profiles(users) == ["24 years old, M, technician", "", "25-34 years old, F"]
    assert user_profiles(users, ["occupation"]) == ["technician", "", ""]
    assert user_profiles(users.select("user_id")) == ["", "", ""]
    with pytest.raises(InputError, match=r"unknown user field 'agee'; did you mean 'age'"):
        user_profiles(users, ["agee"])


@pytest.fixture(scope="module")
def tokenizer():
    """A small word tokenizer, made here."""
    pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["[UNK]", "[PAD]", ":", "heat", "toy", "story", "the", "1995"]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]", pad_token="[PAD]")


def test_table_and_gather(tokenizer):
    texts = ["heat", "", "toy story the 1995", "toy"]
    for lead in (None, "", " "):
        table = TokenTable.build(texts, tokenizer, lead)
        assert table.tokens.dtype == np.int32
        assert table.tokens.tolist() == [3, 4, 5, 6, 7, 4]
        assert table.offsets.tolist() == [0, 1, 1, 5, 6]
    got = table.gather(np.array([3, 2, 1, 2]))
    assert got.tokens.tolist() == [4, 4, 5, 6, 7, 4, 5, 6, 7]
    assert got.lengths.tolist() == [1, 4, 0, 4]
    assert len(TokenTable.build([], tokenizer)) == 0


def test_flat_index():
    assert flat_index(np.array([5, 0, 9]), np.array([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]
    assert flat_index(np.zeros(0, np.int64), np.zeros(0, np.int64)).tolist() == []


def test_cache(tokenizer, tmp_path, monkeypatch):
    texts = ["heat", "toy story"]
    first = TokenTable.build(texts, tokenizer, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(TokenTable, "_tokenise", None)  # a second call must not come this far
        again = TokenTable.build(texts, tokenizer, cache=tmp_path)
    assert again.tokens.tolist() == first.tokens.tolist()
    assert again.offsets.tolist() == first.offsets.tolist()
    # other texts, even with the same characters in a row, another lead: another file
    TokenTable.build(["heattoy", " story"], tokenizer, cache=tmp_path)
    TokenTable.build(texts, tokenizer, " ", cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    # half a file is built anew
    file.write_bytes(file.read_bytes()[:20])
    assert TokenTable.build(texts, tokenizer, cache=tmp_path).tokens.tolist() == first.tokens.tolist()
    assert not list(tmp_path.glob("*.tmp"))


def test_identity_does_not_change_by_use(tokenizer):
    before = tokenizer_identity(tokenizer)
    tokenizer(["heat", "toy story"], padding=True, truncation=True, max_length=5)
    assert tokenizer_identity(tokenizer) == before


def test_cache_folder_that_is_a_file(tokenizer, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(InputError, match="token cache"):
        TokenTable.build(["heat"], tokenizer, cache=tmp_path / "taken")


def test_an_item_without_text_is_like_no_other() -> None:
    items = pl.DataFrame({"item_id": ["1", "2", "3", "4"], "title": ["red car", None, None, "red boat"]})
    vectors = text_vectors(items)
    assert vectors is not None
    np.testing.assert_allclose((vectors @ vectors.T).toarray().diagonal(), [1, 0, 0, 1])
    assert text_vectors(items.select("item_id")) is None
    assert text_vectors(items.with_columns(title=pl.lit("!"))) is None, "nothing that could be counted"
