"""Tables: groups in order, best and second marked, mean ± s.d., reasons for missing cells, formats of one source."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest

from benchmark.experiment import Experiment
from benchmark.reports import render
from benchmark.reports.table import Cell, ComparisonTable, Row, _ranked, build, title
from benchmark.runs.record import RunStore
from benchmark.runs.run import run
from tests.llm.tiny import tiny


def test_a_table_from_real_runs(tiny_experiment: Path, tmp_path: Path) -> None:
    experiment = Experiment.load(tiny_experiment)
    records = run(experiment, tmp_path / "runs")
    table = build(experiment, records, RunStore(tmp_path / "runs"))
    assert table.columns == ("NDCG@10", "AUC", "Train s", "ms/user")
    assert [row.label for row in table.rows] == ["popularity", "ease", "mf"]
    ease = [r for r in records if r.label == "ease"]
    values = [r.metrics["test"]["ndcg@10"] for r in ease]
    cell = table.rows[1].cells[0]
    assert cell.mean == pytest.approx(np.mean(values))
    assert cell.sd == pytest.approx(np.std(values, ddof=1))
    assert cell.low is not None
    assert cell.high is not None
    assert cell.low <= cell.mean <= cell.high
    assert "test users ranked against the full catalogue" in table.protocol
    assert "mean ± s.d. over 2 seeds" in table.protocol


def test_what_a_model_counts_itself_is_a_column(tiny_experiment: Path, tmp_path: Path) -> None:
    text = tiny_experiment.read_text(encoding="utf-8").replace("[ndcg@10, auc]", "[ndcg@10, valid@5]")
    backbone = f"backbone: {tiny('llama')}, zero_shot: true, dtype: float32"
    titles = f"{{class: benchmark.llm.generative.Generative, {backbone}}}"
    tiny_experiment.write_text(text.replace("models:\n", f"models:\n  titles: {titles}\n"), encoding="utf-8")
    experiment = Experiment.load(tiny_experiment, ["seeds=[0]"])
    records = run(experiment, tmp_path / "runs")
    table = build(experiment, records, RunStore(tmp_path / "runs"))
    assert table.columns[1] == "Valid@5"
    cells = {row.label: row.cells[1] for row in table.rows}
    assert cells["titles"].mean == 1.0
    assert cells["ease"].reason == "undefined"
    assert {row.label: row.group for row in table.rows}["titles"] == "llm-zero-shot"
    assert records[0].metrics["test"]["valid@5"] == 1.0


def test_metrics_that_were_not_asked_for_at_run_time_come_from_the_ranks(tiny_experiment: Path, tmp_path: Path) -> None:
    run(Experiment.load(tiny_experiment), tmp_path / "runs")
    other = Experiment.load(tiny_experiment, ["task.metrics=[ndcg@10, recall@3, map@7]"])
    records = run(other, tmp_path / "runs")
    table = build(other, records, RunStore(tmp_path / "runs"))
    assert table.columns[:3] == ("NDCG@10", "Recall@3", "MAP@7")
    assert all(row.cells[2].mean is not None for row in table.rows)


def rows(*means: float | None) -> list[Row]:
    cells = [
        (Cell(mean=m, sd=0.001, low=m - 0.01, high=m + 0.01) if m is not None else Cell(reason="failed")) for m in means
    ]
    return [
        Row(f"m_{i}", "collaborative", (f"k{i}",), (cell, Cell(1.0), Cell(0.05)), "") for i, cell in enumerate(cells)
    ]


def test_best_and_second_are_marked_and_equal_numbers_share_a_mark() -> None:
    marks = [row.cells[0].rank for row in _ranked(rows(0.3, 0.5, None, 0.50001, 0.1), ["ndcg@10"])]
    assert marks == [2, 1, None, 1, None]
    lower = [row.cells[0].rank for row in _ranked(rows(0.3, 0.5, 0.2), ["log_loss"])]
    assert lower == [2, None, 1], "less log loss is better"


def made(*means: float | None) -> ComparisonTable:
    return ComparisonTable(
        "made", ("NDCG@10", "Train s", "ms/user"), ("ndcg@10",), tuple(_ranked(rows(*means), ["ndcg@10"])), "How & why."
    )


def test_markdown_latex_and_csv_say_the_same() -> None:
    table = made(0.3, 0.5, None)
    text = render.markdown(table)
    assert "| m_1 | **0.5000 ± 0.0010** | [0.490, 0.510] | 1.00 | 0.050 |" in text
    assert "<u>0.3000 ± 0.0010</u>" in text
    assert "| m_2 | failed |" in text
    tex = render.latex(table)
    assert r"m\_1 & \textbf{0.5000 $\pm$ 0.0010} & [0.490, 0.510] & 1.00 & 0.050 \\" in tex
    assert r"How \& why." in tex
    for word in (r"\toprule", r"\bottomrule", r"\begin{tabular}{lrrrr}"):
        assert word in tex
    assert tex.count("{") == tex.count("}")
    read = list(csv.DictReader(io.StringIO(render.comma_separated(table))))
    assert read[3]["mean"] == "0.5"
    assert read[6]["reason"] == "failed"


def test_headings_are_the_fields_own_names() -> None:
    assert [title(m) for m in ("ndcg@10", "auc", "log_loss", "recall@20", "mrr")] == [
        "NDCG@10", "AUC", "Log loss", "Recall@20", "MRR",
    ]  # fmt: skip
