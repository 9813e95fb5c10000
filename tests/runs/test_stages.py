"""Stages: a model stands on another one of the experiment, which is trained once, before it, and kept frozen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from benchmark.data.datamodule import RecDataModule
from benchmark.errors import InputError
from benchmark.evaluation.evaluator import RankingEvaluator
from benchmark.experiment import Experiment
from benchmark.runs.execute import execute, load_model, run_key
from benchmark.runs.record import RunRecord, RunStore
from benchmark.runs.run import plan, prepare, run
from tests.runs.staged import Fragile, Staged

STAGED = "{class: tests.runs.staged.Staged, first_stage: %s}"
EASE = "{class: baselines.ease.EASE, l2: 10.0}"
FRAGILE = "{class: tests.runs.staged.Fragile}"


@pytest.fixture
def write(tiny_experiment: Path) -> Any:
    """Return a function that gives the tiny experiment other models: label -> entry, in YAML."""
    text = tiny_experiment.read_text(encoding="utf-8")
    before, after = text[: text.index("models:")], text[text.index("seeds:") :]

    def written(models: dict[str, str], seeds: str = "[0]") -> Experiment:
        entries = "".join(f"  {label}: {entry}\n" for label, entry in models.items())
        tiny_experiment.write_text(f"{before}models:\n{entries}{after}", encoding="utf-8")
        return Experiment.load(tiny_experiment, [f"seeds={seeds}"])

    return written


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Return the (label, seed) of what is executed, in order."""
    order: list[tuple[str, int]] = []

    def noted(spec: Any, *rest: Any) -> RunRecord:
        order.append((spec.label, spec.seed))
        return execute(spec, *rest)

    monkeypatch.setattr("benchmark.runs.run.execute", noted)
    return order


def keys(experiment: Experiment) -> dict[str, str]:
    return {spec.label: run_key(spec, "fingerprint") for spec in experiment.specs()}


# --- order and cache -------------------------------------------------------------------------------------------------


def test_a_stage_runs_once_and_before_what_stands_on_it(
    write: Any, tmp_path: Path, executed: list[tuple[str, int]]
) -> None:
    experiment = write(
        {"upper": STAGED % "lower", "popularity": FRAGILE, "lower": STAGED % "ease", "ease": EASE}, seeds="[0, 1]"
    )
    records = run(experiment, tmp_path / "runs")
    assert {r.status for r in records} == {"finished"}, [r.error for r in records]
    assert [(r.label, r.seed) for r in records] == [(m, s) for m in experiment.models for s in (0, 1)]
    order = [(m, s) for s in (0, 1) for m in ("ease", "lower", "upper")]
    assert executed == [*order, ("popularity", 0), ("popularity", 1)], "the order of the file, stages first"
    assert records[0].spec["stages"]["first_stage"]["stages"]["first_stage"]["class"] == "baselines.ease.EASE"
    assert "stages" not in records[-1].spec

    executed.clear()
    again = run(experiment, tmp_path / "runs")
    assert executed == []
    assert [r.started for r in again] == [r.started for r in records]


def test_a_finished_stage_is_taken_from_the_store(write: Any, tmp_path: Path, executed: list[tuple[str, int]]) -> None:
    (alone,) = run(write({"ease": EASE}), tmp_path / "runs")
    executed.clear()
    rerank, ease = run(write({"rerank": STAGED % "ease", "ease": EASE}), tmp_path / "runs")
    assert executed == [("rerank", 0)]
    assert (ease.key, ease.started) == (alone.key, alone.started)
    assert rerank.status == "finished", rerank.error


def test_one_model_under_two_labels_is_run_once(write: Any, tmp_path: Path, executed: list[tuple[str, int]]) -> None:
    experiment = write({"first": EASE, "rerank": STAGED % "second", "second": EASE})
    records = run(experiment, tmp_path / "runs")
    assert executed == [("first", 0), ("rerank", 0)]
    assert [r.label for r in records] == ["first", "rerank", "second"]
    assert records[0].key == records[2].key


# --- the key ---------------------------------------------------------------------------------------------------------


def test_the_key_is_decided_by_what_a_stage_is_not_by_its_label(write: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    base = keys(write({"ease": EASE, "rerank": STAGED % "ease", "top": STAGED % "rerank"}))
    renamed = keys(write({"top": STAGED % "middle", "middle": STAGED % "base", "base": EASE}))
    assert (base["ease"], base["rerank"], base["top"]) == (renamed["base"], renamed["middle"], renamed["top"])
    settings = keys(write({"ease": EASE.replace("10.0", "11.0"), "rerank": STAGED % "ease", "top": STAGED % "rerank"}))
    assert not set(base.values()) & set(settings.values()), "a stage's settings, at any depth"
    other = keys(write({"ease": EASE, "pop": FRAGILE, "rerank": STAGED % "pop"}))
    assert other["rerank"] != base["rerank"]
    alone = keys(write({"rerank": "{class: tests.runs.staged.Staged}"}))
    assert alone["rerank"] != base["rerank"]

    experiment = write({"ease": EASE, "rerank": STAGED % "ease", "pop": FRAGILE})
    code = {"baselines.ease": "1", "tests.runs.staged": "2"}
    monkeypatch.setattr("benchmark.runs.execute.code_version", code.__getitem__)
    first = keys(experiment)
    code["baselines.ease"] = "3"
    second = keys(experiment)
    assert [first[label] == second[label] for label in first] == [False, False, True], "a stage's code"


# --- what is attached ------------------------------------------------------------------------------------------------


def test_a_model_with_its_stages_comes_back_from_the_store(write: Any, tmp_path: Path) -> None:
    sasrec = "{class: baselines.sasrec.SASRec, embedding_size: 8, max_history: 5, trainer: {max_epochs: 1}}"
    models = {"upper": STAGED % "lower", "lower": STAGED % "sasrec", "sasrec": sasrec}
    models["few"] = "{class: tests.runs.staged.Staged, first_stage: ease, limit_train: 50}"
    experiment = write({**models, "ease": EASE})
    records = run(experiment, tmp_path / "runs")
    data, store = prepare(experiment, tmp_path / "runs"), RunStore(tmp_path / "runs")
    torch.manual_seed(5)
    for spec, record in zip(experiment.specs(), records, strict=True):
        assert record.status == "finished", record.error
        state = torch.get_rng_state()
        model = load_model(spec, data, store)
        assert torch.equal(state, torch.get_rng_state()), "loading draws nothing from the caller's generator"
        rows = RecDataModule(data.split, spec.task, model.batch_spec()).rows("test")
        batch = rows[rows.all]
        evaluator = RankingEvaluator(spec.task.metrics)
        with torch.no_grad():
            model._judge(evaluator, batch)
        own, stored = pl.DataFrame(evaluator.table()), store.ranks(record.key)  # whose ids are the raw ones
        assert own.drop("user", "item").equals(stored.drop("user", "item")), record.label
    few = records[3]
    assert few.model_report["n_train"] == 50
    model = load_model(experiment.specs()[3], data, store)
    assert isinstance(model, Staged)
    assert model.n_train == 50, "the budget of the run"
    assert len(model.stages["first_stage"].catalogue.train) == len(data.split.train), "the stage has its own"


def test_what_is_attached_is_frozen_and_no_part_of_the_model(write: Any, tmp_path: Path) -> None:
    mf = "{class: baselines.mf.MF, embedding_size: 8, trainer: {max_epochs: 1}}"
    experiment = write({"ease": EASE, "mf": mf, "on-ease": STAGED % "ease", "on-mf": STAGED % "mf"})
    records = {r.label: r for r in run(experiment, tmp_path / "runs")}
    data, store = prepare(experiment, tmp_path / "runs"), RunStore(tmp_path / "runs")
    for spec in experiment.specs()[2:]:
        record = records[spec.label]
        assert record.status == "finished", record.error
        kept = load_file(store.folder(record.key) / "checkpoint" / "model.safetensors")
        assert list(kept) == ["count"]
        assert record.parameters == {"trainable": 0, "total": 0}
        model = load_model(spec, data, store)
        assert isinstance(model, Staged)
        (stage,) = model.stages.values()
        model.train()
        assert not stage.training
        assert not any(p.requires_grad for p in stage.parameters())
    drawn = {records[label].model_report["drawn"] for label in ("on-ease", "on-mf")}
    assert len(drawn) == 1, "what is loaded before does not change a model's own draws"


# --- failures --------------------------------------------------------------------------------------------------------


def test_a_failed_stage_fails_what_stands_on_it_with_one_line(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, executed: list[tuple[str, int]]
) -> None:
    experiment = write({"upper": STAGED % "lower", "lower": STAGED % "weak", "weak": FRAGILE, "ease": EASE})
    store = RunStore(tmp_path / "runs")
    monkeypatch.setattr(Fragile, "broken", True)
    upper, lower, weak, ease = run(experiment, tmp_path / "runs")
    assert (upper.status, lower.status, weak.status, ease.status) == ("failed", "failed", "failed", "finished")
    assert weak.error == "RuntimeError: the matrix is singular"
    assert lower.error == "its first_stage 'weak' failed: RuntimeError: the matrix is singular"
    assert upper.error == f"its first_stage 'lower' failed: {lower.error}"
    assert (store.folder(weak.key) / "error.log").exists()
    assert not (store.folder(lower.key) / "error.log").exists()

    executed.clear()
    assert run(experiment, tmp_path / "runs")[1].error == lower.error
    assert executed == [], "kept until it is asked for again"

    monkeypatch.setattr(Fragile, "broken", False)
    again = run(experiment, tmp_path / "runs", retry_failed=True)
    assert executed == [("weak", 0), ("lower", 0), ("upper", 0)]
    assert {r.status for r in again} == {"finished"}, [r.error for r in again]


def test_a_stage_without_a_record_is_said(write: Any, tmp_path: Path) -> None:
    experiment = write({"rerank": STAGED % "ease", "ease": EASE})
    data, store = prepare(experiment, tmp_path / "runs"), RunStore(tmp_path / "runs")
    record = execute(experiment.specs()[0], data, store)
    assert record.status == "failed"
    assert record.error == "its first_stage 'ease' failed: it has no record; run it first"
    assert [p.state for p in plan(experiment, data, store)] == ["failed", "to do"]


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        ({"ease": EASE, "rerank": STAGED % "eas"}, "models.rerank.first_stage: no model 'eas' in this experiment; did"
         " you mean 'ease'?"),
        ({"rerank": STAGED % "reranc", "ease": EASE}, "models.rerank.first_stage: no model 'reranc' in this "
         "experiment; known: ease"),
        ({"a": STAGED % "a"}, "models.a.first_stage: a -> a is a circle"),
        ({"a": STAGED % "b", "b": STAGED % "a"}, "models.a.first_stage: a -> b -> a is a circle"),
        ({"c": STAGED % "a", "a": STAGED % "b", "b": STAGED % "a"}, "models.a.first_stage: a -> b -> a is a circle"),
        ({"rerank": STAGED % "ease", "ease": EASE.replace("l2", "l3")}, "models.ease: unknown key 'l3'; did you mean "
         "'l2'?"),
    ],
)  # fmt: skip
def test_a_stage_that_cannot_be_is_refused_before_anything_runs(
    write: Any, models: dict[str, str], expected: str
) -> None:
    with pytest.raises(InputError) as caught:
        write(models).specs()
    assert str(caught.value) == expected


def test_a_stored_spec_names_its_members_in_their_order() -> None:
    from benchmark.experiment import RunSpec

    models = {f"m{i}": {"class": "baselines.popularity.Popularity", "batch_size": i + 1} for i in range(6)}
    fused = {"class": "baselines.fusion.Fusion", "members": list(models)}
    experiment = Experiment.model_validate(
        {"name": "x", "dataset": {"source": "movielens-100k"}, "models": {**models, "all": fused}}
    )
    spec = experiment.spec("all", 0)
    again = RunSpec.from_resolved(spec.resolved(), "x", "all")
    assert again.config.members == tuple(f"members.{i}" for i in range(6))  # type: ignore[attr-defined]
    assert again.resolved() == spec.resolved()
