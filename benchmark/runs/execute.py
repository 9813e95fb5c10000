"""Carries out one RunSpec: fit, keep the best weights, read the test part once, store the record."""

from __future__ import annotations

import datetime
import hashlib
import json
import logging
import shutil
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from lightning import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.seed import isolate_rng

from benchmark.data.datamodule import RecDataModule
from benchmark.data.eval_rows import EvalRows
from benchmark.data.schema import ITEM_ID, USER_ID, Dataset, SplitData
from benchmark.digest import file_sha256
from benchmark.errors import InputError
from benchmark.evaluation.evaluator import RankingEvaluator
from benchmark.evaluation.metrics import higher_is_better, parse_metric
from benchmark.experiment import START, RunSpec
from benchmark.recommender import Recommender, size_in_bytes, trainable_parameters
from benchmark.runs.budgeted import budgeted
from benchmark.runs.environment import Energy, PeakMemory, code_version, environment
from benchmark.runs.record import LOG, RANKS, TOP, RunRecord, RunStore, cleaned, first_line, no_space, whole_file
from benchmark.runs.selection import Best, Curve, Early, Last, WholeCheckpoints, best_epoch

CHECKPOINT, RESUME = "checkpoint", "resume"


@dataclass(frozen=True)
class PreparedData:
    """A filtered data set and its split, shared by all runs of an experiment."""

    dataset: Dataset
    split: SplitData
    fingerprint: str
    split_fingerprint: str
    seconds: float


@dataclass(frozen=True)
class Trial:
    """What makes a run the trial of a search: it sees the validation part alone, and may be ended early.

    Attributes:
        study, number: whose trial it is, for the record.
        report: takes (epochs done, monitored validation value) after each epoch; True ends the run as pruned. Not
            called for models that take one epoch.
    """

    study: str
    number: int
    report: Callable[[int, float], bool]


def run_key(spec: RunSpec, data_fingerprint: str, trial: bool = False) -> str:
    """Return the identity of a run: hash of the resolved spec, the data's content and the code version.

    Files that the model reads, such as a corpus, are part of it by their content.
    The keys of the models it stands on are part of it: a change of their code makes this a new run too. A trial of the
    same spec is another run: it does not read the test part.
    """
    identity: dict[str, Any] = {
        "spec": spec.resolved(),
        "data": data_fingerprint,
        "code": code_version(spec.class_path.rpartition(".")[0]),
    }
    if trial:
        identity["trial"] = True
    if parts := spec.model_class().made_of(spec.config):
        identity["parts"] = [code_version(path.rpartition(".")[0]) for path in parts]
    if files := _files(spec.config.model_dump()):
        identity["files"] = files
    if spec.stages:
        identity["stages"] = {role: run_key(stage, data_fingerprint) for role, stage in spec.stages.items()}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def _files(said: Any) -> list[str]:
    """Return the SHA-256 of each file that is named among hyper-parameters and is there."""
    if isinstance(said, dict):
        said = list(said.values())
    if isinstance(said, (list, tuple)):
        return [found for value in said for found in _files(value)]
    return [file_sha256(said)] if isinstance(said, Path) and said.is_file() else []


def execute(
    spec: RunSpec,
    data: PreparedData,
    store: RunStore,
    callbacks: Sequence[Callback] = (),
    loggers: Sequence[Logger] = (),
    trial: Trial | None = None,
) -> RunRecord:
    """Run ``spec`` and store its record; a run that fails is recorded as failed, with its traceback in ``error.log``.

    Training goes on from the last checkpoint where an earlier attempt was interrupted. The models that the run stands
    on are taken from the store; where one of them is missing or failed, the run fails with one line that says so.
    A ``trial`` keeps neither weights nor ranks: its validation curve is all it is for.

    Raises:
        InputError: the record cannot be written. Anything a model raises is recorded instead.
    """
    key = run_key(spec, data.fingerprint, trial is not None)
    folder = store.folder(key)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); choose another --runs folder") from None
    traits = spec.traits()
    record = RunRecord(
        key=key,
        status="failed",
        experiment=spec.experiment,
        label=spec.label,
        group=traits.group,
        probability=traits.probability,
        seed=spec.seed,
        spec=spec.resolved(),
        data_fingerprint=data.fingerprint,
        split_fingerprint=data.split_fingerprint,
        candidates_fingerprint="",
        code_version=code_version(spec.class_path.rpartition(".")[0]),
        split_report=data.split.report,
        data_steps=[vars(step) for step in data.dataset.steps],
        study=trial.study if trial else None,
        trial=trial.number if trial else None,
        environment=environment(),
        started=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    with PeakMemory() as memory, Energy() as energy:
        try:
            with quiet():
                pruned = _run(spec, data, store, record, callbacks, loggers, trial)
            record.status = "pruned" if pruned else "finished"
        except InputError as error:
            record.error = str(error)
            (folder / LOG).unlink(missing_ok=True)  # of an earlier attempt
        except Exception as error:
            if no_space(error):
                # every other run would end in the same way
                raise InputError(f"{folder}: cannot be written ({first_line(error)}); free some space") from None
            name, text = type(error).__name__, str(error).strip()
            record.error = f"{name}: {first_line(error)}" if text else name
            with whole_file(folder / LOG) as temporary:
                temporary.write_text(traceback.format_exc(), encoding="utf-8")
    record.peak_memory["host"] = memory.bytes
    record.energy_wh = energy.watt_hours
    store.put(record)
    # what is of no use any more goes behind the record: without it, half of the checkpoints would be gone on with
    if record.status != "failed":
        (folder / LOG).unlink(missing_ok=True)
    if record.status != "failed" or trial is not None:  # a trial that is tried again tells its study all epochs
        shutil.rmtree(folder / RESUME, ignore_errors=True)
    return record


def _run(
    spec: RunSpec,
    data: PreparedData,
    store: RunStore,
    record: RunRecord,
    callbacks: Sequence[Callback],
    loggers: Sequence[Logger],
    trial: Trial | None,
) -> bool:
    """Fill ``record``; return whether the run was pruned."""
    folder = store.folder(record.key)
    seconds: dict[str, float] = {"prepare": data.seconds}
    clock = time.perf_counter()

    def lap(stage: str) -> None:
        nonlocal clock
        now = time.perf_counter()
        seconds[stage] = now - clock
        clock = now

    split = budgeted(spec, data.split)
    model = _build(spec, split, data, store)
    if START in spec.stages:
        _begin_with(model, spec.stages[START], data, store)
    module = RecDataModule(split, spec.task, model.batch_spec(), spec.seed)
    lap("build")
    stopping = spec.trainer.early_stopping
    monitor = f"valid/{stopping.monitor}"
    mode = "max" if higher_is_better(parse_metric(str(stopping.monitor)).name) else "min"
    first, epochs = model.pretrain_epochs, model.pretrain_epochs + spec.trainer.max_epochs
    one_pass = model.batch_kind == "whole" or epochs == 1
    report = trial.report if trial and not one_pass else None
    curve = Curve(first, str(stopping.monitor), report)
    best = Best(first, folder / RESUME, "best", monitor, mode=mode, save_top_k=1)
    early = Early(first, monitor, stopping.min_delta, stopping.patience, mode=mode, check_finite=False)
    trainer = Trainer(
        max_epochs=1 if one_pass else epochs,
        accelerator=spec.trainer.accelerator,
        devices=spec.trainer.devices,
        strategy=spec.trainer.strategy,
        precision=spec.trainer.precision,  # type: ignore[arg-type]
        gradient_clip_val=None if model.batch_kind == "whole" else spec.trainer.gradient_clip_val,
        accumulate_grad_batches=1 if model.batch_kind == "whole" else spec.trainer.accumulate_grad_batches,
        check_val_every_n_epoch=1 if one_pass else spec.trainer.check_val_every_n_epoch,
        callbacks=[*callbacks, curve, *([] if one_pass else [early, best, Last(first, folder / RESUME)])],
        plugins=[WholeCheckpoints()],
        logger=list(loggers) or False,
        enable_checkpointing=not one_pass,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        log_every_n_steps=1_000_000,  # per epoch is enough, per step costs
        deterministic="warn" if torch.cuda.is_available() else False,  # on CPUs our kernels repeat as they are
    )
    last = folder / RESUME / "last.ckpt"
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    if spec.train_on == ():
        trainer.validate(model, module, verbose=False)
        record.metrics["valid"] = cleaned(model.metrics["valid"])
    else:
        trainer.fit(model, module, ckpt_path=str(last) if last.exists() and not one_pass else None, weights_only=True)
    if not one_pass and best.best_model_path and trial is None:
        state = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
        model.load_state_dict(state["state_dict"], strict=False)
    lap("fit")
    seconds["fit"] += curve.seconds_before
    record.curve, record.epochs = curve.rows, trainer.current_epoch
    selectable = [row for row in curve.rows if one_pass or (row["epoch"] or 0) >= first]
    chosen = best_epoch(selectable, str(stopping.monitor), mode)
    if chosen is not None:
        record.best_epoch = chosen + len(curve.rows) - len(selectable)
        record.metrics["valid"] = {k: v for k, v in selectable[chosen].items() if k != "epoch"}
    if trial is None:
        model.save(folder / CHECKPOINT)
        model.forget()  # what is kept from validation would make scoring look free for some
        lap("save")
        trainer.test(model, module, verbose=False)
        record.test_reads += 1
        lap("test")
        record.metrics["test"] = cleaned(model.metrics["test"])
        record.judged["test"] = module.rows("test").n_judged
    record.judged["valid"] = module.rows("valid").n_judged
    record.candidates_fingerprint = candidates_fingerprint(module.rows("test" if trial is None else "valid"))
    seconds["score"] = model.scoring_seconds
    record.ms_per_user = 1000 * model.scoring_seconds / max(model.scored_rows, 1)
    record.stage_seconds = {name: round(value, 4) for name, value in seconds.items()}
    record.parameters = {
        "trainable": trainable_parameters(model),
        "total": sum(p.numel() for name, p in model.named_parameters() if name != "anchor"),
    }
    record.model_report = {"size_mb": size_in_bytes(model) / 1e6, **{k: float(v) for k, v in model.report().items()}}
    if torch.cuda.is_available():
        record.peak_memory["device"] = torch.cuda.max_memory_allocated()
    if trial is None:
        _store_outcome(model, data.split, store, record)
    return curve.pruned


def _build(
    spec: RunSpec, split: SplitData, data: PreparedData, store: RunStore, new_user: bool = False, trained: bool = False
) -> Recommender:
    """Return the untrained model on ``split`` (the data within its budget), standing on its stages.

    ``trained``: its weights are there already, so that stages which are needed in training alone are left out.

    The random generators are left as the seed of the run and the model's own draws made them.
    """
    needed = spec.below if spec.model_class().scores_with_stages or not trained else {}
    stages = {role: _stage(role, stage, data, store, new_user) for role, stage in needed.items()}
    seed_everything(spec.seed, verbose=False)  # behind the stages: loading them must not change the model's draws
    model = spec.model_class()(spec.config, split.catalogue(cache=store.root / "tokens"))
    if stages:
        model.attach(stages)
    return model


def _stage(role: str, stage: RunSpec, data: PreparedData, store: RunStore, new_user: bool) -> Recommender:
    """Return a trained model for another one to stand on: in eval mode and frozen.

    Raises:
        InputError: it has no finished run in the store.
    """
    _finished(role, stage, data, store)
    model = load_model(stage, data, store, new_user)
    model.requires_grad_(False)
    return model


def _finished(role: str, stage: RunSpec, data: PreparedData, store: RunStore) -> str:
    """Return the key of a finished run; raises InputError where it is none."""
    key = run_key(stage, data.fingerprint)
    record = store.get(key)
    if record is None or record.status != "finished":
        error = "it has no record; run it first" if record is None else record.error
        raise InputError(f"its {role} '{stage.label}' failed: {error}")
    return key


def _begin_with(model: Recommender, start: RunSpec, data: PreparedData, store: RunStore) -> None:
    """Give a model the weights that another run ended with; raises InputError where they are missing or do not fit."""
    model.restore(store.folder(_finished(START, start, data, store)) / CHECKPOINT)


def _store_outcome(model: Recommender, split: SplitData, store: RunStore, record: RunRecord) -> None:
    """Write the ranks (or scores) and the top lists with raw ids, and note their hashes."""
    evaluator: Any = model.test_evaluator
    frames = {RANKS: pl.DataFrame(evaluator.table())}
    if isinstance(evaluator, RankingEvaluator):
        users, lists = evaluator.top_lists()
        rank = np.broadcast_to(np.arange(lists.shape[1], dtype=np.int32), lists.shape)
        there = lists >= 0
        user = np.broadcast_to(users[:, None], lists.shape)
        frames[TOP] = pl.DataFrame({"user": user[there], "rank": rank[there], "item": lists[there]})
    frames = {name: _raw(frame, split) for name, frame in frames.items()}
    for name, frame in frames.items():
        path = store.write_parquet(record.key, name, frame)
        record.files[name] = file_sha256(path)
    for path in sorted((store.folder(record.key) / CHECKPOINT).rglob("*")):
        if path.is_file():
            relative = path.relative_to(store.folder(record.key)).as_posix()
            record.files[relative] = file_sha256(path)


def _raw(frame: pl.DataFrame, split: SplitData) -> pl.DataFrame:
    """Replace integer user and item ids by the raw ones."""
    for column, ids in (("user", split.users[USER_ID]), ("item", split.items[ITEM_ID])):
        if column in frame.columns:
            frame = frame.with_columns(ids.gather(frame[column]).alias(column))
    return frame


def candidates_fingerprint(rows: EvalRows) -> str:
    """Return the SHA-256 of the candidates of judged rows (or of the items of their domain), or "full" where the whole
    catalogue is ranked.
    """
    ranked = rows.candidates if rows.candidates is not None else rows.pool
    if ranked is None:
        return "full"
    return hashlib.sha256(ranked.numpy().astype("<i8", copy=False).tobytes()).hexdigest()


def load_model(
    spec: RunSpec, data: PreparedData, store: RunStore, new_user: bool = False, key: str | None = None
) -> Recommender:
    """Return the trained model of a finished run, in eval mode, standing on its stages; all from the store.

    Args:
        spec: what was run.
        data: what it was run on.
        store: where it was stored.
        new_user: the model is to serve one more user than it was trained with, the last one of its catalogue.
        key: of the run, where it is not that of ``spec`` under the code as it is now.

    Raises:
        InputError: a model it stands on has no finished run in the store, or its weights are another model's.
    """
    split = budgeted(spec, data.split)
    if new_user:
        split = split.with_new_user()
    with isolate_rng():  # built under the run's own seed, of which the caller notices nothing
        model = _build(spec, split, data, store, new_user, trained=True)
    model.restore(store.folder(key or run_key(spec, data.fingerprint)) / CHECKPOINT, int(new_user))
    return model.eval()


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Lightning's notices about things we chose; warnings of models stay."""
    names = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero", "lightning")
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            warnings.filterwarnings("ignore", message=r".*(num_workers|Sparse CSR|does not have many workers).*")
            # of a model that writes nothing; asking all processes keeps them in step
            warnings.filterwarnings("ignore", message=r".*compute.* method of metric GenerationEvaluator")
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            warnings.filterwarnings("ignore", category=FutureWarning)
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
