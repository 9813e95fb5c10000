"""Where work happens: in several processes of this machine, or on a Ray cluster; all share one folder and study."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmark.errors import InputError, missing_extra
from benchmark.experiment import Experiment
from benchmark.experiment.search import Resources

RESPAWNS = 20  # workers that died and were replaced, before the rest is given up
_TOKEN = ".shared"


@dataclass(frozen=True)
class Job:
    """What every worker does: take trials (``sweep``) and runs of an experiment until none is left."""

    experiment: Experiment
    runs: Path
    sweep: bool
    storage: str | None = None

    def carry_out(self, node: str | None = None, node_alive: Callable[[str], bool] | None = None) -> None:
        from benchmark.runs.run import prepare, run
        from benchmark.sweeps.sweep import SweepState, search

        data = prepare(self.experiment, self.runs)
        experiment = self.experiment
        if self.sweep:
            state = SweepState(experiment, data, self.runs, self.storage, parallel=True, node_alive=node_alive)
            search(state, node=node, mirrors=False)
            experiment = state.selected()
        run(experiment, self.runs, data=data)


class Workers:
    """N processes of this machine on one job; one that dies is replaced, and its trial put back by the others.

    Raises:
        InputError: in ``working``, where a worker met one.
    """

    def __init__(self, job: Job, n: int) -> None:
        self.job, self.n, self.died = job, n, 0
        self._context = multiprocessing.get_context("spawn")
        self._errors: Any = self._context.SimpleQueue()
        self._processes: list[Any] = []

    def __enter__(self) -> Workers:
        self._processes = [self._start(i) for i in range(self.n)]
        return self

    def _start(self, number: int) -> Any:
        process = self._context.Process(target=_work, args=(self.job, self._errors))
        with _environment(self.n, number):
            process.start()
        return process

    def working(self) -> bool:
        """Return whether a worker is at work; waits a moment."""
        time.sleep(0.3)
        if not self._errors.empty():
            raise InputError(self._errors.get())
        for i, process in enumerate(self._processes):
            if process.exitcode not in (None, 0):
                self.died += 1
                if self.died > RESPAWNS:
                    raise RuntimeError(f"{self.died} workers died, the last with exit code {process.exitcode}")
                self._processes[i] = self._start(i)
        return any(p.exitcode is None for p in self._processes)

    def __exit__(self, *error: object) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()


def _work(job: Job, errors: Any) -> None:
    """What a worker process does; it ends with its parent, however that ends."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        job.carry_out()
    except InputError as error:
        errors.put(str(error))
    except KeyboardInterrupt:
        sys.exit(130)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextlib.contextmanager
def _environment(workers: int, number: int) -> Iterator[None]:
    """Share out cores and GPUs: what a process reads when it starts."""
    threads = str(max(1, (os.cpu_count() or 1) // workers))
    told = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "NUMBA_NUM_THREADS": threads}
    gpus = _gpus()
    if len(gpus) > 1:
        told["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _gpus() -> list[str]:
    import torch

    if shown := os.environ.get("CUDA_VISIBLE_DEVICES"):
        return shown.split(",")
    return [str(i) for i in range(torch.cuda.device_count())]


class RayWorkers:
    """Workers on a Ray cluster, each with the resources of one trial; those of a lost node are started elsewhere.

    All nodes must see the folder of runs under the same path, and the storage.

    Args:
        job: what to do.
        n: how many workers; None: as many as the cluster has room for.
        resources: of each worker.
        address: ``auto``, ``ray://host:port``, or None for RAY_ADDRESS, else a cluster of this machine alone.

    Raises:
        InputError: no cluster answers, it has no room for one worker, or (in ``working``) a worker met one.
    """

    def __init__(self, job: Job, n: int | None, resources: Resources, address: str | None = None) -> None:
        if (address or "").startswith("ray://") and Path("~/.ray/auth_token").expanduser().exists():
            # the client asks for its token only if told to, and before Ray is imported
            os.environ.setdefault("RAY_AUTH_MODE", "token")
        try:
            import ray
        except ModuleNotFoundError:
            raise missing_extra("ray", "ray") from None
        self.ray, self.job, self.n, self.resources, self.address = ray, job, n, resources, address
        self.died = 0
        self._tasks: list[Any] = []

    def __enter__(self) -> RayWorkers:
        ray = self.ray
        self._started = not ray.is_initialized()
        if self._started:
            os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
            address = self.address or os.environ.get("RAY_ADDRESS") or None
            own = {} if address else {"include_dashboard": False}
            _check_reachable(address)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    _connect(ray, address, own)
            except (ConnectionError, ValueError, TimeoutError, RuntimeError) as error:
                first = str(error).strip().splitlines()[0]
                hint = " (is its token in RAY_AUTH_TOKEN, with RAY_AUTH_MODE=token?)" if "://" in str(address) else ""
                raise InputError(f"--address {address}: no Ray cluster answers: {first}{hint}") from None
        room, has = self._room(), self._has()
        if room < 1:
            self.__exit__()
            raise InputError(
                f"sweep.resources: no node has room for one worker of {self._asked()}; the cluster has {has}"
            )
        self.n = self.n or room
        (self.job.runs / _TOKEN).write_text("every worker must see this file\n", encoding="utf-8")
        self._tasks = [self._start() for _ in range(self.n)]
        return self

    def _asked(self) -> dict[str, float]:
        own = {"CPU": self.resources.cpu, "GPU": self.resources.gpu, "memory": self.resources.memory * 2**30}
        return {name: value for name, value in {**own, **self.resources.custom}.items() if value}

    def _has(self) -> dict[str, float]:
        return {k: v for k, v in self.ray.cluster_resources().items() if not k.startswith(("node:", "object_store"))}

    def _room(self) -> int:
        """Return how many workers the nodes have room for."""
        room = 0
        for node in self.ray.nodes():
            if node["Alive"]:
                there = node["Resources"]
                asked = self._asked()
                room += min((int(there.get(k, 0) // v) for k, v in asked.items()), default=os.cpu_count() or 1)
        return room

    def _start(self) -> Any:
        remote = self.ray.remote(_work_on_ray).options(
            num_cpus=self.resources.cpu,
            num_gpus=self.resources.gpu or None,
            memory=self.resources.memory * 2**30 or None,
            resources=self.resources.custom or None,
            scheduling_strategy="SPREAD",
            max_retries=0,  # started anew here, where it is counted
        )
        job = Job(self.job.experiment, self.job.runs.resolve(), self.job.sweep, self.job.storage)
        return remote.remote(job, [p for p in sys.path if p and os.path.isdir(p)], os.getcwd())

    def working(self) -> bool:
        """Return whether a worker is at work; waits a moment."""
        ray = self.ray
        done, self._tasks = ray.wait(self._tasks, num_returns=1, timeout=0.3)
        for task in done:
            try:
                said = ray.get(task)
            except ray.exceptions.RayTaskError as error:
                cause = error.cause if isinstance(error.cause, Exception) else error
                raise cause from None
            except ray.exceptions.RayError as error:  # its node or its process is gone
                self.died += 1
                if self.died > RESPAWNS:
                    raise RuntimeError(f"{self.died} workers were lost, the last one: {error}") from None
                self._tasks.append(self._start())
            else:
                if said is not None:
                    raise InputError(said)
        return bool(self._tasks)

    def __exit__(self, *error: object) -> None:
        for task in self._tasks:
            with contextlib.suppress(Exception):
                self.ray.cancel(task, force=True)
        if self._started:
            self.ray.shutdown()


def _connect(ray: Any, address: str | None, own: dict[str, Any], tries: int = 3) -> None:
    """Begin with Ray. A busy cluster's client server may take too long to start its part: it is asked again."""
    for left in reversed(range(tries)):
        try:
            ray.init(address, log_to_driver=False, logging_level="error", **own)
            return
        except ConnectionError as error:
            if not left or "Initialization failure" not in str(error):
                raise
            ray.shutdown()


def _check_reachable(address: str | None) -> None:
    """Refuse an address at which nobody listens: Ray itself would try for minutes."""
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise InputError(f"--address {address}: no Ray cluster answers: {error.strerror or error}") from None


def _work_on_ray(job: Job, path: list[str], folder: str) -> str | None:
    """What a worker on a node does; returns bad input as a line."""
    import ray
    import torch

    sys.path.extend(p for p in path if p not in sys.path)
    with contextlib.suppress(OSError):
        os.chdir(folder)
    node = ray.get_runtime_context().get_node_id()
    cpus = ray.get_runtime_context().get_assigned_resources().get("CPU", 1)
    torch.set_num_threads(max(1, int(cpus)))
    if not (job.runs / _TOKEN).exists():
        return f"node {node[:8]} does not see {job.runs}: --runs must be a folder that all nodes share"

    def alive(other: str) -> bool:
        return any(n["NodeID"] == other and n["Alive"] for n in ray.nodes())

    try:
        job.carry_out(node, alive)
    except InputError as error:
        return str(error)
    return None
