"""The manifest: for each cell its runs, for each run all that repeats it, for each file its hash; read and written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.errors import InputError
from benchmark.experiment import RunSpec
from benchmark.reports.table import ComparisonTable, Part
from benchmark.runs.record import RECORD, RunStore, whole_file

MANIFEST = "manifest.json"


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def repeat_command(file: str, spec: RunSpec, values: dict[str, Any]) -> str:
    """Return the command that computes one run anew, in folders of its own.

    Args:
        file: the experiment file, as it was given.
        spec: of the run.
        values: hyper-parameters that a sweep selected, by path; the file does not say them.
    """
    chosen = "".join(f" 'models.{spec.label}.{path}={_yaml(value)}'" for path, value in values.items())
    return (
        f"levelfield run {file} --only {spec.label} 'seeds=[{spec.seed}]'{chosen} --defaults "
        "--runs repeated/runs --results repeated/results"
    )


def _yaml(value: Any) -> str:
    return json.dumps(value)


def build(table: ComparisonTable, parts: Sequence[Part], store: RunStore, files: Sequence[Path]) -> dict[str, Any]:
    """Return the manifest of a written table as JSON values."""
    runs: dict[str, Any] = {}
    cells = []
    for p in parts:
        for label, records in p.by_label.items():
            keys = []
            for record in records:
                if record is None:
                    continue
                keys.append(record.key)
                runs[record.key] = {
                    "experiment": p.experiment.name,
                    "model": label,
                    "seed": record.seed,
                    "status": record.status,
                    "error": record.error,
                    "spec": record.spec,
                    "data": record.data_fingerprint,
                    "split": record.split_fingerprint,
                    "candidates": record.candidates_fingerprint,
                    "code_version": record.code_version,
                    "test": record.metrics.get("test", {}),
                    "seconds": record.stage_seconds,
                    "peak_memory": record.peak_memory,
                    "energy_wh": record.energy_wh,
                    "parameters": record.parameters,
                    "record": sha256(store.folder(record.key) / RECORD),
                    "files": record.files,
                    "environment": record.environment,
                }
            row = next(row for row in table.rows if row.label == label)
            for column, cell in zip(table.columns, row.cells, strict=True):
                if column.dataset in ("", p.dataset) and column.kind in ("metric", "cost"):
                    told = {"mean": cell.mean, "sd": cell.sd, "low": cell.low, "high": cell.high, "p": cell.p}
                    known = {name: value for name, value in told.items() if value is not None}
                    where = {"dataset": p.dataset, "model": label, "column": column.name, "runs": keys}
                    cells.append({**where, **known, **({"reason": cell.reason} if cell.reason else {})})
    written = {path.name: sha256(path) for path in files}
    return {"name": table.name, "protocols": list(table.protocols), "cells": cells, "runs": runs, "files": written}


def write(manifest: dict[str, Any], folder: Path) -> Path:
    """Write manifest.json under ``folder``; return its path."""
    path = folder / MANIFEST
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return path


def read(folder: Path) -> dict[str, Any]:
    """Return a written manifest.

    Raises:
        InputError: it is not there, or is none.
    """
    path = folder / MANIFEST
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not all(isinstance(found[key], kind) for key, kind in (("cells", list), ("runs", dict), ("files", dict))):
            raise ValueError("cells, runs or files are not what they should be")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; first: levelfield table FILE") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a manifest ({error}); write it again: levelfield table FILE") from None
    return found
