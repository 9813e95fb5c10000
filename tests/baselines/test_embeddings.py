"""Vectors that a model gives to others are those that it scores with."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from baselines.ease import EASE
from baselines.lightgcn import LightGCN
from baselines.mf import MF
from baselines.sasrec import SASRec
from baselines.text_embedding import TextEmbedding
from benchmark.errors import InputError
from tests.contract import fit
from tests.llm.tiny import tiny_bert
from tests.planted import planted


@pytest.mark.parametrize("cls", [MF, LightGCN, SASRec])
def test_products_of_the_vectors_are_the_scores(cls: Any) -> None:
    data, task = planted("ranking")
    fitted = fit(cls, {"embedding_size": 8}, data, task, 2, test=False)
    fitted.model.eval()
    batch = fitted.batch()
    with torch.no_grad():
        products = fitted.model.user_embeddings(batch) @ fitted.model.item_embeddings().T
        scores = fitted.score(batch)
        if cls is MF:  # the biases stand beside the vectors
            scores = scores - fitted.model.item_bias.weight[:, 0] - fitted.model.user_bias.weight[batch.user]
    known = batch.user > 1  # two users are unseen in training, who get the mean of the others
    torch.testing.assert_close(products[known], scores[known], rtol=1e-4, atol=1e-5)


def test_texts_have_vectors_too() -> None:
    data, task = planted("ranking")
    fitted = fit(TextEmbedding, {"backbone": tiny_bert()}, data, task, test=False)
    batch = fitted.batch()
    products = fitted.model.user_embeddings(batch) @ fitted.model.item_embeddings().T
    torch.testing.assert_close(products, fitted.score(batch), rtol=1e-4, atol=1e-5)


def test_lightgcn_scores_with_gradients_in_training_alone() -> None:
    data, task = planted("ranking")
    fitted = fit(LightGCN, {"embedding_size": 8}, data, task, 1, test=False)
    batch = fitted.batch()
    scores = fitted.model.train().score(batch)
    assert scores.requires_grad
    torch.testing.assert_close(scores.detach(), fitted.score(batch))
    assert not fitted.model.eval().score(batch).requires_grad


def test_a_model_without_vectors_says_so() -> None:
    data, task = planted("ranking")
    model = fit(EASE, {}, data, task, test=False).model
    with pytest.raises(InputError, match="EASE has no embeddings to give"):
        model.item_embeddings()
