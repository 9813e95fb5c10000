"""The study of one model: a fixed number of slots, each taken once; what is lost comes back; what is best is chosen."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import warnings
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

optuna = pytest.importorskip("optuna")

from optuna.trial import TrialState  # noqa: E402

from benchmark.errors import InputError  # noqa: E402
from benchmark.experiment import Experiment  # noqa: E402
from benchmark.sweeps.lease import BEAT, CLAIM, LEASE, Heartbeat, birth, own_lease  # noqa: E402
from benchmark.sweeps.study import CRASHES, ModelStudy, patient, selection_file, stored_selections  # noqa: E402
from benchmark.sweeps.trial import _Reporter  # noqa: E402
from tests.sweeps.searched import DATA, EASE, MF, RATE, experiment, opened, search_without_training, tell  # noqa: E402


@pytest.fixture(params=["journal", "database"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    """Each kind of storage."""
    return None if request.param == "journal" else f"sqlite:///{tmp_path / 'studies.db'}"


@pytest.fixture
def tiny(tiny_experiment: Path) -> Experiment:
    return experiment(tiny_experiment, {"mf": MF % RATE}, "{trials: 4, sampler: random}")


@pytest.fixture
def study(tiny: Experiment, tmp_path: Path) -> ModelStudy:
    return opened(tiny, "mf", tmp_path / "runs")


@pytest.fixture(scope="module")
def dead() -> dict[str, Any]:
    """The lease of a process that has been killed."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    lease = {**own_lease(), "pid": process.pid, "born": birth(process.pid)}
    process.kill()
    process.wait()
    return lease


def identifier(study: ModelStudy, number: int) -> int:
    return study.storage.get_trial_id_from_study_id_trial_number(study.study_id, number)


def leave_to(study: ModelStudy, trial: Any, lease: dict[str, Any] | None) -> None:
    """Make a running trial that of another process."""
    study.storage.set_trial_user_attr(identifier(study, trial.number), LEASE, lease)


def slots(study: ModelStudy) -> list[tuple[int, int, str]]:
    return [(t.user_attrs["slot"], t.number, t.state.name) for t in study.trials()]


# --- the budget ------------------------------------------------------------------------------------------------------


def test_a_study_has_as_many_slots_as_the_budget_and_no_trial_beyond_them(
    tiny: Experiment, tmp_path: Path, where: str | None
) -> None:
    study = opened(tiny, "mf", tmp_path, where)
    assert slots(study) == [(i, i, "WAITING") for i in range(4)]
    taken = [study.claim() for _ in range(4)]
    assert [t.number for t in taken if t is not None] == [0, 1, 2, 3]
    assert study.claim() is None
    assert opened(tiny, "mf", tmp_path, where).claim() is None, "nor for another process"
    assert study.counts() == {"complete": 0, "pruned": 0, "failed": 0, "running": 4, "to do": 0}
    assert not study.finished


def test_processes_that_claim_at_the_same_time_never_get_the_same_trial(
    tiny_experiment: Path, tmp_path: Path, where: str | None
) -> None:
    tiny = experiment(tiny_experiment, {"mf": MF % RATE}, "{trials: 12, sampler: random}")
    studies = [opened(tiny, "mf", tmp_path, where) for _ in range(3)]
    taken: list[int] = []

    def work(study: ModelStudy) -> None:
        while (trial := study.claim()) is not None:
            taken.append(trial.number)

    threads = [threading.Thread(target=work, args=(study,)) for study in studies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(12))


def test_who_comes_too_late_for_a_trial_does_not_leave_a_name_on_it(tiny: Experiment, tmp_path: Path) -> None:
    first, second = (opened(tiny, "mf", tmp_path) for _ in range(2))
    seen_before = second.trials()
    mine = first.claim("first node")
    assert mine is not None
    second.trials = lambda: seen_before  # type: ignore[method-assign]  # both have looked at the same moment
    yours = second.claim("second node")
    assert yours is not None
    assert yours.number != mine.number
    nodes = {t.number: t.user_attrs[LEASE]["node"] for t in first.trials() if LEASE in t.user_attrs}
    assert nodes == {mine.number: "first node", yours.number: "second node"}, "it would be lost with the wrong process"


def test_laying_out_goes_on_where_it_was_interrupted(
    tiny: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enqueue = optuna.Study.enqueue_trial

    def killed_in_the_third(self: Any, *args: Any, **more: Any) -> None:
        if len(self.trials) == 2:
            raise KeyboardInterrupt
        enqueue(self, *args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "enqueue_trial", killed_in_the_third)
        with pytest.raises(KeyboardInterrupt):
            opened(tiny, "mf", tmp_path)
    whole = opened(tiny, "mf", tmp_path)
    assert slots(whole) == [(i, i, "WAITING") for i in range(4)]
    uninterrupted = opened(tiny, "mf", tmp_path / "elsewhere")
    assert search_without_training(whole) == search_without_training(uninterrupted)


def test_a_slot_laid_twice_by_machines_that_share_a_database_alone_counts_once(study: ModelStudy) -> None:
    for slot in (2, 1):
        study.study.enqueue_trial({"learning_rate": 0.4}, user_attrs={"slot": slot})
    assert slots(study) == [(i, i, "WAITING") for i in range(4)]
    assert len(search_without_training(study)) == 4
    assert study.finished
    assert study.claim() is None


def test_more_trials_are_added_to_those_that_are_there_and_fewer_take_nothing_away(
    tiny: Experiment, tmp_path: Path
) -> None:
    before = search_without_training(opened(tiny, "mf", tmp_path))

    def with_trials(n: int) -> ModelStudy:
        sweep = tiny.sweep.model_copy(update={"trials": n})
        return opened(tiny.model_copy(update={"sweep": sweep}), "mf", tmp_path)

    longer = with_trials(6)
    assert longer.counts() | {"complete": 4, "to do": 2} == longer.counts()
    after = search_without_training(longer)
    assert after[:4] == before
    assert len(after) == 6
    assert [longer.space.decode(t.params) for t in with_trials(2).trials()] == before[:2]
    assert len(with_trials(6).complete()) == 6


# --- what is lost ----------------------------------------------------------------------------------------------------


def test_a_trial_lost_with_its_process_waits_again_with_its_number_and_parameters(
    tiny: Experiment, tmp_path: Path, where: str | None, dead: dict[str, Any]
) -> None:
    study = opened(tiny, "mf", tmp_path, where)
    lost, living = study.claim(), study.claim()
    assert lost is not None
    assert living is not None
    values = study.space.suggest(lost)
    study.space.suggest(living)
    leave_to(study, lost, dead)

    other = opened(tiny, "mf", tmp_path, where)
    assert other.requeue(counting=False) == 1
    assert [state for *_, state in slots(other)] == ["WAITING", "RUNNING", "WAITING", "WAITING"]
    again = other.claim()
    assert again is not None
    assert again.number == lost.number
    assert other.space.suggest(again) == values
    assert other.requeue(counting=False) == 0, "its new process lives"
    assert other.trials()[0].user_attrs["lost"] == 1


def test_a_process_that_is_dead_but_not_waited_for_is_lost(study: ModelStudy) -> None:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    lease = {**own_lease(), "pid": process.pid, "born": birth(process.pid)}
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        pass
    leave_to(study, study.claim(), lease)
    assert study.requeue(counting=False) == 1
    process.wait()


def test_a_process_that_is_killed_before_it_signs_is_lost_at_once(study: ModelStudy, dead: dict[str, Any]) -> None:
    """Else the next process would leave this trial alone for a while, and sample the following ones without it."""
    trial = study.claim()
    assert trial is not None
    leave_to(study, trial, None)
    assert study.requeue(counting=False) == 0, "the process that reached for it lives, and may be about to sign"
    study.storage.set_trial_user_attr(identifier(study, trial.number), CLAIM, dead)
    assert study.requeue(counting=True) == 1
    first = study.trials()[0]
    assert (first.state, first.user_attrs["crashes"]) == (TrialState.WAITING, 0), "it had not begun with the trial"


def test_a_clock_that_is_set_takes_no_process_for_another(monkeypatch: pytest.MonkeyPatch, study: ModelStudy) -> None:
    leave_to(study, study.claim(), own_lease())
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: own_lease()["born"] + 3600)
    assert study.requeue(counting=False) == 0


def test_another_process_that_got_the_same_number_later_is_not_the_same(study: ModelStudy) -> None:
    trial = study.claim()
    leave_to(study, trial, {**own_lease(), "born": own_lease()["born"] - 1000})
    assert study.requeue(counting=False) == 1


def test_a_trial_whose_process_died_too_often_beside_living_ones_is_failed(
    study: ModelStudy, dead: dict[str, Any]
) -> None:
    for died in range(1, CRASHES + 1):
        trial = study.claim()
        assert trial is not None
        assert trial.number == 0
        leave_to(study, trial, dead)
        assert study.requeue(counting=True) == 1
        assert study.trials()[0].state == (TrialState.FAIL if died == CRASHES else TrialState.WAITING)
    assert study.trials()[0].user_attrs["error"] == f"its process died {CRASHES} times while it ran (out of memory?)"
    following = study.claim()
    assert following is not None
    assert following.number == 1, "the others go on"


def test_an_interruption_of_everything_is_not_held_against_a_trial(study: ModelStudy, dead: dict[str, Any]) -> None:
    for _ in range(CRASHES + 2):
        leave_to(study, study.claim(), dead)
        study.requeue(counting=False)
    first = study.trials()[0]
    assert (first.state, first.user_attrs["lost"]) == (TrialState.WAITING, CRASHES + 2)


def test_two_that_notice_one_loss_do_not_take_the_trial_from_its_new_process(
    tiny: Experiment, tmp_path: Path, dead: dict[str, Any]
) -> None:
    first, second = (opened(tiny, "mf", tmp_path) for _ in range(2))
    leave_to(first, first.claim(), dead)
    seen_before = second.trials()
    assert first.requeue(counting=True) == 1
    again = first.claim()
    assert again is not None
    second.trials = lambda: seen_before  # type: ignore[method-assign]
    assert second.requeue(counting=True) == 0
    assert first.trials()[0].state == TrialState.RUNNING
    assert first.trials()[0].user_attrs["crashes"] == 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock of `Watch`: advance it by writing to its only element."""
    now = [1000.0]
    monkeypatch.setattr("benchmark.sweeps.lease.time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_a_process_of_another_machine_is_lost_behind_three_signs_of_life_that_did_not_come(
    study: ModelStudy, clock: list[float]
) -> None:
    assert study.sweep.heartbeat == 30
    trial = study.claim()
    assert trial is not None
    # its process id means nothing here
    leave_to(study, trial, {**own_lease(), "host": "elsewhere", "pid": 2**22 + 1})
    assert study.requeue(counting=False) == 0
    clock[0] += 89
    assert study.requeue(counting=False) == 0
    study.storage.set_trial_user_attr(identifier(study, trial.number), BEAT, [2**22 + 1, 1])
    clock[0] += 2
    assert study.requeue(counting=False) == 0, "a sign of life begins the wait anew"
    clock[0] += 89
    assert study.requeue(counting=False) == 0
    clock[0] += 2
    assert study.requeue(counting=False) == 1


def test_a_cluster_that_knows_of_a_lost_node_need_not_be_waited_for(
    tiny: Experiment, tmp_path: Path, clock: list[float]
) -> None:
    study = opened(tiny, "mf", tmp_path)
    for node in ("gone", "there"):
        leave_to(study, study.claim(), {**own_lease(node), "host": "elsewhere"})
    knowing = ModelStudy(tiny, "mf", DATA, study.storage, tmp_path, node_alive=lambda node: node != "gone")
    assert knowing.requeue(counting=False) == 1
    assert [t.state for t in knowing.trials()[:2]] == [TrialState.WAITING, TrialState.RUNNING]


def test_a_running_trial_gives_signs_of_life_through_a_storage_that_stumbles(study: ModelStudy) -> None:
    trial = study.claim()
    assert trial is not None
    stumbles = [True]

    def write(number: int, key: str, value: Any) -> None:
        if stumbles:
            stumbles.pop()
            raise optuna.exceptions.StorageInternalError
        study.storage.set_trial_user_attr(number, key, value)
        if value[1] == 3:
            done.set()

    done = threading.Event()
    stumbling: Any = SimpleNamespace(set_trial_user_attr=write)
    with Heartbeat(stumbling, identifier(study, trial.number), own_lease(), 0.01):
        assert done.wait(20)
    beat = study.trials()[0].user_attrs[BEAT]
    assert (beat[0], beat[1] >= 3, stumbles) == (own_lease()["pid"], True, [])


def test_a_storage_that_does_not_answer_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("benchmark.sweeps.study.time.sleep", slept.append)
    answers = iter([optuna.exceptions.StorageInternalError()] * 3)

    def call() -> str:
        for error in answers:
            raise error
        return "there"

    assert patient(call) == "there"
    assert slept == [0.5, 1, 2]
    answers = iter([optuna.exceptions.StorageInternalError()] * 9)
    with pytest.raises(optuna.exceptions.StorageInternalError):
        patient(call)


# --- failed ones once more -------------------------------------------------------------------------------------------


def test_failed_trials_are_tried_again_with_their_parameters_in_their_slots(study: ModelStudy) -> None:
    values = {}
    for state in (TrialState.FAIL, TrialState.PRUNED, TrialState.FAIL):
        trial = study.claim()
        assert trial is not None
        values[trial.number] = study.space.suggest(trial)
        study.study.tell(trial, state=state)
    tell(study, study.claim(), 0.5)
    assert study.finished
    assert study.retry_failed() == 2
    assert study.counts() == {"complete": 1, "pruned": 1, "failed": 0, "running": 0, "to do": 2}
    for slot in (0, 2):
        again = study.claim()
        assert again is not None
        assert tell(study, again, 0.7) == values[slot]
        assert again.user_attrs["slot"] == slot
    assert study.finished
    assert study.retry_failed() == 0
    assert study.trials()[0].user_attrs["defaults"] is True
    assert study.counts() | {"complete": 3, "pruned": 1} == study.counts(), "the budget is what it was"


@pytest.mark.parametrize("slot", [0, 1], ids=["the defaults", "a point of the design"])
def test_a_trial_that_died_before_it_had_its_parameters_gets_the_planned_ones_when_tried_again(
    tiny: Experiment, tmp_path: Path, dead: dict[str, Any], slot: int
) -> None:
    planned = search_without_training(opened(tiny, "mf", tmp_path / "undisturbed"))
    study = opened(tiny, "mf", tmp_path / "disturbed")
    for _ in range(slot):
        tell(study, study.claim(), 0.5)
    for _ in range(CRASHES):
        leave_to(study, study.claim(), dead)
        study.requeue(counting=True)
    assert study.retry_failed() == 1
    again = [study.space.suggest(t) for _ in range(4 - slot) if (t := study.claim()) is not None]
    assert study.space.decode(study.trials()[slot].params) == planned[slot]
    assert len(again) == 4 - slot


# --- one study, one question -----------------------------------------------------------------------------------------


def changed(tiny: Experiment, **sweep: Any) -> Experiment:
    return tiny.model_copy(update={"sweep": tiny.sweep.model_copy(update=sweep)})


def test_a_study_of_the_same_name_about_something_else_is_refused_with_what_differs(
    tiny: Experiment, tiny_experiment: Path, tmp_path: Path
) -> None:
    before = slots(opened(tiny, "mf", tmp_path))

    def other(search: str = RATE, *overrides: str) -> Experiment:
        experiment(tiny_experiment, {"mf": MF % search}, "{trials: 4, sampler: random}")
        return Experiment.load(tiny_experiment, overrides)

    cases = [
        (other(RATE.replace("0.5", "0.6")), "space.learning_rate.high = 0.5, the file has 0.6"),
        (other("{learning_rate: [0.05], loss: [bpr, bce]}"), "space.learning_rate"),
        (other(RATE, "models.mf.batch_size=77"), "spec.config.batch_size = 2048, the file has 77"),
        (other(RATE, "trainer.max_epochs=3"), "spec.trainer.max_epochs = 2, the file has 3"),
        (other(RATE, "seeds=[4]"), "spec.seed = 0, the file has 4"),
        (other(RATE, "models.mf.limit_train=100"), "spec.limit_train = null, the file has 100"),
        (changed(tiny, seed=1), '"random", 0, 8], the file has ["random", 1, 8]'),
        (changed(tiny, sampler="tpe"), '["random", 0, 8], the file has ["tpe", 0, 8]'),
        (changed(tiny, pruner="hyperband"), 'pruner = [null, 3], the file has ["hyperband", 3]'),
        (changed(tiny, objectives=("auc",)), 'objectives = ["ndcg@10"], the file has ["auc"]'),
    ]
    for case, expected in cases:
        with pytest.raises(InputError) as caught:
            opened(case, "mf", tmp_path)
        assert str(caught.value).startswith("study 'tiny/mf': it was begun with "), expected
        assert expected in str(caught.value)
        assert str(caught.value).endswith("name a new one: sweep.study=NAME")
        assert "\n" not in str(caught.value)
    assert slots(opened(tiny, "mf", tmp_path)) == before, "nothing was changed"
    assert len(opened(changed(tiny, study="another", seed=1), "mf", tmp_path).trials()) == 4
    for harmless in (changed(tiny, heartbeat=5.0), changed(tiny, trials=3), other(RATE, "task.metrics=[ndcg@10,mrr]")):
        opened(harmless, "mf", tmp_path)


def test_data_that_changed_since_is_said(tiny: Experiment, tmp_path: Path) -> None:
    opened(tiny, "mf", tmp_path)
    with pytest.raises(InputError) as caught:
        opened(tiny, "mf", tmp_path, data="0123456789abcdef")
    assert str(caught.value) == (
        "study 'tiny/mf': the data changed since it began (fingerpr, now 01234567); name a new one: sweep.study=NAME"
    )


def test_two_experiments_in_one_storage_do_not_meet(tiny: Experiment, tmp_path: Path) -> None:
    where = f"sqlite:///{tmp_path / 'studies.db'}"
    one = opened(tiny, "mf", tmp_path, where)
    other = opened(tiny.model_copy(update={"name": "second"}), "mf", tmp_path, where)
    search_without_training(one)
    assert one.finished
    assert [state for *_, state in slots(other)] == ["WAITING"] * 4


# --- what is chosen --------------------------------------------------------------------------------------------------


def test_the_best_trial_is_selected_the_earliest_of_equals(study: ModelStudy, tiny: Experiment) -> None:
    for value in (0.3, 0.7, 0.7):
        tell(study, study.claim(), value)
    assert study.best() is not None
    assert study.best().number == 1  # type: ignore[union-attr]
    failed = study.claim()
    assert failed is not None
    study.study.tell(failed, state=TrialState.FAIL)
    selection = study.select()
    assert selection is not None
    assert selection.values == study.space.decode(study.trials()[1].params)
    assert selection.defaults == {"learning_rate": 0.05}
    assert (selection.value, selection.default_value, selection.objective) == (0.7, 0.3, "ndcg@10")
    rate = selection.values["learning_rate"]
    assert selection.note() == f"tuned on validation, 4 trials: learning_rate {rate:.3g}"
    assert stored_selections(tiny, study.runs, DATA) == {"mf": selection}
    assert not stored_selections(tiny, study.runs, "other data")


def test_less_is_better_of_a_loss(tiny_experiment: Path, tmp_path: Path) -> None:
    experiment(tiny_experiment, {"mf": (MF % RATE).replace("embedding_size", "loss: bce, embedding_size")})
    study = opened(Experiment.load(tiny_experiment, ["task={kind: preference, metrics: [log_loss]}"]), "mf", tmp_path)
    for value in (0.6, 0.4, 0.5):
        tell(study, study.claim(), value)
    assert study.best() is not None
    assert study.best().number == 1  # type: ignore[union-attr]


def test_a_pruned_trial_is_never_the_best_however_good_it_was(study: ModelStudy) -> None:
    trial = study.claim()
    assert trial is not None
    study.space.suggest(trial)
    trial.report(0.99, 1)
    study.study.tell(trial, state=TrialState.PRUNED)
    assert study.best() is None
    assert study.select() is None
    assert not selection_file(study.experiment, study.runs, "mf").exists()
    tell(study, study.claim(), 0.1)
    assert study.best() is not None
    assert study.best().number == 1  # type: ignore[union-attr]


def test_of_several_objectives_the_front_is_reported_and_the_first_one_selects(
    tiny_experiment: Path, tmp_path: Path
) -> None:
    sweep = "{trials: 6, sampler: random, objectives: [ndcg@10, train_seconds, trainable_parameters]}"
    study = opened(experiment(tiny_experiment, {"mf": MF % RATE}, sweep), "mf", tmp_path)
    assert [d.name for d in study.study.directions] == ["MAXIMIZE", "MINIMIZE", "MINIMIZE"]
    outcomes = [
        (0.50, 10.0, 100.0),  # beaten by the next one in all
        (0.60, 9.0, 100.0),
        (0.70, 20.0, 100.0),  # the best, and slow
        (0.70, 20.0, 100.0),  # its equal
        (0.10, 30.0, 50.0),  # bad, slow and small
        (0.60, 9.5, 100.0),  # beaten in one, equal in the others
    ]
    for outcome in outcomes:
        tell(study, study.claim(), *outcome)
    assert [t.number for t in study.front()] == [2, 3, 1, 4], "best in the first objective first"
    assert {t.number for t in study.front()} == {t.number for t in study.study.best_trials}, "as Optuna has it"
    assert study.best().number == 2  # type: ignore[union-attr]


def test_a_snapshot_holds_the_trials_that_count_under_the_names_of_the_file(
    tiny_experiment: Path, tmp_path: Path
) -> None:
    search = "{embedding_size: {low: 4, high: 32, power_of_two: true}, loss: [bpr, bce]}"
    study = opened(experiment(tiny_experiment, {"mf": MF % search}, "{trials: 4, sampler: grid}"), "mf", tmp_path)
    failed = study.claim()
    assert failed is not None
    study.space.suggest(failed)
    study.study.tell(failed, state=TrialState.FAIL)
    reported = study.claim()
    assert reported is not None
    study.space.suggest(reported)
    reported.report(0.4, 1)
    study.study.tell(reported, 0.5)
    study.retry_failed()
    tell(study, study.claim(), 0.6)  # the retry
    copy = study.snapshot()
    assert [t.state for t in copy.trials] == [TrialState.COMPLETE] * 2, "neither what failed first nor what waits"
    assert [t.values for t in copy.trials] == [[0.6], [0.5]]
    assert copy.trials[0].params == {"embedding_size": 8, "loss": "bpr"}
    assert copy.trials[1].intermediate_values == {1: 0.4}
    assert copy.trials[0].distributions["embedding_size"] == optuna.distributions.IntDistribution(4, 32, log=True)
    told = {"name": "tiny/mf", "label": "mf", "objectives": ("ndcg@10",), "max_epochs": 2}
    assert copy.user_attrs.items() >= told.items()


def test_a_selection_is_one_of_the_very_experiment(tiny_experiment: Path, tmp_path: Path) -> None:
    models = {"ease": EASE, "mf": MF % RATE}
    tiny = experiment(tiny_experiment, models)
    study = opened(tiny, "ease", tmp_path)
    assert stored_selections(tiny, tmp_path, DATA) == {}
    search_without_training(study)
    study.select()
    assert stored_selections(tiny, tmp_path, DATA).keys() == {"ease"}, "mf has not been searched"

    def found(*overrides: str) -> Counter[str]:
        return Counter(stored_selections(Experiment.load(tiny_experiment, overrides), tmp_path, DATA).keys())

    assert found("seeds=[0,1,2]") == {"ease": 1}, "more seeds of the final runs"
    assert found("models.mf.learning_rate=0.1") == {"ease": 1}, "another model has changed"
    assert found("models.ease.l2=11") == {}, "other defaults"
    assert found("models.ease.search.l2.high=900") == {}, "another space"
    assert found("trainer.max_epochs=5") == {}
    assert found("sweep.objectives=[auc]") == {}
    file = selection_file(tiny, tmp_path, "ease")
    file.write_text(file.read_text(encoding="utf-8")[:50], encoding="utf-8")
    assert found() == {}, "a damaged file is none"


@pytest.mark.parametrize("pruner", ["successive-halving", "hyperband"])
def test_a_decision_that_was_cut_off_behind_its_mark_is_made_again(
    tiny_experiment: Path, tmp_path: Path, pruner: str
) -> None:
    numbers = random.Random(0)
    values = [numbers.random() for _ in range(40)]
    told: dict[str, list[list[bool]]] = {}
    for way in ("whole", "cut"):
        sweep = f"{{trials: 40, sampler: random, pruner: {pruner}}}"
        study = opened(experiment(tiny_experiment, {"mf": MF % RATE}, sweep), "mf", tmp_path / way)
        study.lay_out()
        told[way] = []
        for value in values:
            trial = study.claim()
            assert trial is not None
            study.space.suggest(trial)
            answers: list[bool] = []
            for epoch in (1, 2, 3, 4):
                if way == "cut":
                    trial.report(value + epoch, epoch)
                    trial.should_prune()  # killed here: marked by Optuna, and nobody knows the answer
                answers.append(_Reporter(study, trial, 27)(epoch, value + epoch))
                if answers[-1]:
                    break
            told[way].append(answers)
            study.study.tell(trial, state=TrialState.PRUNED)
    assert told["cut"] == told["whole"]
    assert {len(answers) for answers in told["whole"]} > {1}, "some are ended, some are not"


def test_a_trial_that_went_on_from_an_earlier_epoch_is_not_judged_by_it(tiny_experiment: Path, tmp_path: Path) -> None:
    sweep = "{trials: 4, sampler: random, pruner: successive-halving}"
    study = opened(experiment(tiny_experiment, {"mf": MF % RATE}, sweep), "mf", tmp_path)
    for value in (0.1, 0.9, 0.5):  # the best one is no good in its first epoch
        trial = study.claim()
        assert trial is not None
        study.space.suggest(trial)
        trial.report(0.0, 1)
        trial.should_prune()
        trial.report(value, 3)
        trial.should_prune()
    again = _Reporter(study, trial, 27)
    assert again(1, 0.0) is False
    assert study.storage.get_trial(identifier(study, trial.number)).user_attrs.get("judged") is None


@pytest.mark.parametrize("sampler", ["tpe", "gp", "cma-es"])
@pytest.mark.parametrize("number", [1, 4])
def test_a_trial_that_was_killed_between_two_parameters_gets_the_others_that_it_would_have_had(
    tiny_experiment: Path, tmp_path: Path, sampler: str, number: int
) -> None:
    search = "{weight_decay: {low: 0.0, high: 1.0}, learning_rate: {low: 0.0001, high: 1.0}}"
    sweep = f"{{trials: 6, startup_trials: 3, sampler: {sampler}}}"
    found = {}
    for way in ("whole", "killed"):
        study = opened(experiment(tiny_experiment, {"mf": MF % search}, sweep), "mf", tmp_path / way)
        while (trial := study.claim()) is not None:
            if way == "killed" and trial.number == number:
                name, known = next(iter(study.space.dimensions.items()))
                trial.suggest_float(study.space.name(name), float(known.low), float(known.high))  # type: ignore[arg-type]
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    trial = optuna.trial.Trial(study.study, identifier(study, number))
            values = study.space.suggest(trial)
            study.study.tell(trial, -((values["weight_decay"] - 0.7) ** 2) - (values["learning_rate"] - 0.4) ** 2)
        found[way] = [t.params for t in study.trials()]
    assert found["killed"] == found["whole"]


def test_a_storage_that_fails_once_behind_a_claim_keeps_the_trial(
    study: ModelStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmark.sweeps.study.time.sleep", lambda seconds: None)
    write, failures = study.storage.set_trial_user_attr, [LEASE]

    def once(trial_id: int, key: str, value: Any) -> None:
        if key in failures:
            failures.remove(key)
            raise optuna.exceptions.StorageInternalError
        write(trial_id, key, value)

    monkeypatch.setattr(study.storage, "set_trial_user_attr", once)
    trial = study.claim()
    assert trial is not None
    assert (trial.number, failures) == (0, [])
    assert study.trials()[0].user_attrs[LEASE] == own_lease()


def test_a_loss_that_was_seen_before_another_claim_takes_nothing_away(study: ModelStudy, dead: dict[str, Any]) -> None:
    leave_to(study, study.claim(), None)
    study.storage.set_trial_user_attr(identifier(study, 0), CLAIM, dead)
    seen = study.trials()
    study.put_back(identifier(study, 0))
    again = study.claim()
    assert again is not None
    leave_to(study, again, None)  # about to sign
    study.trials = lambda: seen  # type: ignore[method-assign]
    assert study.requeue(counting=False) == 0


def test_who_begins_beside_living_processes_counts_the_crashes_that_it_finds(
    study: ModelStudy, dead: dict[str, Any]
) -> None:
    leave_to(study, study.claim(), dead)
    assert not study.others_at_work(), "everything was interrupted, which says nothing against the trial"
    leave_to(study, study.claim(), own_lease())
    assert study.others_at_work()
