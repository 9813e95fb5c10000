"""Signs of life of a running trial: who computes it, and whether that process is still there."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    import optuna

LEASE, BEAT = "lease", "beat"
CLAIM = "claim"  # who reached for a trial, written before it runs: its process may be killed before it signs the lease
MISSED = 3  # so many signs of life missed: the process is lost
UNSIGNED = 10.0  # seconds after which a running trial that nobody has signed is lost: signing takes milliseconds


def host() -> str:
    """Return the name of this machine and of its process namespace: containers may share a host name."""
    with contextlib.suppress(OSError):
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname()


def own_lease(node: str | None = None) -> dict[str, Any]:
    """Return who this process is: host, process id and its time of birth, and the node of a cluster."""
    return {"host": host(), "pid": os.getpid(), "born": birth(os.getpid()), "node": node}


def birth(pid: int) -> float:
    """Return when a process was started, in seconds since this machine was: clocks are set while processes run.

    Raises:
        psutil.NoSuchProcess: there is none.
    """
    try:
        told = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:  # no process, or no Linux
        return psutil.Process(pid).create_time()
    # the name, in brackets, may hold anything; the 22nd field counts ticks
    return int(told.rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")


class Heartbeat:
    """Context manager: writes a sign of life of a running trial every ``seconds``.

    A storage that does not answer for a while stops no trial.
    """

    def __init__(
        self, storage: optuna.storages.BaseStorage, trial_id: int, lease: dict[str, Any], seconds: float
    ) -> None:
        self.storage, self.trial_id, self.lease, self.seconds = storage, trial_id, lease, seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def _beat(self) -> None:
        count = 0
        while not self._stop.wait(self.seconds):
            count += 1
            with contextlib.suppress(Exception):
                self.storage.set_trial_user_attr(self.trial_id, BEAT, [self.lease["pid"], count])

    def __enter__(self) -> Heartbeat:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()


class Watch:
    """Tells whether the process behind a lease is lost.

    On this machine by its process id; on another one when its signs of life have stayed away for three times
    ``seconds`` of our own clock, so clocks need not agree. ``node_alive`` answers for the nodes of a cluster.
    """

    def __init__(self, seconds: float, node_alive: Callable[[str], bool] | None = None) -> None:
        self.patience, self.node_alive = MISSED * seconds, node_alive
        self._seen: dict[int, tuple[Any, float]] = {}
        self._host = host()

    def lost(self, trial: optuna.trial.FrozenTrial) -> bool:
        lease = trial.user_attrs.get(LEASE)
        if lease is not None and lease["host"] == self._host:
            return not _alive(lease)
        claim = trial.user_attrs.get(CLAIM)
        if lease is None and claim is not None and claim["host"] == self._host and not _alive(claim):
            return True
        if lease is not None and lease.get("node") and self.node_alive and not self.node_alive(lease["node"]):
            return True
        sign, now = (lease, trial.user_attrs.get(BEAT)), time.monotonic()
        seen = self._seen.get(trial.number)
        if seen is None or seen[0] != sign:
            self._seen[trial.number] = (sign, now)
            return False
        return now - seen[1] > (self.patience if lease is not None else min(self.patience, UNSIGNED))


def _alive(lease: dict[str, Any]) -> bool:
    try:
        # a killed child that nobody has waited for yet is as dead
        same = abs(birth(lease["pid"]) - lease["born"]) < 1
        return same and psutil.Process(lease["pid"]).status() != psutil.STATUS_ZOMBIE
    except (psutil.NoSuchProcess, ProcessLookupError):
        return False
