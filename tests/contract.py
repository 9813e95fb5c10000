"""What every model must do: ``RecommenderContract`` is inherited by each model's test, and runs it as Lightning does.

As a program (``python -m tests.contract JOB.json``) it is one of two processes in which all models train together.
"""

from __future__ import annotations

import importlib
import json
import logging
import math
import os
import socket
import subprocess
import sys
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from filelock import FileLock
from lightning import Callback, Trainer, seed_everything
from torch import Tensor

from benchmark.data.batch import Batch, Ragged
from benchmark.data.datamodule import RecDataModule
from benchmark.data.eval_rows import EvalRows
from benchmark.data.schema import SplitData
from benchmark.data.task import Task
from benchmark.errors import InputError
from benchmark.recommender import Recommender
from tests.planted import OTHER, TWINS, planted

ROOT = Path(__file__).parents[1]
ROUNDING = 1e-5  # scores that differ by less, as a share of how far they differ at all, are equal


@dataclass
class Fitted:
    """A trained model with what it was trained on, and its test metrics."""

    model: Recommender
    module: RecDataModule
    trainer: Trainer
    metrics: dict[str, float]

    def batch(self, part: str = "test") -> Batch:
        """All judged rows in one batch."""
        rows = self.module.rows(part)
        return rows[rows.all]

    @torch.no_grad()
    def score(self, batch: Batch) -> Tensor:
        return self.model.eval().score(batch)


@contextmanager
def quiet() -> Iterator[None]:
    """One thread (small products lose by more), and none of Lightning's advice."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.set_num_threads(threads)


def fit(
    cls: type[Recommender],
    config: dict[str, Any],
    data: SplitData,
    task: Task,
    epochs: int = 1,
    seed: int = 0,
    test: bool = True,
    stages: dict[str, Recommender] | None = None,
    **trainer_options: Any,
) -> Fitted:
    """Train and test a model with a real Trainer; ``stages`` are the trained models it stands on."""
    with quiet():
        seed_everything(seed, verbose=False)
        model = cls(cls.Config(**config), data.catalogue())
        model.attach(stages or {})
        module = RecDataModule(data, task, model.batch_spec(), seed)
        options: dict[str, Any] = {
            "max_epochs": 1 if model.batch_kind == "whole" else model.pretrain_epochs + epochs,
            "accelerator": "cpu",
            "devices": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "use_distributed_sampler": False,
            "check_val_every_n_epoch": model.pretrain_epochs + epochs,
        }
        trainer = Trainer(**options | trainer_options)
        trainer.fit(model, module)
        if test:
            trainer.test(model, module, verbose=False)
    metrics = {name.removeprefix("test/"): float(value) for name, value in trainer.callback_metrics.items()}
    return Fitted(model, module, trainer, metrics)


class RecommenderContract:
    """Inherit, name the model, and get its tests.

    Attributes:
        model: the class under test.
        config: hyper-parameters that let it learn the planted signal in seconds.
        tasks: the task kinds to test it on.
        epochs: for models trained by gradients.
        floor: the AUC that it must reach on the planted data; chance is .5.
        in_two_processes: False for a variant of a model that another test trains in two processes.
    """

    model: ClassVar[type[Recommender]]
    config: ClassVar[dict[str, Any]] = {}
    tasks: ClassVar[tuple[str, ...]] = ("ranking",)
    epochs: ClassVar[int] = 20
    floor: ClassVar[float] = 0.7
    in_two_processes: ClassVar[bool] = True

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "kind" in metafunc.fixturenames:
            metafunc.parametrize("kind", self.tasks, scope="class")

    @pytest.fixture(autouse=True)
    def _quiet(self) -> Iterator[None]:
        with quiet():
            yield

    @classmethod
    def fit(cls, kind: str, **options: Any) -> Fitted:
        data, task = planted(kind)
        return fit(cls.model, cls.config, data, task, cls.epochs, stages=cls.stages(kind), **options)

    @classmethod
    def stages(cls, kind: str) -> dict[str, Recommender]:
        """Return the trained models that this one stands on, by role."""
        return {}

    @pytest.fixture(scope="class")
    def fitted(self, kind: str) -> Fitted:
        return self.fit(kind)

    def test_scores_are_finite_and_have_their_shape(self, fitted: Fitted) -> None:
        batch = fitted.batch()
        ranking = batch.candidates is None
        width = fitted.model.n_items if ranking else 1
        assert fitted.score(batch).shape == (len(batch), width)
        assert fitted.score(batch).isfinite().all()

    def test_candidates_are_columns_of_all_scores(self, fitted: Fitted) -> None:
        batch = fitted.batch()
        batch.label = None
        batch.candidates = None
        everything = fitted.score(batch)
        batch.candidates = torch.randint(fitted.model.n_items, (len(batch), 7))
        some = fitted.score(batch)
        assert some.shape == (len(batch), 7)
        torch.testing.assert_close(some, everything.gather(1, batch.candidates), rtol=1e-4, atol=1e-5)

    def test_a_users_scores_do_not_depend_on_the_batch(self, fitted: Fitted) -> None:
        rows = fitted.module.rows("test")
        together = fitted.score(rows[rows.all[:9]])
        alone = torch.cat([fitted.score(rows[rows.all[i : i + 1]]) for i in range(9)])
        torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)

    def test_nothing_known_of_a_user_is_no_failure(self, fitted: Fitted) -> None:
        nothing = Batch(
            user=torch.tensor([0, 1]),  # unseen in training, see tests.planted
            seen=Ragged(torch.zeros(3, dtype=torch.int64), torch.empty(0, dtype=torch.int64)),
            history=torch.full((2, 1), fitted.model.n_items),
            history_length=torch.zeros(2, dtype=torch.int64),
            history_label=torch.zeros(2, 1),
            history_time=torch.zeros(2, 1, dtype=torch.float64),
        )
        scores = fitted.score(nothing)
        assert scores.shape == (2, fitted.model.n_items)
        assert scores.isfinite().all()

    def test_learns_what_is_planted(self, fitted: Fitted) -> None:
        assert fitted.metrics["auc"] > self.floor
        if "log_loss" in fitted.metrics:
            assert math.isfinite(fitted.metrics["log_loss"]) == fitted.model.traits.probability

    def test_one_seed_gives_one_model(self, fitted: Fitted, kind: str) -> None:
        batch = fitted.batch()
        assert torch.equal(self.fit(kind, test=False).score(batch), fitted.score(batch))

    def test_weights_come_back(self, fitted: Fitted, kind: str, tmp_path: Path) -> None:
        fitted.model.save(tmp_path)
        seed_everything(99, verbose=False)
        other = self.model(fitted.model.config, fitted.model.catalogue)
        other.attach(self.stages(kind))
        other.eval()
        batch = fitted.batch()
        with torch.no_grad():
            other.score(batch)  # whatever a model keeps from scoring must not survive the loading
            other.restore(tmp_path)
            assert torch.equal(other.score(batch), fitted.score(batch))

    def test_heeds_what_is_asked_for_iff_it_says_so(self, fitted: Fitted) -> None:
        batch = fitted.batch()
        before = fitted.score(batch)
        batch.query = ("a red car, please",) * len(batch)
        asked = fitted.score(batch)
        assert asked.isfinite().all()
        assert torch.equal(asked, before) != fitted.model.reads_queries

    def test_serves_a_new_user_or_says_that_it_cannot(self, fitted: Fitted, kind: str, tmp_path: Path) -> None:
        """With room for one more user, the others are scored as before, and the new one has scores."""
        fitted.model.save(tmp_path)
        other = self.model(fitted.model.config, fitted.module.data.with_new_user().catalogue())
        other.attach(self.stages(kind))
        try:
            other.restore(tmp_path, new_users=1)
        except InputError:
            with pytest.raises(InputError):
                other.restore(tmp_path)
            return
        other.eval()
        batch = fitted.batch()
        with torch.no_grad():
            torch.testing.assert_close(other.score(batch), fitted.score(batch), rtol=1e-4, atol=1e-5)
            if not other.stages:  # those of this test know nobody new
                batch.user = torch.full_like(batch.user, other.n_users - 1)
                assert other.score(batch).isfinite().all()

    def test_scores_unseen_items_iff_it_says_so(self, fitted: Fitted) -> None:
        assert tells_unseen_items_apart(fitted) == ("items" in fitted.model.traits.unseen)

    def test_scores_unseen_users_iff_it_says_so(self, fitted: Fitted) -> None:
        assert needs_no_user_id(fitted) == ("users" in fitted.model.traits.unseen)

    def test_scoring_keeps_nothing(self, fitted: Fitted) -> None:
        """Neither batches nor scores pile up over the users."""
        alive: list[list[weakref.ref[Any]]] = []
        most, score = [], fitted.model.score

        def watched(batch: Batch) -> Tensor:
            scores = score(batch)
            most.append(sum(any(ref() is not None for ref in refs) for refs in alive))
            alive.append([weakref.ref(batch), weakref.ref(scores)])
            return scores

        spec = fitted.module.spec.__class__(**{**vars(fitted.module.spec), "eval_batch_size": 8})
        module = RecDataModule(fitted.module.data, fitted.module.task, spec)
        fitted.model.score = watched  # type: ignore[method-assign]
        try:
            fitted.trainer.test(fitted.model, module, verbose=False)
        finally:
            del fitted.model.score
        assert len(most) > 8
        assert max(most) <= 2

    @pytest.mark.slow
    def test_two_processes(self, fitted: Fitted, kind: str, two_processes: dict[str, list[dict[str, Any]]]) -> None:
        """Every user is judged once, both processes report one result, and closed forms report that of one process."""
        first, second = two_processes[f"{class_path(type(self))}/{kind}"]
        for result in (first, second):
            assert "error" not in result, result["error"]
        assert first["metrics"] == pytest.approx(second["metrics"], rel=0, abs=0, nan_ok=True)
        assert sorted(first["rows"] + second["rows"]) == fitted.module.rows("test").all.tolist()
        assert first["judged"] == len(fitted.module.rows("test"))
        if fitted.model.batch_kind == "whole":
            assert first["metrics"] == pytest.approx(fitted.metrics, abs=1e-6, nan_ok=True)
        else:
            assert first["metrics"]["auc"] > 0.5 + (self.floor - 0.5) / 2


# --- who can score whom ----------------------------------------------------------------------------------------------


def tells_unseen_items_apart(fitted: Fitted) -> bool:
    """Return whether content alone places items that nobody has: equal for twins, and for another item another."""
    rows = fitted.module.rows("test")
    batch = rows[rows.all[:24]]
    candidates = torch.tensor([*TWINS, OTHER]).expand(len(batch), -1)
    first, second, other = fitted.score(replace(batch, label=None, candidates=candidates)).unbind(1)
    return alike(first, second) and not alike(first, other, ROUNDING)


def needs_no_user_id(fitted: Fitted) -> bool:
    """Return whether unseen users are scored by what they had: equally for equal histories, otherwise for others.

    Or whether everybody gets one order, which asks for nobody.
    """
    rows = fitted.module.rows("test")
    known = rows.all[rows.user > 1]  # 0 and 1 are unseen in training, see tests.planted
    a = int(known[0])
    b = next(int(i) for i in known if not _seen(rows, int(i)) & _seen(rows, a))
    batch = rows[torch.tensor([a, b, a, a, b])]
    users = torch.cat([torch.tensor([0, 0, 1]), rows.user[[a, b]]])
    scores = fitted.score(replace(batch, user=users, label=None, candidates=None))
    of_a, of_b, of_a_again = scores[:3]
    orders = scores.argsort(dim=1, descending=True, stable=True)
    return (alike(of_a, of_a_again) and not alike(of_a, of_b, ROUNDING)) or bool((orders == orders[0]).all())


def _seen(rows: EvalRows, row: int) -> set[int]:
    seen = rows[torch.tensor([row])].seen
    assert seen is not None
    return set(seen.values.tolist())


def alike(a: Tensor, b: Tensor, within: float = 1e-3) -> bool:
    """Return whether scores differ by next to nothing, as a share of how far scores differ at all."""
    both = torch.cat([a, b])
    return bool((a - b).abs().max() <= within * both.std() + 1e-6 * both.abs().max())


# --- two processes ---------------------------------------------------------------------------------------------------


def class_path(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


@pytest.fixture(scope="session")
def two_processes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[dict[str, Any]]]:
    """Train all models of this session in one pair of processes; {"module:Class/kind": [of rank 0, of rank 1]}."""
    classes = {item.cls for item in request.session.items if getattr(item, "cls", None) is not None}  # type: ignore[attr-defined]
    jobs = sorted(
        f"{class_path(cls)}/{kind}"
        for cls in classes
        if issubclass(cls, RecommenderContract) and cls.in_two_processes
        for kind in cls.tasks
    )
    # workers of pytest-xdist share the folder above their own
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if os.environ.get("PYTEST_XDIST_WORKER") else folder
    with FileLock(folder / "two_processes.lock"):
        if not (folder / "rank1.json").exists():
            _run_pair(folder, jobs)
    ranks = [json.loads((folder / f"rank{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1)]
    return {job: [rank[job] for rank in ranks] for job in jobs}


def _run_pair(folder: Path, jobs: list[str]) -> None:
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pair = []
    for rank in (0, 1):
        environment = os.environ | {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "LOCAL_RANK": str(rank),
            "NODE_RANK": "0",
            "OMP_NUM_THREADS": "1",
            "NUMBA_NUM_THREADS": "1",
        }
        command = [sys.executable, "-m", "tests.contract", str(folder), str(rank)]
        pair.append(subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True))
    try:
        for process in pair:
            _, errors = process.communicate(timeout=900)
            assert process.returncode == 0, errors[-3000:]
    finally:
        for process in pair:
            process.kill()


class _Rows(Callback):
    """Notes which rows this process has judged."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Batch, *args: Any, **kwargs: Any
    ) -> None:
        assert batch.row is not None
        self.rows += batch.row.tolist()


def _one_of_two(folder: Path, rank: int) -> None:
    results: dict[str, dict[str, Any]] = {}
    jobs = json.loads((folder / "jobs.json").read_text(encoding="utf-8"))
    for job in jobs:
        # before the processes know of each other: transformers then saves what a test makes on rank 0 alone
        importlib.import_module(job.partition(":")[0])
    for job in jobs:
        path, _, kind = job.partition("/")
        module, _, name = path.partition(":")
        contract = getattr(importlib.import_module(module), name)
        rows = _Rows()
        try:
            fitted = contract.fit(kind, strategy="ddp", devices=2, callbacks=[rows])
        except Exception as error:
            results[job] = {"error": repr(error)}
            continue
        table = fitted.model.test_evaluator.table()
        judged = len(set(table["user" if kind == "ranking" else "row"].tolist()))
        results[job] = {"metrics": fitted.metrics, "rows": rows.rows, "judged": judged}
    (folder / f"rank{rank}.json").write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    _one_of_two(Path(sys.argv[1]), int(sys.argv[2]))
