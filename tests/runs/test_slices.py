"""Slices of time: rows that are trained anew, kept, or trained further, and what each has learned from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark.errors import InputError
from benchmark.experiment import START, Experiment, load_all
from benchmark.reports import slices
from benchmark.reports.part import part
from benchmark.reports.verify import _bring
from benchmark.runs.budgeted import budgeted
from benchmark.runs.execute import load_model, run_key
from benchmark.runs.record import RunStore
from benchmark.runs.run import prepare, run
from benchmark.sweeps.study import order

MF = "class: baselines.mf.MF, embedding_size: 8, learning_rate: 0.05, trainer: {max_epochs: 2}"


def sliced(file: Path, models: str, n: int = 3) -> list[Experiment]:
    """Return the tiny experiment over slices of time, with other models."""
    text = file.read_text(encoding="utf-8")
    text = text.replace("split: {kind: temporal, valid: 0.2, test: 0.2}", "split: {kind: prequential, judged: 0.6}")
    before, after = text[: text.index("models:")], text[text.index("seeds:") :]
    file.write_text(f"{before}slices: {n}\nmodels:\n{models}{after}", encoding="utf-8")
    return load_all(file, ["seeds=[0]"])


def test_rows_by_way_of_updating(tiny_experiment: Path, tmp_path: Path) -> None:
    experiments = sliced(tiny_experiment, f"  mf: {{{MF}, update: [retrained, static, continued]}}\n")
    assert [e.name for e in experiments] == ["tiny-slice-1", "tiny-slice-2", "tiny-slice-3"]
    assert [e.part for e in experiments] == ["slice-1", "slice-2", "slice-3"]
    first, _, last = experiments
    assert len({run_key(first.spec(f"mf-{way}", 0), "x") for way in ("retrained", "static", "continued")}) == 1
    static, continued = last.spec("mf-static", 0), last.spec("mf-continued", 0)
    assert static.train_on == ()
    assert run_key(static.stages[START], "x") == run_key(first.spec("mf-static", 0), "x")
    assert continued.since == 2
    assert run_key(continued.stages[START], "x") == run_key(experiments[1].spec("mf-continued", 0), "x")

    store = RunStore(tmp_path / "runs")
    data = prepare(last, store.root)
    learns = {way: budgeted(last.spec(f"mf-{way}", 0), data.split) for way in ("retrained", "static", "continued")}
    assert len(learns["retrained"].train) == len(data.split.train)
    assert learns["retrained"].learned is None
    assert len(learns["static"].train) == 0
    assert learns["static"].learned is not None
    assert len(learns["static"].learned) == len(prepare(first, store.root).split.train)
    new = data.split.report["train_ends_2"]
    assert learns["continued"].train.time is not None
    assert learns["continued"].train.time.min() >= new
    assert learns["continued"].learned is not None
    assert len(learns["continued"].learned) == len(data.split.train), "its weights know all of it"

    # the last slice alone brings the runs of the earlier ones that it begins with
    records = {e.name: run(e, store.root) for e in reversed(experiments)}
    assert {r.status for of_one in records.values() for r in of_one} == {"finished"}
    kept, original = (load_model(e.spec("mf-static", 0), prepare(e, store.root), store) for e in (last, first))
    for name, value in original.state_dict().items():
        if name != "known_user":
            assert torch.equal(kept.state_dict()[name], value), name

    parts = [part(e, records[e.name], store) for e in experiments]
    text = slices.contents(parts)["slices.md"]
    values = np.concatenate([p.outcomes.values["mf-static", "ndcg@10"] for p in parts])
    assert f"{np.nanmean(values):.4f} [" in text.split("| mf-static")[1].splitlines()[0]
    assert slices.still(parts).startswith("<?xml")


@pytest.mark.parametrize(
    ("models", "said"),
    [
        ("  e: {class: baselines.ease.EASE, update: [continued]}\n", "EASE is fitted anew each time"),
        ("  e: {class: baselines.ease.EASE, update: []}\n", "each once; found []"),
        ("  e: {class: baselines.ease.EASE, update: [statics]}\n", "did you mean 'static'"),
        ("  e: {class: baselines.ease.EASE, update: static, limit_train: 5}\n", "goes with neither limit_train"),
    ],
)
def test_wrong_ways_of_updating_are_one_line(models: str, said: str, tiny_experiment: Path) -> None:
    with pytest.raises(InputError) as error:
        [e.specs() for e in sliced(tiny_experiment, models)]
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_slices_need_a_prequential_split(tiny_experiment: Path) -> None:
    with pytest.raises(InputError, match=r"slices: the split must be prequential"):
        load_all(tiny_experiment, ["slices=3"])
    with pytest.raises(InputError, match=r"models\.mf\.update: only a prequential split has slices; found temporal"):
        Experiment.load(tiny_experiment, ["models.mf.update=static"]).specs()
    with pytest.raises(InputError, match="slice: found 7, there are 5"):
        load_all(tiny_experiment, ["task.split={kind: prequential, slice: 7}"])


def test_a_user_who_comes_again_is_drawn_with_all_of_it() -> None:
    """Five slices of the same values tell no more than one of them."""
    rng = np.random.default_rng(0)
    values, users = rng.random(80), np.array([f"u{i}" for i in range(80)])
    once = slices._told(values, users, slices.NUMBER)
    assert slices._told(np.tile(values, 5), np.tile(users, 5), slices.NUMBER) == once
    strangers = np.array([f"u{i}" for i in range(400)])
    assert slices._told(np.tile(values, 5), strangers, slices.NUMBER) != once
    assert slices._told(np.full(3, np.nan), users[:3], slices.NUMBER) == "–"


def test_what_stands_on_other_rows_is_not_static(tiny_experiment: Path) -> None:
    models = f"  mf: {{{MF}}}\n  half: {{class: tests.test_derived.Halved, of: mf, update: static}}\n"
    with pytest.raises(InputError, match=r"models.half: it stands on other rows, .* takes no transfer, start"):
        [e.specs() for e in sliced(tiny_experiment, models)]


def test_the_order_of_studies_is_found_where_rows_begin_with_themselves(tiny_experiment: Path) -> None:
    searched = "  ease: {class: baselines.ease.EASE, search: {l2: [1.0, 10.0]}}\n"
    experiments = sliced(tiny_experiment, f"  mf: {{{MF}, update: [static, continued]}}\n{searched}")
    assert [order(e) for e in experiments] == [["ease"]] * 3


def test_what_a_repeated_run_begins_with_is_computed_on_its_own_slice(tiny_experiment: Path, tmp_path: Path) -> None:
    first, *_, last = sliced(tiny_experiment, f"  mf: {{{MF}, update: [static]}}\n")
    store, scratch = RunStore(tmp_path / "runs"), RunStore(tmp_path / "scratch")
    spec, data = last.spec("mf-static", 0), prepare(last, store.root)
    _bring(spec.stages[START], spec, data, store, scratch)
    record = scratch.get(run_key(spec.stages[START], data.fingerprint))
    assert record is not None
    assert record.split_fingerprint == prepare(first, store.root).split_fingerprint
    assert record.split_fingerprint != data.split_fingerprint
