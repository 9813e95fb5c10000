"""TextEmbedding: the contract, with vectors beside the text and alone, and the cosine by hand."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from baselines.text_embedding import TextEmbedding
from benchmark.errors import InputError
from tests.contract import RecommenderContract, fit
from tests.planted import planted


class TestTextEmbedding(RecommenderContract):
    model = TextEmbedding
    floor = 0.75


class TestVectorsAlone(RecommenderContract):
    in_two_processes = False
    model = TextEmbedding
    config: ClassVar[dict[str, Any]] = {"item_fields": [], "vectors": ["image"]}
    floor = 0.75


def test_the_cosine_of_two_items_is_the_weighted_mean_of_those_of_their_parts() -> None:
    data, task = planted("ranking")
    text = fit(TextEmbedding, {}, data, task, test=False).model.vectors.numpy()
    image = data.vectors["image"] / np.linalg.norm(data.vectors["image"], axis=1, keepdims=True)
    fused = fit(TextEmbedding, {"vectors": ["image"], "weights": [1.0, 3.0]}, data, task).model.vectors.numpy()
    np.testing.assert_allclose(fused @ fused.T, (text @ text.T + 3 * image @ image.T) / 4, atol=1e-5)


def test_vectors_alone_rank_by_the_cosine_with_the_mean_of_the_users() -> None:
    data, task = planted("ranking")
    fitted = fit(TextEmbedding, {"item_fields": [], "vectors": ["image"]}, data, task)
    image = data.vectors["image"] / np.linalg.norm(data.vectors["image"], axis=1, keepdims=True)
    batch = fitted.batch()
    assert batch.seen is not None
    user = batch.seen.dense(data.n_items).numpy() @ image
    user /= np.linalg.norm(user, axis=1, keepdims=True)
    torch.testing.assert_close(fitted.score(batch), torch.from_numpy(user @ image.T), rtol=1e-4, atol=1e-5)


def test_what_cannot_be_read() -> None:
    with pytest.raises(ValueError, match=r"item_fields: \[\] leaves nothing to read; name vectors"):
        TextEmbedding.Config(item_fields=[])
    with pytest.raises(ValueError, match=r"weights: found \[1.0\], expected 2 positive numbers"):
        TextEmbedding.Config(vectors=["image"], weights=[1.0])
    with pytest.raises(InputError, match="vectors: the data has no vectors 'imgae'; did you mean 'image'"):
        TextEmbedding.check(TextEmbedding.Config(vectors=["imgae"]), planted("ranking")[0].catalogue())
