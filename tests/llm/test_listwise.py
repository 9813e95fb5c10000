"""Listwise: a first stage's candidates, reranked; what the order of the list means, and what it must not."""

from __future__ import annotations

import functools

import pytest
import torch

from baselines.ease import EASE
from benchmark.data.datamodule import RecDataModule
from benchmark.llm.listwise import Listwise
from benchmark.recommender import Recommender
from tests.contract import RecommenderContract, fit
from tests.llm.tiny import tiny
from tests.planted import planted


@functools.cache
def ease() -> Recommender:
    data, task = planted("ranking")
    return fit(EASE, {"l2": 10.0}, data, task, test=False).model.eval().requires_grad_(False)


CONFIG = {
    "first_stage": "ease",
    "n_candidates": 8,
    "learning_rate": 0.01,
    "batch_size": 64,
    "schedule": "constant",
    "peft": {"kind": "full"},
}


class TestListwise(RecommenderContract):
    model = Listwise
    config = {**CONFIG, "backbone": tiny("llama")}
    epochs = 2
    floor = 0.7

    @classmethod
    def stages(cls, kind: str) -> dict[str, Recommender]:
        return {"first_stage": ease()}

    def test_candidates_are_columns_of_all_scores(self, fitted) -> None:  # type: ignore[no-untyped-def, override]
        """Not here: what a letter is worth depends on the other options. Of the candidates the list is made."""
        batch = fitted.batch()
        batch.candidates = torch.arange(30, 42).expand(len(batch), -1)
        first = ease().score(batch)
        scores = fitted.score(batch)
        listed = scores >= 0
        assert bool((listed.sum(1) == 8).all())
        assert bool((first[listed].view(-1, 8).min(1).values >= first[~listed].view(-1, 4).max(1).values).all())

    def test_scores_unseen_users_iff_it_says_so(self, fitted) -> None:  # type: ignore[no-untyped-def, override]
        """As its first stage does. The order of a list is drawn for each user, so that no two read the same one."""
        assert fitted.model.traits.unseen == ease().traits.unseen == {"users"}


class TestSeq2Seq(TestListwise):
    config = {**CONFIG, "backbone": tiny("t5")}


def test_the_list_stands_above_the_rest_which_keeps_the_order_of_the_first_stage() -> None:
    data, task = planted("ranking")
    stages = {"first_stage": ease()}
    fitted = fit(Listwise, {**CONFIG, "backbone": tiny("llama")}, data, task, stages=stages)
    batch = fitted.batch()
    first, scores = ease().score(batch), fitted.score(batch)
    listed = scores >= 0
    assert bool((listed.sum(1) == 8).all())
    torch.testing.assert_close(scores[listed].view(-1, 8).sum(1), torch.ones(len(batch)))
    rest = (first - first.max(1, keepdim=True).values - 1)[~listed]
    assert torch.equal(scores[~listed], rest)
    assert batch.seen is not None
    assert not bool(listed[batch.seen.row, batch.seen.values].any())


def test_in_training_the_target_stands_anywhere_among_unknown_items() -> None:
    data, task = planted("ranking")
    model = Listwise(Listwise.Config(**CONFIG, backbone=tiny("llama")), data.catalogue())
    model.attach({"first_stage": ease()})
    module = RecDataModule(data, task, model.batch_spec())
    places = []
    for batch in module.train_dataloader():
        options, answer = model._training_lists(batch)
        assert torch.equal(options.gather(1, answer.unsqueeze(1))[:, 0], batch.item)
        places.append(answer)
        for row in range(len(batch)):
            user = int(batch.user[row])
            own = set(data.train.item[data.train.offsets[user] : data.train.offsets[user + 1]].tolist())
            assert set(options[row].tolist()) & own == {int(batch.item[row])}
            assert len(set(options[row].tolist())) == 8
    share = torch.bincount(torch.cat(places), minlength=8) / len(torch.cat(places))
    assert float((share - 1 / 8).abs().max()) < 0.05


def test_the_order_of_a_list_depends_on_user_and_items_alone() -> None:
    data, task = planted("ranking")
    model = Listwise(Listwise.Config(**CONFIG, backbone=tiny("llama")), data.catalogue()).eval()
    model.attach({"first_stage": ease()})
    rows = RecDataModule(data, task, model.batch_spec()).rows("test")
    forward = model.score(rows[rows.all[:10]])
    backward = model.score(rows[rows.all[:10].flip(0)])
    torch.testing.assert_close(forward, backward.flip(0), rtol=1e-4, atol=1e-5)


def test_letters_must_be_tokens() -> None:
    with pytest.raises(ValueError, match="n_candidates"):
        Listwise.Config(first_stage="ease", n_candidates=27)
