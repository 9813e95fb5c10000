"""Adapters: every PEFT kind on every family trains what it should, merges, and travels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from benchmark.errors import InputError
from benchmark.llm.adapters import ADALORA_END, Peft
from benchmark.llm.backbone import Backbone
from benchmark.llm.encoder import Encoder
from benchmark.llm.language_model import LanguageModel
from benchmark.llm.loading import Loading
from tests.llm.tiny import tiny

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

KINDS = ("lora", "rslora", "dora", "adalora", "vera", "ia3", "prefix", "prompt", "ptuning")
FAMILIES = ("llama", "qwen2", "gpt2", "t5", "bart", "bert")
# what the names of the trained weights have in common
TRAINED = {
    "lora": (".lora_A.", ".lora_B."),
    "rslora": (".lora_A.", ".lora_B."),
    "dora": (".lora_A.", ".lora_B.", ".lora_magnitude_vector."),
    "adalora": (".lora_A.", ".lora_B.", ".lora_E."),
    "vera": (".vera_lambda_b.", ".vera_lambda_d."),
    "ia3": (".ia3_l.",),
    "prefix": ("prompt_encoder.",),
    "prompt": ("prompt_encoder.",),
    "ptuning": ("prompt_encoder.",),
}
TEXTS = ["User: unknown. Liked: The bread", "The rocket and the goal. Answer Yes or No:", "Which"]
PAIRS = [(f, k) for f in FAMILIES for k in KINDS if k != "prefix" or f in ("llama", "qwen2", "gpt2")]


def make(family: str, kind: str, **options: Any) -> Backbone:
    cls = Encoder if family == "bert" else LanguageModel
    settings = {"rank": 2, "virtual_tokens": 3, "dropout": 0.0} | options
    return cls(tiny(family), Peft(kind=kind, **settings), seed=0)  # type: ignore[arg-type]


def read(model: Backbone, texts: list[str] = TEXTS) -> torch.Tensor:
    """What a model makes of texts: vectors, or the logits of the next token."""
    side = "left" if model.kind == "decoder" else "right"
    tokens = model.tokenizer(texts, padding=True, return_tensors="pt", padding_side=side)
    if isinstance(model, Encoder):
        return model.encode(tokens["input_ids"], tokens["attention_mask"])
    assert isinstance(model, LanguageModel)
    return model.next_logits(tokens["input_ids"], tokens["attention_mask"])


def tuned(model: Backbone) -> Backbone:
    """Give every trained weight some value, as training would."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(0.05 * torch.randn(p.shape, generator=generator))
    return model.eval()


@pytest.mark.parametrize(("family", "kind"), PAIRS)
def test_trains_its_own_weights_and_no_others(family: str, kind: str) -> None:
    model = make(family, kind)
    names = {n for n, p in model.named_parameters() if p.requires_grad}
    assert names
    assert all(any(part in f"{n}." for part in TRAINED[kind]) for n in names), sorted(names)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        (read(model).square().mean() + model.regularization()).backward()
        optimizer.step()
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    # Adam moves whatever has a gradient, be it small; attention of one decoder token to itself has none
    assert changed <= names
    assert all("decoder" in n and ("self_attn" in n or "SelfAttention" in n) for n in names - changed), names - changed


@pytest.mark.parametrize(("family", "kind"), PAIRS)
def test_folder_loads_with_plain_peft_to_the_same_scores(family: str, kind: str, tmp_path: Path) -> None:
    model = tuned(make(family, kind))
    untrained = make(family, kind).eval()
    model.save_adapter(tmp_path)
    auto = {
        "encoder": transformers.AutoModel,
        "decoder": transformers.AutoModelForCausalLM,
        "seq2seq": transformers.AutoModelForSeq2SeqLM,
    }[model.kind]
    plain = peft.PeftModel.from_pretrained(auto.from_pretrained(tiny(family)), tmp_path).eval()
    with torch.no_grad():
        assert not torch.allclose(read(model), read(untrained), atol=1e-4)
        for text in TEXTS:  # one by one: PEFT gives positions to padding
            tokens = model.tokenizer([text], return_tensors="pt")
            inputs = {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}
            if model.kind == "seq2seq":
                start = model.base.config.decoder_start_token_id
                inputs["decoder_input_ids"] = torch.full((1, 1), start)
            out = plain(**inputs)
            if model.kind == "encoder":
                theirs = out.last_hidden_state[:, -tokens["input_ids"].shape[1] :].mean(1)
            else:
                theirs = out.logits[:, -1]
            torch.testing.assert_close(read(model, [text]), theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("family", "kind"), PAIRS)
def test_loads_back_into_a_backbone(family: str, kind: str, tmp_path: Path) -> None:
    model = tuned(make(family, kind))
    model.save_adapter(tmp_path)
    if kind == "ptuning":
        with pytest.raises(InputError, match="holds the result alone"):
            make(family, kind, adapter=str(tmp_path))
        return
    other = make(family, kind, adapter=str(tmp_path)).eval()
    with torch.no_grad():
        torch.testing.assert_close(read(other), read(model), rtol=1e-4, atol=1e-5)
    assert other.n_trainable() == model.n_trainable()


@pytest.mark.parametrize(("family", "kind"), PAIRS)
def test_merged_scores_the_same_and_restores_every_bit(family: str, kind: str) -> None:
    model = tuned(make(family, kind))
    before = {n: p.detach().clone() for n, p in model.state_dict().items()}
    with torch.no_grad():
        expected = read(model)
        with model.merged():
            torch.testing.assert_close(read(model), expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(read(model), expected)
    assert all(torch.equal(p, before[n]) for n, p in model.state_dict().items())


@pytest.mark.parametrize(("family", "kind"), PAIRS)
def test_a_text_does_not_depend_on_the_others_of_its_batch(family: str, kind: str) -> None:
    model = tuned(make(family, kind))
    with torch.no_grad():
        alone = torch.cat([read(model, [text]) for text in TEXTS])
        torch.testing.assert_close(read(model), alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["t5", "bart", "bert"])
def test_prefix_needs_a_decoder(family: str) -> None:
    with pytest.raises(InputError, match=r"peft.kind: prefix needs a decoder, and .* is an encoder.*; use prompt"):
        make(family, "prefix")


@pytest.mark.parametrize("family", FAMILIES)
def test_full_and_frozen(family: str) -> None:
    full, frozen = make(family, "full"), make(family, "frozen")
    assert full.n_trainable() == sum(p.numel() for p in full.parameters())
    assert frozen.n_trainable() == 0


def test_target_modules_can_be_chosen() -> None:
    for kind in ("lora", "adalora", "vera", "ia3"):
        model = make("llama", kind, target_modules=("gate_proj",))
        names = [n for n, p in model.named_parameters() if p.requires_grad]
        assert names
        assert all("gate_proj" in n for n in names)
        with pytest.raises(InputError, match=r"no linear layer 'gate_poj'; did you mean 'gate_proj'"):
            make("llama", kind, target_modules=("gate_poj",))


def test_an_unknown_architecture_gets_all_its_linear_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    from peft.utils import constants

    for name in ("LORA", "ADALORA", "VERA", "IA3"):
        monkeypatch.setattr(constants, f"TRANSFORMERS_MODELS_TO_{name}_TARGET_MODULES_MAPPING", {})
    for kind in ("lora", "adalora", "ia3"):
        names = {n for n, p in make("llama", kind).named_parameters() if p.requires_grad}
        for layer in ("q_proj", "o_proj", "down_proj"):
            assert any(layer in n for n in names), (kind, layer)


def test_adalora_steps_through_its_schedule() -> None:
    """Ranks are whole in the first tenth of the steps, fall, and are final for the last three tenths."""
    model = make("llama", "adalora", rank=2)
    steps = 40
    model.set_steps(steps)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    ranks = []
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        (read(model).square().mean() + model.regularization()).backward()
        optimizer.step()
        model.after_step(step)
        ranks.append(model.report()["adalora_mean_rank"])
    assert ranks[3] == 3  # 1.5 times the rank
    final = int((1 - ADALORA_END) * steps)
    assert ranks[final - 1] == pytest.approx(2)
    assert ranks[final - 1 :] == [ranks[-1]] * (steps - final + 1)
    assert sorted(ranks, reverse=True) == ranks


def test_adalora_saves_the_ranks_of_its_weights(tmp_path: Path) -> None:
    """Not those of the schedule's last step: the weights may be of an earlier epoch."""
    model = tuned(make("llama", "adalora", rank=2))
    with torch.no_grad():
        for name, p in model.named_parameters():
            if ".lora_E." in name:
                p[0] = 0
    model.save_adapter(tmp_path)
    base = transformers.AutoModelForCausalLM.from_pretrained(tiny("llama"))
    plain = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    assert {p.shape[0] for n, p in plain.named_parameters() if ".lora_A." in n} == {2}
    tokens = model.tokenizer([TEXTS[0]], return_tensors="pt")
    with torch.no_grad():
        theirs = plain(input_ids=tokens["input_ids"]).logits[:, -1]
        torch.testing.assert_close(read(model, TEXTS[:1]), theirs, rtol=1e-4, atol=1e-5)


def test_an_adapter_of_another_backbone_is_refused(tmp_path: Path) -> None:
    make("llama", "lora").save_adapter(tmp_path)
    with pytest.raises(InputError, match=r"weights do not fit this backbone"):
        make("gpt2", "lora", adapter=str(tmp_path))
    with pytest.raises(InputError, match=r"holds LORA, expected IA3 \(peft.kind: ia3\)"):
        make("llama", "ia3", adapter=str(tmp_path))
    with pytest.raises(InputError, match=r"expected adapter_model.safetensors"):
        make("llama", "lora", adapter=str(tmp_path / "nowhere"))


def test_quantization_without_a_gpu_is_one_line() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    for bits in ("8bit", "4bit"):
        with pytest.raises(InputError, match=f"quantization: {bits} needs a CUDA GPU"):
            LanguageModel(tiny("llama"), Peft(), Loading(quantization=bits))  # type: ignore[arg-type]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_kinds_agree(attention: str) -> None:
    with torch.no_grad():
        auto = LanguageModel(tiny("llama"), Peft(kind="frozen")).eval()
        other = LanguageModel(tiny("llama"), Peft(kind="frozen"), Loading(attention=attention)).eval()  # type: ignore[arg-type]
        assert other.base.config._attn_implementation == attention
        torch.testing.assert_close(read(other), read(auto), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointing_gives_the_same_gradients(family: str) -> None:
    cls = Encoder if family == "bert" else LanguageModel
    gradients, calls = [], []
    for on in (False, True):
        model = cls(tiny(family), Peft(dropout=0.0), Loading(gradient_checkpointing=on), seed=0)
        layers = [m for m in model.base.modules() if getattr(m, "gradient_checkpointing", False) and m.training]
        calls.append(len(layers))
        read(model).square().mean().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    assert calls[0] == 0
    assert calls[1] > 0
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_remote_code_is_off_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    inner = transformers.AutoConfig.from_pretrained
    monkeypatch.setattr(
        transformers.AutoConfig,
        "from_pretrained",
        lambda *a, **k: (seen.append(k["trust_remote_code"]), inner(*a, **k))[1],
    )
    LanguageModel(tiny("llama"), Peft(kind="frozen"))
    LanguageModel(tiny("llama"), Peft(kind="frozen"), Loading(trust_remote_code=True))
    assert seen[0] is False
    assert seen[-1] is True
