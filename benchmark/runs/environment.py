"""What a run ran on: commit, versions, hardware, code version; peak memory and energy of a stretch of work."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, Self

import psutil

PACKAGES = (
    "levelfield", "torch", "lightning", "torchmetrics", "polars", "numpy", "scipy", "numba", "transformers", "peft",
    "recbole", "implicit", "wandb", "optuna",
)  # fmt: skip
# what decides the outcome of every run; a model's own modules come on top, reports and the command line do not count
OUTCOME = ("data", "evaluation", "recommender.py", "runs/budgeted.py", "runs/execute.py", "runs/selection.py")
# what tables alone read: a change of it makes no run a new one
NOT_OUTCOME = tuple(f"evaluation/{name}.py" for name in ("beyond", "significance", "user_values"))


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
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!results") if sha else None
    return {"commit": sha, "dirty": bool(changed)}


@cache
def code_version(module: str) -> str:
    """Return a hash of the sources that decide a run's outcome: ours, and the model's module with what it imports.

    A change of one baseline makes only its own runs new; a change of the data, the evaluation or the contract, all.
    """
    package = Path(__file__).resolve().parents[1]
    files = {
        f for room in OUTCOME for f in ([package / room] if room.endswith(".py") else (package / room).rglob("*.py"))
    } - {package / name for name in NOT_OUTCOME}
    files |= _sources(module)
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda f: (f.parent.name, f.name)):
        digest.update(f"{file.parent.name}/{file.name}".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _sources(module: str, found: set[Path] | None = None) -> set[Path]:
    """Return the file of ``module`` and, recursively, of what it imports from its package, benchmark.llm or derived."""
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
            shared = name.startswith(("benchmark.llm", "benchmark.derived"))
            if shared or (top != "benchmark" and name.partition(".")[0] == top):
                _sources(name, found)
    return found


class _Sampled:
    """Context manager that takes a sample at its beginning, at its end, and every ``every`` seconds in between."""

    every: float

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def sample(self) -> None:
        raise NotImplementedError

    def _watch(self) -> None:
        while not self._stop.wait(self.every):
            self.sample()

    def __enter__(self) -> Self:
        self.sample()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self.sample()


class PeakMemory(_Sampled):
    """The highest resident memory of this process in between (``.bytes``)."""

    every = 0.02

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        self._process = psutil.Process()

    def sample(self) -> None:
        self.bytes = max(self.bytes, self._process.memory_info().rss)


class Energy(_Sampled):
    """What the machine's processors and NVIDIA GPUs took in between (``.watt_hours``).

    None where no counter can be read: those of the processors (RAPL, under ``root``) are mostly open to root alone,
    those of the GPUs need ``pynvml`` (the ``energy`` extra). It is the whole machine's: other work on it counts in.
    """

    every = 60.0  # a RAPL counter starts again after an hour at 70 W

    def __init__(self, root: Path = Path("/sys/class/powercap")) -> None:
        super().__init__()
        self._zones = sorted(root.glob("intel-rapl:[0-9]")) + sorted(root.glob("intel-rapl:[0-9][0-9]"))
        self._gpus = _gpus()
        self._last: dict[str, float] = {}
        self._joules: dict[str, float] = {}

    @property
    def watt_hours(self) -> float | None:
        return sum(self._joules.values()) / 3600 if self._joules else None

    def _read(self) -> Iterator[tuple[str, float, float]]:
        """Yield (counter, joules, joules at which it starts again from 0)."""
        for zone in self._zones:
            with suppress(OSError, ValueError):
                micro = [float((zone / name).read_text()) for name in ("energy_uj", "max_energy_range_uj")]
                yield zone.name, micro[0] / 1e6, micro[1] / 1e6
        for name, joules in self._gpus.items():
            with suppress(Exception):  # a card without a counter
                yield name, joules(), float("inf")

    def sample(self) -> None:
        for name, now, wrap in self._read():
            if name in self._last:
                step = now - self._last[name]
                self._joules[name] = self._joules.get(name, 0.0) + (step if step >= 0 else step + wrap)
            self._last[name] = now


def _gpus() -> dict[str, Callable[[], float]]:
    """Return, by name, what reads the joules a visible NVIDIA GPU has taken since its driver was loaded."""
    try:
        import pynvml

        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    except Exception:  # no such package, no driver, no GPU
        return {}
    return {f"gpu{i}": partial(_joules, handle) for i, handle in enumerate(handles)}


def _joules(handle: Any) -> float:
    import pynvml

    return float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000
