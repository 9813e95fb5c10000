"""Runs: executed once, continued after an interruption, recorded when they fail, never half-written."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
import torch
from rich.console import Console

from benchmark.data.datamodule import RecDataModule
from benchmark.errors import InputError
from benchmark.evaluation.evaluator import RankingEvaluator
from benchmark.experiment import Experiment
from benchmark.runs.execute import execute, load_model
from benchmark.runs.record import RunStore, whole_file
from benchmark.runs.run import _claimed, plan, prepare, run
from benchmark.runs.selection import Early, WholeCheckpoints

ROOT = Path(__file__).parents[2]

BROKEN = '''"""A model that fails while it trains."""
from benchmark import Recommender
import torch

class Broken(Recommender):
    batch_kind = "whole"
    def training_step(self, batch, batch_idx):
        raise RuntimeError("the matrix is singular")
    def score(self, batch):
        return torch.zeros(len(batch), self.n_items)

class Diverging(Recommender):
    """Its loss is NaN from the first step."""
    from benchmark.recommender import GradientConfig as Config
    def __init__(self, config, catalogue):
        super().__init__(config, catalogue)
        self.weight = torch.nn.Parameter(torch.ones(1))
    def training_step(self, batch, batch_idx):
        return self.weight.sum() * float("nan")
    def score(self, batch):
        return torch.zeros(len(batch), self.n_items)
'''


@pytest.fixture
def experiment(tiny_experiment: Path) -> Experiment:
    return Experiment.load(tiny_experiment)


def test_a_record_holds_all_that_is_needed_to_trust_and_repeat_a_run(experiment: Experiment, tmp_path: Path) -> None:
    records = run(experiment, tmp_path / "runs")
    assert [(r.label, r.seed) for r in records] == [(m, s) for m in ("popularity", "ease", "mf") for s in (0, 1)]
    store = RunStore(tmp_path / "runs")
    for record in records:
        assert record.status == "finished"
        assert record.test_reads == 1
        assert set(record.metrics) == {"valid", "test"}
        assert record.metrics["test"].keys() == {"ndcg@10", "auc"}
        assert record.parameters["total"] >= record.parameters["trainable"]
        assert record.stage_seconds.keys() >= {"prepare", "fit", "test", "score"}
        assert record.peak_memory["host"] > 0
        assert record.environment["versions"]["torch"]
        assert record.files.keys() >= {"ranks.parquet", "top.parquet", "checkpoint/model.safetensors"}
        ranks = store.ranks(record.key)
        again = RankingEvaluator.from_table(ranks, ["ndcg@10", "auc", "recall@3"]).compute()
        for name, value in record.metrics["test"].items():
            assert again[name] == pytest.approx(value, abs=1e-12), "every metric is a function of the stored ranks"
        top = pl.read_parquet(store.folder(record.key) / "top.parquet")
        assert top["item"].str.starts_with("i").all(), "raw ids, for people to look at"


def test_the_same_spec_gives_identical_metrics_and_a_finished_run_is_not_repeated(
    experiment: Experiment, tmp_path: Path
) -> None:
    first = run(experiment, tmp_path / "a")
    elsewhere = run(experiment, tmp_path / "b")
    assert [r.metrics for r in first] == [r.metrics for r in elsewhere]
    assert [r.key for r in first] == [r.key for r in elsewhere]
    again = run(experiment, tmp_path / "a")
    assert [r.started for r in again] == [r.started for r in first], "taken from the store"


def test_a_trained_model_comes_back_from_its_record(experiment: Experiment, tmp_path: Path) -> None:
    records = run(experiment, tmp_path / "runs")
    data = prepare(experiment, tmp_path / "runs")
    for spec, record in zip(experiment.specs(), records, strict=True):
        model = load_model(spec, data, RunStore(tmp_path / "runs"))
        rows = RecDataModule(data.split, spec.task, model.batch_spec()).rows("test")
        batch = rows[rows.all]
        evaluator = RankingEvaluator(spec.task.metrics)
        with torch.no_grad():
            scores = model.score(batch)
        relevant, excluded = batch.relevant, batch.excluded
        assert relevant is not None
        assert excluded is not None
        evaluator.update(batch.user, scores, relevant.offsets, relevant.values, excluded.offsets, excluded.values)
        assert evaluator.compute() == pytest.approx(record.metrics["test"], abs=1e-6), record.label


def test_a_failed_run_is_recorded_and_does_not_stop_the_others(
    tiny_experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_model.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(tmp_path)
    text = tiny_experiment.read_text().replace("baselines.ease.EASE, l2: 10.0", "broken_model.Broken")
    tiny_experiment.write_text(
        text.replace("baselines.mf.MF, embedding_size: 8, learning_rate: 0.05", "broken_model.Diverging")
    )
    experiment = Experiment.load(tiny_experiment)
    records = run(experiment, tmp_path / "runs")
    assert [r.status for r in records] == ["finished"] * 2 + ["failed"] * 4
    assert records[2].error == "RuntimeError: the matrix is singular"
    assert "TrainingDiverged: the training loss is nan in epoch 0" in str(records[4].error)
    log = RunStore(tmp_path / "runs").folder(records[2].key) / "error.log"
    assert "Traceback" in log.read_text()
    again = run(experiment, tmp_path / "runs")
    assert again[2].started == records[2].started, "a failed run is kept until it is asked for again"
    (tmp_path / "runs" / records[2].key / "record.json").unlink()


def test_the_plan_tells_what_is_cached(experiment: Experiment, tmp_path: Path) -> None:
    data = prepare(experiment, tmp_path / "runs")
    store = RunStore(tmp_path / "runs")
    assert {p.state for p in plan(experiment, data, store)} == {"to do"}
    execute(experiment.specs()[0], data, store)
    assert [p.state for p in plan(experiment, data, store)] == ["cached", *["to do"] * 5]


def test_a_killed_run_goes_on_from_its_last_epoch_to_the_same_result(tiny_experiment: Path, tmp_path: Path) -> None:
    overrides = ["trainer.max_epochs=60", "trainer.early_stopping.patience=60", "seeds=[0]"]
    text = tiny_experiment.read_text()
    start, end = text.index("  popularity:"), text.index("  mf:")
    tiny_experiment.write_text(text[:start] + text[end:])
    whole = run(Experiment.load(tiny_experiment, overrides), tmp_path / "whole")[0]
    code = "from benchmark.cli import main; main()"
    command = [sys.executable, "-c", code, "run", str(tiny_experiment), *overrides]
    command += ["--runs", str(tmp_path / "killed"), "--results", str(tmp_path / "results")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    last = tmp_path / "killed" / whole.key / "resume" / "last.ckpt"
    deadline = time.monotonic() + 90
    while not last.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    store = RunStore(tmp_path / "killed")
    experiment = Experiment.load(tiny_experiment, overrides)
    if store.get(whole.key) is None:
        states = [p.state for p in plan(experiment, prepare(experiment, tmp_path / "killed"), store)]
        assert states == ["to continue"]
    moved = (tmp_path / "killed").rename(tmp_path / "moved")  # or mounted under another path
    resumed = run(experiment, moved)[0]
    assert resumed.metrics == whole.metrics
    assert resumed.curve == whole.curve
    assert not (moved / whole.key / "resume").exists()


def test_checkpoints_are_removed_behind_the_record_and_never_half_written(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = []

    def remove(folder: Path, **options: Any) -> None:
        if folder.name == "resume":
            there.append((folder.parent / "record.json").exists())

    monkeypatch.setattr("benchmark.runs.execute.shutil.rmtree", remove)
    record = execute(experiment.spec("mf", 0), prepare(experiment, tmp_path), RunStore(tmp_path))
    assert there == [True], "killed in between, half of them would be gone on with"
    last = tmp_path / record.key / "resume" / "last.ckpt"
    before = last.read_bytes()
    with pytest.raises(RuntimeError, match="in the middle"):
        WholeCheckpoints().save_checkpoint({"state": _Breaking()}, last)
    assert (last.read_bytes(), [p.name for p in last.parent.iterdir() if "tmp" in p.name]) == (before, [])


class _Breaking:
    def __reduce__(self) -> Any:
        raise RuntimeError("killed in the middle")


def test_a_run_that_was_to_stop_early_stops_where_it_is_gone_on_with() -> None:
    early = Early(0, "valid/auc", 0.5, 2, mode="max")
    trainer: Any = SimpleNamespace(should_stop=False)
    for waited, stops in ((1, False), (2, True)):
        early.load_state_dict({**early.state_dict(), "wait_count": waited})
        early.on_train_start(trainer, None)
        assert trainer.should_stop is stops


def test_what_stands_on_a_run_that_is_still_to_come_waits_for_it(tmp_path: Path) -> None:
    below, above = SimpleNamespace(key="below", spec=SimpleNamespace(stages={})), SimpleNamespace(key="above")
    above.spec = SimpleNamespace(stages={"of": "below"})
    store = RunStore(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmark.runs.run.run_key", lambda spec, data: spec)
        order = [item.key for item in _claimed([above, below], SimpleNamespace(fingerprint=""), store)]  # type: ignore[list-item,arg-type]
    assert order == ["below", "above"], "the process that computed it may be killed between two looks"


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    """Processes of two containers may have one number."""
    with whole_file(tmp_path / "a") as first, whole_file(tmp_path / "a") as second:
        assert first != second
        first.write_text("1")
        second.write_text("2")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_a_full_disk_gives_one_line_and_no_half_written_record(tiny_experiment: Path, tmp_path: Path) -> None:
    run(Experiment.load(tiny_experiment, ["seeds=[3]", "models.mf.batch_size=512"]), tmp_path / "runs")  # data cached

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))

    code = "from benchmark.cli import main; main()"
    arguments = ["run", str(tiny_experiment), "--runs", str(tmp_path / "runs"), "--results", str(tmp_path / "results")]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=small_files,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "NUMBA_CACHE_DIR": str(tmp_path / "numba")},
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert "cannot be written" in done.stderr
    done_keys = {p.parent.name for p in (tmp_path / "runs").glob("*/record.json")}
    for record in (tmp_path / "runs").glob("*/record.json"):
        json.loads(record.read_text())
    assert len(done_keys) == 3, "only the runs of before"
    assert not list((tmp_path / "runs").rglob("*.tmp"))


def test_a_damaged_record_is_named(experiment: Experiment, tmp_path: Path) -> None:
    record = run(experiment, tmp_path / "runs")[0]
    path = tmp_path / "runs" / record.key / "record.json"
    path.write_text(path.read_text()[:200])
    with pytest.raises(InputError, match=r"record\.json: the file: .*delete the folder to run it again"):
        run(experiment, tmp_path / "runs")


def test_progress_goes_to_the_console(experiment: Experiment, tmp_path: Path) -> None:
    console = Console(record=True, width=120, quiet=False, file=open(os.devnull, "w"))  # noqa: SIM115
    run(experiment, tmp_path / "runs", console)
    text = console.export_text()
    assert text.count("done") == 6
    assert "ndcg@10" in text


STAGED = '''"""A model with two epochs of pre-training, best in the first; and one that the data cannot serve."""
from benchmark import Recommender
from benchmark.errors import InputError
from benchmark.recommender import GradientConfig
import torch

class Staged(Recommender):
    Config = GradientConfig
    pretrain_epochs = 2
    def __init__(self, config, catalogue):
        super().__init__(config, catalogue)
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.register_buffer("epochs", torch.zeros(1))
        self.count = torch.bincount(torch.from_numpy(catalogue.train.item), minlength=catalogue.n_items).float()
    def on_train_epoch_start(self):
        super().on_train_epoch_start()
        self.epochs += 1
    def training_step(self, batch, batch_idx):
        return self.weight.square().sum()
    def score(self, batch):
        # on this data the unpopular items are the better guess
        scores = -self.count if self.epochs <= 1 else self.count
        return self.pick(scores.expand(len(batch), -1), batch)

class Choosy(Staged):
    @classmethod
    def check(cls, config, catalogue):
        raise InputError("Choosy needs pictures, which the data does not have")
'''


def test_epochs_of_pre_training_come_on_top_and_are_not_selected(
    tiny_experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "staged_model.py").write_text(STAGED, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    text = tiny_experiment.read_text(encoding="utf-8").replace("seeds: [0, 1]", "seeds: [0]")
    text = (
        text[: text.index("models:")]
        + "models:\n  staged: {class: staged_model.Staged}\n"
        + text[text.index("seeds") :]
    )
    text = text.replace("max_epochs: 3", "max_epochs: 3, early_stopping: {patience: 1}")
    tiny_experiment.write_text(text, encoding="utf-8")
    (record,) = run(Experiment.load(tiny_experiment), tmp_path / "runs")
    assert record.status == "finished", record.error
    curve = [row["ndcg@10"] for row in record.curve]
    assert curve[0] == max(curve)
    # two epochs of pre-training, one that counts, one of patience
    assert (record.epochs, record.best_epoch, len(curve)) == (4, 2, 4)
    assert record.metrics["valid"]["ndcg@10"] == curve[2]


def test_what_the_data_lacks_is_said_before_anything_runs(
    tiny_experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "choosy_model.py").write_text(STAGED, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    text = tiny_experiment.read_text(encoding="utf-8")
    tiny_experiment.write_text(
        text.replace("seeds:", "  choosy: {class: choosy_model.Choosy}\nseeds:"), encoding="utf-8"
    )
    with pytest.raises(InputError, match=r"models\.choosy: Choosy needs pictures, which the data does not have"):
        run(Experiment.load(tiny_experiment), tmp_path / "runs")
    assert not list((tmp_path / "runs").glob("*/record.json"))


def test_what_validation_left_behind_does_not_make_scoring_free(tiny_experiment: Path, tmp_path: Path) -> None:
    """A model that keeps what it needs for scoring computes it in the test once more, whatever its epochs."""
    text = tiny_experiment.read_text(encoding="utf-8")
    told = "  kept: {class: tests.runs.staged.Keeping}\n  above: {class: tests.test_derived.Same, of: kept}\n"
    tiny_experiment.write_text(text.replace("models:\n", f"models:\n{told}"), encoding="utf-8")
    records = run(Experiment.load(tiny_experiment, ["seeds=[0]"]).only(["kept", "above"]), tmp_path / "runs")
    assert [r.status for r in records] == ["finished"] * 2
    assert [r.model_report["computed"] for r in records] == [2.0, 2.0], "once for validation, once for the test"
