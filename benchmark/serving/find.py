"""Which stored run is meant: by its key, or as a model of an experiment file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmark.errors import InputError, nearest
from benchmark.evaluation.metrics import higher_is_better
from benchmark.experiment import Experiment, RunSpec, load_all
from benchmark.runs.execute import PreparedData
from benchmark.runs.record import RECORD, RunRecord, RunStore
from benchmark.runs.run import plan, prepare
from benchmark.serving.trained import TrainedModel
from benchmark.sweeps.standing import standing

SHORTEST = 4  # letters of a key that name a run


def trained(
    which: str | Path,
    model: str | None = None,
    seed: int | None = None,
    runs: str | Path = "runs",
    overrides: Sequence[str] = (),
    defaults: bool = False,
    console: Console | None = None,
) -> TrainedModel:
    """Return the trained model of a stored run.

    Args:
        which: an experiment file, or the key of a run (its first letters do).
        model: label in the file; None: the one that is best on the validation part of its first experiment.
        seed: of the run; None: the best one on the validation part.
        runs: folder of the runs.
        overrides: of the file, ``key=value``.
        defaults: the file's own parameters, whatever a sweep selected.
        console: where to say which models are tuned.

    Raises:
        InputError: no such model or seed, or no finished run of it.
    """
    if not str(which).endswith((".yaml", ".yml")):
        for name, value in (("--model", model), ("--seed", seed), ("KEY=VALUE", tuple(overrides) or None)):
            if value is not None:
                raise InputError(f"{name}: only with an experiment file; {which} is the key of one run")
        return by_key(str(which), runs)
    experiments = load_all(which, overrides)
    known = {label for e in experiments for label in e.models}
    if model is not None and model not in known:
        raise InputError(f"--model {model}: no such model in {which}{nearest(model, known)}")
    first = next(e for e in experiments if model is None or model in e.models)
    here = standing(first, Path(runs), defaults, console or Console(quiet=True))
    return of_experiment(here.experiment, here.data, runs, model, seed)


def by_key(key: str, runs: str | Path = "runs") -> TrainedModel:
    """Return the model of the run whose key begins with ``key``.

    Raises:
        InputError: no run, several, or one without a trained model.
    """
    store = RunStore(runs)
    keys = sorted(path.parent.name for path in store.root.glob(f"*/{RECORD}"))
    found = [k for k in keys if k.startswith(key)]
    if len(key) < SHORTEST or len(found) != 1:
        told = f"{len(found)} runs begin so" if found else f"no such run{nearest(key, keys) if len(keys) < 50 else ''}"
        raise InputError(f"{key}: {told} under {store.root}/; a run is named by {SHORTEST} letters of its key or more")
    record = store.get(found[0])
    assert record is not None
    if record.status != "finished" or record.study is not None:
        state = "is the trial of a search, which keeps no weights" if record.study else f"is {record.status}"
        raise InputError(f"{key}: the run of '{record.label}' {state}")
    spec = RunSpec.from_resolved(record.spec, record.experiment, record.label)
    return TrainedModel(spec, record, prepare(spec, runs, write=False), store)


def of_experiment(
    experiment: Experiment, data: PreparedData, runs: str | Path, model: str | None = None, seed: int | None = None
) -> TrainedModel:
    """Return a model of an experiment.

    Args:
        experiment: as it stands, with what a sweep selected.
        data: prepared data of it.
        runs: folder of the runs.
        model: its label in the experiment; None: the stored one that is best on the validation part.
        seed: of its run; None: the best one on the validation part.

    Raises:
        InputError: no such seed, or no finished run of the model.
    """
    if seed is not None and seed not in experiment.seeds:
        raise InputError(f"--seed {seed}: no such seed in {experiment.name}; known: {_listed(experiment.seeds)}")
    store = RunStore(runs)
    wanted = [
        p
        for p in plan(experiment, data, store)
        if model in (None, p.spec.label) and seed in (None, p.spec.seed) and p.state == "cached"
    ]
    if not wanted:
        whose = f"'{model}' of " if model else ""
        raise InputError(f"no run of {whose}{experiment.name} is stored under {store.root}/; run it first")
    metric = experiment.task.metrics[0]
    sign = 1 if higher_is_better(metric) else -1

    def value(record: RunRecord | None) -> float:
        found = record.metrics.get("valid", {}).get(metric) if record is not None else None
        return float("-inf") if found is None else sign * found

    best = max(wanted, key=lambda p: value(p.record))
    assert best.record is not None
    return TrainedModel(best.spec, best.record, data, store)


def _listed(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))
