"""What a run ran on: commit, versions, hardware, code version, and the peak memory of a stretch of work."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import threading
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

PACKAGES = (
    "levelfield", "torch", "lightning", "torchmetrics", "polars", "numpy", "scipy", "numba", "transformers", "peft",
    "recbole", "implicit", "wandb", "optuna",
)  # fmt: skip
# what decides the outcome of every run; a model's own modules come on top, reports and the command line do not count
OUTCOME = ("data", "evaluation", "recommender.py", "runs/execute.py")


def environment() -> dict[str, Any]:
    """Return commit, dirty flag, package versions and hardware, as JSON values."""
    return {**_static(), "commit": commit()}


@cache
def _static() -> dict[str, Any]:
    import torch

    return {
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory": psutil.virtual_memory().total,
        "gpu": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def commit() -> dict[str, Any]:
    """Return ``{"commit": sha or None, "dirty": bool}`` of the checkout that holds this package."""
    root = Path(__file__).resolve().parents[2]

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    sha = git("rev-parse", "HEAD")
    return {"commit": sha, "dirty": bool(git("status", "--porcelain", "--untracked-files=no")) if sha else False}


@cache
def code_version(module: str) -> str:
    """Return a hash of the sources that decide a run's outcome: ours, and the model's module with what it imports.

    A change of one baseline makes only its own runs new; a change of the data, the evaluation or the contract, all.
    """
    package = Path(__file__).resolve().parents[1]
    files = {
        f for room in OUTCOME for f in ([package / room] if room.endswith(".py") else (package / room).rglob("*.py"))
    }
    files |= _sources(module)
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda f: (f.parent.name, f.name)):
        digest.update(f"{file.parent.name}/{file.name}".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _sources(module: str, found: set[Path] | None = None) -> set[Path]:
    """Return the file of ``module`` and, recursively, of what it imports from its own package or from benchmark.llm."""
    found = set() if found is None else found
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return found
    if spec is None or not spec.origin or not spec.origin.endswith(".py") or Path(spec.origin) in found:
        return found
    found.add(Path(spec.origin))
    top = module.partition(".")[0]
    for node in ast.walk(ast.parse(Path(spec.origin).read_bytes())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            if name.startswith("benchmark.llm") or (top != "benchmark" and name.partition(".")[0] == top):
                _sources(name, found)
    return found


class PeakMemory:
    """Context manager: the highest resident memory of this process in between, sampled every 20 ms (``.bytes``)."""

    def __init__(self) -> None:
        self.bytes = 0
        self._process = psutil.Process()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while True:
            self.bytes = max(self.bytes, self._process.memory_info().rss)
            if self._stop.wait(0.02):
                return

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.bytes = max(self.bytes, self._process.memory_info().rss)
