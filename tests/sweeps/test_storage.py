"""Where studies are kept: found by a clear order, opened with clear errors, whole after a kill, silent on passwords."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna")

from benchmark.errors import InputError
from benchmark.experiment import Experiment
from benchmark.sweeps.storage import VARIABLE, hidden, location, open_storage
from tests.sweeps.searched import EASE, MF, RATE, experiment, opened, search_without_training
from tests.test_cli import levelfield, one_line

SECRET = "hunter2"


@pytest.fixture
def tiny(tiny_experiment: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    monkeypatch.delenv(VARIABLE, raising=False)
    return experiment(tiny_experiment, {"mf": MF % RATE}, "{trials: 3, sampler: random}")


def operations(journal: Path) -> list[dict[str, Any]]:
    """Return what was done to studies, which opening one again does not change."""
    lines = map(json.loads, journal.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if "directions" not in line]


# --- where -----------------------------------------------------------------------------------------------------------


def test_the_option_wins_over_the_file_over_the_environment_over_a_journal_in_the_folder_of_runs(
    tiny: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert location(tiny, "runs") == "runs/studies/tiny.journal"
    named = tiny.model_copy(update={"sweep": tiny.sweep.model_copy(update={"study": "second"})})
    assert location(named, "runs") == "runs/studies/second.journal"
    monkeypatch.setenv(VARIABLE, "sqlite:///environment.db")
    assert location(tiny, "runs") == "sqlite:///environment.db"
    in_file = tiny.model_copy(update={"sweep": tiny.sweep.model_copy(update={"storage": "sqlite:///file.db"})})
    assert location(in_file, "runs") == "sqlite:///file.db"
    assert location(in_file, "runs", "sqlite:///option.db") == "sqlite:///option.db"


@pytest.mark.parametrize("kind", ["journal", "database"])
def test_what_one_process_wrote_another_one_reads(tiny: Experiment, tmp_path: Path, kind: str) -> None:
    where = None if kind == "journal" else f"sqlite:///{tmp_path / 'studies.db'}"
    study = opened(tiny, "mf", tmp_path / "runs", where)
    parameters = search_without_training(study)
    again = opened(tiny, "mf", tmp_path / "runs", where)
    assert again.finished
    assert [t.params for t in again.trials()] == parameters
    assert [t.values for t in again.trials()] == [t.values for t in study.trials()]
    assert (tmp_path / "runs" / "studies" / "tiny.journal").exists() == (kind == "journal")


def test_the_environment_is_enough_for_a_database(
    tiny: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, f"sqlite:///{tmp_path / 'studies.db'}")
    search_without_training(opened(tiny, "mf", tmp_path / "runs"))
    assert (tmp_path / "studies.db").exists()
    assert not list((tmp_path / "runs").rglob("*.journal"))


# --- what cannot be opened -------------------------------------------------------------------------------------------


def refused(where: str) -> str:
    with pytest.raises(InputError) as caught:
        open_storage(where)
    text = str(caught.value)
    assert "\n" not in text
    assert SECRET not in text
    return text


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////nowhere/at/all/studies.db",
        f"postgresql://me:{SECRET}@localhost:1/base",
        f"postgresql+psycopg2://me:{SECRET}@unknown.invalid/base",
        f"mysql://me:{SECRET}@localhost:1/base",
        f"carrierpigeon://me:{SECRET}@host/base",
        f"postgresql://me:{SECRET}@host:port/base",
        f"postgresql://:{SECRET}@host:port/base",
    ],
)
def test_a_database_that_cannot_be_reached_is_named_without_its_password(url: str) -> None:
    said = refused(url)
    assert said.startswith("storage ")
    assert ": cannot be reached: " in said
    assert url.partition("://")[0] in said


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:{SECRET}@host/base",
        f"postgresql+psycopg2://me:{SECRET}@host:5432/base?sslmode=require",
        f"mysql://me:{SECRET}/{SECRET}@host/base",
        f"mysql://me:@{SECRET}@host/base",
        f"redis://:{SECRET}@host",
        f"postgresql://host/base?user=me&password={SECRET}",
    ],
)
def test_no_part_of_a_password_is_shown_and_the_rest_is(url: str) -> None:
    shown = hidden(f"cannot connect to {url}, sorry")
    assert SECRET not in shown
    assert "host" in shown
    assert shown.startswith(f"cannot connect to {url.partition('://')[0]}://")


def test_a_url_without_a_password_is_shown_as_it_is() -> None:
    for url in ("sqlite:////tmp/studies.db", "postgresql://host:5432/base", "postgresql://me@host/base"):
        assert hidden(url) == url


def test_a_file_that_is_no_database_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "studies.db"
    path.write_text("this is a letter to my mother, " * 40, encoding="utf-8")
    before = path.read_bytes()
    assert "file is not a database" in refused(f"sqlite:///{path}")
    assert path.read_bytes() == before


@pytest.mark.parametrize(("version", "way_out"), [("v2.6.0.a", "upgrade"), ("v9.0.0.a", "updating optuna")])
def test_a_database_of_another_version_of_optuna_is_refused_with_a_way_out(
    tiny: Experiment, tmp_path: Path, version: str, way_out: str
) -> None:
    path = tmp_path / "studies.db"
    opened(tiny, "mf", tmp_path, f"sqlite:///{path}")
    connection = sqlite3.connect(path)
    with connection:
        assert connection.execute("UPDATE alembic_version SET version_num = ?", [version]).rowcount == 1
    connection.close()
    before = path.read_bytes()
    said = refused(f"sqlite:///{path}")
    assert said.startswith(f"storage sqlite:///{path}: of another version: ")
    assert way_out in said
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "line",
    [
        b"not a line of a journal",
        b'{"op_code": 99, "worker_id": "of a later version"}',
        b'{"op_code": 4}',
        b'{"worker_id": "without an operation"}',
        b"[1, 2]",
        b"17",
        b"null",
        b"\xff\xfe\x00",
    ],
    ids=["words", "unknown operation", "fields missing", "no operation", "list", "number", "null", "bytes"],
)
def test_a_journal_that_is_damaged_or_of_another_version_is_refused_and_left_as_it_is(
    tiny: Experiment, tmp_path: Path, line: bytes
) -> None:
    search_without_training(opened(tiny, "mf", tmp_path))
    path = tmp_path / "studies" / "tiny.journal"
    begin, *rest = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([begin, line + b"\n", *rest]))
    before = path.read_bytes()
    said = refused(str(path))
    assert said.startswith(f"storage {path}: damaged or of another version (")
    assert said.endswith("move it away, or name a new study: sweep.study")
    assert path.read_bytes() == before


def test_a_place_that_cannot_hold_a_journal_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert "cannot be opened (" in refused(str(tmp_path / "file" / "studies" / "tiny.journal"))
    (tmp_path / "folder").mkdir()
    assert "cannot be opened (" in refused(str(tmp_path / "folder"))


# --- through the command line ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["sqlite:////nowhere/at/all/studies.db", f"postgresql://me:{SECRET}@unknown.invalid/base"]
)
@pytest.mark.parametrize("given", ["option", "file", "environment"])
def test_a_storage_out_of_reach_ends_the_sweep_before_it_begins(
    tiny_experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, given: str
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    experiment(tiny_experiment, {"ease": EASE})
    arguments: list[object] = [tiny_experiment, "--runs", tmp_path / "runs", "--results", tmp_path / "results"]
    if given == "environment":
        monkeypatch.setenv(VARIABLE, url)
    else:
        arguments += ["--storage", url] if given == "option" else [f"sweep.storage={url}"]
    done = levelfield("sweep", *arguments)
    assert "cannot be reached" in one_line(done)
    assert SECRET not in done.stderr + done.stdout
    assert not (tmp_path / "results").exists()
    assert not list((tmp_path / "runs").rglob("record.json"))
    assert not (tmp_path / "runs" / "studies").exists()


def test_a_study_that_is_about_something_else_ends_the_sweep_before_it_begins(
    tiny: Experiment, tiny_experiment: Path, tmp_path: Path
) -> None:
    from benchmark.runs.run import prepare

    data = prepare(tiny, tmp_path / "runs")
    opened(tiny, "mf", tmp_path / "runs", data=data.fingerprint)
    path = tmp_path / "runs" / "studies" / "tiny.journal"
    before = operations(path)
    folders = ["--runs", tmp_path / "runs", "--results", tmp_path / "results"]
    said = one_line(levelfield("sweep", tiny_experiment, "models.mf.search.learning_rate.high=0.6", *folders))
    assert "study 'tiny/mf': it was begun with space.learning_rate.high = 0.5, the file has 0.6" in said
    ratings = tmp_path / "interactions.csv"
    ratings.write_text(ratings.read_text(encoding="utf-8") + "u1,i39,5,2000\n", encoding="utf-8")
    assert "the data changed since it began" in one_line(levelfield("sweep", tiny_experiment, *folders))
    assert operations(path) == before
    assert not (tmp_path / "results").exists()
    assert not list((tmp_path / "runs").glob("*/record.json"))


# --- kills -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("torn", [b'{"op_code":5,"worker_', b"x" * (1 << 20), b"\x00" * 4096])
def test_a_line_that_a_killed_process_did_not_finish_is_forgotten(
    tiny: Experiment, tmp_path: Path, torn: bytes
) -> None:
    search_without_training(opened(tiny, "mf", tmp_path))
    path = tmp_path / "studies" / "tiny.journal"
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    open_storage(str(path))
    assert path.read_bytes() == whole
    again = opened(tiny, "mf", tmp_path)
    assert again.finished, "and what comes behind it is written to a line of its own"
    assert len(again.trials()) == 3


def test_a_living_process_writes_behind_whole_lines_too(tiny: Experiment, tmp_path: Path) -> None:
    study = opened(tiny, "mf", tmp_path)
    path = tmp_path / "studies" / "tiny.journal"
    path.write_bytes(path.read_bytes() + b'{"op_code":5,"worker_')  # of another one, killed meanwhile
    assert study.claim() is not None
    assert opened(tiny, "mf", tmp_path).trials()[0].state.name == "RUNNING"


def test_the_lock_of_a_killed_process_is_free_at_once(tiny: Experiment, tmp_path: Path) -> None:
    study = opened(tiny, "mf", tmp_path)
    code = "import sys, filelock; filelock.FileLock(sys.argv[1]).acquire(); print('held', flush=True); input()"
    lock = str(tmp_path / "studies" / "tiny.journal.lock")
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code, lock], **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        process.kill()
    start = time.monotonic()
    assert study.claim() is not None
    assert time.monotonic() - start < 5, "Optuna's own lock would be broken behind half a minute"
