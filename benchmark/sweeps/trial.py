"""One trial: its values become a run that sees validation alone; the outcome is told to the study."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from lightning import Callback

from benchmark.errors import InputError
from benchmark.experiment import RunSpec
from benchmark.recommender import TrainingDiverged
from benchmark.runs.execute import PreparedData, Trial, execute, run_key
from benchmark.runs.record import RunRecord, RunStore
from benchmark.sweeps.lease import Heartbeat, own_lease
from benchmark.sweeps.space import Values
from benchmark.sweeps.study import COSTS, OUTCOME, ModelStudy, patient

if TYPE_CHECKING:
    import optuna

JUDGED = "judged"  # user attribute of a trial: the pruner's marks that were decided on, and the epoch it was ended at
_RUNG = "completed_rung_"  # Optuna's marks of successive halving and Hyperband


def carry_out(
    study: ModelStudy,
    trial: optuna.Trial,
    data: PreparedData,
    store: RunStore,
    callbacks: Sequence[Callback] = (),
    node: str | None = None,
) -> RunRecord | None:
    """Run a claimed trial and tell its outcome; return its record, None where the model refuses the values.

    A configuration that has been run is not run again: its record is taken. A run that diverges is told as pruned, so
    that the sampler learns to stay away; one that fails for any other reason is told as failed.
    """
    import optuna

    trial_id = study.storage.get_trial_id_from_study_id_trial_number(study.study_id, trial.number)
    with Heartbeat(study.storage, trial_id, own_lease(node), study.sweep.heartbeat):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                values = patient(lambda: study.space.suggest(trial))
            experiment = study.experiment.with_values({study.label: values})
            try:
                spec = experiment.spec(study.label, experiment.seeds[0])
            except InputError as refused:  # values that do not go together
                why = str(refused)
                patient(lambda: _tell(study, trial, values, None, why))
                return None
            record = _record(study, trial, spec, data, store, callbacks)
            patient(lambda: _tell(study, trial, values, record, record.error))
            return record
        except optuna.exceptions.UpdateFinishedTrialError:
            return None  # another process took this one for lost, and has finished the trial
        except (KeyboardInterrupt, SystemExit):
            study.put_back(trial_id)
            raise


def _record(
    study: ModelStudy,
    trial: optuna.Trial,
    spec: RunSpec,
    data: PreparedData,
    store: RunStore,
    callbacks: Sequence[Callback],
) -> RunRecord:
    key = run_key(spec, data.fingerprint, trial=True)
    with store.claimed(key):  # the same configuration may be under way in another process
        record = store.get(key)
        if record is not None:
            own = (record.study, record.trial) == (study.name, trial.number)
            # pruned against the trials of then, or failed for a reason that may have gone: of itself alone
            if record.status == "finished" or own:
                return record
        report = _Reporter(study, trial, spec.trainer.max_epochs)
        return execute(spec, data, store, callbacks, [], Trial(study.name, trial.number, report))


class _Reporter:
    """Tells a validation value to the study and asks whether to go on; the answer is kept through an interruption.

    Successive halving marks a trial's rung and then decides, once: a process that is killed in between would leave a
    trial that is marked and not decided. ``judged`` holds how many marks have been decided on, so that it is noticed.
    """

    def __init__(self, study: ModelStudy, trial: optuna.Trial, last: int) -> None:
        self.study, self.trial, self.last = study, trial, last
        self.trial_id = study.storage.get_trial_id_from_study_id_trial_number(study.study_id, trial.number)
        now = study.storage.get_trial(self.trial_id)
        self.told = set(now.intermediate_values)
        self.judged: dict[str, int] = now.user_attrs.get(JUDGED, {"rungs": 0, "stop": 0})

    def __call__(self, epochs: int, value: float) -> bool:
        if len(self.study.objectives) > 1:
            return False  # pruners judge one objective
        if epochs < max(self.told, default=0):
            return False  # an interrupted attempt went on from here
        if epochs not in self.told:
            self.told.add(epochs)
            patient(lambda: self.trial.report(value, epochs))
        if epochs >= self.last:
            return False  # all has been paid for
        if self.judged["stop"]:
            return True
        stop = patient(partial(self._stops, value))
        now = {"rungs": self._marks(), "stop": epochs if stop else 0}
        if now != self.judged:
            patient(lambda: self.trial.set_user_attr(JUDGED, now))
            self.judged = now
        return stop

    def _stops(self, value: float) -> bool:
        marks = self._marks()
        if marks > self.judged["rungs"] and self._decide(marks - 1, value):
            return True  # Optuna takes what is marked for decided
        return self.trial.should_prune()

    def _marks(self) -> int:
        attributes = patient(lambda: self.study.storage.get_trial(self.trial_id)).system_attrs
        return sum(name.startswith(_RUNG) for name in attributes)

    def _decide(self, rung: int, value: float) -> bool:
        """Return whether a marked trial ends at its rung: asynchronous successive halving (arXiv:1810.05934)."""
        pruner, study = self.study.study.pruner, self.study.study
        trials = study.get_trials(deepcopy=False)
        if bracket := getattr(pruner, "_get_bracket_id", None):  # Hyperband: each bracket is a race of its own
            own = bracket(study, trials[self.trial.number])
            trials = [t for t in trials if bracket(study, t) == own]
        sign = 1 if study.direction.name == "MAXIMIZE" else -1
        reached = [sign * t.system_attrs[f"{_RUNG}{rung}"] for t in trials if f"{_RUNG}{rung}" in t.system_attrs]
        promoted = max(len(reached) // self.study.sweep.reduction_factor, 1)
        return sign * value < sorted(reached, reverse=True)[promoted - 1]


def _tell(study: ModelStudy, trial: optuna.Trial, values: Values, record: RunRecord | None, error: str | None) -> None:
    import optuna
    from optuna.trial import TrialState

    outcome: list[float] = []
    if record is not None and record.status == "finished":
        for objective in study.objectives:
            value = COSTS[objective](record) if objective in COSTS else record.metrics.get("valid", {}).get(objective)
            if value is None:
                error = f"{objective} is undefined on the validation part"
                break
            outcome.append(value)
    told: dict[str, Any] = {"values": values, "epochs": 0, "seconds": 0.0, "code": study.code[:8], "error": error}
    state = TrialState.FAIL
    if record is not None:
        told["key"], told["epochs"], told["code"] = record.key, record.epochs, record.code_version[:8]
        told["seconds"] = sum(v for k, v in record.stage_seconds.items() if k not in ("prepare", "score"))
        told["metrics"] = record.metrics.get("valid", {})
        diverged = str(error).startswith(TrainingDiverged.__name__) and len(study.objectives) == 1
        if record.status == "pruned" or diverged:
            state = TrialState.PRUNED
        elif error is None:
            state = TrialState.COMPLETE
    # another process may have finished it, or put it back since it thought this one lost: it will find the record
    with warnings.catch_warnings(), contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
        warnings.simplefilter("ignore")
        trial.set_user_attr(OUTCOME, told)
        if study.study.trials[trial.number].state == TrialState.RUNNING:
            study.study.tell(trial, outcome if state == TrialState.COMPLETE else None, state)
