"""Transfer: rows begin with another domain's weights, trained once, and the matrix tells what that won."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark.errors import InputError
from benchmark.experiment import START, Experiment, load_all
from benchmark.reports import transfer
from benchmark.reports.part import part
from benchmark.runs.execute import load_model, run_key
from benchmark.runs.record import RunStore
from benchmark.runs.run import prepare, run
from tests.data.test_sources_joined import write_domain
from tests.llm.tiny import tiny_bert
from tests.runs.staged import Fragile

TOWER = f"class: benchmark.llm.two_tower.TwoTower, backbone: {tiny_bert()}, trainer: {{max_epochs: 1}}"


def write(folder: Path, models: str, targets: str = "[boats, cars]") -> Path:
    blocks = {name: write_domain(folder, name) for name in ("boats", "cars", "planes")}
    path = folder / "transfer.yaml"
    path.write_text(
        f"name: moved\ndataset: {{source: joined, domains: {blocks}}}\ntargets: {targets}\n"
        "task: {split: {kind: leave_last_out}, metrics: [ndcg@3, auc]}\n"
        f"models:\n  popularity: {{class: baselines.popularity.Popularity}}\n{models}",
        encoding="utf-8",
    )
    return path


def test_a_model_becomes_a_row_a_way(tmp_path: Path) -> None:
    boats, cars = load_all(write(tmp_path, f"  tower: {{{TOWER}, transfer: {{budgets: [0, 7, null], merge: mean}}}}\n"))
    assert (boats.name, boats.task.domain, cars.task.domain) == ("moved-boats", "boats", "cars")
    assert list(boats.models) == [
        "popularity", "tower", "tower-from-cars-0", "tower-from-planes-0", "tower-7", "tower-from-cars-7",
        "tower-from-planes-7", "tower-joint-7", "tower-from-cars", "tower-from-planes", "tower-joint", "tower-merged-0",
        "tower-merged",
    ]  # fmt: skip
    told = {spec.label: spec for spec in boats.specs()}
    assert told["popularity"].train_on == (("boats", None),)
    assert told["tower-from-cars-7"].train_on == (("boats", 7),)
    assert told["tower-joint-7"].train_on == (("boats", 7), ("cars", None), ("planes", None))
    assert told["tower-from-cars-0"].train_on == ()
    # what it begins with is the very run of the other table
    start = told["tower-from-cars-0"].stages[START]
    assert run_key(start, "x") == run_key(cars.spec("tower", 0), "x")
    assert told["tower"].stages == {}


def test_of_several_ways_of_merging_the_mean_keeps_the_plain_name(tmp_path: Path) -> None:
    told = f"  tower: {{{TOWER}, transfer: {{budgets: [0, null], joint: false, merge: [mean, ties]}}}}\n"
    boats = load_all(write(tmp_path, told))[0]
    ways = {label: entry.way for label, entry in boats.models.items() if "merged" in label}
    assert {label: (way.source, way.budget) for label, way in ways.items() if way} == {
        "tower-merged-0": ("merged", 0), "tower-merged": ("merged", None),
        "tower-merged-ties-0": ("merged (ties)", 0), "tower-merged-ties": ("merged (ties)", None),
    }  # fmt: skip


def test_each_domain_is_learned_once_and_zero_shot_is_its_model(tmp_path: Path) -> None:
    experiments = load_all(write(tmp_path, f"  tower: {{{TOWER}, transfer: {{sources: [cars], joint: false}}}}\n"))
    store = RunStore(tmp_path / "runs")
    records = [run(experiment, store.root) for experiment in experiments]
    assert {r.status for of_one in records for r in of_one} == {"finished"}
    data = prepare(experiments[0], store.root)
    zero, source = (e.spec(label, 0) for e, label in zip(experiments, ("tower-from-cars-0", "tower"), strict=True))
    moved, original = (load_model(spec, data, store) for spec in (zero, source))
    for name, value in original.state_dict().items():
        assert torch.equal(moved.state_dict()[name], value), name
    record = next(r for r in records[0] if r.label == "tower-from-cars-0")
    assert record.epochs == 0
    assert record.metrics["valid"].keys() >= {"ndcg@3", "auc"}
    assert record.test_reads == 1

    parts = [part(e, of_one, store) for e, of_one in zip(experiments, records, strict=True)]
    found = {(c.source, c.target, c.budget): c for c in transfer.ways(parts, "tower", "ndcg@3")}
    values = parts[0].outcomes.values
    gain = np.mean(values["tower-from-cars", "ndcg@3"]) - np.mean(values["tower", "ndcg@3"])
    cell = found["cars", "boats", None]
    assert cell.gain == pytest.approx(gain)
    assert cell.low is not None
    assert cell.high is not None
    assert cell.low <= cell.gain <= cell.high
    assert found["alone", "boats", None].gain is None
    text = transfer.markdown(parts)
    assert f"{cell.value:.4f} ({cell.gain:+.4f}" in text
    assert text.count("## tower") == 2
    svg = transfer.still(parts)
    assert svg.startswith("<?xml")
    assert "from cars" in svg
    assert transfer.still(parts) == svg, "the same bytes whenever it is drawn"


def test_some_rows_alone_bring_what_they_begin_with(tmp_path: Path) -> None:
    (boats,) = load_all(
        write(tmp_path, "  m: {class: baselines.mf.MF, transfer: true, trainer: {max_epochs: 1}}\n", "[boats]")
    )
    alone = boats.only(["m-from-cars"])
    assert list(alone.models) == ["m-from-cars"]
    assert run_key(alone.spec("m-from-cars", 0), "x") == run_key(boats.spec("m-from-cars", 0), "x")
    (record,) = run(alone, tmp_path / "runs")
    assert record.status == "finished", record.error


def test_a_start_that_failed_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = "  m: {class: tests.runs.staged.Fragile, transfer: {sources: [cars], joint: false, budgets: [null]}}\n"
    (boats,) = load_all(write(tmp_path, told, "[boats]"))
    one, runs = boats.only(["m-from-cars"]), tmp_path / "runs"
    monkeypatch.setattr(Fragile, "broken", True)
    (failed,) = run(one, runs)
    assert "its start 'm' failed: RuntimeError: the matrix is singular" in (failed.error or "")
    monkeypatch.setattr(Fragile, "broken", False)
    (again,) = run(one, runs, retry_failed=True)
    assert again.status == "finished", again.error


def test_a_model_of_ids_says_that_it_cannot_serve_items_it_has_not_seen(tmp_path: Path) -> None:
    mf = "  mf: {class: baselines.mf.MF, transfer: {budgets: [0, 7], sources: [cars], joint: false}}\n"
    (boats,) = load_all(write(tmp_path, mf, "[boats]"))
    assert boats.unable(short=True) == {"mf-from-cars-0": "cannot score unseen items"}
    assert "nothing of boats is in train_on" in boats.unable()["mf-from-cars-0"]
    assert "mf-from-cars-7" in {spec.label for spec in boats.specs()}


@pytest.mark.parametrize(
    ("models", "targets", "said"),
    [
        ("", "[boat]", "targets: no domain 'boat'; did you mean 'boats'"),
        ("  m: {class: baselines.mf.MF, transfer: {sources: [trains]}}\n", "[boats]", "no domain 'trains'"),
        ("  m: {class: baselines.mf.MF, transfer: {budgets: [0, 0]}}\n", "[boats]", "each once"),
        ("  m: {class: baselines.mf.MF, transfer: {budget: [0]}}\n", "[boats]", "did you mean 'budgets'"),
        ("  m: {class: baselines.mf.MF, transfer: {budgets: [0], merge: mean}}\n", "[boats]", "expected 0 and null"),
        ("  m: {class: baselines.mf.MF, train_on: [car]}\n", "[boats]", "no domain 'car'; did you mean 'cars'"),
        ("  m: {class: baselines.mf.MF, start: {model: popularity, domain: carts}}\n", "[boats]", "no domain 'carts'"),
        ("  m: {class: baselines.mf.MF, train_on: []}\n", "[boats]", "nothing to train on"),
        ("  m: {class: baselines.mf.MF, transfer: true}\n  m-joint: {class: baselines.mf.MF}\n", "[boats]", "two rows"),
        ("  f: {class: tests.test_derived.Halved, of: popularity, transfer: true}\n", "[boats]", "takes no transfer"),
        ("  m: {class: baselines.mf.MF, search: {learning_rate: [0.1, 0.2]}, transfer: true}\n", "[boats]", "search"),
        ("  m: {class: baselines.mf.MF, start: {model: n, domain: cars}}\n", "[boats]", "no model 'n'"),
        ("  m: {class: baselines.mf.MF, start: {model: popularity, domain: cars}}\n", "[boats]", "do not fit"),
    ],
)  # fmt: skip
def test_wrong_transfer_is_one_line(models: str, targets: str, said: str, tmp_path: Path) -> None:
    path = write(tmp_path, models, targets)
    with pytest.raises(InputError) as error:
        [experiment.specs() for experiment in load_all(path)]
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_rows_of_several_targets_need_joined_data(tiny_experiment: Path) -> None:
    with pytest.raises(InputError, match="only a joined data set has domains"):
        load_all(tiny_experiment, ["targets=[a]"])
    with pytest.raises(InputError, match=r"there is no task\.domain"):
        Experiment.load(tiny_experiment, ["models.mf.train_on=[a]"]).specs()


def test_budgets_beyond_the_data_and_keys_without_their_table_are_refused(
    tiny_experiment: Path, tmp_path: Path
) -> None:
    mf = "  m: {class: baselines.mf.MF, transfer: {sources: [cars], joint: false, budgets: [1000]}}\n"
    (boats,) = load_all(write(tmp_path, mf, "[boats]"))
    with pytest.raises(InputError, match=r"models.m-1000: 1000 interactions of 'boats' to train on, and it has 48"):
        run(boats, tmp_path / "runs")
    for told, needed in (("transfer=true", "targets"), ("update=[static]", "slices")):
        with pytest.raises(InputError, match=f"it needs `{needed}:` at the top"):
            load_all(tiny_experiment, [f"models.mf.{told}"])


def test_a_circle_of_starts_is_named(tmp_path: Path) -> None:
    models = "  m: {class: baselines.mf.MF, start: {domain: cars}}\n"
    (experiment,) = load_all(write(tmp_path, models, "[boats]"))
    with pytest.raises(InputError, match="is a circle"):
        experiment.specs()


def test_a_critic_needs_domains(tiny_experiment: Path, tmp_path: Path) -> None:
    text = tiny_experiment.read_text(encoding="utf-8")
    tiny_experiment.write_text(text.replace("models:\n", f"models:\n  t: {{{TOWER}, adversarial: 0.1}}\n"))
    with pytest.raises(InputError, match=r"models.t: adversarial: the items have no 'domain'"):
        run(Experiment.load(tiny_experiment, ["seeds=[0]"]), tmp_path / "runs")
