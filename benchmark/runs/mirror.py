"""Mirrors runs to Weights & Biases, live through Lightning's logger or from records, which stay the source of truth."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from benchmark.errors import missing_extra
from benchmark.experiment import RunSpec, WandbConfig
from benchmark.runs.record import RunRecord, first_line

log = logging.getLogger("levelfield")
DOWN: set[Path] = set()  # folders of mirrors that did not answer: one time-out in a process is enough


def mode(config: WandbConfig | None) -> str:
    """Return "online", "offline" or "disabled": online only with a key, which is read from the environment alone."""
    if config is None or os.environ.get("WANDB_MODE") == "disabled":
        return "disabled"
    if config.mode == "online" and not os.environ.get("WANDB_API_KEY"):
        return "offline"
    return config.mode


def mirrors(config: WandbConfig | None) -> bool:
    """Return whether runs are mirrored at all, online or offline."""
    return mode(config) != "disabled"


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
    if config is None or chosen == "disabled" or folder in DOWN:
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
        DOWN.add(folder)
        log.warning("Weights & Biases does not answer (%s); the run goes on without it", first_line(error))
        return None
    return logger


def outcome(record: RunRecord) -> dict[str, Any]:
    """Return what the summary of a mirrored run holds of its record."""
    summary = {f"{part}/{name}": v for part, values in record.metrics.items() for name, v in values.items()}
    return {
        **summary,
        "status": record.status,
        "error": record.error,
        "epochs": record.epochs,
        "ms_per_user": record.ms_per_user,
        "seconds": record.stage_seconds,
        "peak_memory": record.peak_memory,
        "parameters": record.parameters,
    }


def close_mirror(logger: Logger | None, record: RunRecord) -> None:
    """Write the record's outcome to the summary of the mirrored run and end it."""
    if logger is None:
        return
    try:
        run: Any = logger.experiment  # type: ignore[attr-defined]
        run.summary.update(outcome(record))
        run.finish(exit_code=0 if record.status == "finished" else 1)
    except Exception as error:
        log.warning("Weights & Biases does not answer (%s); the record is complete without it", first_line(error))


def log_finished(
    config: WandbConfig,
    folder: Path,
    *,
    run_id: str,
    name: str,
    group: str,
    parameters: dict[str, Any],
    record: RunRecord | None,
    summary: dict[str, Any],
) -> None:
    """Mirror a trial that is over: its parameters, validation curve, outcome and cost.

    Raises:
        Exception: whatever W&B raises; nothing is half-marked then.
    """
    spec = {} if record is None else {**record.spec, "model": record.label, "key": record.key}
    run = _init(
        config, folder, id=run_id, name=name, group=group, job_type="trial", config={**spec, "search": parameters}
    )
    try:
        for row in [] if record is None else record.curve:
            plain = ("epoch", "train_loss")
            run.log({k if k in plain else f"valid/{k}": v for k, v in row.items() if v is not None})
        run.summary.update({**({} if record is None else outcome(record)), **summary})
    finally:
        run.finish(exit_code=1 if summary.get("state") == "failed" else 0)


def log_summary(
    config: WandbConfig | None,
    folder: Path,
    name: str,
    table: tuple[list[str], list[list[str]]],
    figures: dict[str, Any],
    paths: Sequence[Path],
    records: Mapping[str, Path],
) -> None:
    """Mirror the outcome of an experiment as a run of its own, once for each outcome.

    W&B gets a minute; that it does not answer stops nothing.

    Args:
        config: the experiment's; None or disabled: nothing is mirrored.
        folder: of offline runs.
        name: of the experiment.
        table: headings and rows of the comparison table.
        figures: Plotly figures by name.
        paths: the written files, kept as an artifact.
        records: the records of the runs by file name, kept as another.
    """
    if config is None or not mirrors(config) or folder in DOWN:
        return
    told = [name, table, [path.name for path in paths], sorted(records)]
    key = hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
    mark = folder / "summaries" / key
    if mark.exists():
        return

    def send() -> None:
        try:
            import wandb

            run = _init(config, folder, id=key, name=f"{name}-summary", group=name, job_type="summary", config={})
            shown = {title: wandb.Plotly(figure) for title, figure in figures.items()}
            run.log({"comparison": wandb.Table(columns=list(table[0]), data=table[1]), **shown})
            files = {path.name: path for path in paths}
            for kind, of in (("results", files), ("records", records)):
                artifact = wandb.Artifact(f"{name}-{kind}", type=kind)
                for file, path in of.items():
                    artifact.add_file(str(path), name=file)
                run.log_artifact(artifact)
            run.finish()
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
        except Exception as error:
            log.warning("Weights & Biases does not answer (%s); the table is complete without it", first_line(error))

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    thread.join(60)
    if thread.is_alive():
        log.warning("Weights & Biases is slow; the table is complete without it")


def _init(tracking: WandbConfig, folder: Path, **told: Any) -> Any:
    """Return a new W&B run beside any other of this process."""
    try:
        import wandb
    except ModuleNotFoundError:
        raise missing_extra("wandb", "wandb") from None
    chosen = mode(tracking)
    folder.mkdir(parents=True, exist_ok=True)
    return wandb.init(
        project=tracking.project,
        entity=tracking.entity,
        resume="allow" if chosen == "online" else None,
        dir=folder,
        mode="offline" if chosen == "offline" else "online",
        settings=wandb.Settings(silent=True, console="off", x_disable_stats=True, init_timeout=20),
        reinit="create_new",
        **told,
    )
