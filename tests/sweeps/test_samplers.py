"""Samplers and pruners: what is drawn follows from the seed and the history alone, whoever draws it and how often."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

optuna = pytest.importorskip("optuna")

from benchmark.experiment import Experiment  # noqa: E402
from benchmark.experiment.search import Sweep  # noqa: E402
from benchmark.sweeps.samplers import design, points, pruner  # noqa: E402
from benchmark.sweeps.space import Space  # noqa: E402
from tests.sweeps.searched import MF, RATE, experiment, opened, search_without_training  # noqa: E402

SIZES = "{embedding_size: {low: 4, high: 32, power_of_two: true}, loss: [bpr, bce], negatives: {low: 1, high: 9}}"
MIXED = SIZES.replace("loss", "learning_rate: {low: 0.001, high: 0.5, log: true}, loss")
CONDITIONAL = MIXED.replace("high: 9}", "high: 9, when: {loss: bce}}")
# cma-es learns numbers alone
SPACES = {"tpe": CONDITIONAL, "gp": MIXED, "cma-es": MIXED, "random": CONDITIONAL, "qmc": MIXED, "grid": SIZES}
TRIALS = {"tpe": 9, "gp": 6, "cma-es": 9, "random": 6, "qmc": 6, "grid": 6}


def searched(file: Path, sampler: str, seed: int = 0, trials: int | None = None, startup: int = 3) -> Experiment:
    n = trials or TRIALS[sampler]
    sweep = f"{{trials: {n}, sampler: {sampler}, seed: {seed}, startup_trials: {startup}}}"
    return experiment(file, {"mf": MF % SPACES[sampler]}, sweep)


def interrupted(tiny: Experiment, runs: Path, where: str | None = None) -> list[dict[str, Any]]:
    """Carry out the same trials, each by a process of its own."""
    for _ in range(tiny.sweep.trials):
        study = opened(tiny, "mf", runs, where)
        trial = study.claim()
        assert trial is not None
        values = study.space.suggest(trial)
        worth = [len(v) if isinstance(v, str) else float(v) for v in values.values()]
        study.study.tell(trial, sum(abs(w - 0.05) ** 0.5 for w in worth))
    return [study.space.decode(t.params) for t in study.trials()]


@pytest.mark.parametrize("sampler", SPACES)
def test_a_sampler_draws_the_same_however_often_it_is_interrupted(
    tiny_experiment: Path, tmp_path: Path, sampler: str
) -> None:
    tiny = searched(tiny_experiment, sampler)
    whole = search_without_training(opened(tiny, "mf", tmp_path / "whole"))
    assert len(whole) == tiny.sweep.trials
    assert len({tuple(v.items()) for v in whole}) > len(whole) // 2, "it does search"
    assert interrupted(tiny, tmp_path / "interrupted") == whole


def test_a_database_gives_the_same_trials_as_a_journal(tiny_experiment: Path, tmp_path: Path) -> None:
    tiny = searched(tiny_experiment, "tpe")
    journal = search_without_training(opened(tiny, "mf", tmp_path / "journal"))
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    assert search_without_training(opened(tiny, "mf", tmp_path / "database", url)) == journal
    another = f"sqlite:///{tmp_path / 'interrupted.db'}"
    assert interrupted(tiny, tmp_path / "interrupted", another) == journal


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cma-es", "random", "qmc"])
def test_another_seed_draws_other_trials_behind_the_defaults(
    tiny_experiment: Path, tmp_path: Path, sampler: str
) -> None:
    # gp and cma-es take their time to learn: one trial behind the random ones tells as much
    one, other = (
        search_without_training(opened(searched(tiny_experiment, sampler, seed, 3), "mf", tmp_path / str(seed)))
        for seed in (0, 1)
    )
    assert one[0] == other[0]
    assert one[1:] != other[1:]


def test_two_models_with_one_space_do_not_get_the_same_points(tiny_experiment: Path) -> None:
    tiny = experiment(tiny_experiment, {"a": MF % RATE, "b": MF % RATE}, "{sampler: random, trials: 4}")
    a, b = (points(tiny.sweep, Space(tiny, label)) for label in "ab")
    assert a[0] == b[0]
    assert a[1:] != b[1:]


@pytest.mark.parametrize("sampler", SPACES)
def test_the_first_trial_has_the_files_own_values(tiny_experiment: Path, tmp_path: Path, sampler: str) -> None:
    study = opened(searched(tiny_experiment, sampler, trials=2), "mf", tmp_path)
    own = {"embedding_size": 8, "learning_rate": 0.05, "loss": "bpr", "negatives": 1}
    first = search_without_training(study)[0]
    assert first == {k: v for k, v in own.items() if k in first}
    assert first.keys() >= {"embedding_size", "loss"}
    assert study.trials()[0].user_attrs["defaults"] is True
    assert "defaults" not in study.trials()[1].user_attrs


@pytest.mark.parametrize("sampler", ["random", "qmc", "grid"])
def test_a_longer_design_begins_with_the_shorter_one(tiny_experiment: Path, sampler: str) -> None:
    tiny = searched(tiny_experiment, sampler)
    space = Space(tiny, "mf")
    long = design(tiny.sweep, space, 9)
    assert len(long) == 9
    assert design(tiny.sweep, space, 4) == long[:4]
    more = tiny.sweep.model_copy(update={"trials": 9})
    assert points(more, space)[: tiny.sweep.trials] == points(tiny.sweep, space)


def test_a_grid_holds_every_point_once_the_defaults_first(tiny_experiment: Path) -> None:
    tiny = searched(tiny_experiment, "grid", trials=500)
    space = Space(tiny, "mf")
    found = points(tiny.sweep, space)
    assert found[0] == space.defaults
    assert sorted(map(str, found)) == sorted(map(str, space.grid()))
    assert len(found) == 4 * 2 * 9


@pytest.mark.parametrize("sampler", ["random", "qmc"])
def test_a_small_space_gets_the_whole_budget_as_well(tiny_experiment: Path, sampler: str) -> None:
    models = {"small": MF % "{loss: [bpr, bce]}", "large": MF % RATE}
    tiny = experiment(tiny_experiment, models, f"{{sampler: {sampler}, trials: 12}}")
    budget = {label: len(points(tiny.sweep, Space(tiny, label))) for label in models}
    assert budget == {"small": 12, "large": 12}, "all searched models have the same number of trials"


def test_the_points_of_qmc_are_more_even_than_random_ones(tiny_experiment: Path) -> None:
    tiny = experiment(tiny_experiment, {"mf": MF % "{weight_decay: {low: 0.0, high: 1.0}}"})
    space = Space(tiny, "mf")

    def eighths(sampler: Any) -> int:
        found = design(Sweep(sampler=sampler, trials=16), space, 16)
        return len({int(point["weight_decay"] * 8) for point in found})

    assert eighths("qmc") == 8, "two points in each eighth"
    assert eighths("random") < 8


@pytest.mark.parametrize(("sampler", "trials"), [("tpe", 40), ("gp", 16), ("cma-es", 60)])
def test_samplers_that_learn_come_closer_than_the_random_trials_they_begin_with(
    tiny_experiment: Path, tmp_path: Path, sampler: str, trials: int
) -> None:
    search = "{weight_decay: {low: 0.0, high: 1.0}, learning_rate: {low: 0.0001, high: 1.0}}"

    def distance(values: dict[str, float]) -> float:
        return abs(values["weight_decay"] - 0.7) + abs(values["learning_rate"] - 0.4)

    plain, first, last = tiny_experiment.read_text(encoding="utf-8"), list[float](), list[float]()
    for seed in range(4):
        sweep = f"{{trials: {trials}, startup_trials: 8, sampler: {sampler}, seed: {seed}}}"
        tiny_experiment.write_text(plain, encoding="utf-8")
        study = opened(experiment(tiny_experiment, {"mf": MF % search}, sweep), "mf", tmp_path / str(seed))
        while (trial := study.claim()) is not None:
            study.study.tell(trial, -(distance(study.space.suggest(trial)) ** 2))
        far = [distance(t.params) for t in study.trials()]
        first, last = [*first, *far[:8]], [*last, *far[-8:]]
    assert sum(last) < 0.7 * sum(first)


@pytest.mark.parametrize("kind", ["hyperband", "median", "successive-halving", "none"])
def test_pruners_by_their_names_end_a_bad_trial_and_keep_a_good_one(kind: Any) -> None:
    study = optuna.create_study(direction="maximize", pruner=pruner(kind, 3, 27))

    def pruned(worth: float) -> bool:
        trial = study.ask()
        for epoch in range(1, 28):
            trial.report(worth, epoch)
            if trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                return True
        study.tell(trial, worth)
        return False

    for i in range(12):
        pruned(0.5 + 0.01 * i)
    bad = [pruned(0.1) for _ in range(8)]  # hyperband has brackets in which it prunes late, or not at all
    assert not pruned(0.9)
    assert any(bad) == (kind != "none")
