"""The prepared data on disk: one folder of parquet files for each source, its files' content and filters."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import polars as pl

from benchmark.data.filters import Filters
from benchmark.data.schema import Dataset, Step
from benchmark.data.sources import Source
from benchmark.data.sources.files import content_hash
from benchmark.digest import file_sha256
from benchmark.errors import InputError

# part of every key: raise it when the reading or filtering of the same files gives other data
VERSION = 2
_TABLES = ("interactions", "users", "items", "graph", "links")
_INDEX = "dataset.json"
_log = logging.getLogger(__name__)


def prepare(source: Source, filters: Filters, cache_dir: Path) -> Dataset:
    """Return the filtered dataset of ``source``, from the cache where it is there, else built and put there.

    An entry appears whole or not at all (it is written aside, then renamed). A damaged one is built again, which the
    log says in one line.

    Raises:
        InputError: the source or filters cannot be used, or the cache folder cannot be written.
    """
    folder = cache_dir.expanduser() / key(source, filters)
    if folder.exists():
        try:
            return _read(folder)
        except (OSError, ValueError, KeyError, TypeError, pl.exceptions.PolarsError) as error:
            said = (str(error).splitlines() or [type(error).__name__])[0]
            _log.warning("prepared data in %s is damaged (%s); building it again", folder, said)
    dataset = filters.apply(source.load())
    try:
        _write(dataset, folder)
    except OSError as error:
        raise InputError(f"{cache_dir}: prepared data cannot be written: {error.strerror or error}") from error
    return dataset


def key(source: Source, filters: Filters) -> str:
    """Return the name of the entry: the hash of both specifications and of the content of the source's files.

    Raises:
        InputError: one of the files does not exist.
    """
    said = {
        "version": VERSION,
        "source": source.model_dump(mode="json"),
        "filters": filters.model_dump(mode="json"),
        "files": [content_hash(path) for path in source.files()],
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:32]


def _read(folder: Path) -> Dataset:
    """Read an entry; raises OSError or ValueError where a file is missing or not the one that was written."""
    index = json.loads((folder / _INDEX).read_text())
    for name, digest in index["files"].items():
        if file_sha256(folder / name) != digest:
            raise ValueError(f"{name} is not what was written")
    frames = {
        table: pl.read_parquet(folder / f"{table}.parquet", memory_map=False)
        if f"{table}.parquet" in index["files"]
        else None
        for table in _TABLES
    }
    interactions, users, items = frames["interactions"], frames["users"], frames["items"]
    if interactions is None or users is None or items is None:
        raise ValueError("a table is missing")
    steps = tuple(Step(**step) for step in index["steps"])
    return Dataset(index["name"], interactions, users, items, frames["graph"], frames["links"], steps, index["clock"])


def _write(dataset: Dataset, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        files = {}
        for table in _TABLES:
            frame: pl.DataFrame | None = getattr(dataset, table)
            if frame is not None:
                path = aside / f"{table}.parquet"
                frame.write_parquet(path)
                files[path.name] = file_sha256(path)
        steps = [asdict(step) for step in dataset.steps]
        index = {"name": dataset.name, "steps": steps, "files": files, "clock": dataset.clock}
        (aside / _INDEX).write_text(json.dumps(index, indent=1))
        aside.chmod(0o755)
        if folder.exists():  # damaged, or another process was faster
            shutil.rmtree(folder, ignore_errors=True)
        with suppress(FileExistsError):
            aside.rename(folder)
    except OSError as error:
        if not folder.exists():
            raise error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
