"""Compressed: the contract, what int8, half precision and dropped layers change and what they do not."""

from __future__ import annotations

import copy
import functools
from typing import Any, ClassVar

import pytest
import torch

from baselines.ease import EASE
from baselines.mf import MF
from baselines.sasrec import SASRec
from baselines.text_embedding import TextEmbedding
from benchmark.data.batch import BatchSpec
from benchmark.data.datamodule import RecDataModule
from benchmark.errors import InputError
from benchmark.llm.compressed import Compressed
from benchmark.llm.int8 import Int8Linear
from benchmark.llm.pointwise import Pointwise
from benchmark.llm.two_tower import TwoTower
from benchmark.recommender import Recommender, size_in_bytes
from tests.contract import RecommenderContract, fit
from tests.llm.tiny import tiny, tiny_bert
from tests.planted import planted

CONFIGS: dict[type[Recommender], dict[str, Any]] = {
    SASRec: {"embedding_size": 32, "n_layers": 3, "batch_size": 32, "learning_rate": 0.005},
    MF: {"embedding_size": 8, "learning_rate": 0.05},
    EASE: {},
    TwoTower: {"backbone": tiny_bert(), "batch_size": 32, "peft": {"rank": 4}},
}


@functools.cache
def row(cls: type[Recommender], epochs: int = 8) -> Recommender:
    data, task = planted("ranking")
    return fit(cls, CONFIGS[cls], data, task, epochs, test=False).model.eval().requires_grad_(False)


def compressed(model: Recommender, **config: Any) -> Compressed:
    out = Compressed(Compressed.Config(of="row", **config), model.catalogue)
    out.attach({"of": model})
    return out.eval()


def scores(*models: Recommender) -> list[torch.Tensor]:
    data, task = planted("ranking")
    rows = RecDataModule(data, task, BatchSpec(kind="sequence", max_history=20)).rows("test")
    with torch.no_grad():
        return [model.score(rows[rows.all]) for model in models]


class TestInt8(RecommenderContract):
    model = Compressed
    config: ClassVar[dict[str, Any]] = {"of": "row"}
    row: ClassVar[type[Recommender]] = SASRec

    @classmethod
    def stages(cls, kind: str) -> dict[str, Recommender]:
        return {"of": row(cls.row)}


class TestFewerLayers(TestInt8):
    config: ClassVar[dict[str, Any]] = {"of": "row", "kind": "drop_layers", "layers": 2}


class TestInt8OfText(TestInt8):
    row = TwoTower
    floor = 0.55


@pytest.mark.parametrize(("cls", "share"), [(SASRec, 0.6), (TwoTower, 0.4)])
def test_int8_is_smaller_and_near(cls: type[Recommender], share: float) -> None:
    before = copy.deepcopy({name: p.clone() for name, p in row(cls).named_parameters()})
    int8 = compressed(row(cls), kind="int8")
    float32, found = scores(row(cls), int8)
    assert not torch.equal(found, float32)
    assert torch.corrcoef(torch.stack([found.flatten(), float32.flatten()]))[0, 1] > 0.995
    assert size_in_bytes(int8) < share * size_in_bytes(row(cls))
    for name, p in row(cls).named_parameters():
        assert torch.equal(p, before[name])


def test_int8_products_are_those_of_rounded_numbers_and_a_token_does_not_see_the_others() -> None:
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(48, 40), torch.randn(5, 3, 48) * torch.rand(5, 3, 1)
    int8 = Int8Linear(layer)
    steps = layer.weight.abs().amax(1, keepdim=True) / 127
    assert ((int8.weight * int8.step.unsqueeze(1) - layer.weight).abs() <= steps / 2 * 1.001).all()
    of_x = x.abs().amax(2, keepdim=True) / 127
    with torch.no_grad():
        expected = ((x / of_x).round() * of_x) @ ((layer.weight / steps).round() * steps).T + layer.bias
        torch.testing.assert_close(int8(x), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(int8(x), layer(x), rtol=0, atol=0.03)
        assert torch.equal(int8(x)[2], int8(x[2:3])[0])
    assert int8(x.bfloat16()).dtype == torch.bfloat16


def test_the_size_of_int8_is_that_of_its_weights() -> None:
    layers = [(96, 32), (32, 32), (128, 32), (32, 128)]  # qkv, join and both of the feed-forward layer
    linear = 3 * sum(n * m + 4 * n + 4 * n for n, m in layers)  # a byte a weight, a step and a bias an output
    norms, tables = 7 * 2 * 32, (row(SASRec).n_items + 1 + 50) * 32
    assert size_in_bytes(compressed(row(SASRec))) == linear + 4 * (norms + tables)


@pytest.mark.parametrize("kind", ["bfloat16", "float16"])
@pytest.mark.parametrize("cls", [SASRec, TwoTower, MF])
def test_half_precision_is_half_as_large_and_near(cls: type[Recommender], kind: str) -> None:
    half = compressed(row(cls), kind=kind)
    float32, found = scores(row(cls), half)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, float32, rtol=0.05, atol=0.05 * float(float32.std()) + 0.1)
    assert not torch.equal(found, float32)
    assert size_in_bytes(half) < 0.6 * size_in_bytes(row(cls))


def test_all_layers_less_one_of_a_language_model_are_what_the_model_computes_behind_them() -> None:
    model = row(TwoTower)
    one = compressed(model, kind="drop_layers", layers=1)
    ids = torch.tensor([[101, 2000, 2001, 102]])
    with torch.no_grad(), model.backbone.merged():
        states = model.backbone.base(input_ids=ids, output_hidden_states=True).hidden_states
        found = one.changed.backbone.base(input_ids=ids).last_hidden_state
    torch.testing.assert_close(found, states[1], rtol=1e-4, atol=1e-5)
    assert one.report()["layers"] == 1
    assert one.report()["encode_ms"] > 0


@pytest.mark.parametrize(
    ("config", "kept"),
    [({"layers": 2}, [0, 1]), ({"layers": 2, "keep": "even"}, [0, 2]), ({"keep": [1, 2]}, [1, 2])],
)
def test_layers_are_kept_as_asked(config: dict[str, Any], kept: list[int]) -> None:
    changed = compressed(row(SASRec), kind="drop_layers", **config).changed
    assert len(changed.blocks) == len(kept)
    for block, number in zip(changed.blocks, kept, strict=True):
        assert torch.equal(block.qkv.weight, row(SASRec).blocks[number].qkv.weight)
    assert len(row(SASRec).blocks) == 3


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("kind", ["int8", "bfloat16", "drop_layers"])
def test_decoders_that_answer_in_words_are_compressed_too(family: str, kind: str) -> None:
    data, task = planted("preference")
    model = Pointwise(Pointwise.Config(backbone=tiny(family), peft={"rank": 4}), data.catalogue()).eval()
    options = {"layers": 1} if kind == "drop_layers" else {}
    if (family, kind) == ("gpt2", "int8"):  # its layers are transformers' own Conv1D
        with pytest.raises(InputError, match=r"of: 'row' \(Pointwise\) has no linear layers to hold in int8"):
            compressed(model, kind=kind)
        return
    small = compressed(model, kind=kind, **options)
    rows = RecDataModule(data, task, model.batch_spec()).rows("test")
    with torch.no_grad():
        assert small.score(rows[rows.all[:16]]).isfinite().all()
    assert size_in_bytes(small) < size_in_bytes(model)


@pytest.mark.parametrize("kind", ["dora", "ia3", "prompt"])
def test_adapters_of_other_kinds_are_merged_or_stay_virtual(kind: str) -> None:
    data, task = planted("ranking")
    config = {"backbone": tiny_bert(), "batch_size": 32, "peft": {"kind": kind}}
    model = fit(TwoTower, config, data, task, 1, test=False).model.eval()
    merged = Compressed(Compressed.Config(of="row", kind="drop_layers", keep=(0, 1)), model.catalogue)
    merged.attach({"of": model})
    torch.testing.assert_close(*scores(model, merged.eval()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("cls", "config", "line"),
    [
        (EASE, {"kind": "int8"}, r"'row' \(EASE\) has no linear layers to hold in int8; name a language model"),
        (MF, {"kind": "int8"}, r"'row' \(MF\) has no linear layers .* use kind: bfloat16"),
        (EASE, {"kind": "bfloat16"}, r"\(EASE\) has neither linear layers nor embeddings to hold in bfloat16"),
        (MF, {"kind": "drop_layers", "layers": 1}, r"\(MF\) has no transformer layers to drop"),
        (SASRec, {"kind": "drop_layers", "layers": 3}, "layers: found 3, and 'row' has 3; expected 1 to 2 to be kept"),
        (SASRec, {"kind": "drop_layers", "keep": (0, 3)}, "keep: found layer 3, and 'row' has 3, counted from 0"),
    ],
)
def test_what_cannot_be_compressed_is_one_line(cls: type[Recommender], config: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=line):
        compressed(row(cls), **config)


def test_settings_that_do_not_go_together_are_named() -> None:
    for config, line in (
        ({"kind": "drop_layers"}, "layers: drop_layers needs to know how many"),
        ({"layers": 2}, "layers and keep are of kind: drop_layers, and not of int8"),
        ({"kind": "drop_layers", "layers": 2, "keep": [0, 1]}, "layers does not go with numbers in keep"),
        ({"kind": "drop_layers", "keep": [2, 1]}, "expected numbers of layers that rise"),
    ):
        with pytest.raises(ValueError, match=line):
            Compressed.Config(of="row", **config)


def test_a_row_that_keeps_the_vectors_of_texts_is_refused() -> None:
    data, _ = planted("ranking")
    model = TextEmbedding(TextEmbedding.Config(backbone=tiny_bert()), data.catalogue())
    with pytest.raises(InputError, match=r"'row' \(TextEmbedding\) keeps the vectors of its items, made once"):
        compressed(model, kind="int8")


def test_a_row_within_a_row_keeps_its_fine_tuning() -> None:
    """What is compressed of a merged row is the model that scores: its adapter goes into the weights first."""
    from tests.llm.test_merged import members, merged

    inner = merged(members("lora"))
    outer = Compressed(Compressed.Config(of="merged"), inner.catalogue)
    outer.attach({"of": inner})
    with torch.no_grad():
        small, own = outer.changed.changed.item_vectors(), inner.changed.item_vectors()
        untuned = _vectors_of_base(inner.changed)
    assert float(torch.cosine_similarity(small, own).mean()) > 0.97
    assert float(torch.cosine_similarity(small, untuned).mean()) < float(torch.cosine_similarity(small, own).mean())
    from benchmark.llm.retention import Retention, measure

    assert measure(outer.changed.changed.backbone, Retention())["base_cka"] < 0.999


def _vectors_of_base(model: Any) -> torch.Tensor:
    with model.backbone.pretrained():
        return model.encode_items(torch.arange(model.n_items))
