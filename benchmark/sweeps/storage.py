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
        engine = {"connect_args": {"timeout": 60}} if url.startswith("sqlite") else {"pool_pre_ping": True}
        return optuna.storages.RDBStorage(url, engine_kwargs=engine)
    except (SQLAlchemyError, ImportError, ValueError) as error:
        first = hidden(str(error).strip().splitlines()[0])
        raise InputError(f"storage {shown}: cannot be reached: {first}") from None
    except RuntimeError as error:
        raise InputError(f"storage {shown}: of another version: {' '.join(str(error).split())}") from None


def _journal(path: Path, optuna: Any) -> Any:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _Lock(path)
        _cut_torn_end(path, lock)
        return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path), lock_obj=lock))
    except OSError as error:
        raise InputError(f"storage {path}: cannot be opened ({error.strerror}); choose another --runs folder") from None
    except (ValueError, KeyError, AssertionError, NotImplementedError) as error:
        text = str(error).strip() or type(error).__name__
        raise InputError(
            f"storage {path}: damaged or of another version ({text}); move it away, or name a new study: sweep.study"
        ) from None


class _Lock:
    """The journal's lock, freed by the system when its holder is killed; Optuna's own would stay for half a minute."""

    def __init__(self, path: Path) -> None:
        self._lock = FileLock(f"{path}.lock")

    def acquire(self) -> bool:
        self._lock.acquire()
        return True

    def release(self) -> None:
        self._lock.release()


def _cut_torn_end(path: Path, lock: _Lock) -> None:
    """Remove a last line that a killed process did not finish: what it says never happened."""
    if not path.exists():
        return
    lock.acquire()
    try:
        with open(path, "rb+") as file:
            size = file.seek(0, os.SEEK_END)
            back = min(size, 1 << 20)
            file.seek(size - back)
            tail = file.read()
            if tail and not tail.endswith(b"\n"):
                file.truncate(size - back + tail.rfind(b"\n") + 1)
    finally:
        lock.release()


def hidden(text: str) -> str:
    """Return a text with the passwords of URLs hidden."""
    return re.sub(r"(\w+://[^:/@\s]+):[^@\s]+@", r"\1:***@", text)
