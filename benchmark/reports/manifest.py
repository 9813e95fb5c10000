"""The manifest: for each cell its runs, for each run all that repeats it, for each file its hash; read and written."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from benchmark.digest import file_sha256
from benchmark.errors import InputError
from benchmark.experiment import RunSpec
from benchmark.reports.part import Part
from benchmark.reports.table import ComparisonTable
from benchmark.runs.record import RECORD, RunStore, whole_file
from benchmark.runs.run import LAPS

MANIFEST = "manifest.json"


class RunEntry(BaseModel):
    """What a manifest must say of a run to be checked; it says more."""

    model_config = ConfigDict(extra="allow")

    rows: list[tuple[str, str, int]]  # (experiment, model, seed): one run may stand in several rows
    status: str
    spec: dict[str, Any]
    data: str
    split: str
    candidates: str
    test: dict[str, float | None]
    record: str
    files: dict[str, str]


class Manifest(BaseModel):
    """A read manifest."""

    name: str
    protocols: list[str]
    cells: list[dict[str, Any]]
    runs: dict[str, RunEntry]
    files: dict[str, str]

    @field_validator("files")
    @classmethod
    def _plain_names(cls, files: dict[str, str]) -> dict[str, str]:
        for name in files:
            if Path(name).name != name:
                raise ValueError(f"'{name}' is not the name of a file beside it")
        return files


def repeat_command(
    file: str, overrides: Sequence[str], spec: RunSpec, selected: Mapping[str, Mapping[str, Any]]
) -> str:
    """Return the command that computes one run anew, in folders of its own.

    Args:
        file, overrides: the experiment, as it was given.
        spec: of the run.
        selected: by label and path, the hyper-parameters that a sweep selected; the file does not say them.
    """
    used = {spec.label}

    def below(stages: Mapping[str, RunSpec]) -> None:
        for stage in stages.values():
            used.add(stage.label)
            below(stage.stages)

    below(spec.stages)
    chosen = [f"models.{m}.{path}={json.dumps(v)}" for m in sorted(used) for path, v in selected.get(m, {}).items()]
    words = ["levelfield", "run", file, *overrides, f"seeds=[{spec.seed}]", *chosen, "--only", spec.label, "--defaults"]
    return shlex.join([*words, "--runs", "repeated/runs", "--results", "repeated/results"])


def cells(table: ComparisonTable, parts: Sequence[Part]) -> list[dict[str, Any]]:
    """Return every cell that was measured, with its numbers and the keys of its runs."""
    out = []
    for p in parts:
        for label, records in p.by_label.items():
            keys = [record.key for record in records if record is not None]
            row = next(row for row in table.rows if row.label == label)
            for column, cell in zip(table.columns, row.cells, strict=True):
                if column.dataset in ("", p.dataset) and column.kind in ("metric", "beyond", "measured", "cost"):
                    told = {"mean": cell.mean, "sd": cell.sd, "low": cell.low, "high": cell.high, "p": cell.p}
                    # the last digits of a sum depend on how it was summed
                    known = {name: float(f"{value:.10g}") for name, value in told.items() if value is not None}
                    where = {"dataset": p.dataset, "model": label, "column": column.name, "runs": keys}
                    out.append({**where, **known, **({"reason": cell.reason} if cell.reason else {})})
    return out


def build(table: ComparisonTable, parts: Sequence[Part], store: RunStore, files: Sequence[Path]) -> dict[str, Any]:
    """Return the manifest of a written table as JSON values."""
    runs: dict[str, Any] = {}
    for p in parts:
        for label, records in p.by_label.items():
            for record in records:
                if record is None:
                    continue
                if record.key in runs:  # one configuration under two labels
                    runs[record.key]["rows"].append([p.experiment.name, label, record.seed])
                    continue
                runs[record.key] = {
                    "rows": [[p.experiment.name, label, record.seed]],
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
                    "record": file_sha256(store.folder(record.key) / RECORD),
                    "files": record.files,
                    "environment": record.environment,
                }
    written = {path.name: file_sha256(path) for path in files}
    return {
        "name": table.name,
        "protocols": list(table.protocols),
        "cells": cells(table, parts),
        "runs": runs,
        "files": written,
    }


def write(manifest: dict[str, Any], folder: Path) -> Path:
    """Write manifest.json under ``folder``; return its path."""
    path = folder / MANIFEST
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return path


def read(folder: Path) -> Manifest:
    """Return a written manifest.

    Raises:
        InputError: it is not there, or is none.
    """
    path = folder / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; first: levelfield table FILE") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(map(str, fault["loc"])) or "the file"
        raise InputError(
            f"{path}: not a manifest: {where}: {fault['msg']}; write it again: levelfield table FILE"
        ) from None


def earlier_seconds(folder: Path) -> dict[str, float]:
    """Return seconds a run by model from a written manifest, to tell the time left; none where it cannot be read."""
    try:
        runs = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["runs"].values()
        return {r["model"]: sum(v for k, v in r["seconds"].items() if k in LAPS) for r in runs}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
