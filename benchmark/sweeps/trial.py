"""One trial: its values become a run that sees validation alone; the outcome is told to the study."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lightning import Callback

from benchmark.recommender import TrainingDiverged
from benchmark.runs.execute import PreparedData, Trial, execute, run_key
from benchmark.runs.record import RunRecord, RunStore
from benchmark.sweeps.lease import Heartbeat, own_lease
from benchmark.sweeps.space import Values
from benchmark.sweeps.study import COSTS, ModelStudy, patient

if TYPE_CHECKING:
    import optuna

STOPPED, OUTCOME = "stopped", "outcome"  # user attributes of a trial


def carry_out(
    study: ModelStudy,
    trial: optuna.Trial,
    data: PreparedData,
    store: RunStore,
    callbacks: Sequence[Callback] = (),
    node: str | None = None,
) -> RunRecord:
    """Run a claimed trial and tell its outcome; return its record.

    A configuration that has been run is not run again: its record is taken. A run that diverges is told as pruned, so
    that the sampler learns to stay away; one that fails for any other reason is told as failed.
    """
    trial_id = study.storage.get_trial_id_from_study_id_trial_number(study.study_id, trial.number)
    with Heartbeat(study.storage, trial_id, own_lease(node), study.sweep.heartbeat):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            values = patient(lambda: study.space.suggest(trial))
        record = _record(study, trial, values, data, store, callbacks)
        patient(lambda: _tell(study, trial, values, record))
    return record


def _record(
    study: ModelStudy,
    trial: optuna.Trial,
    values: Values,
    data: PreparedData,
    store: RunStore,
    callbacks: Sequence[Callback],
) -> RunRecord:
    experiment = study.experiment.with_values({study.label: values})
    spec = experiment.spec(study.label, experiment.seeds[0])
    key = run_key(spec, data.fingerprint, trial=True)
    with store.lock(key):  # the same configuration may be under way in another process
        record = store.get(key)
        if record is not None:
            own = (record.study, record.trial) == (study.name, trial.number)
            # pruned against the trials of then, or failed for a reason that may have gone: of itself alone
            if record.status == "finished" or own:
                return record
        return execute(spec, data, store, callbacks, [], Trial(study.name, trial.number, _Reporter(study, trial)))


class _Reporter:
    """Tells a validation value to the study and asks whether to go on; the answer is kept through an interruption."""

    def __init__(self, study: ModelStudy, trial: optuna.Trial) -> None:
        self.several, self.trial = len(study.objectives) > 1, trial
        self.told = set(study.study.trials[trial.number].intermediate_values)

    def __call__(self, epochs: int, value: float) -> bool:
        if self.several:
            return False  # pruners judge one objective
        if epochs not in self.told:
            self.told.add(epochs)
            patient(lambda: self.trial.report(value, epochs))
        if self.trial.user_attrs.get(STOPPED) == epochs:
            return True
        stop = patient(self.trial.should_prune)
        if stop:
            patient(lambda: self.trial.set_user_attr(STOPPED, epochs))
        return stop


def _tell(study: ModelStudy, trial: optuna.Trial, values: Values, record: RunRecord) -> None:
    import optuna
    from optuna.trial import TrialState

    outcome: list[float] = []
    error = record.error
    if record.status == "finished":
        for objective in study.objectives:
            value = COSTS[objective](record) if objective in COSTS else record.metrics.get("valid", {}).get(objective)
            if value is None:
                error = f"{objective} is undefined on the validation part"
                break
            outcome.append(value)
    told = {
        "values": values,
        "key": record.key,
        "epochs": record.epochs,
        "seconds": sum(v for k, v in record.stage_seconds.items() if k not in ("prepare", "score")),
        "metrics": record.metrics.get("valid", {}),
        "code": record.code_version[:8],
        "error": error,
    }
    diverged = str(error).startswith(TrainingDiverged.__name__) and len(study.objectives) == 1
    states = {"finished": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
    state = (TrialState.PRUNED if diverged else TrialState.FAIL) if error is not None else states[record.status]
    with warnings.catch_warnings(), contextlib.suppress(optuna.exceptions.UpdateFinishedTrialError):
        warnings.simplefilter("ignore")
        trial.set_user_attr(OUTCOME, told)
        # put back meanwhile by a process that thought this one lost? Then its successor finds the record
        if study.study.trials[trial.number].state == TrialState.RUNNING:
            study.study.tell(trial, outcome if state == TrialState.COMPLETE else None, state)
