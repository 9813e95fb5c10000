"""TwoTower: the contract on a tiny random model, then what a real pretrained one learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from benchmark.data.batch import Batch
from benchmark.data.vectors import standardised
from benchmark.errors import InputError
from benchmark.llm.prompts import flat_prompts
from benchmark.llm.training import ADAPTER
from benchmark.llm.two_tower import TwoTower
from tests.contract import RecommenderContract, fit, quiet
from tests.llm.tiny import tiny_bert
from tests.planted import planted


class TestTwoTower(RecommenderContract):
    model = TwoTower
    config = {"backbone": tiny_bert(), "learning_rate": 0.01, "batch_size": 32}
    epochs = 8
    floor = 0.75


class TestVectorsAlone(RecommenderContract):
    in_two_processes = False
    model = TwoTower
    config = {**TestTwoTower.config, "item_fields": [], "vectors": ["image"], "popularity": False}
    floor = 0.6


class TestWithDrawnNegativesAndIds(RecommenderContract):
    in_two_processes = False
    model = TwoTower
    config = {**TestTwoTower.config, "negatives": 16, "id_embedding": True}
    epochs = 8
    floor = 0.75


def test_vectors_and_scores_in_training_are_those_of_scoring_and_scores_have_gradients() -> None:
    data, task = planted("ranking")
    peft = {"dropout": 0.0}
    fitted = fit(TwoTower, {**TestTwoTower.config, "peft": peft, "eval_batch_size": 16}, data, task, 1, test=False)
    model, batch = fitted.model.eval(), fitted.batch()
    with torch.no_grad():
        every = model.score(batch)
        products = model.user_embeddings(batch) @ model.item_embeddings().T / model.config.temperature
    torch.testing.assert_close(products + model.popularity * model.frequency, every, rtol=1e-4, atol=1e-4)
    batch.candidates = torch.tensor([[3, 5, 60]]).expand(len(batch), -1)
    training = model.train().score(batch)
    torch.testing.assert_close(training, every.gather(1, batch.candidates), rtol=1e-3, atol=1e-3)
    training.sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for n, p in model.named_parameters() if "lora" in n)


@pytest.mark.parametrize("sampling", ["uniform", "popularity"])
def test_log_q_correction_takes_out_how_often_an_item_is_there(sampling: str) -> None:
    """Each logit less the log of how often its item is to be expected in the batch (Yi et al., eq. 3 of section 4)."""
    data, _ = planted("ranking")
    config = TwoTower.Config(backbone=tiny_bert(), negatives=6, negative_sampling=sampling)
    model = TwoTower(config, data.catalogue()).eval()
    chance = torch.from_numpy(np.bincount(data.train.item, minlength=data.n_items) ** 0.75).float()
    if sampling == "uniform":
        chance = torch.ones(data.n_items)
    chance /= chance.sum()
    history = torch.tensor([[1, 2, 3, 4, 5]])
    batch = Batch(user=torch.tensor([2]), history=history, history_length=torch.tensor([5]))
    with torch.no_grad():
        torch.manual_seed(0)
        found = model.loss(batch)
        torch.manual_seed(0)
        uniform = sampling == "uniform"
        drawn = torch.randint(data.n_items, (6,)) if uniform else torch.multinomial(chance, 6, replacement=True)
        there = sorted({*history[0].tolist(), *drawn.tolist()})
        vectors = model.encode_items(torch.arange(data.n_items))
        count = np.bincount(data.train.item, minlength=data.n_items) + 1
        share = torch.from_numpy(count / count.sum()).float()
        losses: dict[bool, list[float]] = {True: [], False: []}
        for corrected in losses:
            for i in range(5):
                age = torch.arange(i - 1, -1, -1)
                weight = torch.exp(-torch.nn.functional.softplus(model.decay) * age)
                user = model._user((weight / weight.sum()) @ vectors[history[0, :i]] if i else model.nobody)
                target = int(history[0, i])
                # the user's other items are no negatives
                items = torch.tensor([target, *(j for j in there if j not in history[0].tolist())])
                logits = vectors[items] @ user / model.config.temperature + model.popularity * share[items].log()
                if corrected:
                    logits = logits - (5 * share[items] + 6 * chance[items]).log()
                losses[corrected].append(float(-logits.log_softmax(0)[0]))
    assert float(found) == pytest.approx(np.mean(losses[True]), rel=1e-4)
    assert float(found) != pytest.approx(np.mean(losses[False]), rel=1e-3)


def test_a_vector_of_its_own_starts_at_the_text() -> None:
    data, _ = planted("ranking")
    plain = TwoTower(TwoTower.Config(backbone=tiny_bert()), data.catalogue()).eval()
    with_ids = TwoTower(TwoTower.Config(backbone=tiny_bert(), id_embedding=True), data.catalogue()).eval()
    items = torch.arange(9)
    torch.testing.assert_close(with_ids.encode_items(items), plain.encode_items(items))
    assert "id.weight" in with_ids.weights()


def test_items_are_encoded_once_an_evaluation_and_anew_after_training() -> None:
    data, task = planted("ranking")
    fitted = fit(TwoTower, {"backbone": tiny_bert()}, data, task)
    model, calls = fitted.model, []
    encode = model.encode_items
    model.encode_items = lambda items: calls.append(len(items)) or encode(items)  # type: ignore[method-assign]
    model._items = None
    for rows in fitted.module.rows("test").all.split(10):
        fitted.score(fitted.module.rows("test")[rows])
    assert calls == [data.n_items]
    model.train()
    model.loss(next(iter(fitted.module.train_dataloader())))
    fitted.score(fitted.batch())
    assert calls[-1] == data.n_items


def test_what_comes_later_in_a_history_does_not_help_an_earlier_position() -> None:
    data, task = planted("ranking")
    with quiet():
        model = TwoTower(TwoTower.Config(backbone=tiny_bert()), data.catalogue()).eval()
        history = torch.tensor([[3, 5, 7, 9, data.n_items]])
        longer = torch.tensor([[3, 5, 7, 9, 11]])
        fitted = fit(TwoTower, {"backbone": tiny_bert()}, data, task, test=False)
        batch = fitted.batch()
        batch.user, batch.seen = batch.user[:1], None
        batch.history, batch.history_length = history, torch.tensor([4])
        short = fitted.score(batch)
        batch.history, batch.history_length = longer, torch.tensor([4])  # the fifth stands behind the end
        torch.testing.assert_close(fitted.score(batch), short)
    assert model.batch_spec().kind == "sequence"


def test_the_adapter_folder_loads_with_plain_peft_to_the_same_vectors(tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModel

    data, task = planted("ranking")
    config = {"backbone": tiny_bert(), "learning_rate": 0.01, "item_fields": ("title",)}
    fitted = fit(TwoTower, config, data, task, test=False)
    fitted.model.save(tmp_path)
    base = AutoModel.from_pretrained(tiny_bert()).eval()
    plain = PeftModel.from_pretrained(base, tmp_path / ADAPTER).eval()
    texts = fitted.model.catalogue.items["title"].to_list()[:5]
    tokens = fitted.model.backbone.tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = plain(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).last_hidden_state
        mask = tokens["attention_mask"].unsqueeze(-1)
        mean = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
        fitted.model.eval()
        torch.testing.assert_close(fitted.model.encode_items(torch.arange(5)), mean, rtol=1e-4, atol=1e-5)


def test_checkpoints_hold_the_adapter_and_not_the_backbone() -> None:
    data, _ = planted("ranking")
    model = TwoTower(TwoTower.Config(backbone=tiny_bert()), data.catalogue())
    names = model.weights().keys()
    assert any("lora_A" in name for name in names)
    assert not any("embeddings" in name for name in names)
    assert sum(v.numel() for v in model.weights().values()) < 0.05 * sum(p.numel() for p in model.parameters())


def test_a_real_pretrained_model_learns_on_real_text() -> None:
    data, task = planted("ranking")
    untrained = fit(TwoTower, {"learning_rate": 1e-12}, data, task, epochs=1).metrics
    trained = fit(TwoTower, {"batch_size": 40}, data, task, epochs=3).metrics
    assert trained["auc"] > untrained["auc"] - 0.01
    assert trained["auc"] > 0.75


def test_the_end_of_a_long_text_is_cut() -> None:
    data, _ = planted("ranking")
    catalogue = data.catalogue()
    long = catalogue.items.with_columns(title=pl.col("title") + " the and" * 30)
    items = replace(catalogue, items=long)
    whole, cut = (TwoTower(TwoTower.Config(backbone=tiny_bert(), max_length=n), items).eval() for n in (96, 5))
    cut.load_state_dict(whole.state_dict())
    every = torch.arange(9)
    with torch.no_grad():
        assert not torch.allclose(whole.encode_items(every), cut.encode_items(every), atol=1e-3)
    assert (whole.report()["item_texts_cut_share"], cut.report()["item_texts_cut_share"]) == (0.0, 1.0)
    texts = [whole.pieces.text(_tokens(m, 0)) for m in (whole, cut)]
    assert texts[0].startswith(texts[1].rsplit(" ", 1)[0])
    assert len(_tokens(cut, 0)) == 5


def _tokens(model: TwoTower, item: int) -> np.ndarray:
    return flat_prompts(model.pieces, model.max_length, candidate=np.array([item])).tokens


def test_no_text_in_the_catalogue_is_one_line() -> None:
    data, _ = planted("ranking")
    catalogue = data.catalogue()
    empty = catalogue.__class__(**{**vars(catalogue), "items": catalogue.items.select("item_id")})
    with pytest.raises(InputError, match="no item has any text"):
        TwoTower(TwoTower.Config(backbone=tiny_bert()), empty)


def test_the_critic_keeps_the_texts_from_telling_the_domain() -> None:
    """A fresh linear probe tells the domains by the vectors worse than by those trained without the critic."""
    from sklearn.linear_model import LogisticRegression

    data, task = planted("ranking")
    number = data.items["title"].str.contains(" (spaceship|astronaut|galaxy|planet|rocket|kitchen|recipe|bread) ").cast(pl.Int8)  # fmt: skip  # noqa: E501
    domain = number.to_numpy()
    data = replace(data, items=data.items.with_columns(domain=pl.Series(["b", "a"]).gather(number.cast(pl.UInt32))))
    surprise = {}
    for weight in (0.0, 5.0):
        config = {**TestTwoTower.config, "adversarial": weight, "negatives": 32}
        model = fit(TwoTower, config, data, task, epochs=8, test=False).model.eval()
        vectors = model.item_vectors().numpy()
        p = LogisticRegression(C=0.3, max_iter=500).fit(vectors, domain).predict_proba(vectors)
        surprise[weight] = -float(np.log(p[np.arange(len(domain)), domain]).mean())
    told = {weight: np.log(2) - value for weight, value in surprise.items()}  # nats a probe knows of the domain
    assert told[5.0] < 0.8 * told[0.0], told


def test_vectors_are_added_to_the_text_by_a_learned_layer_that_starts_at_nothing() -> None:
    data, _ = planted("ranking")
    catalogue, every = data.catalogue(), torch.arange(data.n_items)
    with quiet(), torch.no_grad():
        text = TwoTower(TwoTower.Config(backbone=tiny_bert()), catalogue).eval()
        fused = TwoTower(TwoTower.Config(backbone=tiny_bert(), vectors=["image"]), catalogue).eval()
        fused.backbone.load_state_dict(text.backbone.state_dict())
        torch.testing.assert_close(fused.encode_items(every), text.encode_items(every))
        fused.fused[0].weight.normal_()
        image = torch.from_numpy(standardised(data.vectors["image"])) @ fused.fused[0].weight.T
        expected = torch.nn.functional.normalize(text.encode_items(every) + image, dim=-1)
        torch.testing.assert_close(fused.encode_items(every), expected, rtol=1e-4, atol=1e-5)


def test_without_popularity_frequency_orders_nothing() -> None:
    data, task = planted("ranking")
    config = {"backbone": tiny_bert(), "item_fields": [], "vectors": ["image"], "popularity": False}
    model = fit(TwoTower, config, data, task, epochs=2, test=False).model
    assert float(model.popularity) == 0
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"project.weight", "decay", "nobody", "fused.0.weight"}


def test_vectors_that_cannot_be_read() -> None:
    with pytest.raises(ValueError, match=r"item_fields: \[\] leaves nothing to read; name vectors"):
        TwoTower.Config(item_fields=[])
    with pytest.raises(ValueError, match="zero_shot: what projects the vectors has to be trained"):
        TwoTower.Config(zero_shot=True, vectors=["image"])
    with pytest.raises(InputError, match="vectors: the data has no vectors 'sound'"):
        TwoTower.check(TwoTower.Config(backbone=tiny_bert(), vectors=["sound"]), planted("ranking")[0].catalogue())


def test_in_training_an_item_is_read_as_one_of_its_texts_and_scored_as_its_own() -> None:
    data, task = planted("ranking")
    titles = data.items["title"].to_list()
    other = pl.Series("other", [None if i % 2 else f"the oven and the ghost {i}" for i in range(data.n_items)])
    data = replace(data, items=data.items.with_columns(other))
    config = {"backbone": tiny_bert(), "text_variants": ["other"]}
    model = TwoTower(TwoTower.Config(**config, item_fields=["title"]), data.catalogue())
    every = torch.arange(20)
    with torch.no_grad():
        own = model.eval().encode_items(every)
        texts = [text if text is not None else title for text, title in zip(other, titles, strict=True)]
        variant = model.encode_texts(texts[:20])
        model.train()
        torch.manual_seed(0)
        drawn = model.encode_items(every.repeat(40)).unflatten(0, (40, 20))
    is_own = torch.isclose(drawn, own, atol=1e-4).all(2)
    is_variant = torch.isclose(drawn, variant, atol=1e-4).all(2)
    assert (is_own | is_variant).all()
    assert is_own[:, 1::2].all()  # without another text it keeps its own
    assert is_own[:, ::2].float().mean() == pytest.approx(0.5, abs=0.08)
    plain = TwoTower(TwoTower.Config(backbone=tiny_bert()), replace(data, items=data.items.drop("other")).catalogue())
    whole = TwoTower(TwoTower.Config(**config), data.catalogue())
    with torch.no_grad():  # all columns are the own text, but for the variants
        torch.testing.assert_close(whole.eval().encode_items(every), plain.eval().encode_items(every))
    fit(TwoTower, config, data, task, test=False, limit_train_batches=2, limit_val_batches=0)
    with pytest.raises(InputError, match="text_variants: unknown item field 'othr'; did you mean 'other'"):
        TwoTower.check(TwoTower.Config(**config | {"text_variants": ["othr"]}), data.catalogue())
