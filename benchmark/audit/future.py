"""The future: what a history or the training part holds that came after the row it is judged by."""

from __future__ import annotations

import numpy as np
import torch

from benchmark.audit.finding import Finding, percent
from benchmark.audit.material import LONGEST, Material
from benchmark.data.batch import Batch, BatchSpec
from benchmark.data.eval_rows import EvalRows
from benchmark.data.seeded import permutation
from benchmark.data.train_rows import TrainRows
from benchmark.errors import InputError

CHECK, HISTORIES, TRAINING = "future", "Future interactions in histories", "Future interactions in training"
_BLOCK = 1 << 15  # rows whose histories are gathered at once
_WINDOWS = 20_000  # training rows that are looked at


def histories(material: Material) -> list[Finding]:
    """Check that histories hold only what came strictly before the target: of all judged rows, of training rows."""
    entries = late = own = rows = 0
    timed = True
    for part in ("valid", "test"):
        judged = material.valid if part == "valid" else material.test
        found = _judged(material, part, judged)
        rows, entries, late, own = rows + len(judged), entries + found[0], late + found[1], own + found[2]
        timed = timed and found[3]
    seen, later = _windows(material)
    numbers: dict[str, float] = {
        "rows": rows,
        "entries": entries,
        "late": late,
        "targets": own,
        "training_entries": seen,
    }
    numbers |= {"training_late": later}
    faults = []
    if late:
        faults.append(f"{late:,} of {entries:,} entries ({percent(late / entries)}) are not older than the target")
    if own:
        faults.append(f"the target itself stands in its history {own:,} times")
    if later:
        faults.append(f"{later:,} of {seen:,} entries of training windows are not older than what is learned from them")
    if faults:
        return [Finding(CHECK, HISTORIES, "fault", f"Histories tell the future: {'; '.join(faults)}.", numbers)]
    if not entries + seen:
        return [Finding(CHECK, HISTORIES, "fine", f"None of the {rows:,} judged rows has a history.", numbers)]
    if not timed:
        said = (
            "The data has no timestamps, so whether histories are older than their targets cannot be told; no history "
            f"of the {rows:,} judged rows holds its target."
        )
        return [Finding(CHECK, HISTORIES, "unknown", said, numbers)]
    said = (
        f"All {entries:,} history entries of the {rows:,} judged rows (validation and test, newest {LONGEST} of each) "
        f"are strictly older than their targets, and so are {seen:,} entries of training windows."
    )
    note = material.data.dataset.steps[0].note
    if note and getattr(material.experiment.dataset.source, "ties", None) == "published":
        told = f"{said} That holds of the order in which the source gives them: {note}."
        return [Finding(CHECK, HISTORIES, "warning", told, numbers)]
    return [Finding(CHECK, HISTORIES, "fine", said, numbers)]


def training(material: Material) -> list[Finding]:
    """Check how much of the training part is newer than what is tested."""
    train, test = material.split.train, material.split.test
    kind = material.experiment.task.split.kind
    if train.time is None or test.time is None:
        said = "The data has no timestamps, so whether training saw the future of the test cannot be told."
        return [Finding(CHECK, TRAINING, "unknown", said)]
    users = np.unique(material.test.user.numpy())
    first = np.full(material.split.n_users, np.inf)
    row, _, time = material.targets("test", material.test)
    assert time is not None
    np.minimum.at(first, material.test.user.numpy()[row], time)
    newest = np.full(material.split.n_users, -np.inf)
    np.maximum.at(newest, train.user, train.time)
    own = float((newest > first)[users].mean())
    comparable = material.split.clock == "time"
    shared = float((train.time > test.time.min()).mean()) if comparable else 0.0
    numbers: dict[str, float] = {"users": len(users), "users_share": own} | (
        {"training_share": shared} if comparable else {}
    )
    told = []
    if own:
        told.append(
            f"of {percent(own)} of the {len(users):,} judged users, training holds something newer than a test item"
        )
    if shared:
        told.append(f"{percent(shared)} of the training interactions are newer than the oldest of the test")
    order = "" if comparable else " Times of different users cannot be compared: the data tells their order alone."
    if told:
        why = f"The split {kind} lets models learn from what happened later: {' and '.join(told)}."
        hint = "" if kind == "temporal" else " The split temporal does not."
        return [Finding(CHECK, TRAINING, "warning", why + (hint if comparable else order), numbers)]
    said = "No training interaction is newer than the oldest test interaction."
    if not comparable:
        said = "No training interaction of a judged user is newer than the user's first test interaction." + order
    return [Finding(CHECK, TRAINING, "fine", said, numbers)]


def _judged(material: Material, part: str, rows: EvalRows) -> tuple[int, int, int, bool]:
    """Return history entries, those not older than the target, those that are the target, whether there are times."""
    row, item, time = material.targets(part, rows)
    n = material.split.n_items + 1
    targets = torch.from_numpy(np.unique(row.astype(np.int64) * n + item))
    first = None
    if time is not None:
        earliest = np.full(len(rows), np.inf)
        np.minimum.at(earliest, row, time)
        first = torch.from_numpy(earliest)
    entries = late = own = 0
    timed = True
    for index in rows.all.split(_BLOCK):
        batch = rows[index]
        assert batch.history is not None
        real = _real(batch)
        entries += int(real.sum())
        if batch.history_time is not None and first is not None:
            late += int((real & (batch.history_time >= first[index].unsqueeze(1))).sum())
        elif bool(real.any()):
            timed = False
        if not material.experiment.task.allow_repeats:
            own += int((real & torch.isin(index.unsqueeze(1) * n + batch.history, targets)).sum())
    return entries, late, own, timed


def _windows(material: Material) -> tuple[int, int]:
    """Return the entries of a sample of training windows, and those that are not older than what is learned."""
    spec = BatchSpec("pointwise", negatives=0, max_history=LONGEST)
    train = material.split.train
    try:
        rows = TrainRows(material.split, material.experiment.task, spec, seed=0)
    except InputError:
        return 0, 0
    index = rows.all[torch.from_numpy(np.sort(permutation(len(rows.all), material.seed)[:_WINDOWS]))]
    batch = rows[index]
    if train.time is None or batch.history_time is None or batch.history is None:
        return 0, 0
    real = _real(batch)
    own = torch.from_numpy(train.time)[index].unsqueeze(1)
    return int(real.sum()), int((real & (batch.history_time >= own)).sum())


def _real(batch: Batch) -> torch.Tensor:
    """Return (B, L) which entries of the histories are no padding."""
    assert batch.history is not None
    assert batch.history_length is not None
    return torch.arange(batch.history.shape[1]) < batch.history_length.unsqueeze(1)
