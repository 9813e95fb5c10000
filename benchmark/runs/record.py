"""RunRecord: what is known of one run; RunStore: the folder of records, written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import polars as pl
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from benchmark.errors import InputError

RANKS, TOP, RECORD, LOG = "ranks.parquet", "top.parquet", "record.json", "error.log"


class RunRecord(BaseModel):
    """One run: what was asked, on what, with what outcome, at what cost. Stored as ``record.json``.

    Times are in seconds, memory in bytes. ``metrics[part][name]`` holds one value a metric; ``curve`` the validation
    metrics after each epoch.
    """

    model_config = ConfigDict(extra="forbid")

    key: str
    status: Literal["finished", "failed", "pruned"]
    experiment: str
    label: str
    group: str
    seed: int
    spec: dict[str, Any]
    data_fingerprint: str
    split_fingerprint: str
    candidates_fingerprint: str
    code_version: str
    split_report: dict[str, float]
    data_steps: list[dict[str, Any]]
    metrics: dict[str, dict[str, float | None]] = Field(default_factory=dict)
    curve: list[dict[str, float | None]] = Field(default_factory=list)
    judged: dict[str, int] = Field(default_factory=dict, description="Users (rows) judged, by part.")
    test_reads: int = 0
    probability: bool = Field(False, description="The scores are logits of a probability.")
    best_epoch: int | None = None
    epochs: int = 0
    stage_seconds: dict[str, float] = Field(default_factory=dict)
    ms_per_user: float | None = None
    peak_memory: dict[str, int] = Field(default_factory=dict)
    energy_wh: float | None = Field(None, description="Of the whole machine; None where no counter can be read.")
    parameters: dict[str, int] = Field(default_factory=dict)
    model_report: dict[str, float] = Field(default_factory=dict)
    files: dict[str, str] = Field(default_factory=dict, description="SHA-256 of each stored file.")
    error: str | None = None
    study: str | None = Field(None, description="The study this is a trial of: validation only, no test part.")
    trial: int | None = Field(None, description="Number of the trial in its study.")
    environment: dict[str, Any] = Field(default_factory=dict)
    started: str = ""
    wandb: str | None = None


class RunStore:
    """The folder ``runs/``: one sub-folder a run key. A run counts as done when its ``record.json`` is there."""

    def __init__(self, root: str | Path = "runs") -> None:
        self.root = Path(root)

    def folder(self, key: str) -> Path:
        return self.root / key

    def get(self, key: str) -> RunRecord | None:
        """Return the record, or None where there is none.

        Raises:
            InputError: the file is there but is not a record.
        """
        path = self.folder(key) / RECORD
        try:
            return RunRecord.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            fault = error.errors()[0]
            key_path = ".".join(map(str, fault["loc"])) or "the file"
            raise InputError(f"{path}: {key_path}: {fault['msg']}; delete the folder to run it again") from None

    @contextlib.contextmanager
    def claimed(self, key: str, wait: bool = True) -> Iterator[bool]:
        """Hold a run while it is computed, so that no other process does; the system frees it when its holder dies.

        Gives False where another process holds it and ``wait`` is false.

        Raises:
            InputError: the folder cannot be written.
        """
        lock = FileLock(self.folder(key) / ".lock")
        try:
            self.folder(key).mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            yield False
            return
        except OSError as error:
            raise InputError(
                f"{self.folder(key)}: cannot be made ({error.strerror}); choose another --runs folder"
            ) from None
        try:
            yield True
        finally:
            lock.release()

    def running(self, key: str) -> bool:
        """Return whether a process of this machine (or of a shared folder's) computes the run at this moment."""
        if not (self.folder(key) / ".lock").exists():
            return False
        try:
            with FileLock(self.folder(key) / ".lock", timeout=0):
                return False
        except Timeout:
            return True

    def interrupted(self, key: str) -> bool:
        """Return whether a run was begun, has checkpoints, and has no record."""
        return self.get(key) is None and any((self.folder(key) / "resume").glob("*.ckpt"))

    def put(self, record: RunRecord) -> None:
        """Write ``record.json``: to a temporary name first, then renamed."""
        text = json.dumps(record.model_dump(mode="json"), indent=1, sort_keys=True, allow_nan=False)
        with whole_file(self.folder(record.key) / RECORD) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")

    def forget(self, key: str) -> None:
        """Remove the record of a run, which makes it one that has not been run."""
        (self.folder(key) / RECORD).unlink(missing_ok=True)

    def write_parquet(self, key: str, name: str, frame: pl.DataFrame) -> Path:
        path = self.folder(key) / name
        with whole_file(path) as temporary:
            frame.write_parquet(temporary)
        return path

    def ranks(self, key: str) -> pl.DataFrame:
        """Return the stored ranks of a run's relevant items (labels and scores, for a preference task)."""
        return self._parquet(key, RANKS)

    def top(self, key: str, k: int) -> pl.DataFrame:
        """Return the first k items of a run's stored lists: ``user``, ``rank`` (from 0) and ``item``, raw ids."""
        return self._parquet(key, TOP, pl.col("rank") < k)

    def _parquet(self, key: str, name: str, rows: pl.Expr | None = None) -> pl.DataFrame:
        path = self.folder(key) / name
        try:
            return pl.read_parquet(path) if rows is None else pl.scan_parquet(path).filter(rows).collect()
        except (OSError, pl.exceptions.PolarsError) as error:
            raise InputError(
                f"{path}: cannot be read ({first_line(error)}); delete the folder to run it again"
            ) from None


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path`` that is flushed and renamed to it; nothing is left behind on a failure.

    Raises:
        InputError: the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb+") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except (OSError, pl.exceptions.ComputeError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise InputError(
            f"{path}: cannot be written ({reason}); free some space or choose another --runs folder"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def no_space(error: BaseException | None) -> bool:
    """Return whether an error, or what it came from, is a full disk, a quota or a file size limit."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            return True
        if any(f"(os error {code})" in str(error) for code in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)):
            return True  # as safetensors and polars say it
        error = error.__cause__ or error.__context__
    return False


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type's name."""
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


def cleaned(values: dict[str, float]) -> dict[str, float | None]:
    """Return the values with NaN (undefined) as None, since JSON has no NaN."""
    return {name: (None if value != value else float(value)) for name, value in values.items()}
