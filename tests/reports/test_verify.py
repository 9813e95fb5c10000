"""Verification: a sound table passes; whatever is altered or missing is found and named; repeated runs are the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from benchmark.digest import file_sha256
from benchmark.errors import InputError
from benchmark.experiment import Experiment
from benchmark.reports import manifest, render
from benchmark.reports.part import part
from benchmark.reports.table import build
from benchmark.reports.verify import Finding, check
from benchmark.runs.record import RunStore
from benchmark.runs.run import prepare, run


@pytest.fixture
def sound(tiny_experiment: Path, tmp_path: Path) -> Callable[..., list[Finding]]:
    """A written table of real runs; the fixture checks it and gives the faults."""
    store, folder = RunStore(tmp_path / "runs"), tmp_path / "results" / "tiny"
    experiment = Experiment.load(tiny_experiment)
    parts = [part(experiment, run(experiment, store.root), store)]
    table = build(parts)
    manifest.write(manifest.build(table, parts, store, render.write(table, folder)), folder)

    def faults(*overrides: str, rerun: int = 0, all_of_them: bool = False) -> list[Finding]:
        asked = Experiment.load(tiny_experiment, overrides)
        found, _ = check(asked, prepare(asked, store.root), store, folder, rerun=rerun)
        return found if all_of_them else [f for f in found if f.fault]

    return faults


def key_of(tmp_path: Path, label: str, seed: int = 0) -> str:
    runs = json.loads((tmp_path / "results" / "tiny" / "manifest.json").read_text())["runs"]
    return next(key for key, told in runs.items() if ["tiny", label, seed] in told["rows"])


def test_a_sound_table_has_no_fault_and_its_runs_repeat(sound: Callable[..., list[Finding]]) -> None:
    assert sound() == []
    said = [f"{f.what}: {f.said}" for f in sound(rerun=2, all_of_them=True)]
    assert "metrics: 12 recomputed from the ranks of 6 runs, all the same" in said
    assert sum(line.startswith("repeated ") and "the same ranks" in line for line in said) == 2
    assert any(line.startswith("candidates: full") for line in said)


def test_the_manifest_tells_each_cell_its_runs_and_each_run_all_that_repeats_it(
    sound: Callable[..., list[Finding]], tiny_experiment: Path, tmp_path: Path
) -> None:
    told = json.loads((tmp_path / "results" / "tiny" / "manifest.json").read_text())
    assert len(told["cells"]) == 3 * 4
    for cell in told["cells"]:
        assert [told["runs"][key]["model"] for key in cell["runs"]] == [cell["model"]] * 2
    specs = {(s.label, s.seed): s.resolved() for s in Experiment.load(tiny_experiment).specs()}
    for run_ in told["runs"].values():
        assert run_["spec"] == json.loads(json.dumps(specs[run_["model"], run_["seed"]]))
        for name in ("data", "split", "candidates", "code_version", "record", "environment"):
            assert run_[name], name
    assert set(told["files"]) == {"table.md", "table.tex", "table.csv", "table.html"}


def test_an_altered_table(sound: Callable[..., list[Finding]], tmp_path: Path) -> None:
    folder = tmp_path / "results" / "tiny"
    text = (folder / "table.csv").read_text()
    mean = next(line for line in text.splitlines() if line.startswith("ease")).split(",")[5]
    (folder / "table.csv").write_text(text.replace(mean, "0.999999"))
    (folder / "table.tex").unlink()
    said = [f"{Path(f.what.split(':')[0]).name}: {f.said}" for f in sound()]
    assert "table.tex: missing; write it again: levelfield table FILE" in said
    assert "table.csv: altered since it was written" in said
    assert "table.csv: is not what the records give" in said


def test_a_table_forged_with_its_manifest(sound: Callable[..., list[Finding]], tmp_path: Path) -> None:
    """Every number and every hash agrees with every other one; the ranks do not."""
    folder = tmp_path / "results" / "tiny"
    told = json.loads((folder / "manifest.json").read_text())
    cell = next(c for c in told["cells"] if (c["model"], c["column"]) == ("ease", "auc"))
    for name in ("table.md", "table.tex", "table.csv", "table.html"):
        text = (folder / name).read_text()
        for old in (f"{cell['mean']:.4f}", f"{cell['mean']:.6f}"):
            text = text.replace(old, "0.9876")
        (folder / name).write_text(text)
        told["files"][name] = file_sha256(folder / name)
    cell["mean"] = 0.9876
    (folder / "manifest.json").write_text(json.dumps(told))
    said = [f"{f.what}: {f.said}" for f in sound()]
    assert any("tiny, ease, auc: mean is 0.9876 in the manifest, the records give" in line for line in said)
    assert any("table.md: is not what the records give" in line for line in said)


def test_one_configuration_under_two_labels(tiny_experiment: Path, tmp_path: Path) -> None:
    text = tiny_experiment.read_text(encoding="utf-8")
    tiny_experiment.write_text(text.replace("  mf:", "  'a|b_<x>&%': {class: baselines.ease.EASE, l2: 10.0}\n  mf:"))
    store, folder = RunStore(tmp_path / "runs"), tmp_path / "results" / "tiny"
    experiment = Experiment.load(tiny_experiment)
    parts = [part(experiment, run(experiment, store.root), store)]
    table = build(parts)
    manifest.write(manifest.build(table, parts, store, render.write(table, folder)), folder)
    found, _ = check(experiment, prepare(experiment, store.root), store, folder)
    assert [f for f in found if f.fault] == []


def test_an_altered_record(sound: Callable[..., list[Finding]], tmp_path: Path) -> None:
    key = key_of(tmp_path, "ease")
    path = tmp_path / "runs" / key / "record.json"
    told = json.loads(path.read_text())
    before = told["metrics"]["test"]["auc"]
    told["metrics"]["test"]["auc"] = 0.99
    path.write_text(json.dumps(told))
    (fault,) = sound()
    assert fault.what == f"ease, seed 0 (run {key})"
    assert fault.said == f"record.json was altered; test.auc was {before}, is 0.99"


def test_altered_ranks(sound: Callable[..., list[Finding]], tmp_path: Path) -> None:
    key = key_of(tmp_path, "mf", 1)
    path = tmp_path / "runs" / key / "ranks.parquet"
    pl.read_parquet(path).with_columns(above=pl.lit(0, pl.Int32)).write_parquet(path)
    (fault,) = sound()
    assert (fault.what, fault.said) == (f"mf, seed 1 (run {key})", "ranks.parquet was altered")


def test_ranks_and_record_altered_together_are_found_by_the_hash_of_the_record(
    sound: Callable[..., list[Finding]], tmp_path: Path
) -> None:
    key = key_of(tmp_path, "mf")
    folder = tmp_path / "runs" / key
    pl.read_parquet(folder / "ranks.parquet").with_columns(above=pl.lit(0, pl.Int32)).write_parquet(
        folder / "ranks.parquet"
    )
    told = json.loads((folder / "record.json").read_text())
    told["files"]["ranks.parquet"] = file_sha256(folder / "ranks.parquet")
    (folder / "record.json").write_text(json.dumps(told))
    assert any("record.json was altered" in fault.said for fault in sound())


def test_a_missing_record_and_a_missing_file(sound: Callable[..., list[Finding]], tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    (runs / key_of(tmp_path, "mf") / "record.json").unlink()
    (runs / key_of(tmp_path, "ease") / "top.parquet").unlink()
    said = {fault.what.split(" (")[0]: fault.said for fault in sound()}
    assert said["mf, seed 0"].startswith("missing: ")
    assert said["mf, seed 0"].endswith("record.json")
    assert said["ease, seed 0"].endswith("top.parquet")


def test_data_that_changed_since(sound: Callable[..., list[Finding]], tmp_path: Path) -> None:
    path = tmp_path / "interactions.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-1]) + "\n")
    said = {fault.what: fault.said for fault in sound()}
    assert set(said) == {"data", "split"}
    assert "now, the runs were on" in said["data"]


def test_a_file_that_asks_for_other_runs_now(sound: Callable[..., list[Finding]]) -> None:
    said = {fault.what: fault.said for fault in sound("models.ease.l2=99.0", "seeds=[0, 2]")}
    assert said["ease, seed 0"] == "config.l2 was 10.0, is 99.0; the file asks for another run now"
    assert said["mf, seed 2"] == "asked for by the file, not in the manifest"
    assert said["mf, seed 1"] == "in the manifest, not asked for by the file"


def test_a_changed_code_is_told_and_is_no_fault(
    sound: Callable[..., list[Finding]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmark.reports.verify.run_key", lambda spec, data: "other")
    (told,) = [f for f in sound(all_of_them=True) if f.what == "code"]
    assert not told.fault
    assert "changed since 6 runs (ease, mf, popularity)" in told.said


def test_a_repeated_run_that_comes_out_otherwise_is_a_fault(
    sound: Callable[..., list[Finding]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmark.reports import verify

    real = verify.execute

    def broken(spec, data, store):  # type: ignore[no-untyped-def]
        record = real(spec, data, store)
        frame = store.ranks(record.key).with_columns(above=pl.lit(30, pl.Int32))
        store.write_parquet(record.key, "ranks.parquet", frame)
        return record.model_copy(update={"metrics": {"test": {"ndcg@10": 0.0, "auc": 0.0}}})

    monkeypatch.setattr(verify, "execute", broken)
    (fault,) = sound(rerun=1)
    assert fault.what.startswith("repeated ")
    assert "largest difference" in fault.said


def test_no_manifest_and_a_broken_one(sound: Callable[..., list[Finding]], tmp_path: Path) -> None:
    path = tmp_path / "results" / "tiny" / "manifest.json"
    good = json.loads(path.read_text())
    key = next(iter(good["runs"]))
    broken = ({**good, "cells": [3]}, {**good, "runs": {key: {"rows": []}}}, {**good, "files": {"../x": "y"}}, 7)
    for text in ("{", *map(json.dumps, broken)):
        path.write_text(text)
        with pytest.raises(InputError, match=r"manifest.json: not a manifest: .*; write it again"):
            sound()
    path.unlink()
    with pytest.raises(InputError, match=r"no such file; first: levelfield table FILE"):
        sound()
