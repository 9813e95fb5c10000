"""Where studies are kept: a journal file under runs/, or any database that Optuna reaches; opened with clear errors."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from benchmark.errors import InputError, missing_extra
from benchmark.experiment import Experiment

if TYPE_CHECKING:
    import optuna

VARIABLE = "LEVELFIELD_STORAGE"


def exists(where: str) -> bool:
    """Return whether there is something at a location, as far as that can be seen without making it."""
    if where.startswith("sqlite:///"):
        return Path(where.removeprefix("sqlite:///").partition("?")[0]).exists()
    return "://" in where or Path(where).exists()


def studies_folder(runs: str | Path) -> Path:
    return Path(runs) / "studies"


def location(experiment: Experiment, runs: str | Path, url: str | None = None) -> str:
    """Return where the studies are: ``url``, else the file's, else the environment's, else a journal under ``runs``."""
    name = experiment.sweep.study or experiment.name
    return url or experiment.sweep.storage or os.environ.get(VARIABLE) or str(studies_folder(runs) / f"{name}.journal")


def open_storage(where: str) -> optuna.storages.BaseStorage:
    """Return the storage at a database URL or in a journal file, which is made where it is missing.

    Raises:
        InputError: it cannot be reached, is damaged, or was written by another version of Optuna.
    """
    try:
        import optuna
    except ModuleNotFoundError:
        raise missing_extra("optuna", "sweep") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if "://" in where:
            return _database(where, optuna)
        return _journal(Path(where), optuna)


def _database(url: str, optuna: Any) -> Any:
    from sqlalchemy.exc import SQLAlchemyError

    shown = hidden(url)
    try:
        sqlite = url.startswith("sqlite")
        engine = {"connect_args": {"timeout": 60}} if sqlite else {"pool_pre_ping": True}
        storage = optuna.storages.RDBStorage(url, engine_kwargs=engine)
        if sqlite:
            _one_at_a_time(storage.engine)
        return storage
    except (SQLAlchemyError, ImportError, ValueError) as error:
        first = hidden(str(error).strip().splitlines()[0])
        raise InputError(f"storage {shown}: cannot be reached: {first}") from None
    except RuntimeError as error:
        raise InputError(f"storage {shown}: of another version: {' '.join(str(error).split())}") from None


def _one_at_a_time(engine: Any) -> None:
    """Let transactions of SQLite take turns: it ignores the row locks by which Optuna gives a trial to one process."""
    from sqlalchemy import event

    @event.listens_for(engine, "connect")
    def _(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # else the driver begins transactions in its own way

    @event.listens_for(engine, "begin")
    def _(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    engine.dispose()


def _journal(path: Path, optuna: Any) -> Any:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _Lock(path)
        lock.acquire()  # cuts off half a line, before it is read
        lock.release()
        return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path), lock_obj=lock))
    except OSError as error:
        raise InputError(f"storage {path}: cannot be opened ({error.strerror}); choose another --runs folder") from None
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError, NotImplementedError) as error:
        text = str(error).strip() or type(error).__name__
        raise InputError(
            f"storage {path}: damaged or of another version ({text}); move it away, or name a new study: sweep.study"
        ) from None


class _Lock:
    """The journal's lock, freed by the system when its holder is killed; Optuna's own would stay for half a minute.

    Who holds it writes behind whole lines: half a line of a killed process is cut off first.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._lock = path, FileLock(f"{path}.lock")

    def acquire(self) -> bool:
        self._lock.acquire()
        try:
            _cut_torn_end(self._path)
        except BaseException:
            self._lock.release()
            raise
        return True

    def release(self) -> None:
        self._lock.release()


def _cut_torn_end(path: Path) -> None:
    """Remove a last line that a killed process did not finish: what it says never happened."""
    if not path.exists() or not path.stat().st_size:
        return
    with open(path, "rb+") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def hidden(text: str) -> str:
    """Return a text with the passwords of URLs hidden."""
    text = re.sub(r"(\w+://[^:/@\s]*):\S*@", r"\1:***@", text)
    return re.sub(r"([?&]password=)[^&\s]+", r"\1***", text)
