"""The study of one model: its slots, who takes which, what is lost and put back, what is selected."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from filelock import FileLock

from benchmark.errors import InputError, nearest
from benchmark.evaluation.metrics import higher_is_better, parse_metric
from benchmark.experiment import Experiment
from benchmark.experiment.search import Pruner
from benchmark.runs.environment import code_version
from benchmark.runs.record import RunRecord, whole_file
from benchmark.sweeps.lease import CLAIM, LEASE, Watch, own_lease
from benchmark.sweeps.samplers import DESIGNS, learning_sampler, points, pruner
from benchmark.sweeps.space import Space, Values
from benchmark.sweeps.storage import studies_folder

if TYPE_CHECKING:
    import optuna

# costs that may be objectives beside the metrics of the task; less is better
COSTS: dict[str, Callable[[RunRecord], float | None]] = {
    "train_seconds": lambda record: record.stage_seconds.get("fit"),
    "ms_per_user": lambda record: record.ms_per_user,
    "trainable_parameters": lambda record: record.parameters.get("trainable"),
    "peak_memory": lambda record: record.peak_memory.get("device", record.peak_memory.get("host")),
}
OUTCOME = "outcome"  # user attribute of a finished trial, see `trial.py`
CRASHES = 3  # a trial whose process died so often beside living ones is given up
T = TypeVar("T")


def objectives_of(experiment: Experiment, label: str) -> tuple[str, ...]:
    """Return the objectives of a model's study; the first one, a metric of the task, selects.

    Raises:
        InputError: an unknown objective, a first one that is a cost, or a pruner with several of them.
    """
    spec = experiment.spec(label, experiment.seeds[0])
    monitor = str(spec.trainer.early_stopping.monitor)
    objectives = experiment.sweep.objectives or (monitor,)
    for objective in objectives:
        if objective not in experiment.task.metrics and objective not in COSTS:
            known = [*experiment.task.metrics, *COSTS]
            raise InputError(
                f"sweep.objectives: '{objective}' is neither a metric of the task nor a cost{nearest(objective, known)}"
            )
    if len(set(objectives)) < len(objectives):
        raise InputError("sweep.objectives: one stands twice")
    if objectives[0] in COSTS:
        raise InputError(
            f"sweep.objectives: the first one selects and must be a metric of the task, found '{objectives[0]}'"
        )
    if len(objectives) > 1 and experiment.sweep.pruner not in (None, "none"):
        raise InputError(
            f"sweep.pruner: '{experiment.sweep.pruner}' judges one objective, sweep.objectives has {len(objectives)}; "
            "use pruner: none"
        )
    if len(objectives) == 1 and objectives[0] != monitor and experiment.sweep.pruner not in (None, "none"):
        raise InputError(
            f"sweep.pruner: '{experiment.sweep.pruner}' judges by trainer.early_stopping.monitor, '{monitor}', "
            f"but the objective is '{objectives[0]}'; make them one, or use pruner: none"
        )
    return objectives


def study_name(experiment: Experiment, label: str) -> str:
    """Return the name of a model's study; what stands on other models has one for each choice of them."""
    name = f"{experiment.sweep.study or experiment.name}/{label}"
    below = {role: s.resolved() for role, s in experiment.spec(label, experiment.seeds[0]).below.items()}
    if below:
        name += "@" + hashlib.sha256(json.dumps(below, sort_keys=True).encode()).hexdigest()[:8]
    return name


def higher(objective: str) -> bool:
    """Return whether more of an objective is better."""
    return objective not in COSTS and higher_is_better(parse_metric(objective).name)


@dataclass(frozen=True)
class Selection:
    """What the search of one model chose: written beside the studies, read by `run` and `table`."""

    label: str
    identity: dict[str, Any]
    values: Values
    defaults: Values
    objective: str
    value: float
    default_value: float | None
    counts: dict[str, int]
    outdated: int  # trials that another version of the code has run

    def note(self) -> str:
        """Return the line under the table."""
        chosen = ", ".join(f"{k} {short(v)}" for k, v in self.values.items())
        other = f" ({self.outdated} of another version of the code)" if self.outdated else ""
        return f"tuned on validation, {sum(self.counts.values())} trials{other}: {chosen}"


def short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def selection_file(experiment: Experiment, runs: str | Path, label: str) -> Path:
    return studies_folder(runs) / f"{experiment.sweep.study or experiment.name}.{label}.json"


def identity(experiment: Experiment, label: str, data_fingerprint: str, space: Space | None = None) -> dict[str, Any]:
    """Return what one study is about: trials of different identities must not be compared."""
    space = space or Space(experiment, label)
    sweep = experiment.sweep
    spec = experiment.spec(label, experiment.seeds[0]).resolved()
    told = {
        "data": data_fingerprint,
        "space": space.identity(),
        "objectives": list(objectives_of(experiment, label)),
        "sampler": [sweep.sampler, sweep.seed, sweep.startup_trials],
        "pruner": [sweep.pruner, sweep.reduction_factor],
        "spec": spec,
    }
    return json.loads(json.dumps(told))


class ModelStudy:
    """The study of one model of an experiment, in any storage, shared by any number of processes.

    All trials are laid down at first as waiting slots, so that the budget holds however many processes take from it.
    A trial that is lost with its process becomes a waiting one again: same number, same parameters.

    Raises:
        InputError: the study exists and is about something else; see ``Space`` and ``objectives_of`` as well.
    """

    def __init__(
        self,
        experiment: Experiment,
        label: str,
        data_fingerprint: str,
        storage: optuna.storages.BaseStorage,
        runs: str | Path,
        parallel: bool = False,
        node_alive: Callable[[str], bool] | None = None,
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)

        self.experiment, self.label, self.storage, self.runs = experiment, label, storage, Path(runs)
        self.space = Space(experiment, label)
        self.objectives = objectives_of(experiment, label)
        self.sweep = experiment.sweep
        self.name = study_name(experiment, label)
        self.identity = identity(experiment, label, data_fingerprint, self.space)
        self.data_fingerprint = data_fingerprint
        self.watch = Watch(self.sweep.heartbeat, node_alive)
        spec = experiment.spec(label, experiment.seeds[0])
        self.monitor = str(spec.trainer.early_stopping.monitor)
        self.code = code_version(spec.class_path.rpartition(".")[0])
        highest = self.space.dimensions.get("trainer.max_epochs")
        self.max_epochs = int(
            (max(highest.choices) if highest.choices else highest.high) if highest else spec.trainer.max_epochs  # type: ignore[type-var,arg-type]
        )
        # pruners judge the monitored metric epoch by epoch
        judged = self.objectives == (self.monitor,)
        kind: Pruner = self.sweep.pruner or ("median" if judged else "none")
        sampler: Any = (
            optuna.samplers.RandomSampler(seed=self.sweep.seed)
            if self.sweep.sampler in DESIGNS
            else learning_sampler(self.sweep, self.space, parallel)
        )
        self.study = patient(
            lambda: optuna.create_study(
                storage=storage,
                study_name=self.name,
                directions=["maximize" if higher(o) else "minimize" for o in self.objectives],
                sampler=sampler,
                pruner=pruner(kind, self.sweep.reduction_factor, self.max_epochs),
                load_if_exists=True,
            )
        )
        self.study_id = storage.get_study_id_from_name(self.name)

    def lay_out(self) -> None:
        """Check that the stored study is this one, and lay down the slots that are missing."""
        with self._lock():
            self._check()
            there = {t.user_attrs.get("slot") for t in self.study.get_trials(deepcopy=False)}
            for slot, point in enumerate(points(self.sweep, self.space)):
                if slot not in there:
                    attributes = {"slot": slot, **({"defaults": True} if slot == 0 else {})}
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        self.study.enqueue_trial(self.space.encode(point), user_attrs=attributes)

    def _check(self) -> None:
        before = self.study.user_attrs.get("identity")
        if before is None:
            self.study.set_user_attr("identity", self.identity)
            return
        if before == self.identity:
            return
        where = f"study '{self.name}'"
        new = "name a new one: sweep.study=NAME"
        if before["data"] != self.identity["data"]:
            raise InputError(
                f"{where}: the data changed since it began "
                f"({before['data'][:8]}, now {self.identity['data'][:8]}); {new}"
            )
        for part, key, was, now in _differences(before, self.identity):
            at = f"{part}.{key}" if key else part
            raise InputError(
                f"{where}: it was begun with {at} = {json.dumps(was)}, the file has {json.dumps(now)}; {new}"
            )

    # --- slots -------------------------------------------------------------------------------------------------------

    def trials(self) -> list[optuna.trial.FrozenTrial]:
        """Return the trial that counts of each slot, in order: its last retry, and of a slot laid twice the first."""
        chosen: dict[int, Any] = {}
        for trial in patient(lambda: self.study.get_trials(deepcopy=False)):
            slot = trial.user_attrs.get("slot")
            if slot is None or slot >= self.sweep.trials:
                continue
            held = chosen.get(slot)
            if held is None or trial.user_attrs.get("retry", 0) > held.user_attrs.get("retry", 0):
                chosen[slot] = trial
        return [chosen[slot] for slot in sorted(chosen)]

    def claim(self, node: str | None = None) -> optuna.Trial | None:
        """Take the next waiting slot, or return None where there is none."""
        import optuna

        for waiting in self.trials():
            if waiting.state != optuna.trial.TrialState.WAITING:
                continue
            trial_id = self.storage.get_trial_id_from_study_id_trial_number(self.study_id, waiting.number)
            lease = own_lease(node)
            with self._lock():  # of processes that see this folder, nobody writes a claim over another's
                if self.storage.get_trial(trial_id).state != optuna.trial.TrialState.WAITING:
                    continue
                try:
                    self.storage.set_trial_user_attr(trial_id, CLAIM, lease)
                    if not self.storage.set_trial_state_values(trial_id, optuna.trial.TrialState.RUNNING):
                        continue
                except optuna.exceptions.UpdateFinishedTrialError:
                    continue
                patient(partial(self.storage.set_trial_user_attr, trial_id, LEASE, lease))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return patient(partial(optuna.trial.Trial, self.study, trial_id))
        return None

    def others_at_work(self) -> bool:
        """Return whether a living process computes a trial."""
        return any(t.state.name == "RUNNING" and not self.watch.lost(t) for t in self.trials())

    def requeue(self, counting: bool) -> int:
        """Make waiting ones of the running trials whose process is lost; return how many.

        Args:
            counting: the process died while others lived, which counts against the trial: it may be what kills them.
        """
        from optuna.trial import TrialState

        lost = [t for t in self.trials() if t.state == TrialState.RUNNING and self.watch.lost(t)]
        found = 0
        with self._lock() if lost else contextlib.nullcontext():
            for trial in lost:
                trial_id = self.storage.get_trial_id_from_study_id_trial_number(self.study_id, trial.number)
                now = self.storage.get_trial(trial_id)
                lease = now.user_attrs.get(LEASE)
                same = all(now.user_attrs.get(key) == trial.user_attrs.get(key) for key in (LEASE, CLAIM))
                if now.state != TrialState.RUNNING or not same:
                    continue  # another process has noticed it too
                crashes = now.user_attrs.get("crashes", 0) + (counting and lease is not None)
                self.storage.set_trial_user_attr(trial_id, "lost", now.user_attrs.get("lost", 0) + 1)
                self.storage.set_trial_user_attr(trial_id, "crashes", crashes)
                if crashes >= CRASHES:
                    error = f"its process died {crashes} times while it ran (out of memory?)"
                    self.storage.set_trial_user_attr(trial_id, "error", error)
                    self.storage.set_trial_state_values(trial_id, TrialState.FAIL)
                else:
                    self.put_back(trial_id)
                found += 1
        return found

    def put_back(self, trial_id: int) -> None:
        """Make a running trial a waiting one again, which nobody has signed."""
        from optuna.trial import TrialState

        self.storage.set_trial_user_attr(trial_id, LEASE, None)
        self.storage.set_trial_state_values(trial_id, TrialState.WAITING)

    def _lock(self) -> FileLock:
        folder = studies_folder(self.runs)
        folder.mkdir(parents=True, exist_ok=True)
        return FileLock(folder / f"{self.name.replace('/', '.')}.lock")

    def retry_failed(self) -> int:
        """Lay down the failed trials once more, with the parameters they had; return how many."""
        from optuna.trial import TrialState

        failed = [t for t in self.trials() if t.state == TrialState.FAIL]
        for trial in failed:
            attributes = {"slot": trial.user_attrs["slot"], "retry": trial.user_attrs.get("retry", 0) + 1}
            if trial.user_attrs.get("defaults"):
                attributes["defaults"] = True
            fixed = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
            self.study.enqueue_trial(fixed, user_attrs=attributes)
        return len(failed)

    @property
    def finished(self) -> bool:
        trials = self.trials()
        return bool(trials) and all(t.state.is_finished() for t in trials)

    def counts(self) -> dict[str, int]:
        """Return how many trials are complete, pruned, failed, running and waiting."""
        names = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running", "WAITING": "to do"}
        out = dict.fromkeys(names.values(), 0)
        for trial in self.trials():
            out[names[trial.state.name]] += 1
        return out

    # --- selection ---------------------------------------------------------------------------------------------------

    def complete(self) -> list[optuna.trial.FrozenTrial]:
        return [t for t in self.trials() if t.state.name == "COMPLETE"]

    def best(self) -> optuna.trial.FrozenTrial | None:
        """Return the complete trial that is best in the first objective, the earliest of equals."""
        sign = 1 if higher(self.objectives[0]) else -1
        return max(self.complete(), key=lambda t: sign * t.values[0], default=None)

    def front(self) -> list[optuna.trial.FrozenTrial]:
        """Return the complete trials that no other one beats in all objectives (the Pareto front), best first."""
        signs = [1 if higher(o) else -1 for o in self.objectives]
        points = {t.number: tuple(s * v for s, v in zip(signs, t.values, strict=True)) for t in self.complete()}
        kept = [
            t
            for t in self.complete()
            if not any(
                other != points[t.number] and all(o >= p for o, p in zip(other, points[t.number], strict=True))
                for other in points.values()
            )
        ]
        return sorted(kept, key=lambda t: -points[t.number][0])

    def snapshot(self) -> optuna.Study:
        """Return the trials that count as a study in memory, sizes under their own names: what the report reads."""
        import optuna

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            copy = optuna.create_study(directions=self.study.directions)
            for trial in self.trials():
                if not trial.state.is_finished():
                    continue
                values = self.space.decode(trial.params)
                ranges: dict[str, Any] = {}
                for path in values:
                    ranges[path] = known = trial.distributions[self.space.name(path)]
                    if self.space.dimensions[path].power_of_two:
                        assert isinstance(known, optuna.distributions.IntDistribution)
                        ranges[path] = optuna.distributions.IntDistribution(2**known.low, 2**known.high, log=True)
                copy.add_trial(
                    optuna.trial.create_trial(
                        state=trial.state,
                        values=trial.values,
                        params=values,
                        distributions=ranges,
                        user_attrs=trial.user_attrs,
                        intermediate_values=trial.intermediate_values,
                    )
                )
        told = {
            "name": self.name,
            "label": self.label,
            "objectives": self.objectives,
            "max_epochs": self.max_epochs,
            "monitor": self.monitor,
        }
        for key, value in told.items():
            copy.set_user_attr(key, value)
        return copy

    def select(self) -> Selection | None:
        """Return what the finished study chose and write it down; None where no trial is complete."""
        best = self.best()
        if best is None:
            return None
        first = next((t for t in self.complete() if t.user_attrs.get("defaults")), None)
        counts = self.counts()
        selection = Selection(
            self.label,
            self.identity,
            self.space.decode(best.params),
            self.space.defaults,
            self.objectives[0],
            best.values[0],
            first.values[0] if first else None,
            {k: v for k, v in counts.items() if v},
            sum(t.user_attrs[OUTCOME]["code"] != self.code[:8] for t in self.trials() if OUTCOME in t.user_attrs),
        )
        with whole_file(selection_file(self.experiment, self.runs, self.label)) as temporary:
            temporary.write_text(json.dumps(vars(selection), indent=1) + "\n", encoding="utf-8")
        return selection


def _differences(before: Any, now: Any) -> list[tuple[str, str, Any, Any]]:
    """Return (part, path, before, now) of each leaf that differs."""
    out = []

    def walk(a: Any, b: Any, part: str, path: tuple[str, ...]) -> None:
        if isinstance(a, dict) and isinstance(b, dict):
            for key in [*a, *(k for k in b if k not in a)]:
                walk(a.get(key), b.get(key), part, (*path, key))
        elif a != b:
            out.append((part, ".".join(path), a, b))

    for part in now:
        walk(before.get(part), now[part], part, ())
    return out


def stored_selections(experiment: Experiment, runs: str | Path, data_fingerprint: str) -> dict[str, Selection]:
    """Return what finished studies chose for this very experiment; without Optuna, from the files beside them."""
    found: dict[str, Selection] = {}
    for label in order(experiment):
        try:
            told = json.loads(selection_file(experiment, runs, label).read_text(encoding="utf-8"))
            selection = Selection(**told)
        except (OSError, ValueError, TypeError):
            continue
        current = experiment.with_values({k: s.values for k, s in found.items()})
        if selection.identity == identity(current, label, data_fingerprint):
            found[label] = selection
    return found


def order(experiment: Experiment) -> list[str]:
    """Return the labels of the searched models, such that what a model stands on comes before it."""
    out: list[str] = []

    def visit(label: str) -> None:
        for stage in stages(experiment, label):
            visit(stage)
        if experiment.models[label].search and label not in out:
            out.append(label)

    for label in [label for label in experiment.models if label not in experiment.unable()]:
        visit(label)
    return out


def stages(experiment: Experiment, label: str) -> list[str]:
    """Return the labels of the models that one stands on directly."""
    return [stage.label for stage in experiment.spec(label, experiment.seeds[0]).below.values()]


def patient(call: Callable[[], T], tries: int = 6) -> T:
    """Return what ``call`` gives; a storage that does not answer is asked again for about half a minute."""
    import optuna

    for attempt in range(tries):
        try:
            return call()
        except optuna.exceptions.StorageInternalError:
            if attempt == tries - 1:
                raise
            time.sleep(2**attempt / 2)
    raise AssertionError
