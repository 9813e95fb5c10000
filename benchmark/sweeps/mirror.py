"""Mirrors finished trials to Weights & Biases from their records, beside the work: nothing of it waits for W&B."""

from __future__ import annotations

import hashlib
import logging
import queue
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from benchmark.experiment import WandbConfig
from benchmark.runs.mirror import DOWN, log_finished, mode
from benchmark.runs.record import RunStore, first_line
from benchmark.sweeps.study import OUTCOME, ModelStudy

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}
PATIENCE = 60.0  # seconds that the end of a sweep waits for what is not mirrored yet
log = logging.getLogger("levelfield")


class TrialMirror:
    """Sends every finished trial once, in a thread of its own; a mark in the folder of runs tells what has been sent.

    Where W&B does not answer, the rest is left for the next call of the same command.
    """

    def __init__(self, config: WandbConfig | None, runs: Path) -> None:
        self.config = config if mode(config) != "disabled" else None
        self.store = RunStore(runs)
        self.folder = runs / "wandb"
        self._seen: set[str] = set()
        self._queue: queue.Queue[tuple[str, ModelStudy, FrozenTrial] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._send, daemon=True)

    def refresh(self, studies: Iterable[ModelStudy]) -> None:
        """Take up what has been finished since the last call."""
        if self.config is None:
            return
        for study in studies:
            for trial in study.trials():
                name = run_id(study, trial)
                if trial.state.is_finished() and name not in self._seen:
                    self._seen.add(name)
                    if not self._mark(name).exists():
                        self._queue.put((name, study, trial))

    def _mark(self, name: str) -> Path:
        return self.folder / "trials" / name

    def _send(self) -> None:
        while (item := self._queue.get()) is not None:
            if self.folder in DOWN:
                continue
            name, study, trial = item
            outcome = trial.user_attrs.get(OUTCOME, {})
            record = self.store.get(outcome["key"]) if "key" in outcome else None
            state = STATES[trial.state.name]
            told = {
                "state": state,
                "trial": trial.user_attrs["slot"],
                "defaults": bool(trial.user_attrs.get("defaults")),
                "lost": trial.user_attrs.get("lost", 0),
                "error": outcome.get("error") or trial.user_attrs.get("error"),
                **{f"objective/{o}": v for o, v in zip(study.objectives, trial.values or (), strict=False)},
            }
            try:
                assert self.config is not None
                log_finished(
                    self.config,
                    self.folder,
                    run_id=name,
                    name=f"{study.label}-trial-{trial.user_attrs['slot']}",
                    group=study.name,
                    parameters=outcome.get("values") or study.space.decode(trial.params),
                    record=record,
                    summary=told,
                )
                self._mark(name).parent.mkdir(parents=True, exist_ok=True)
                self._mark(name).touch()
            except Exception as error:
                DOWN.add(self.folder)
                log.warning(
                    "Weights & Biases does not answer (%s); the sweep goes on without it, and the same command mirrors "
                    "the rest later",
                    first_line(error),
                )

    def __enter__(self) -> TrialMirror:
        if self.config is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.config is None:
            return
        self._queue.put(None)
        deadline = time.monotonic() + (PATIENCE if kind is None else 0.0)
        while self._thread.is_alive() and time.monotonic() < deadline:
            self._thread.join(0.1)
        if self._thread.is_alive() and kind is None:
            DOWN.add(self.folder)
            log.warning("Weights & Biases is slow; the same command mirrors the rest of the trials later")


def run_id(study: ModelStudy, trial: FrozenTrial) -> str:
    """Return the W&B identity of a trial: the same one whoever sends it."""
    told = f"{study.name} {study.identity} {trial.number}"
    return hashlib.sha256(told.encode()).hexdigest()[:16]
