"""Augmented histories: what each operator keeps, against plain Python; defaults change nothing; an epoch repeats."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from benchmark.data.augment import Augment
from benchmark.data.batch import Batch, BatchSpec
from benchmark.data.split import Temporal, split
from benchmark.data.task import Task
from benchmark.data.train_rows import TrainRows
from tests.data.test_datamodule import dataset

PAD = 1_000_000
EVERY = {"crop": 0.6, "mask": 0.3, "reorder": 0.5}


def batch_of(lengths: list[int]) -> Batch:
    """Distinct items row by row; labels and times are functions of the item."""
    width = max(*lengths, 1)
    column = torch.arange(width)
    real = column < torch.tensor(lengths).unsqueeze(1)
    item = torch.where(real, torch.arange(len(lengths)).unsqueeze(1) * width + column, PAD)
    return Batch(
        user=torch.arange(len(lengths)),
        item=torch.full((len(lengths),), 7),
        history=item,
        history_length=torch.tensor(lengths),
        history_label=torch.where(real, item * 0.5, 0.0),
        history_time=torch.where(real, item * 10.0, 0.0).double(),
    )


def rows(batch: Batch) -> list[list[int]]:
    assert batch.history is not None
    assert batch.history_length is not None
    for row, n in zip(batch.history, batch.history_length.tolist(), strict=True):
        assert (row[:n] != PAD).all()
        assert (row[n:] == PAD).all()
    return [row[:n].tolist() for row, n in zip(batch.history, batch.history_length.tolist(), strict=True)]


def is_piece(short: list[int], long: list[int]) -> bool:
    return any(long[i : i + len(short)] == short for i in range(len(long) - len(short) + 1))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=8),
    st.sampled_from(["crop", "mask", "reorder"]),
    st.floats(0.05, 0.95),
    st.integers(1, 2),
    st.integers(0, 2**31),
)
def test_an_operator_does_what_the_paper_says(
    lengths: list[int], name: str, share: float, least: int, seed: int
) -> None:
    before = batch_of(lengths)
    augment = Augment(**{name: share}, probability=1.0)
    after = augment.apply(before, PAD, least, torch.Generator().manual_seed(seed))
    assert after.item is before.item
    assert after.history_label is not None
    assert after.history_time is not None
    for b, (old, new) in enumerate(zip(rows(before), rows(after), strict=True)):
        n = len(old)
        if name == "crop":
            assert len(new) == min(max(int(n * share), least), n)
            assert is_piece(new, old)
        elif name == "mask":
            assert len(new) == n - min(int(n * share), max(n - least, 0))
            assert [item for item in old if item in new] == new
        else:
            assert sorted(new) == old
            changed = [i for i in range(n) if new[i] != old[i]]
            assert not changed or changed[-1] - changed[0] < int(n * share)
        # a label goes with its item; a time too, unless the items were reordered: times ascend always
        assert after.history_label[b, : len(new)].tolist() == [item * 0.5 for item in new]
        times = after.history_time[b, : len(new)].tolist()
        assert times == sorted(times) == [item * 10.0 for item in (old if name == "reorder" else new)]
        assert not after.history_label[b, len(new) :].any()
        assert not after.history_time[b, len(new) :].any()


def test_a_row_is_augmented_as_often_as_asked_by_each_operator_in_turn() -> None:
    augment = Augment(**EVERY, probability=0.6)
    before = batch_of([10] * 6000)
    after = augment.apply(before, PAD, 1, torch.Generator().manual_seed(0))
    found: Counter[str] = Counter()
    for old, new in zip(rows(before), rows(after), strict=True):
        if new == old:
            found["none"] += 1
        else:
            found["crop" if len(new) == 6 else "mask" if len(new) == 7 else "reorder"] += 1
    # a shuffle of five items leaves them as they are once in 120 times
    assert found["none"] / 6000 == pytest.approx(0.4 + 0.2 / 120, abs=0.025)
    for name in EVERY:
        assert found[name] / 6000 == pytest.approx(0.2, abs=0.025)


def test_every_start_of_a_crop_and_every_item_of_a_mask_is_as_likely() -> None:
    before = batch_of([8] * 8000)
    cropped = Augment(crop=0.5, probability=1).apply(before, PAD, 1, torch.Generator().manual_seed(1))
    starts = np.bincount([new[0] % 8 for new in rows(cropped)], minlength=5)
    assert starts.shape == (5,)
    assert starts == pytest.approx(1600, rel=0.12)
    masked = Augment(mask=0.25, probability=1).apply(before, PAD, 1, torch.Generator().manual_seed(1))
    kept = np.bincount(np.concatenate(rows(masked)) % 8)
    assert kept == pytest.approx(6000, rel=0.05)


def train_rows(kind: str, **options: Any) -> TrainRows:
    task = Task(split=Temporal(valid=0.2, test=0.2))
    spec = BatchSpec(kind, max_history=5, **options)  # type: ignore[arg-type]
    return TrainRows(split(dataset(), task.split, 0), task, spec, seed=3)


@pytest.mark.parametrize("kind", ["pointwise", "pairwise", "sequence"])
def test_the_target_stays_and_an_epoch_repeats(kind: str) -> None:
    plain, augmented = train_rows(kind), train_rows(kind, augment=Augment(**EVERY, probability=1.0))
    order = augmented.order(4)
    assert torch.equal(order, plain.order(4))
    old, new = plain[order], augmented[order]
    for name in ("user", "item", "label"):
        a, b = getattr(old, name), getattr(new, name)
        n = len(order)  # behind them stand the drawn negatives of pointwise rows
        assert (a is None) == (b is None)
        assert a is None or torch.equal(a[:n], b[:n])
    assert old.history is not None
    assert new.history is not None
    assert old.history.shape != new.history.shape or not torch.equal(old.history, new.history)
    assert new.history_length is not None
    assert old.history_length is not None
    least = torch.minimum(old.history_length, torch.tensor(2 if kind == "sequence" else 1))
    assert (new.history_length >= least).all()
    if new.history_time is not None:
        width = new.history.shape[1] - 1
        later = torch.arange(1, width + 1) < new.history_length.unsqueeze(1)
        assert (new.history_time.diff(dim=1)[later] >= 0).all()
    augmented.order(5)
    augmented[order]
    assert torch.equal(augmented.order(4), order)
    again = augmented[order].history
    assert again is not None
    assert torch.equal(again, new.history)


@pytest.mark.parametrize("wrong", [{}, {"crop": 1.0}, {"mask": 0.0}, {"crop": 0.5, "probability": 0}, {"croq": 0.5}])
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Augment(**wrong)
