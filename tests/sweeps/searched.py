"""Experiments with a `search:` block on the small data set, and studies of them, for the tests of this folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmark.experiment import Experiment
from benchmark.sweeps.storage import location, open_storage
from benchmark.sweeps.study import ModelStudy

EASE = "{class: baselines.ease.EASE, l2: 10.0, search: {l2: {low: 1, high: 1000, log: true}}}"
MF = "{class: baselines.mf.MF, embedding_size: 8, learning_rate: 0.05, search: %s}"
RATE = "{learning_rate: {low: 0.001, high: 0.5, log: true}}"
DATA = "fingerprint of the data"


def write(file: Path, models: dict[str, str], sweep: str = "{trials: 4}") -> Path:
    """Give the tiny experiment other models (label -> entry, in YAML), a `sweep:` block and one seed."""
    before = file.read_text(encoding="utf-8").partition("models:")[0]
    entries = "".join(f"  {label}: {entry}\n" for label, entry in models.items())
    text = f"{before}models:\n{entries}seeds: [0]\ntrainer: {{max_epochs: 2}}\nsweep: {sweep}\n"
    file.write_text(text, encoding="utf-8")
    return file


def experiment(file: Path, models: dict[str, str], sweep: str = "{trials: 4}") -> Experiment:
    return Experiment.load(write(file, models, sweep))


def opened(experiment: Experiment, label: str, runs: Path, where: str | None = None, data: str = DATA) -> ModelStudy:
    """Return a study as a process that has just begun sees it: its storage opened anew, its slots laid down."""
    study = ModelStudy(experiment, label, data, open_storage(location(experiment, runs, where)), runs)
    study.lay_out()
    return study


def tell(study: ModelStudy, trial: Any, *values: float) -> dict[str, Any]:
    """Let a claimed trial suggest its values and end with ``values``; return what was suggested."""
    suggested = study.space.suggest(trial)
    study.study.tell(trial, list(values))
    return suggested


def search_without_training(study: ModelStudy) -> list[dict[str, Any]]:
    """Carry out every waiting trial, its value a function of its parameters; return their parameters, by slot."""
    while (trial := study.claim()) is not None:
        suggested = study.space.suggest(trial)
        worth = [len(str(v)) if isinstance(v, str) else float(v) for v in suggested.values()]
        study.study.tell(trial, sum(abs(w - 0.05) ** 0.5 for w in worth))
    return [study.space.decode(t.params) for t in study.trials()]
