"""Which epoch of a run is taken: the validation curve, the best weights, and when to stop; Lightning callbacks."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO

from benchmark.runs.record import cleaned


def best_epoch(curve: list[dict[str, float | None]], monitor: str, mode: str) -> int | None:
    """Return the index of the first best row of a validation curve, or None for an empty one."""
    sign = 1 if mode == "max" else -1
    values = [(sign * row[monitor] if row.get(monitor) is not None else float("-inf")) for row in curve]  # type: ignore[operator]
    return values.index(max(values)) if values else None


class WholeCheckpoints(TorchCheckpointIO):
    """Writes checkpoints beside their place and renames them: half of one is never taken for one."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        try:
            torch.save(checkpoint, temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


class _BehindPretraining(Callback):
    """Does at the end of an epoch what it does, but for the pre-training epochs."""

    first: int

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.current_epoch >= self.first:
            super().on_validation_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.current_epoch >= self.first:
            super().on_train_epoch_end(trainer, pl_module)


class Last(_BehindPretraining, ModelCheckpoint):
    """Keeps the state of the last epoch, from which a killed run goes on; none of the pre-training epochs."""

    def __init__(self, first: int, folder: Path) -> None:
        super().__init__(folder, "last", save_top_k=1, enable_version_counter=False)
        self.first = first


class Best(ModelCheckpoint):
    """Keeps the best weights, none of the pre-training epochs among them."""

    def __init__(self, first: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.first = first

    def check_monitor_top_k(self, trainer: Trainer, current: torch.Tensor | None = None) -> bool:
        return trainer.current_epoch >= self.first and super().check_monitor_top_k(trainer, current)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the state, wherever the folder lies now: Lightning forgets what was best under another path."""

        def here(path: str) -> str:
            return os.path.join(str(self.dirpath), os.path.basename(path)) if path else path

        paths = ("best_model_path", "kth_best_model_path", "last_model_path")
        best = {here(path): value for path, value in state_dict["best_k_models"].items()}
        told = {"dirpath": self.dirpath, "best_k_models": best, **{key: here(state_dict[key]) for key in paths}}
        super().load_state_dict({**state_dict, **told})


class Early(_BehindPretraining, EarlyStopping):
    """Early stopping whose patience begins behind the pre-training epochs."""

    def __init__(self, first: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.first = first

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        if self.wait_count >= self.patience:
            trainer.should_stop = True  # killed behind its last epoch: the same decision again


class Curve(Callback):
    """Keeps the validation metrics of every epoch, and the seconds; survives a resume through the checkpoint.

    Args:
        first: number of pre-training epochs, of which nothing is reported.
        monitor: the metric that is reported.
        report: the trial's, see ``Trial``; ``pruned`` tells whether it ended the run.
    """

    def __init__(self, first: int, monitor: str, report: Callable[[int, float], bool] | None) -> None:
        self.rows: list[dict[str, float | None]] = []
        self.first, self.monitor, self.report, self.pruned = first, monitor, report, False
        self.seconds_before = 0.0  # of earlier attempts, up to where this one goes on
        self._start = time.perf_counter()

    def _report(self, trainer: Trainer) -> None:
        row = self.rows[-1] if self.rows else {}
        value, epochs = row.get(self.monitor), int(row.get("epoch") or 0) + 1 - self.first
        if self.report is not None and value is not None and epochs > 0 and self.report(epochs, value):
            self.pruned = trainer.should_stop = True

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._start = time.perf_counter()
        self._report(trainer)  # killed between the last report and its consequence: the same answer again

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        values = dict(pl_module.metrics["valid"])
        if (loss := trainer.callback_metrics.get("train_loss")) is not None:
            values["train_loss"] = float(loss)
        self.rows.append({"epoch": trainer.current_epoch, **cleaned(values)})
        self._report(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows, "seconds": self.seconds_before + time.perf_counter() - self._start}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows, self.seconds_before = list(state_dict["rows"]), state_dict.get("seconds", 0.0)
