"""Checks a written table against what it rests on: data, records, ranks, files; repeats runs and compares them."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from benchmark.data.batch import BatchSpec
from benchmark.data.datamodule import RecDataModule
from benchmark.digest import file_sha256
from benchmark.errors import InputError
from benchmark.evaluation.metrics import GENERATION_METRICS, parse_metric
from benchmark.experiment import Experiment, RunSpec
from benchmark.reports import learning_curve, render, slices, transfer
from benchmark.reports import manifest as manifests
from benchmark.reports.manifest import Manifest, RunEntry
from benchmark.reports.part import Part, part
from benchmark.reports.table import build
from benchmark.runs.execute import PreparedData, candidates_fingerprint, execute, run_key
from benchmark.runs.outcomes import read
from benchmark.runs.record import RANKS, RECORD, RunRecord, RunStore
from benchmark.runs.run import named, prepare

_EXACT = 1e-9  # recomputed from the same ranks a metric differs by rounding alone


@dataclass(frozen=True)
class Finding:
    """One thing that was checked. ``fault``: it is not as it should be; else it is told for information."""

    what: str
    said: str
    fault: bool = False


def check(
    experiment: Experiment,
    data: PreparedData,
    store: RunStore,
    folder: Path,
    notes: Mapping[str, str] | None = None,
    rerun: int = 0,
    seed: int = 0,
    tolerance: float = 1e-3,
    console: Console | None = None,
) -> tuple[list[Finding], Part | None]:
    """Return what was found, and what the sound records say: the part of the table, None where it cannot be read.

    Args:
        experiment: with what a sweep selected, where one did.
        data: of it, prepared anew.
        store: of the records.
        folder: of the written table and its manifest.
        notes: under the table, by label.
        rerun: so many runs are repeated, in a folder that is removed afterwards; all where there are fewer.
        seed: of their choice.
        tolerance: largest difference of a metric that a repeated run may have.
        console: where to show the progress of repeated runs.

    Raises:
        InputError: there is no manifest.
    """
    manifest = manifests.read(folder)
    out = [*_files(manifest, folder), *_data(manifest, experiment, data), *_plan(manifest, experiment, data)]
    there = {(model, seed): key for key, told in manifest.runs.items() for _, model, seed in told.rows}
    sound: dict[str, RunRecord] = {}
    for key, told in manifest.runs.items():
        found, record = _record(key, told, store)
        out += found
        if record is not None and not any(f.fault for f in found):
            sound[key] = record
    out += _metrics(experiment, list(sound.values()), store)
    made = None
    if len(sound) == len(manifest.runs):
        asked = [(spec, sound.get(there.get((spec.label, spec.seed), ""))) for spec in experiment.specs()]
        records = [named(record, spec) if record is not None else None for spec, record in asked]
        try:
            made = part(experiment, records, store, notes, split=data.split)
        except InputError as error:
            out.append(Finding("table", str(error), True))
        else:
            out += rebuilt([made], folder)
    if rerun:
        out += _repeated(
            experiment, data, store, list(sound.values()), rerun, seed, tolerance, console or Console(quiet=True)
        )
    return out, made


def rebuilt(parts: Sequence[Part], folder: Path) -> list[Finding]:
    """Build the table of sound records anew; compare every cell of the manifest, and every file.

    Raises:
        InputError: there is no manifest.
    """
    manifest, table = manifests.read(folder), build(parts)
    out = []

    def cell_of(told: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(told.get(name) for name in ("dataset", "model", "column"))

    before, now = ({cell_of(c): c for c in cells} for cells in (manifest.cells, manifests.cells(table, parts)))
    for name in dict.fromkeys([*before, *now]):
        where = f"{folder}: {', '.join(filter(None, map(str, name)))}"
        old, new = before.get(name), now.get(name)
        if old is None or new is None:
            out.append(Finding(where, "not in the manifest" if old is None else "in the manifest only", True))
            continue
        for key in ("mean", "sd", "low", "high", "p", "reason"):
            a, b = old.get(key), new.get(key)
            if a != b and not _near(a, b):
                out.append(Finding(where, f"{key} is {a} in the manifest, the records give {b}", True))
                break
    curves = learning_curve.contents(parts[0], table) if len(parts) == 1 else {}
    curves |= transfer.contents(parts) | slices.contents(parts)
    for file, content in {**render.contents(table), **curves}.items():
        path = folder / file
        if path.exists() and path.read_text(encoding="utf-8") != content:
            out.append(Finding(str(path), "is not what the records give", True))
    return out or [Finding("table", f"{len(now)} cells and the files are what the records give")]


def _near(a: Any, b: Any) -> bool:
    numbers = isinstance(a, (int, float)) and isinstance(b, (int, float))
    return numbers and math.isclose(a, b, rel_tol=1e-8, abs_tol=1e-10)


def check_joint(parts: Sequence[Part], folder: Path) -> list[Finding]:
    """Return what was found of the table of several data sets, each of which was checked by itself.

    Raises:
        InputError: there is no manifest.
    """
    return [*_files(manifests.read(folder), folder), *rebuilt(parts, folder)]


def show(name: str, found: Sequence[Finding], console: Console) -> int:
    """Print the findings, one line each; return the number of faults."""
    faults = [f for f in found if f.fault]
    for finding in found:
        mark, style = ("fault", "red") if finding.fault else ("  ok ", "green")
        console.print(Text.assemble((mark, style), f" {finding.what}: {finding.said}"), soft_wrap=True)
    verdict = (
        f"{len(faults)} faults" if len(faults) > 1 else "one fault" if faults else "everything is as it was written"
    )
    console.print(Text(f"{name}: {verdict}", style="red" if faults else "green"))
    return len(faults)


def _files(manifest: Manifest, folder: Path) -> list[Finding]:
    out = []
    for name, expected in manifest.files.items():
        path = folder / name
        if not path.exists():
            out.append(Finding(str(path), "missing; write it again: levelfield table FILE", True))
        elif file_sha256(path) != expected:
            out.append(Finding(str(path), "altered since it was written", True))
    return out or [Finding(f"{folder}", f"{len(manifest.files)} files as they were written")]


def _data(manifest: Manifest, experiment: Experiment, data: PreparedData) -> list[Finding]:
    rows = RecDataModule(data.split, experiment.task, BatchSpec("pointwise", max_history=1)).rows("test")
    now = {"data": data.fingerprint, "split": data.split_fingerprint, "candidates": candidates_fingerprint(rows)}
    out = []
    for name, value in now.items():
        before = {getattr(told, name) for told in manifest.runs.values() if told.status == "finished"}
        if before - {value}:
            other = ", ".join(sorted(h[:8] for h in before - {value}))
            out.append(Finding(name, f"{value[:8]} now, the runs were on {other}", True))
        else:
            out.append(Finding(name, f"{value[:8]}, as in every run"))
    return out


def _plan(manifest: Manifest, experiment: Experiment, data: PreparedData) -> list[Finding]:
    """Compare the runs that the file asks for with those of the manifest."""
    asked = {(spec.label, spec.seed): spec for spec in experiment.specs()}
    there = {(model, seed): (key, told) for key, told in manifest.runs.items() for _, model, seed in told.rows}
    out = []
    for name in asked.keys() - there.keys():
        out.append(Finding(_named(*name), "asked for by the file, not in the manifest", True))
    for name in there.keys() - asked.keys():
        out.append(Finding(_named(*name), "in the manifest, not asked for by the file", True))
    changed = []
    for name in sorted(asked.keys() & there.keys()):
        key, told = there[name]
        if (difference := _difference(told.spec, asked[name].resolved())) is not None:
            out.append(Finding(_named(*name), f"{difference}; the file asks for another run now", True))
        elif run_key(asked[name], data.fingerprint) != key:
            changed.append(name)
    if changed:
        some = ", ".join(dict.fromkeys(label for label, _ in changed))
        out.append(Finding("code", f"changed since {len(changed)} runs ({some}); their keys are of the earlier code"))
    return out


def _difference(before: Any, now: Any, path: str = "") -> str | None:
    """Return the first path at which two specs differ, with both values."""
    before, now = (json.loads(json.dumps(value)) for value in (before, now))
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*before, *(k for k in now if k not in before)]:
            if (found := _difference(before.get(key), now.get(key), f"{path}.{key}".lstrip("."))) is not None:
                return found
        return None
    return None if before == now else f"{path} was {before}, is {now}"


def _named(label: str, seed: int) -> str:
    return f"{label}, seed {seed}"


def _record(key: str, told: RunEntry, store: RunStore) -> tuple[list[Finding], RunRecord | None]:
    """Check one record and its files; return it where it can be read."""
    _, model, seed = told.rows[0]
    where, folder = f"{_named(model, seed)} (run {key})", store.folder(key)
    try:
        record = store.get(key)
    except InputError as error:
        return [Finding(where, str(error), True)], None
    if record is None:
        return [Finding(where, f"missing: {folder / RECORD}", True)], None
    out = []
    if file_sha256(folder / RECORD) != told.record:
        changed = _difference({"test": told.test}, {"test": record.metrics.get("test", {})})
        out.append(Finding(where, f"{RECORD} was altered{'; ' + changed if changed else ''}", True))
    for name, expected in told.files.items():
        path = folder / name
        if not path.exists():
            out.append(Finding(where, f"missing: {path}", True))
        elif file_sha256(path) != expected:
            out.append(Finding(where, f"{name} was altered", True))
    return out, record


def _metrics(experiment: Experiment, records: Sequence[RunRecord], store: RunStore) -> list[Finding]:
    """Recompute every metric of the sound records from their ranks."""
    done = [r.model_copy(update={"label": f"{r.label}, seed {r.seed}"}) for r in records]
    done = [r for r in done if r.status == "finished" and RANKS in r.files]
    metrics = [m for m in experiment.task.metrics if parse_metric(m).name not in GENERATION_METRICS]
    try:
        outcomes = read(done, metrics, experiment.task.kind, store)
    except InputError as error:
        return [Finding("metrics", str(error), True)]
    out = []
    compared = 0
    for record in done:
        for metric in metrics:
            stored = record.metrics["test"].get(metric)
            now = outcomes.seeds[record.label, metric][0]
            if metric not in record.metrics["test"]:
                continue  # asked for later: the table has it from the ranks
            compared += 1
            if (stored is None) != math.isnan(now) or (stored is not None and abs(stored - now) > _EXACT):
                out.append(
                    Finding(f"{record.label} (run {record.key})", f"{metric} is {stored}, its ranks give {now}", True)
                )
    return out or [Finding("metrics", f"{compared} recomputed from the ranks of {len(done)} runs, all the same")]


def _repeated(
    experiment: Experiment,
    data: PreparedData,
    store: RunStore,
    records: Sequence[RunRecord],
    n: int,
    seed: int,
    tolerance: float,
    console: Console,
) -> list[Finding]:
    """Repeat n finished runs in a store of their own; compare their metrics and ranks."""
    specs = {json.dumps(spec.resolved(), sort_keys=True): spec for spec in experiment.specs()}
    able = [
        (r, specs[key])
        for r in records
        if (key := json.dumps(r.spec, sort_keys=True)) in specs and r.status == "finished"
    ]
    if not able:
        return [Finding("repeated runs", "none of the sound records is of a run that the file asks for", True)]
    chosen = [able[i] for i in np.random.default_rng(seed).permutation(len(able))[:n]]
    out = []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
    )
    with tempfile.TemporaryDirectory(prefix="levelfield-verify-") as folder, Progress(*columns, console=console) as bar:
        task = bar.add_task("repeating", total=len(chosen))
        scratch = RunStore(folder)
        for record, spec in chosen:
            bar.update(task, description=f"repeating {_named(spec.label, spec.seed)}")
            for stage in spec.stages.values():
                _bring(stage, spec, data, store, scratch)
            out.append(_compared(record, execute(spec, data, scratch), spec, store, scratch, tolerance))
            bar.advance(task)
    return out


def _bring(spec: RunSpec, above: RunSpec, data: PreparedData, store: RunStore, scratch: RunStore) -> None:
    """Put what a repeated run stands on, or begins with, into the scratch store: as it is stored, or computed where
    that is missing; ``data`` are those of the run ``above``.
    """
    key = run_key(spec, data.fingerprint)
    if spec.task.split != above.task.split:  # an earlier slice
        data = prepare(spec, store.root)
    for stage in spec.stages.values():
        _bring(stage, spec, data, store, scratch)
    if scratch.get(key) is not None:
        return
    if store.get(key) is not None:
        shutil.copytree(store.folder(key), scratch.folder(key), dirs_exist_ok=True)
    else:
        execute(spec, data, scratch)


def _compared(
    before: RunRecord, now: RunRecord, spec: RunSpec, store: RunStore, scratch: RunStore, tolerance: float
) -> Finding:
    where = f"repeated {_named(spec.label, spec.seed)}"
    if now.status != "finished":
        return Finding(where, f"failed: {now.error}", True)
    pairs = [(m, v, now.metrics["test"].get(m)) for m, v in before.metrics["test"].items()]
    differences = {m: abs(a - b) for m, a, b in pairs if a is not None and b is not None}
    if store.ranks(before.key).equals(scratch.ranks(now.key)):
        return Finding(where, "the same ranks, to the last one")
    metric = max(differences, key=lambda m: differences[m]) if differences else ""
    largest = differences.get(metric, 0.0)
    said = f"largest difference {largest:.2g}" + (f" ({metric})" if metric else "")
    return Finding(where, f"{said}, allowed {tolerance:g}", largest > tolerance)
