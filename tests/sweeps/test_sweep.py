"""A sweep as a whole: the same budget for all, on validation alone; what fails is told; what is selected is run."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import Field
from rich.console import Console
from torch import Tensor

optuna = pytest.importorskip("optuna")

from benchmark.data.batch import Batch  # noqa: E402
from benchmark.data.datamodule import RecDataModule  # noqa: E402
from benchmark.data.schema import Catalogue  # noqa: E402
from benchmark.experiment import Experiment  # noqa: E402
from benchmark.recommender import GradientConfig, Recommender  # noqa: E402
from benchmark.runs.execute import execute  # noqa: E402
from benchmark.runs.record import RunRecord, RunStore  # noqa: E402
from benchmark.runs.run import prepare, run  # noqa: E402
from benchmark.sweeps.study import OUTCOME  # noqa: E402
from benchmark.sweeps.sweep import SweepState, search, show_plan, spaces, with_selections  # noqa: E402
from tests.runs.staged import Fragile  # noqa: E402
from tests.sweeps.searched import EASE, MF, RATE, experiment, write  # noqa: E402
from tests.test_cli import levelfield  # noqa: E402

STAGED = "{class: tests.runs.staged.Staged, first_stage: %s, search: {bonus: {low: 0.0, high: 1.0}}}"
FRAGILE = "{class: tests.runs.staged.Fragile, search: {power: {low: 0.1, high: 2.0}}}"
WORTH = "{class: tests.sweeps.test_sweep.Worth, worth: 1.0, search: {worth: %s}}"


class Worth(Recommender):
    """As good as its ``worth`` says: noise, plus the unpopular items, which are the better guess on this data."""

    class Config(GradientConfig):
        worth: float = Field(1.0, description="Factor of its scores; 0 diverges, 13 raises.")

    def __init__(self, config: Config, catalogue: Catalogue) -> None:
        super().__init__(config, catalogue)
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.count = torch.bincount(torch.from_numpy(catalogue.train.item), minlength=catalogue.n_items).float()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        if self.config.worth == 13:
            raise RuntimeError("the matrix is singular")
        return self.weight.square().sum() + (float("nan") if self.config.worth == 0 else 0.0)

    def score(self, batch: Batch) -> Tensor:
        return self.pick((-self.config.worth * self.count).expand(len(batch), -1), batch)


def swept(experiment: Experiment, runs: Path, storage: str | None = None) -> SweepState:
    """Carry out the search of an experiment and return its studies."""
    state = SweepState(experiment, prepare(experiment, runs), runs, storage)
    search(state)
    return state


def trial_records(runs: Path) -> list[RunRecord]:
    store = RunStore(runs)
    records = [store.get(path.parent.name) for path in sorted(runs.glob("*/record.json"))]
    return [r for r in records if r is not None and r.study is not None]


def outcomes(state: SweepState, label: str) -> list[tuple[str, Any]]:
    """Return (state, error) of each trial, in order."""
    return [(t.state.name, t.user_attrs[OUTCOME]["error"]) for t in state.studies[label].trials()]


# --- validation alone ------------------------------------------------------------------------------------------------


class Sealed:
    """A test part that may not be looked at."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"a trial looked at the test part: {name}")


@pytest.mark.parametrize("storage", ["journal", "database"])
@pytest.mark.parametrize("limit", [None, 150])
def test_no_trial_touches_the_test_part(
    tiny_experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, storage: str, limit: int | None
) -> None:
    write(tiny_experiment, {"ease": EASE, "mf": MF % RATE}, "{trials: 4, startup_trials: 2}")
    tiny = Experiment.load(tiny_experiment, [f"limit_train={limit}"] if limit else [])
    runs = tmp_path / "runs"
    data = prepare(tiny, runs)
    sealed = replace(data, split=replace(data.split, test=Sealed(), test_known=Sealed()))
    rows, asked = RecDataModule.rows, Counter[str]()

    def watched(self: RecDataModule, part: Any) -> Any:
        asked[part] += 1
        assert part == "valid"
        return rows(self, part)

    monkeypatch.setattr(RecDataModule, "rows", watched)
    url = f"sqlite:///{tmp_path / 'studies.db'}" if storage == "database" else None
    state = SweepState(tiny, sealed, runs, url)
    search(state)
    assert state.finished
    assert asked["valid"] > 8
    records = trial_records(runs)
    assert len(records) == 8
    for record in records:
        assert (record.status, record.error) == ("finished", None)
        assert record.test_reads == 0
        assert record.metrics.keys() == record.judged.keys() == {"valid"}
        assert record.files == {}, "neither weights nor ranks nor top lists"
        files = {path.name for path in (runs / record.key).rglob("*") if path.is_file()}
        assert files - {".lock"} == {"record.json"}
    assert all(entry.limit_train == limit for entry in state.selected().models.values())


def test_the_test_part_is_read_once_by_what_was_selected(tiny_experiment: Path, tmp_path: Path) -> None:
    tiny = experiment(tiny_experiment, {"ease": EASE, "mf": MF % RATE}, "{trials: 3}")
    runs = tmp_path / "runs"
    state = swept(tiny, runs)
    trials = {record.key for record in trial_records(runs)}
    records = run(state.selected(), runs, data=state.data)
    assert [r.test_reads for r in records] == [1, 1]
    assert [r.study for r in records] == [None, None]
    assert not trials & {r.key for r in records}, "even where the configuration is that of a trial"
    for record, (label, selection) in zip(records, state.chosen.items(), strict=True):
        assert record.label == label
        assert record.metrics["valid"]["ndcg@10"] == pytest.approx(selection.value), "the same run, but for the test"
        assert record.spec["config"].items() >= selection.values.items()


# --- the budget ------------------------------------------------------------------------------------------------------


def test_all_searched_models_get_the_same_number_of_trials_and_the_defaults_first(
    tiny_experiment: Path, tmp_path: Path
) -> None:
    models = {"popularity": "{class: baselines.popularity.Popularity}", "ease": EASE, "mf": MF % "{loss: [bpr, bce]}"}
    state = swept(experiment(tiny_experiment, models, "{trials: 4, startup_trials: 2}"), tmp_path)
    assert {label: len(study.trials()) for label, study in state.studies.items()} == {"ease": 4, "mf": 4}
    for label, own in {"ease": {"l2": 10.0}, "mf": {"loss": "bpr"}}.items():
        first = state.studies[label].trials()[0]
        assert first.user_attrs[OUTCOME]["values"] == own
        selection = state.chosen[label]
        assert selection.defaults == own
        assert selection.default_value == first.values[0]
        assert selection.value == max(t.values[0] for t in state.studies[label].trials())
        assert state.notes()[label].startswith(f"tuned on validation, 4 trials: {next(iter(own))} ")


def test_one_configuration_is_computed_once_however_often_it_is_drawn(
    tiny_experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executed: list[dict[str, Any]] = []

    def noted(spec: Any, *rest: Any) -> RunRecord:
        executed.append(spec.config.loss)
        return execute(spec, *rest)

    monkeypatch.setattr("benchmark.sweeps.trial.execute", noted)
    tiny = experiment(tiny_experiment, {"mf": MF % "{loss: [bpr, bce]}"}, "{trials: 6, startup_trials: 3}")
    state = swept(tiny, tmp_path)
    assert sorted(executed) == ["bce", "bpr"]
    values = [(t.params["loss"], t.values[0]) for t in state.studies["mf"].trials()]
    assert len(values) == 6
    assert len(set(values)) == 2


def test_a_sweep_goes_on_where_it_was_interrupted_and_a_longer_one_keeps_what_there_is(
    tiny_experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = experiment(tiny_experiment, {"mf": MF % RATE}, "{trials: 5, startup_trials: 2}")
    whole = swept(tiny, tmp_path / "whole")

    def shown(state: SweepState) -> list[tuple[Any, Any]]:
        return [(t.params, t.values) for t in state.studies["mf"].trials()]

    shorter = tiny.model_copy(update={"sweep": tiny.sweep.model_copy(update={"trials": 3})})
    first = swept(shorter, tmp_path / "parts")
    assert shown(first) == shown(whole)[:3]
    done = {r.key: r.started for r in trial_records(tmp_path / "parts")}
    assert shown(swept(tiny, tmp_path / "parts")) == shown(whole)
    again = {r.key: r.started for r in trial_records(tmp_path / "parts")}
    assert again.items() >= done.items(), "nothing is computed twice"
    assert len(again) == 5

    def nothing(*_: Any) -> Any:
        raise AssertionError("a finished sweep computes nothing")

    monkeypatch.setattr("benchmark.sweeps.trial.execute", nothing)
    assert shown(swept(tiny, tmp_path / "parts")) == shown(whole)


def test_trials_train_with_the_first_seed_of_the_experiment(tiny_experiment: Path, tmp_path: Path) -> None:
    write(tiny_experiment, {"mf": MF % RATE}, "{trials: 2}")
    swept(Experiment.load(tiny_experiment, ["seeds=[7, 3]"]), tmp_path)
    assert [record.seed for record in trial_records(tmp_path)] == [7, 7]


def test_the_plan_says_what_is_searched_and_how_often(tiny_experiment: Path) -> None:
    tiny = experiment(tiny_experiment, {"ease": EASE, "mf": MF % "{loss: [bpr, bce]}"}, "{trials: 4}")
    out = io.StringIO()
    show_plan(tiny, spaces(tiny), Console(file=out, width=150))
    text = out.getvalue()
    for words in ("l2: 1 to 1000, log", "l2 10.0", "loss: [bpr, bce]", "8 trials by tpe, on the validation part"):
        assert words in text
    assert "then 2 runs (2 tuned models, 0 others, 1 seeds), which read the test part once" in text


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_a_trial_that_diverges_is_pruned_one_that_raises_is_failed_and_the_others_go_on(
    tiny_experiment: Path, tmp_path: Path
) -> None:
    models = {"worth": WORTH % "[1.0, 0.0, 13.0, -1.0]", "ease": EASE}
    state = swept(experiment(tiny_experiment, models, "{trials: 4, sampler: random}"), tmp_path)
    assert state.finished
    tiny = experiment(tiny_experiment, {"worth": models["worth"]}, "{trials: 4, sampler: grid, study: grid}")
    state = swept(tiny, tmp_path)
    states, errors = zip(*outcomes(state, "worth"), strict=True)
    assert states == ("COMPLETE", "PRUNED", "FAIL", "COMPLETE")
    assert (errors[0], errors[3]) == (None, None)
    assert "TrainingDiverged: the training loss is nan in epoch 0" in errors[1]
    assert errors[2] == "RuntimeError: the matrix is singular"
    assert state.chosen["worth"].values == {"worth": 1.0}
    assert state.chosen["worth"].counts == {"complete": 2, "pruned": 1, "failed": 1}


def test_a_combination_that_the_model_refuses_is_a_failed_trial_and_the_others_go_on(
    tiny_experiment: Path, tmp_path: Path
) -> None:
    sasrec = (
        "{class: baselines.sasrec.SASRec, embedding_size: 12, n_heads: 1, n_layers: 1, "
        "search: {embedding_size: [12, 8], n_heads: [1, 3]}}"  # 3 heads divide 12 alone
    )
    state = swept(experiment(tiny_experiment, {"sasrec": sasrec}, "{trials: 4, sampler: grid}"), tmp_path)
    assert Counter(t.state.name for t in state.studies["sasrec"].trials()) == {"COMPLETE": 3, "FAIL": 1}
    (error,) = [e for _, e in outcomes(state, "sasrec") if e]
    assert "n_heads: 3 does not divide embedding_size 8" in error


def test_a_search_in_which_nothing_is_completed_ends_and_says_so(
    tiny_experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Fragile, "broken", True)
    tiny = experiment(tiny_experiment, {"fragile": FRAGILE, "ease": EASE}, "{trials: 2}")
    state = swept(tiny, tmp_path)
    assert state.finished
    assert state.notes()["fragile"] == "no trial was completed; the file's own parameters"
    assert state.notes()["ease"].startswith("tuned on validation, 2 trials: l2 ")
    assert state.selected().models["fragile"] == tiny.models["fragile"]
    assert outcomes(state, "fragile") == [("FAIL", "RuntimeError: the matrix is singular")] * 2
    assert with_selections(tiny, state.data, tmp_path)[1] == [state.chosen["ease"]]

    monkeypatch.setattr(Fragile, "broken", False)
    again = SweepState(tiny, state.data, tmp_path)
    assert again.finished, "they are kept until they are asked for again"
    assert again.retry_failed() == 2
    assert not again.finished
    search(again)
    assert [s for s, _ in outcomes(again, "fragile")] == ["COMPLETE"] * 2
    before = [t.user_attrs[OUTCOME]["values"] for t in state.studies["fragile"].study.trials[:2]]
    assert [t.user_attrs[OUTCOME]["values"] for t in again.studies["fragile"].trials()] == before
    assert again.notes()["fragile"].startswith("tuned on validation, 2 trials: power ")


def test_status_tells_failed_trials_from_pruned_ones_and_makes_nothing(tiny_experiment: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    tiny = experiment(tiny_experiment, {"worth": WORTH % "[1.0, 0.0, 13.0]"}, "{trials: 3, sampler: grid}")
    before = levelfield("status", tiny_experiment, "--runs", runs)
    assert before.returncode == 0, before.stderr
    assert not (runs / "studies").exists()
    swept(tiny, runs)
    done = levelfield("status", tiny_experiment, "--runs", runs)
    assert done.returncode == 0, done.stderr
    (row,) = [line.split() for line in done.stdout.splitlines() if line.split()[:2] == ["worth", "trials"]]
    assert row[2:6] == ["2", "0", "1", "0"], "done, running, failed, to do"
    failures = [line for line in done.stdout.splitlines() if line.startswith("failed")]
    assert len(failures) == 1, "as many as the table counts; --retry-failed would not repeat a diverged one"
    assert "(worth=13.0): RuntimeError: the matrix is singular" in failures[0]


# --- pruning ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pruner", ["hyperband", "median", "successive-halving", "none"])
def test_a_closed_form_is_never_pruned_and_a_bad_gradient_model_may_be(
    tiny_experiment: Path, tmp_path: Path, pruner: str
) -> None:
    worth = WORTH % "[1.0, 2.0, 3.0, 4.0, 5.0, -1.0, -2.0, -3.0]"
    sweep = f"{{trials: 8, sampler: grid, pruner: {pruner}}}"
    ease = EASE.replace("{low: 1, high: 1000, log: true}", "[10.0, 1.0, 5.0, 2.0, 50.0, 1000.0, 1.0e+8, 1.0e-8]")
    write(tiny_experiment, {"ease": ease, "worth": worth}, sweep)
    state = swept(
        Experiment.load(tiny_experiment, ["trainer.max_epochs=9", "trainer.early_stopping.patience=9"]), tmp_path
    )
    closed, gradient = state.studies["ease"].trials(), state.studies["worth"].trials()
    assert {t.state.name for t in closed} == {"COMPLETE"}
    assert all(t.intermediate_values == {} for t in closed)
    assert [t.state.name for t in gradient][:1] == ["COMPLETE"]
    pruned = [t for t in gradient if t.state.name == "PRUNED"]
    assert bool(pruned) == (pruner != "none")
    for trial in pruned:
        record = RunStore(tmp_path).get(trial.user_attrs[OUTCOME]["key"])
        assert record is not None
        assert record.status == "pruned"
        assert record.epochs == len(trial.intermediate_values)
        assert record.test_reads == 0
    assert any(len(t.intermediate_values) < 9 for t in pruned) == bool(pruned), "ended early"
    for trial in gradient:
        if trial not in pruned:
            assert list(trial.intermediate_values) == list(range(1, 10))
    assert state.chosen["worth"].values["worth"] > 0


# --- objectives ------------------------------------------------------------------------------------------------------


def test_several_objectives_give_a_front_and_the_first_one_selects(tiny_experiment: Path, tmp_path: Path) -> None:
    search = "{embedding_size: [8, 4, 16]}"
    sweep = "{trials: 3, sampler: grid, objectives: [auc, trainable_parameters, train_seconds, ms_per_user]}"
    state = swept(experiment(tiny_experiment, {"mf": MF % search}, sweep), tmp_path)
    study = state.studies["mf"]
    assert {t.state.name for t in study.trials()} == {"COMPLETE"}
    for trial in study.trials():
        record = RunStore(tmp_path).get(trial.user_attrs[OUTCOME]["key"])
        assert record is not None
        assert trial.values == [
            record.metrics["valid"]["auc"],
            record.parameters["trainable"],
            record.stage_seconds["fit"],
            record.ms_per_user,
        ]
    smallest = min(study.trials(), key=lambda t: t.values[1])
    assert smallest.params == {"embedding_size": 4}
    assert smallest.number in [t.number for t in study.front()]
    assert state.chosen["mf"].objective == "auc"
    assert state.chosen["mf"].value == max(t.values[0] for t in study.trials()) == study.front()[0].values[0]


def test_an_objective_that_the_validation_part_does_not_define_fails_the_trial_with_a_reason(
    tiny_experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(*arguments: Any) -> RunRecord:
        record = execute(*arguments)
        record.metrics["valid"]["ndcg@10"] = None
        return record

    monkeypatch.setattr("benchmark.sweeps.trial.execute", without)
    state = swept(experiment(tiny_experiment, {"ease": EASE}, "{trials: 1}"), tmp_path)
    assert outcomes(state, "ease") == [("FAIL", "ndcg@10 is undefined on the validation part")]


# --- stages ----------------------------------------------------------------------------------------------------------


def test_a_model_that_stands_on_a_searched_one_is_searched_behind_it_and_on_what_was_selected(
    tiny_experiment: Path, tmp_path: Path
) -> None:
    ease = EASE.replace("{low: 1, high: 1000, log: true}", "[10.0, 1.0e+7, 3.0]")
    models = {"upper": STAGED % "lower", "lower": STAGED % "ease", "ease": ease}
    tiny = experiment(tiny_experiment, models, "{trials: 3, sampler: random}")
    runs = tmp_path / "runs"
    state = swept(tiny, runs)
    assert state.labels == ["ease", "lower", "upper"]
    assert [s.user_attrs["label"] for s in state.snapshots()] == ["upper", "lower", "ease"], "the order of the file"

    def span(label: str) -> tuple[Any, Any]:
        trials = state.studies[label].trials()
        assert {t.state.name for t in trials} == {"COMPLETE"}
        return min(t.datetime_start for t in trials), max(t.datetime_complete for t in trials)

    assert span("ease")[1] < span("lower")[0]
    assert span("lower")[1] < span("upper")[0]
    records = trial_records(runs)
    uppers = [r for r in records if r.label == "upper"]
    assert uppers
    for record in uppers:
        lower = record.spec["stages"]["first_stage"]
        assert lower["config"].items() >= state.chosen["lower"].values.items()
        assert lower["stages"]["first_stage"]["config"].items() >= state.chosen["ease"].values.items()
    assert all(r.test_reads == 0 for r in records)
    chosen, found = with_selections(tiny, state.data, runs)
    assert {s.label for s in found} == {"ease", "lower", "upper"}
    final = run(chosen, runs, data=state.data)
    assert [r.status for r in final] == ["finished"] * 3


def test_where_nothing_of_the_lower_model_was_completed_the_upper_one_fails_and_the_sweep_ends(
    tiny_experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Fragile, "broken", True)
    models = {"upper": STAGED % "fragile", "fragile": FRAGILE}
    state = swept(experiment(tiny_experiment, models, "{trials: 2}"), tmp_path)
    assert state.finished
    assert {error for _, error in outcomes(state, "upper")} == {
        "its first_stage 'fragile' failed: RuntimeError: the matrix is singular"
    }


def test_more_trials_of_a_staged_experiment_go_on_even_if_the_lower_selection_changes(
    tiny_experiment: Path, tmp_path: Path
) -> None:
    worth = WORTH % "[-1.0, 1.0]"
    models = {"worth": worth.replace("worth: 1.0", "worth: -1.0"), "upper": STAGED % "worth"}
    tiny = experiment(tiny_experiment, models, "{trials: 1, sampler: random}")
    assert swept(tiny, tmp_path).chosen["worth"].values == {"worth": -1.0}
    longer = tiny.model_copy(update={"sweep": tiny.sweep.model_copy(update={"trials": 6})})
    state = swept(longer, tmp_path)
    assert state.chosen["worth"].values == {"worth": 1.0}
    assert len(state.studies["upper"].complete()) == 6


# --- what was selected, for `run` and `table` ------------------------------------------------------------------------


def test_run_takes_what_a_finished_sweep_selected_and_nothing_of_another_experiment(
    tiny_experiment: Path, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    tiny = experiment(tiny_experiment, {"ease": EASE, "mf": MF % RATE}, "{trials: 3, startup_trials: 2}")
    data = prepare(tiny, runs)
    assert with_selections(tiny, data, runs) == (tiny, [])
    state = swept(tiny, runs)
    chosen, found = with_selections(tiny, data, runs)
    assert chosen == state.selected()
    assert chosen.models["mf"].parameters["learning_rate"] == state.chosen["mf"].values["learning_rate"]
    assert [s.note() for s in found] == list(state.notes().values())

    def labels(*overrides: str, fingerprint: str = data.fingerprint) -> list[str]:
        other = Experiment.load(tiny_experiment, overrides)
        return [s.label for s in with_selections(other, replace(data, fingerprint=fingerprint), runs)[1]]

    assert labels() == ["ease", "mf"]
    assert labels("seeds=[0, 1]", "sweep.heartbeat=3", "task.metrics=[ndcg@10, mrr]") == ["ease", "mf"]
    assert labels("models.ease.l2=20") == ["mf"], "other defaults"
    assert labels("models.mf.search.learning_rate.low=0.002") == ["ease"], "another space"
    assert labels("models.mf.batch_size=50") == ["ease"], "another model"
    assert labels("trainer.max_epochs=3") == []
    assert labels("sweep.study=another") == []
    assert labels(fingerprint="of other data") == []


def test_the_command_run_tells_and_uses_the_selection(tiny_experiment: Path, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    ease = EASE.replace("{low: 1, high: 1000, log: true}", "[10.0, 20.0]")
    tiny = experiment(tiny_experiment, {"ease": ease, "mf": MF % RATE}, "{trials: 2, sampler: grid}")
    state = SweepState(tiny.model_copy(update={"models": {"ease": tiny.models["ease"]}}), prepare(tiny, runs), runs)
    search(state)
    folders = ["--runs", runs, "--results", tmp_path / "results"]
    done = levelfield("run", tiny_experiment, "trainer.max_epochs=2", *folders)
    assert done.returncode == 0, done.stderr
    assert "as selected by the sweep: ease (--defaults for the file's own)" in done.stdout
    assert "not tuned yet, the file's own parameters: mf" in done.stdout
    table = (tmp_path / "results" / "tiny" / "table.md").read_text(encoding="utf-8")
    assert state.chosen["ease"].note() in table
    assert "tuned on validation, 2 trials: l2 " in table
    plain = levelfield("run", tiny_experiment, "--defaults", *folders)
    assert "as selected" not in plain.stdout
    assert "tuned on validation" not in (tmp_path / "results" / "tiny" / "table.md").read_text(encoding="utf-8")
