"""Work shared by processes and by the nodes of a Ray cluster: done once, and done in spite of what dies."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmark.experiment import Experiment
from benchmark.runs.record import RunStore
from benchmark.runs.run import plan, prepare, run
from tests.conftest import write_tiny_csv, write_tiny_experiment
from tests.sweeps.test_kills import cells, experiment_file
from tests.test_cli import levelfield

pytest.importorskip("optuna")
ROOT = Path(__file__).parents[2]
# long enough trials to die in; their points are laid down beforehand, so that their order does not matter
SWEEP = "{trials: 5, sampler: random, pruner: none}"
LONG = ["trainer.max_epochs=40", "trainer.early_stopping.patience=40"]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-c", "from benchmark.cli import main; main()", *map(str, arguments)]


def begun(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(command(*arguments), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finished(process: subprocess.Popen[str], seconds: float = 240) -> str:
    out, _ = process.communicate(timeout=seconds)
    assert process.returncode == 0, out
    return out


def until(condition: Callable[[], Any], process: subprocess.Popen[str], seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
    return value


def stored(runs: Path) -> list[Any]:
    """Return all trials of the experiment's journal."""
    import optuna

    from benchmark.sweeps.storage import open_storage

    path = runs / "studies" / "tiny.journal"
    if not path.exists():
        return []
    storage = open_storage(str(path))
    names = [s.study_name for s in storage.get_all_studies()]
    return [t for n in sorted(names) for t in optuna.load_study(study_name=n, storage=storage).trials]


def running(runs: Path) -> list[Any]:
    return [t for t in stored(runs) if t.state.name == "RUNNING" and "lease" in t.user_attrs]


def held(runs: Path, node: str) -> int | None:
    """Stop a process in the midst of a trial on this node, and return its id."""
    for trial in running(runs):
        pid = trial.user_attrs["lease"]["pid"]
        if trial.user_attrs["lease"]["node"] == node:
            os.kill(pid, signal.SIGSTOP)
            if trial.number in {t.number for t in running(runs) if t.user_attrs["lease"]["pid"] == pid}:
                return pid
            os.kill(pid, signal.SIGCONT)
    return None


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, str]]]:
    """An experiment file and the table that one process makes of it."""
    folder = tmp_path_factory.mktemp("swept")
    file = experiment_file(write_tiny_experiment(write_tiny_csv(folder)), SWEEP)
    finished(begun("sweep", file, *LONG, "--runs", folder / "runs", "--results", folder / "results"))
    return file, cells(folder)


def test_a_grid_on_two_workers_gives_what_one_process_gives(tiny_experiment: Path, tmp_path: Path) -> None:
    experiment = Experiment.load(tiny_experiment)
    alone = run(experiment, tmp_path / "alone")
    folders = ["--runs", tmp_path / "runs", "--results", tmp_path / "results"]
    out = finished(begun("run", tiny_experiment, "--workers", 2, *folders))
    assert out.count("done  ") == len(alone), "each run is shown once"
    store = RunStore(tmp_path / "runs")
    shared = [p.record for p in plan(experiment, prepare(experiment, tmp_path / "runs"), store)]
    assert [r and r.metrics for r in shared] == [r.metrics for r in alone]


def test_two_commands_on_one_folder_compute_each_run_once(tiny_experiment: Path, tmp_path: Path) -> None:
    folders = ["--runs", tmp_path / "runs", "--results", tmp_path / "results"]
    both = [begun("run", tiny_experiment, *LONG, *folders) for _ in range(2)]
    out = "".join(finished(process) for process in both)
    assert out.count("done  ") == 6


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced_and_its_trial_put_back(
    swept: tuple[Path, list[dict[str, str]]], tmp_path: Path
) -> None:
    file, expected = swept
    runs = tmp_path / "runs"
    process = begun("sweep", file, *LONG, "--workers", 2, "--runs", runs, "--results", tmp_path / "results")
    victim = until(lambda: running(runs), process)[0]
    os.kill(victim.user_attrs["lease"]["pid"], signal.SIGKILL)
    finished(process)
    trials = stored(runs)
    assert {t.state.name for t in trials} == {"COMPLETE"}
    assert len(trials) == 10, "no trial more than the budget"
    assert sum(t.user_attrs.get("lost", 0) for t in trials) == 1
    assert cells(tmp_path) == expected


@pytest.mark.slow
def test_workers_end_with_the_command_that_started_them(
    swept: tuple[Path, list[dict[str, str]]], tmp_path: Path
) -> None:
    file, expected = swept
    arguments = ["sweep", file, *LONG, "--workers", 2, "--runs", tmp_path / "runs", "--results", tmp_path / "results"]
    process = begun(*arguments)
    until(lambda: running(tmp_path / "runs"), process)
    workers = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive
    finished(begun(*arguments))
    assert cells(tmp_path) == expected


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A Ray cluster of two nodes with one CPU each, in this machine."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    head = {"num_cpus": 1, "include_dashboard": False, "ray_client_server_port": port}
    nodes = Cluster(initialize_head=True, head_node_args=head)
    nodes.client_address = f"ray://127.0.0.1:{port}"
    try:
        yield nodes
    finally:
        with contextlib.suppress(Exception):
            nodes.shutdown()


@pytest.mark.slow
def test_trials_of_a_lost_ray_node_are_done_by_the_others(
    swept: tuple[Path, list[dict[str, str]]], tmp_path: Path, cluster: Any
) -> None:
    file, expected = swept
    second = cluster.add_node(num_cpus=1)
    runs = tmp_path / "runs"
    folders = ["--runs", runs, "--results", tmp_path / "results"]
    process = begun("sweep", file, *LONG, "--executor", "ray", "--address", cluster.address, *folders)
    # a trial may end while its node is being removed: its process is held until the node is gone
    pid = until(lambda: held(runs, second.node_id), process)
    cluster.remove_node(second, allow_graceful=False)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    finished(process)
    trials = stored(runs)
    assert {t.state.name for t in trials} == {"COMPLETE"}
    assert len(trials) == 10
    assert sum(t.user_attrs.get("lost", 0) for t in trials) >= 1
    nodes = {t.user_attrs["lease"]["node"] for t in trials}
    assert len(nodes) >= 1
    assert cells(tmp_path) == expected


@pytest.mark.slow
def test_a_grid_on_ray_and_what_does_not_fit_on_it(tiny_experiment: Path, tmp_path: Path, cluster: Any) -> None:
    folders = ["--runs", tmp_path / "runs", "--results", tmp_path / "results"]
    ray = ["--executor", "ray", "--address", cluster.address]
    client = ["--executor", "ray", "--address", cluster.client_address]
    out = finished(begun("run", tiny_experiment, *client, *folders))
    assert out.count("done  ") == 6
    experiment = Experiment.load(tiny_experiment)
    states = {p.state for p in plan(experiment, prepare(experiment, tmp_path / "runs"), RunStore(tmp_path / "runs"))}
    assert states == {"cached"}
    done = subprocess.run(
        command("run", tiny_experiment, "seeds=[7]", "sweep.resources={gpu: 0.5}", *ray, *folders),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "sweep.resources: no node has room for one worker" in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr


def test_an_address_at_which_nobody_listens_is_said_at_once(tiny_experiment: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    for told in (address, f"ray://{address}"):
        done = levelfield("run", tiny_experiment, "--executor", "ray", "--address", told, "--runs", tmp_path / "runs")
        assert done.returncode == 2
        assert done.stderr == f"levelfield: --address {told}: no Ray cluster answers: Connection refused\n"
