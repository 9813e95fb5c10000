"""Tables: groups, best and second, mean ± s.d., significance, reasons for missing cells, grids, published numbers."""

from __future__ import annotations

import csv
import dataclasses
import io
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy import stats

from benchmark.errors import InputError
from benchmark.experiment import Experiment, load_all
from benchmark.reports import render
from benchmark.reports.comparison import reference_of
from benchmark.reports.names import title
from benchmark.reports.part import part
from benchmark.reports.table import Cell, Column, ComparisonTable, Row, _rank, build
from benchmark.runs.outcomes import read
from benchmark.runs.record import RunRecord, RunStore
from benchmark.runs.run import run
from tests.llm.tiny import tiny
from tests.reports.made import made_part, ranks, stored

FOUR = {"popularity": 0.2, "ease": 1.5, "mf": 1.0, "llm": 3.0}


def cells(table: ComparisonTable, label: str) -> dict[str, Cell]:
    row = next(row for row in table.rows if row.label == label)
    return {f"{c.name}{'' if c.kind in ('metric', 'cost') else ' ' + c.kind}": cell for c, cell in zip(table.columns, row.cells, strict=True)}  # fmt: skip  # noqa: E501


def test_a_table_from_real_runs(tiny_experiment: Path, tmp_path: Path) -> None:
    experiment = Experiment.load(tiny_experiment)
    records = run(experiment, tmp_path / "runs")
    table = build([part(experiment, records, RunStore(tmp_path / "runs"))])
    assert [column.title for column in table.columns] == ["NDCG@10", "AUC", "Train s", "ms/user"]
    assert [row.label for row in table.rows] == ["popularity", "ease", "mf"]
    values = [r.metrics["test"]["ndcg@10"] for r in records if r.label == "ease"]
    cell = table.rows[1].cells[0]
    assert cell.mean == pytest.approx(np.mean(values))
    assert cell.sd == pytest.approx(np.std(values, ddof=1))
    assert cell.low is not None
    assert cell.high is not None
    assert cell.low <= cell.mean <= cell.high
    (protocol,) = table.protocols
    assert "test users ranked against the full catalogue" in protocol
    assert "mean ± s.d. over 2 seeds" in protocol
    for record in records:
        assert record.data_fingerprint[:8] in protocol
        assert record.environment["commit"]["commit"] is None or record.environment["commit"]["commit"][:8] in protocol


def test_a_table_of_preferences_has_intervals_too(tiny_experiment: Path, tmp_path: Path) -> None:
    told = ["task.kind=preference", "task.metrics=[auc, uauc, log_loss, ece]", "task.positive_rating=4"]
    told += ["models.mf.loss=bce", "models.ease.class=baselines.bias.Bias", "models.ease.l2=1"]
    text = tiny_experiment.read_text(encoding="utf-8").replace("baselines.ease.EASE, l2: 10.0", "baselines.bias.Bias")
    tiny_experiment.write_text(text, encoding="utf-8")
    experiment = Experiment.load(tiny_experiment, [*told[:3], "models.mf.loss=bce"])
    records = run(experiment, tmp_path / "runs")
    table = build([part(experiment, records, RunStore(tmp_path / "runs"))])
    bias = cells(table, "ease")
    for metric in ("auc", "uauc", "log_loss"):
        cell = bias[metric]
        assert cell.mean == pytest.approx(np.mean([r.metrics["test"][metric] for r in records if r.label == "ease"]))
        assert cell.low is not None
        assert cell.low < cell.mean < cell.high
    assert bias["ece"].low is None, "calibration error is no mean over users"
    assert bias["ece"].mean is not None
    assert cells(table, "popularity")["log_loss"].reason == "no probability"


def test_what_a_model_counts_itself_is_a_column(tiny_experiment: Path, tmp_path: Path) -> None:
    text = tiny_experiment.read_text(encoding="utf-8").replace("[ndcg@10, auc]", "[ndcg@10, valid@5]")
    backbone = f"backbone: {tiny('llama')}, zero_shot: true, dtype: float32"
    titles = f"{{class: benchmark.llm.generative.Generative, {backbone}}}"
    tiny_experiment.write_text(text.replace("models:\n", f"models:\n  titles: {titles}\n"), encoding="utf-8")
    experiment = Experiment.load(tiny_experiment, ["seeds=[0]"])
    records = run(experiment, tmp_path / "runs")
    table = build([part(experiment, records, RunStore(tmp_path / "runs"))])
    assert table.columns[1].title == "Valid@5"
    assert cells(table, "titles")["valid@5"].mean == 1.0
    assert cells(table, "ease")["valid@5"].reason == "writes nothing"
    assert {row.label: row.group for row in table.rows}["titles"] == "llm-zero-shot"
    assert records[0].metrics["test"]["valid@5"] == 1.0


def test_metrics_that_were_not_asked_for_at_run_time_come_from_the_ranks(tiny_experiment: Path, tmp_path: Path) -> None:
    run(Experiment.load(tiny_experiment), tmp_path / "runs")
    other = Experiment.load(tiny_experiment, ["task.metrics=[ndcg@10, recall@3, map@7]"])
    records = run(other, tmp_path / "runs")
    table = build([part(other, records, RunStore(tmp_path / "runs"))])
    assert [c.title for c in table.columns[:3]] == ["NDCG@10", "Recall@3", "MAP@7"]
    assert all(row.cells[2].mean is not None for row in table.rows)


def test_users_are_put_into_one_order_whatever_the_order_of_the_files(tmp_path: Path) -> None:
    frames = {"ease": lambda seed: ranks(1, noise=seed), "mf": lambda seed: ranks(1, noise=seed).reverse()}
    p = part(*stored(tmp_path, frames), targets=True)
    for metric in ("ndcg@10", "auc"):
        np.testing.assert_array_equal(p.outcomes.values["ease", metric], p.outcomes.values["mf", metric])
    np.testing.assert_array_equal(p.outcomes.target_values["ease"], p.outcomes.target_values["mf"])
    assert p.outcomes.targets is not None
    assert p.outcomes.targets["item"].to_list() == ranks(1)["item"].to_list()


# --- significance ----------------------------------------------------------------------------------------------------


def test_the_reference_is_the_best_baseline_and_no_llm(tmp_path: Path) -> None:
    p = made_part(tmp_path, FOUR, changes={"seeds": [0]})
    assert {reference_of(p, metric) for metric in ("ndcg@10", "auc")} == {"ease"}
    table = build([p])
    (legend,) = table.legend
    assert "† better, ‡ worse than the best baseline, ease: p < 0.05, sign-flip permutation test" in legend
    assert "paired over 200 users, of one seed, which may have been lucky, Holm over all comparisons" in legend
    assert cells(table, "llm")["ndcg@10"].mark == 1
    assert cells(table, "popularity")["ndcg@10"].mark == -1
    assert cells(table, "ease")["ndcg@10"].mark == 0
    assert cells(table, "ease")["ndcg@10"].p is None


def test_what_is_proposed_is_no_baseline(tmp_path: Path) -> None:
    changes = {"seeds": [0], "report": {"proposed": ["ease", "llm"]}}
    p = made_part(tmp_path, FOUR, changes=changes)
    assert reference_of(p, "ndcg@10") == "mf"
    table = build([p])
    assert cells(table, "ease")["ndcg@10"].mark == 1
    assert cells(table, "mf")["ndcg@10"].p is None


@pytest.mark.parametrize(("test", "correction"), [("permutation", "holm"), ("wilcoxon", "bh")])
def test_the_marks_are_those_of_scipy(test: str, correction: str, tmp_path: Path) -> None:
    """Three baselines and a language model: six pairs hold a baseline, three of them the best one."""
    changes = {"report": {"test": test, "correction": correction}, "seeds": [0]}
    p = made_part(tmp_path, {"popularity": 1.4, "ease": 1.5, "mf": 1.45, "llm": 1.6}, changes=changes)
    pairs = [
        ("popularity", "ease"),
        ("popularity", "mf"),
        ("popularity", "llm"),
        ("ease", "mf"),
        ("ease", "llm"),
        ("mf", "llm"),
    ]
    raw = []
    for one, other in pairs:
        difference = p.outcomes.values[one, "auc"] - p.outcomes.values[other, "auc"]
        if test == "wilcoxon":
            raw.append(stats.wilcoxon(difference).pvalue)
        else:
            drawn = stats.permutation_test((difference,), np.mean, permutation_type="samples", n_resamples=9999, rng=0)
            raw.append(drawn.pvalue)
    if correction == "bh":
        expected = stats.false_discovery_control(raw)
    else:
        order = np.argsort(raw)
        expected = np.empty(6)
        expected[order] = np.minimum(1, np.maximum.accumulate(np.array(raw)[order] * np.arange(6, 0, -1)))
    table = build([p])
    best = reference_of(p, "auc")
    for pair, value in zip(pairs, expected, strict=True):
        if best in pair:
            cell = cells(table, next(label for label in pair if label != best))["auc"]
            assert cell.p == pytest.approx(value, abs=0.02 if test == "permutation" else 1e-12)


def test_each_metric_has_its_own_reference(tmp_path: Path) -> None:
    top = ranks(1.0).with_columns(above=pl.Series([0] * 60 + [450] * 140, dtype=pl.Int32))
    frames = {"ease": lambda seed: top, "mf": lambda seed: ranks(0.5, noise=seed)}
    p = part(*stored(tmp_path, frames))
    assert [reference_of(p, metric) for metric in ("ndcg@10", "auc")] == ["ease", "mf"]
    assert "than the best baseline, ease (NDCG@10); mf (AUC): p < 0.05" in build([p]).legend[0]


def test_a_model_with_one_finished_seed_is_taken_to_move_as_much_as_the_other(tmp_path: Path) -> None:
    def one(label: str, seed: int) -> dict[str, Any]:
        return {"status": "failed", "error": "x"} if (label, seed) == ("ease", 1) else {}

    frames = {"ease": lambda seed: ranks(1.0), "llm": lambda seed: ranks(1.4 + 0.8 * (1, -1)[seed])}
    table = build([part(*stored(tmp_path, frames, {}, {"ease": 1.0}, one))])
    assert cells(table, "llm")["auc"].mark == 0
    assert "mean ± s.d. over 1 to 2 seeds" in table.protocols[0]


def test_one_user_has_no_interval_and_no_test(tmp_path: Path) -> None:
    frames = {label: (lambda seed: ranks(1.0, users=1, noise=seed)) for label in ("ease", "mf")}
    table = build([part(*stored(tmp_path, frames))])
    cell = cells(table, "mf")["ndcg@10"]
    assert (cell.low, cell.p, table.legend) == (None, None, ())


def test_seeds_that_move_a_model_as_a_whole_take_marks_away(tmp_path: Path) -> None:
    """The second model is better in the mean of its two seeds, and worse in one of them."""

    def table(jump: float, seeds: list[int]) -> ComparisonTable:
        frames = {"ease": lambda seed: ranks(1.0), "llm": lambda seed: ranks(1.4 + jump * (1, -1)[seed])}
        return build([part(*stored(tmp_path / f"{jump}{len(seeds)}", frames, {"seeds": seeds}, {"ease": 1.0}))])

    assert cells(table(0.0, [0, 1]), "llm")["auc"].mark == 1
    moved = table(0.8, [0, 1])
    assert cells(moved, "llm")["auc"].mean > cells(moved, "ease")["auc"].mean  # type: ignore[operator]
    assert cells(moved, "llm")["auc"].mark == 0
    alone = table(0.8, [0])
    assert cells(alone, "llm")["auc"].mark == 1
    assert "of one seed, which may have been lucky" in alone.legend[0]


def test_two_runs_of_one_model_get_no_mark(tmp_path: Path) -> None:
    same = {label: (lambda seed: ranks(1.0, noise=seed)) for label in ("ease", "mf")}
    table = build([part(*stored(tmp_path, same))])
    assert [cells(table, label)["auc"].mark for label in ("ease", "mf")] == [0, 0]


# --- missing cells, protocols, grids ---------------------------------------------------------------------------------


def test_missing_cells_say_why(tmp_path: Path) -> None:
    def failing(label: str, seed: int) -> dict[str, Any]:
        if label == "mf":
            return {"status": "failed", "error": "RuntimeError: no room"}
        return {"status": "failed", "error": "KeyError"} if (label, seed) == ("ease", 1) else {}

    frames = {label: (lambda seed: ranks(1.0, noise=seed)) for label in ("popularity", "ease", "mf")}
    experiment, records, store = stored(tmp_path, frames, record=failing)
    table = build([part(experiment, records, store)])
    assert {c.reason for c in cells(table, "mf").values()} == {"failed"}
    assert {c.reason for c in cells(table, "llm").values()} == {"not run"}
    assert "mf: RuntimeError: no room" in table.notes
    assert "ease: 1 of 2 seeds failed; KeyError" in table.notes
    experiment = experiment.model_copy(update={"seeds": (0, 1, 2)})
    later = build(
        [part(experiment, [*records[:2], None, *records[2:4], None, *records[4:6], None, None, None, None], store)]
    )
    assert "popularity: 1 of 3 seeds not run" in later.notes
    assert cells(table, "ease")["ndcg@10"].sd is None


def test_a_model_that_cannot_do_the_task_says_so_in_its_cells(tiny_experiment: Path, tmp_path: Path) -> None:
    experiment = Experiment.load(tiny_experiment, ["task.kind=preference", "task.metrics=[auc]", "models.mf.loss=bce"])
    records = run(experiment, tmp_path / "runs")
    assert {r.label for r in records} == {"popularity", "mf"}
    table = build([part(experiment, records, RunStore(tmp_path / "runs"))])
    assert cells(table, "ease")["auc"].reason == "cannot do a preference task"
    assert any("EASE cannot do a preference task with these settings; it does: ranking" in note for note in table.notes)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"data_fingerprint": "f" * 64}, r"data is dddddddd for popularity .* and ffffffff for ease"),
        ({"candidates_fingerprint": "f" * 64}, "candidates is full for popularity"),
        ({"judged": {"test": 199}}, "judged users or rows is 200 for popularity"),
        ({"spec": {"task": {"min_history": 3}}}, "task.min_history is 0 for popularity"),
    ],
)
def test_runs_of_different_protocols_are_never_mixed(change: dict[str, Any], expected: str, tmp_path: Path) -> None:
    def changed(label: str, seed: int) -> dict[str, Any]:
        return change if label == "ease" else {}

    frames = {label: (lambda seed: ranks(1.0, noise=seed)) for label in ("popularity", "ease")}
    experiment, records, store = stored(tmp_path, frames, record=changed)
    with pytest.raises(InputError, match=expected) as caught:
        part(experiment, records, store)
    assert "runs of different protocols cannot stand in one table" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_runs_judged_on_other_users_are_never_mixed(tmp_path: Path) -> None:
    other = ranks(1.0).with_columns(pl.col("user").str.replace("u7$", "somebody"))
    frames = {"popularity": lambda seed: ranks(1.0), "ease": lambda seed: other}
    with pytest.raises(InputError, match=r"ease \(run .*\) was judged on other users than popularity"):
        part(*stored(tmp_path, frames))


GRID = """\
datasets:
  small: {{source: csv, interactions: {folder}/interactions.csv, items: {folder}/items.csv}}
  liked: {{source: csv, interactions: {folder}/interactions.csv, filters: {{min_rating: 4}}}}
"""


def grid(tiny_experiment: Path) -> list[Experiment]:
    text = tiny_experiment.read_text(encoding="utf-8")
    block = text[text.index("dataset:") : text.index("task:")]
    text = text.replace(block, GRID.format(folder=tiny_experiment.parent))
    tiny_experiment.write_text(text, encoding="utf-8")
    return load_all(tiny_experiment)


def test_data_sets_stand_beside_each_other(tiny_experiment: Path, tmp_path: Path) -> None:
    experiments = grid(tiny_experiment)
    store = RunStore(tmp_path / "runs")
    parts = [part(e, run(e, store.root), store) for e in experiments]
    table = build(parts)
    assert table.name == "tiny"
    assert table.datasets == ("small", "liked")
    assert len(table.protocols) == 2
    for p in parts:
        alone = build([p])
        for row, whole in zip(alone.rows, table.rows, strict=True):
            mine = [c for c, column in zip(whole.cells, table.columns, strict=True) if column.dataset == p.dataset]
            assert tuple(mine) == row.cells
    assert r"\multicolumn{5}{c}{small} & \multicolumn{5}{c}{liked} \\" in render.latex(table)
    assert r"\cmidrule(lr){2-6}\cmidrule(lr){7-11}" in render.latex(table)
    assert "| Model | small<br>NDCG@10 | small<br>95 % interval |" in render.markdown(table)


def test_experiments_of_different_protocols_are_never_joined(tiny_experiment: Path, tmp_path: Path) -> None:
    first, second = grid(tiny_experiment)
    store = RunStore(tmp_path / "runs")
    for change, expected in (
        ({"task": second.task.model_copy(update={"min_history": 2})}, "task.min_history is 0 in the one and 2 in"),
        ({"seeds": (0,)}, r"seeds is \(0, 1\) in the one"),
    ):  # the same is said when such a file is loaded, before anything runs
        other = second.model_copy(update=change)
        parts = [part(e, [None] * len(e.specs()), store) for e in (first, other)]
        with pytest.raises(InputError, match=f"tiny-small and tiny-liked cannot stand in one table: {expected}"):
            build(parts)


# --- published numbers -----------------------------------------------------------------------------------------------

PUBLISHED = [
    {"model": "ease", "source": "Steck 2019, Table 1", "settings": "another split", "values": {"auc": 0.99}},
    {"model": "TIGER", "source": "Rajput et al. 2023", "values": {"ndcg@10": 0.9}},
]


def test_published_numbers_stand_beside_ours_and_are_never_ranked(tmp_path: Path) -> None:
    p = made_part(tmp_path, FOUR, changes={"published": PUBLISHED})
    table = build([p])
    without = build([made_part(tmp_path / "b", FOUR)])
    for label in FOUR:
        ours = [c for c, column in zip(cells(table, label).values(), table.columns, strict=True) if column.kind in ("metric", "cost")]  # fmt: skip  # noqa: E501
        assert tuple(ours) == next(row for row in without.rows if row.label == label).cells
    ease = cells(table, "ease")
    assert ease["auc published"].mean == 0.99
    assert ease["auc difference"].mean == pytest.approx(ease["auc"].mean - 0.99)  # type: ignore[operator]
    assert ease["ndcg@10 published"].mean is None
    assert all(row.cells[j].rank is None for row in table.rows for j in range(4, 8))
    assert table.rows[-1].label == "TIGER"
    assert table.rows[-1].group == "published"
    assert "ease, published: Steck 2019, Table 1; another split" in table.notes
    assert "| TIGER | – |" in render.markdown(table)


def test_a_label_is_text_in_every_format(tmp_path: Path) -> None:
    table = build([made_part(tmp_path, {"ease": 1.0})])
    odd = dataclasses.replace(table, rows=(dataclasses.replace(table.rows[1], label="a|b_<x>&%"),))
    assert r"| a\|b_\<x>&% |" in render.markdown(odd)
    assert r"a|b\_$<$x$>$\&\% &" in render.latex(odd)
    assert "a|b_&lt;x&gt;&amp;%" in render.contents(odd)["table.html"]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"values": {"ndgc@10": 1}}, "published.ease: 'ndgc@10' is not among task.metrics; did you mean 'ndcg@10'?"),
        ({"values": {}}, "published.1.values"),
        ({"values": {"auc": float("nan")}}, "published.1.values.auc: should be a finite number"),
        ({"values": {"auc": 0.5}}, "published.ease: 'auc' stands twice"),
        ({"values": {"auc": 0.5}, "sourc": "x"}, "unknown key 'sourc'; did you mean 'source'?"),
    ],
)
def test_a_published_row_that_cannot_be(row: dict[str, Any], expected: str, tiny_experiment: Path) -> None:
    rows = [PUBLISHED[0], {"model": "ease", "source": "other", **row}]
    with pytest.raises(InputError) as caught:
        Experiment.load(tiny_experiment, [f"published={rows}"]).specs()
    assert expected in str(caught.value)


def test_of_several_data_sets_a_published_row_names_one(tiny_experiment: Path) -> None:
    text = tiny_experiment.read_text(encoding="utf-8")
    tiny_experiment.write_text(text + "published: [{model: ease, source: x, values: {auc: 0.5}}]\n", encoding="utf-8")
    with pytest.raises(InputError, match="published: dataset: found None; known: liked, small"):
        grid(tiny_experiment)
    text = tiny_experiment.read_text(encoding="utf-8")
    tiny_experiment.write_text(text.replace("source: x,", "source: x, dataset: liked,"), encoding="utf-8")
    experiments = load_all(tiny_experiment)
    assert [len(e.published) for e in experiments] == [0, 1]


# --- formats ---------------------------------------------------------------------------------------------------------


def made(*means: float | None) -> ComparisonTable:
    columns = (
        Column("", "ndcg@10", "NDCG@10", "metric"),
        Column("", "train_seconds", "Train s", "cost", True),
        Column("", "trainable_parameters", "Trainable", "cost", True),
    )
    by_label = {
        f"m_{i}": [
            Cell(m, 0.001, m - 0.01, m + 0.01) if m is not None else Cell(reason="failed"), Cell(1.0), Cell(1234567.0)
        ]
        for i, m in enumerate(means)
    }  # fmt: skip
    _rank(by_label, ["ndcg@10"])
    rows = [Row(label, "collaborative", tuple(cs), (f"k{label}",)) for label, cs in by_label.items()]
    rows[0] = dataclasses.replace(rows[0], cells=(dataclasses.replace(rows[0].cells[0], mark=-1), *rows[0].cells[1:]))
    return ComparisonTable("made", columns, tuple(rows), ("How & why.",), ("† better",), ("m_1: p < 0.05",))


def test_best_and_second_are_marked_and_equal_numbers_share_a_mark() -> None:
    marks = [row.cells[0].rank for row in made(0.3, 0.5, None, 0.50001, 0.1).rows]
    assert marks == [2, 1, None, 1, None]
    by_label = {str(m): [Cell(m)] for m in (0.3, 0.5, 0.2)}
    _rank(by_label, ["log_loss"])
    assert [cs[0].rank for cs in by_label.values()] == [2, None, 1], "less log loss is better"


def test_markdown_latex_and_csv_say_the_same() -> None:
    table = made(0.3, 0.5, None)
    text = render.markdown(table)
    assert "| m_1 | **0.5000 ± 0.0010** | [0.490, 0.510] | 1.00 | 1,234,567 |" in text
    assert "<u>0.3000 ± 0.0010</u>‡" in text
    assert "| m_2 | failed |" in text
    tex = render.latex(table)
    assert r"m\_1 & \textbf{0.5000 $\pm$ 0.0010} & [0.490, 0.510] & 1.00 & 1,234,567 \\" in tex
    assert r"\underline{0.3000 $\pm$ 0.0010}$^{\ddagger}$" in tex
    assert r"How \& why." in tex
    for word in (r"\toprule", r"\bottomrule", r"\begin{tabular}{lrrrr}"):
        assert word in tex
    assert tex.count("{") == tex.count("}")
    rows = list(csv.DictReader(io.StringIO(render.comma_separated(table))))
    assert rows[3]["mean"] == "0.5"
    assert rows[6]["reason"] == "failed"


def _latex() -> bool:
    """Whether LaTeX is there with booktabs, which the tables need."""
    found = shutil.which("pdflatex") and shutil.which("kpsewhich")
    return bool(found) and subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True).returncode == 0


@pytest.mark.skipif(not _latex(), reason="needs LaTeX: apt-get install texlive-latex-recommended")
@pytest.mark.parametrize("inside", [False, True])
def test_the_latex_compiles_as_it_stands_and_inside_a_paper(inside: bool, tmp_path: Path) -> None:
    p = made_part(tmp_path / "runs", FOUR, changes={"published": PUBLISHED})
    (tmp_path / "table.tex").write_text(render.latex(build([p])), encoding="utf-8")
    name = "table"
    if inside:
        name = "paper"
        body = r"\documentclass{article}\usepackage{booktabs}\begin{document}Before \input{table} after.\end{document}"
        (tmp_path / "paper.tex").write_text(body)
    done = subprocess.run(
        ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", name], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / f"{name}.pdf").stat().st_size > 5000
    assert not re.search(r"Missing character|Undefined", done.stdout)


def test_costs_on_request(tmp_path: Path) -> None:
    costs = ["trainable_parameters", "peak_memory", "energy_wh"]
    p = made_part(tmp_path, FOUR, changes={"report": {"costs": costs}}, record=lambda label, seed: {"energy_wh": 0.5} if label == "mf" else {})  # fmt: skip  # noqa: E501
    table = build([p])
    assert [c.title for c in table.columns[2:]] == ["Trainable", "Peak GiB", "Wh"]
    mf, ease = cells(table, "mf"), cells(table, "ease")
    assert (mf["trainable_parameters"].mean, mf["peak_memory"].mean, mf["energy_wh"].mean) == (1234567, 1.0, 0.5)
    assert ease["energy_wh"].reason == "not measured"


def test_what_a_model_says_of_itself_is_a_column_on_request(tmp_path: Path) -> None:
    def said(label: str, seed: int) -> dict[str, Any]:
        return {"model_report": {"size_mb": 12.5 + seed}} if label == "mf" else {}

    p = made_part(tmp_path, FOUR, changes={"report": {"costs": [], "measured": ["size_mb", "sise"]}}, record=said)
    table = build([p])
    assert [c.title for c in table.columns[2:]] == ["Size MB", "Sise"]
    assert table.column("size_mb")[[row.label for row in table.rows].index("mf")].mean == 13.0
    assert cells(table, "ease")["size_mb measured"].reason == "not measured"
    assert any("report.measured: no row has 'sise'" in note and "size_mb" in note for note in table.notes)
    assert "| 13 |" in render.markdown(table)


def test_what_was_measured_over_texts_has_its_interval_where_every_run_tells_the_error(tmp_path: Path) -> None:
    def said(label: str, seed: int) -> dict[str, Any]:
        told = {"base_kl": 0.2 + 0.1 * seed, "tuned_perplexity": 8.0, "next_token_agreement": 0.99, "base_cka": 0.9}
        errors = {"base_kl_se": 0.04 + 0.02 * seed, "tuned_perplexity_log_se": 0.1, "next_token_agreement_se": 0.02}
        few = {name: value for name, value in errors.items() if name != "base_kl_se" or not seed}
        return {"model_report": {**told, **{"llm": errors, "mf": few}.get(label, {})}}

    names = ["base_kl", "tuned_perplexity", "next_token_agreement", "base_cka"]
    p = made_part(tmp_path, FOUR, changes={"report": {"costs": [], "measured": names}}, record=said)
    table = build([p])
    llm, mf, ease = (cells(table, label) for label in ("llm", "mf", "ease"))
    bounds = {name: (llm[f"{name} measured"].low, llm[f"{name} measured"].high) for name in names}
    assert bounds["base_kl"] == pytest.approx((0.25 - 1.96 * 0.05, 0.25 + 1.96 * 0.05)), "mean over seeds"
    assert bounds["tuned_perplexity"] == pytest.approx((8 / np.exp(0.196), 8 * np.exp(0.196)))
    assert bounds["next_token_agreement"] == (pytest.approx(0.99 - 1.96 * 0.02), 1.0), "a share is at most 1"
    assert bounds["base_cka"] == (None, None)
    assert mf["base_kl measured"].low is None, "one seed does not tell it"
    assert ease["tuned_perplexity measured"].low is None
    text = render.markdown(table)
    assert "| 0.25<br>[0.152, 0.348] | 8<br>[6.576, 9.732] | 0.99<br>[0.9508, 1] | 0.9 |" in text
    assert "| 0.25 | 8 | 0.99 | 0.9 |" in text
    assert re.search(r"0\.25</span>.*?\[0\.152, 0\.348\]", render.contents(table)["table.html"])
    titles = "Base KL, Tuned perplexity, Next token agreement"
    assert f"{titles}: 95 % intervals are over texts, by the standard error (mean over seeds)." in table.legend


def test_headings_are_the_fields_own_names() -> None:
    assert [title(m) for m in ("ndcg@10", "auc", "log_loss", "recall@20", "mrr")] == [
        "NDCG@10", "AUC", "Log loss", "Recall@20", "MRR",
    ]  # fmt: skip


def test_outcomes_are_those_of_the_evaluator(tmp_path: Path) -> None:
    from benchmark.evaluation.evaluator import RankingEvaluator

    frames = {"ease": lambda seed: ranks(1.0, noise=seed)}
    _, records, store = stored(tmp_path, frames)
    found = read(records, ["ndcg@10", "mrr", "map@5"], "ranking", store)
    done = [r for r in records if isinstance(r, RunRecord)]
    for i, record in enumerate(done):
        evaluator = RankingEvaluator.from_table(store.ranks(record.key), found.metrics)
        for metric, value in evaluator.compute().items():
            assert found.seeds["ease", metric][i] == pytest.approx(value, abs=1e-12)
    assert found.values["ease", "mrr"].mean() == pytest.approx(np.mean(found.seeds["ease", "mrr"]))
