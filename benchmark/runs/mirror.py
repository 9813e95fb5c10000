"""Mirrors a run to Weights & Biases through Lightning's logger; the record stays the source of truth."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from benchmark.errors import missing_extra
from benchmark.experiment import RunSpec, WandbConfig
from benchmark.runs.record import RunRecord

log = logging.getLogger("levelfield")


def mode(config: WandbConfig | None) -> str:
    """Return "online", "offline" or "disabled": online only with a key, which is read from the environment alone."""
    if config is None or os.environ.get("WANDB_MODE") == "disabled":
        return "disabled"
    if config.mode == "online" and not os.environ.get("WANDB_API_KEY"):
        return "offline"
    return config.mode


def notice(config: WandbConfig | None) -> str | None:
    """Return the one line that tells why an online mirror is offline, else None."""
    if config is not None and config.mode == "online" and mode(config) == "offline":
        return "Weights & Biases: no WANDB_API_KEY, so runs are kept offline (upload them later with `wandb sync`)"
    return None


def open_mirror(config: WandbConfig | None, spec: RunSpec, key: str, folder: Path) -> Logger | None:
    """Return a WandbLogger for a run, or None when there is nothing to mirror to.

    A failure of the mirror is logged and never stops a run.

    Raises:
        InputError: the extra is not installed.
    """
    chosen = mode(config)
    if config is None or chosen == "disabled":
        return None
    try:
        import wandb
        from lightning.pytorch.loggers import WandbLogger
    except ModuleNotFoundError:
        raise missing_extra("wandb", "wandb") from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # our own init: Lightning's passes options that current wandb warns about
        started = wandb.init(
            name=f"{spec.label}-seed{spec.seed}",
            project=config.project,
            entity=config.entity,
            group=spec.experiment,
            id=key,
            resume="allow" if chosen == "online" else None,
            dir=folder,
            mode="offline" if chosen == "offline" else "online",
            config={**spec.resolved(), "model": spec.label, "key": key},
            settings=wandb.Settings(silent=True, console="off", x_disable_stats=True, init_timeout=20),
            reinit="finish_previous",
        )
        logger = WandbLogger(experiment=started, offline=chosen == "offline")
        _ = logger.experiment  # defines the step of the metrics
    except Exception as error:
        log.warning("Weights & Biases does not answer (%s); the run goes on without it", error)
        return None
    return logger


def close_mirror(logger: Logger | None, record: RunRecord) -> None:
    """Write the record's outcome to the summary of the mirrored run and end it."""
    if logger is None:
        return
    try:
        run: Any = logger.experiment  # type: ignore[attr-defined]
        summary = {f"{part}/{name}": v for part, values in record.metrics.items() for name, v in values.items()}
        run.summary.update(
            {
                **summary,
                "status": record.status,
                "error": record.error,
                "epochs": record.epochs,
                "ms_per_user": record.ms_per_user,
                "seconds": record.stage_seconds,
                "peak_memory": record.peak_memory,
                "parameters": record.parameters,
            }
        )
        run.finish(exit_code=0 if record.status == "finished" else 1)
    except Exception as error:
        log.warning("Weights & Biases does not answer (%s); the record is complete without it", error)
