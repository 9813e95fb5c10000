"""Training craft: schedules, parameter groups, class weights, smoothing, zero-shot rows, diverging runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from lightning import Callback

from baselines.mf import MF
from benchmark.data.budget import few_shot
from benchmark.data.datamodule import RecDataModule
from benchmark.errors import InputError
from benchmark.experiment import Experiment
from benchmark.llm.adapters import PeftKind
from benchmark.llm.generative import Generative
from benchmark.llm.pointwise import Pointwise
from benchmark.llm.training import LLMConfig, factor
from benchmark.llm.two_tower import TwoTower
from benchmark.runs.run import run
from tests.contract import fit
from tests.llm.tiny import tiny, tiny_bert
from tests.planted import planted


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_schedules(schedule: Any) -> None:
    config = LLMConfig(schedule=schedule, warmup=0.1)
    rates = [factor(step, 100, config) for step in range(101)]
    assert rates[:10] == sorted(rates[:10])
    assert rates[0] == pytest.approx(1 / 11)
    assert rates[10] == 1
    assert max(rates) == 1
    if schedule == "constant":
        assert set(rates[10:]) == {1.0}
    else:
        assert rates[10:] == sorted(rates[10:], reverse=True)
        assert rates[100] == pytest.approx(0)
        assert rates[55] == pytest.approx(0.5)


class _Rates(Callback):
    def __init__(self) -> None:
        self.rates: list[list[float]] = []

    def on_train_batch_start(self, trainer: Any, *args: Any) -> None:
        self.rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])


def test_the_step_sizes_of_a_run_follow_the_schedule_over_all_epochs() -> None:
    data, task = planted("preference")
    watch = _Rates()
    config = {"backbone": tiny_bert(), "learning_rate": 0.01, "head_learning_rate": 0.1, "batch_size": 64}
    fit(Pointwise, config, data, task, 2, test=False, callbacks=[watch], accumulate_grad_batches=2)
    batches = len(watch.rates)
    steps = 2 * -(-(batches // 2) // 2)
    expected = [factor(i // 2, steps, LLMConfig()) for i in range(batches // 2)]
    assert len(watch.rates[0]) == 3  # adapter; the head's matrix and its bias
    inside = [rates[0] for rates in watch.rates]
    assert inside[: batches // 2] == pytest.approx([0.01 * e for e in expected])
    assert all(rates[1] == pytest.approx(10 * rates[0]) for rates in watch.rates)
    assert inside[-1] < 0.1 * max(inside)


def test_no_decay_on_norms_and_biases() -> None:
    data, _ = planted("preference")
    model = Pointwise(Pointwise.Config(backbone=tiny_bert(), peft={"kind": "full"}), data.catalogue())
    optimizer = model.configure_optimizers()["optimizer"]
    names = {id(p): n for n, p in model.named_parameters()}
    for group in optimizer.param_groups:
        for p in group["params"]:
            decays = p.dim() > 1
            assert group["weight_decay"] == (0.01 if decays else 0.0), names[id(p)]
            assert not (decays and ("bias" in names[id(p)] or "LayerNorm" in names[id(p)]))
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(model.parameters()))


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("adam", torch.optim.Adam)])
@pytest.mark.parametrize("cls", [MF, TwoTower])
def test_every_model_that_is_trained_by_gradients_takes_the_optimizer(cls: Any, name: str, kind: type) -> None:
    data, _ = planted("ranking")
    backbone = {"backbone": tiny_bert()} if cls is TwoTower else {}
    found = cls(cls.Config(optimizer=name, **backbone), data.catalogue()).configure_optimizers()
    assert type(found["optimizer"] if isinstance(found, dict) else found) is kind


def test_label_smoothing_and_class_weights() -> None:
    data, task = planted("preference")

    def loss(**config: Any) -> tuple[torch.Tensor, Any, Pointwise]:
        torch.manual_seed(0)
        model = Pointwise(Pointwise.Config(backbone=tiny_bert(), **config), data.catalogue()).eval()
        module = RecDataModule(data, task, model.batch_spec())
        batch = next(iter(module.train_dataloader()))
        model._trainer = type("T", (), {"datamodule": module})()  # type: ignore[assignment]
        return model.loss(batch), batch, model

    plain, batch, model = loss()
    logit = model.logit(*model.backbone.pad(model.prompts(batch)))
    label = batch.label
    rows = torch.nn.functional.binary_cross_entropy_with_logits(logit, label, reduction="none")
    torch.testing.assert_close(plain, rows.mean())
    smooth, _, _ = loss(label_smoothing=0.2)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logit, 0.8 * label + 0.1)
    torch.testing.assert_close(smooth, expected)
    weighted, _, _ = loss(positive_weight=3.0)
    torch.testing.assert_close(weighted, (rows * torch.where(label > 0, 3.0, 1.0)).mean())
    balanced, _, _ = loss(positive_weight="balanced")
    share = float((data.train.rating >= 4).mean())  # type: ignore[operator, union-attr]
    torch.testing.assert_close(balanced, (rows * torch.where(label > 0, (1 - share) / share, 1.0)).mean())


@pytest.mark.parametrize("cls", [TwoTower, Pointwise, Generative])
def test_zero_shot_trains_nothing_and_stands_in_its_own_group(cls: Any) -> None:
    data, task = planted("ranking")
    backbone = tiny_bert() if cls is TwoTower else tiny("llama")
    config = cls.Config(backbone=backbone, zero_shot=True)
    assert cls.traits_of(config).group == "llm-zero-shot"
    assert cls.traits_of(cls.Config(backbone=backbone)).group == "llm"
    task = task.model_copy(update={"limit_valid": 4, "limit_test": 4})
    fitted = fit(cls, {"backbone": backbone, "zero_shot": True}, data, task, 3)
    other = cls(config, data.catalogue())
    trained = {n for n, p in fitted.model.backbone.named_parameters() if p.requires_grad}
    assert not trained
    for (_, a), (_, b) in zip(fitted.model.backbone.named_parameters(), other.backbone.named_parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("kind", [k for k in get_args(PeftKind) if k != "prefix"])
def test_every_kind_trains_is_saved_and_comes_back(kind: str, tmp_path: Path) -> None:
    data, task = planted("ranking")
    config = {"backbone": tiny_bert(), "peft": {"kind": kind, "rank": 2, "virtual_tokens": 3}, "learning_rate": 0.01}
    fitted = fit(TwoTower, config, data, task, 1)
    fitted.model.save(tmp_path)
    other = TwoTower(fitted.model.config, data.catalogue()).eval()
    other.restore(tmp_path)
    batch = fitted.batch()
    with torch.no_grad():
        assert torch.equal(other.score(batch), fitted.score(batch))


def test_a_head_without_training_is_refused() -> None:
    data, _ = planted("preference")
    with pytest.raises(InputError, match="a head without training says nothing"):
        Pointwise(Pointwise.Config(backbone=tiny_bert(), zero_shot=True), data.catalogue())
    with pytest.raises(InputError, match=r"is an encoder: this needs a decoder or an encoder-decoder"):
        Pointwise(Pointwise.Config(backbone=tiny_bert(), answer="words"), data.catalogue())


def test_few_shot_rows_are_the_same_for_every_way() -> None:
    data, task = planted("preference")
    few = few_shot(data, task, 16, seed=0)
    for backbone in (tiny_bert(), tiny("llama")):
        model = Pointwise(Pointwise.Config(backbone=backbone), few.catalogue())
        rows = RecDataModule(few, task, model.batch_spec()).train_rows
        batch = rows[rows.all]
        seen = sorted(zip(batch.user.tolist(), batch.item.tolist(), strict=True))  # type: ignore[union-attr]
        assert seen == sorted(zip(few.train.user.tolist(), few.train.item.tolist(), strict=True))
        assert len(seen) == 16


STAGES = """\
name: stages
dataset: {{source: csv, interactions: {folder}/interactions.csv, items: {folder}/items.csv}}
task: {{split: {{kind: leave_last_out}}, metrics: [ndcg@10], limit_valid: 9, limit_test: 9}}
trainer: {{max_epochs: 1}}
models:
  rerank: {{class: benchmark.llm.listwise.Listwise, backbone: {llama}, first_stage: ease, n_candidates: 5}}
  vectors:
    class: benchmark.llm.collaborative.Collaborative
    backbone: {llama}
    collaborative: mf
    text_epochs: 1
    limit_train: 64
  ease: {{class: baselines.ease.EASE}}
  mf: {{class: baselines.mf.MF, embedding_size: 8}}
"""


def test_stages_are_trained_once_by_the_run_store(tiny_csv: Path) -> None:
    path = tiny_csv / "stages.yaml"
    path.write_text(STAGES.format(folder=tiny_csv, llama=tiny("llama")))
    records = {r.label: r for r in run(Experiment.load(path), tiny_csv / "runs")}
    assert {r.status for r in records.values()} == {"finished"}, [r.error for r in records.values()]
    assert records["rerank"].spec["stages"]["first_stage"] == records["ease"].spec
    assert len(records["vectors"].curve) == 2
    kept = {r.key for r in records.values()}
    assert {f.parent.name for f in (tiny_csv / "runs").glob("*/record.json")} == kept
    again = run(Experiment.load(path), tiny_csv / "runs")
    assert [r.key for r in again] == [r.key for r in records.values()]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (", answer: words, backbone: {bert}", "is an encoder: this needs a decoder"),
        (", zero_shot: true, backbone: {bert}", "a head without training says nothing"),
        (", quantization: 4bit", "needs a CUDA GPU"),
        (", peft: {{kind: prefix}}, backbone: {bert}", "prefix needs a decoder"),
        (", prompt: {{answers: [Certainly, Never]}}", "no single token for 'Certainly'"),
        (", prompt: {{template: '{{history}}'}}", "needs the slot '{candidate}'"),
        (", prompt: {{no_items: none}}, batch_size: 4, eval_batch_size: 4, max_length: 9", "but max_length is 9"),
        (", backbone: /no/such/folder", "there is no such folder"),
        (", item_fields: [titel]", "unknown item field 'titel'; did you mean 'title'"),
    ],
)
def test_bad_settings_are_found_before_anything_runs(tiny_csv: Path, more: str, message: str) -> None:
    if torch.cuda.is_available() and "quantization" in more:
        pytest.skip("this machine has a GPU")
    backbone = "" if "backbone:" in more else f", backbone: {tiny('llama')}"
    text = EXPERIMENT.replace(", backbone: {backbone}, max_length: 128", backbone)
    (tiny_csv / "e.yaml").write_text(text.format(folder=tiny_csv, more=more.format(bert=tiny("bert")), trainer=""))
    with pytest.raises(InputError, match=re.escape(message)):
        run(Experiment.load(tiny_csv / "e.yaml"), tiny_csv / "runs")
    assert not list((tiny_csv / "runs").glob("*/record.json"))


EXPERIMENT = """\
name: e
dataset: {{source: csv, interactions: {folder}/interactions.csv, items: {folder}/items.csv}}
task: {{kind: preference, split: {{kind: ratio}}, metrics: [auc]}}
trainer: {{max_epochs: 2{trainer}}}
models:
  llm: {{class: benchmark.llm.pointwise.Pointwise, backbone: {backbone}, max_length: 128{more}}}
"""


def record_of(folder: Path, more: str = "", trainer: str = "", backbone: str = "") -> Any:
    text = EXPERIMENT.format(folder=folder, backbone=backbone or tiny("llama"), more=more, trainer=trainer)
    (folder / "e.yaml").write_text(text)
    return run(Experiment.load(folder / "e.yaml"), folder / "runs")[0]


def test_a_diverging_run_is_recorded_as_failed_with_the_step(tiny_csv: Path) -> None:
    record = record_of(tiny_csv, ", learning_rate: 1.0e+30, peft: {kind: full}, schedule: constant, warmup: 0")
    assert record.status == "failed"
    assert re.search(r"the training loss is nan in epoch 0 \(step \d\); lower the learning rate", record.error)


def test_the_record_says_what_was_read_and_cut(tiny_csv: Path) -> None:
    record = record_of(tiny_csv, ", max_history: 3")
    assert record.status == "finished", record.error
    assert record.model_report["padding_share"] <= 0.05
    assert record.model_report["training_tokens"] > 1000
    assert record.model_report["prompts_cut_share"] == 0.0
    cut = record_of(tiny_csv).model_report  # ten items do not always fit into 128 tokens of this vocabulary
    assert 0 < cut["prompts_cut_share"] < 1
    assert cut["history_items_cut_a_prompt"] >= cut["prompts_cut_share"]
    short = record_of(tiny_csv, ", peft: {kind: adalora, rank: 2}", backbone=tiny_bert())
    assert short.model_report["adalora_mean_rank"] == pytest.approx(2)


def test_strategies_pass_through_to_lightning(tiny_csv: Path) -> None:
    """FSDP needs a GPU: that is what Lightning itself says of it here, so it did get the name."""
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    record = record_of(tiny_csv, trainer=", strategy: fsdp, accelerator: cpu")
    assert record.status == "failed"
    assert "strategy `fsdp` requires a GPU" in record.error


def test_tokens_are_kept_between_runs(tiny_csv: Path) -> None:
    first = record_of(tiny_csv)
    assert first.status == "finished", first.error
    files = {f: f.stat().st_mtime_ns for f in (tiny_csv / "runs" / "tokens").glob("*.safetensors")}
    assert files
    record_of(tiny_csv, ", learning_rate: 1.0e-4")
    assert {f: f.stat().st_mtime_ns for f in (tiny_csv / "runs" / "tokens").glob("*.safetensors")} == files


def test_the_adapter_of_a_run_loads_with_plain_peft(tiny_csv: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    record = record_of(tiny_csv)
    folder = tiny_csv / "runs" / record.key / "checkpoint" / "adapter"
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny("llama")), folder)
    assert json.loads((folder / "adapter_config.json").read_text())["peft_type"] == "LORA"
