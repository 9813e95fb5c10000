"""The trade-off figure: lines as they are asked for, levels for what has no number, and what is written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from benchmark.experiment import Experiment
from benchmark.reports.part import Part
from benchmark.reports.table import build
from benchmark.reports.tradeoff import Line, Point, axis_of, gathered, has_points, section, still, write
from tests.reports.made import EXPERIMENT, made_part
from tests.reports.test_report import sections

KL = {"weak": 2.0, "strong": 0.01, "free": 5.0, "alone": 0.0}
TWO_TOWER = "benchmark.llm.two_tower.TwoTower"
MODELS = {"ease": {"class": "baselines.ease.EASE"}, **{label: {"class": TWO_TOWER} for label in KL}}


def planted(folder: Path, numbers: dict[str, float] | None = None, **tradeoff: Any) -> Part:
    wanted = {"measured": "base_kl", "curves": {"L2-SP": ["strong", "weak", "free"]}, **tradeoff}
    told = KL if numbers is None else numbers
    return made_part(
        folder,
        {"ease": 1.0, "weak": 0.8, "strong": 0.5, "free": 0.9, "alone": 0.1},
        changes={"models": MODELS, "report": {"tradeoff": wanted}},
        record=lambda label, seed: {
            "model_report": {"base_kl": told[label] * (1 + 0.1 * seed)} if label in told else {}
        },
    )


def test_lines_are_in_their_order_and_others_stand_alone(tmp_path: Path) -> None:
    p = planted(tmp_path)
    table = build([p])
    lines, levels = gathered(p, table, "ndcg@10")
    assert [(line.name, [q.label for q in line.points]) for line in lines] == [
        ("L2-SP", ["strong", "weak", "free"]), ("alone", ["alone"]),
    ]  # fmt: skip
    assert lines[0].points[1].x == pytest.approx(2.1), "mean over both seeds"
    assert lines[0].points[1].cell is next(row for row in table.rows if row.label == "weak").cells[0]
    assert [level.label for level in levels] == ["ease"], "it has no such number"


def test_an_axis_is_logarithmic_where_numbers_span_much(tmp_path: Path) -> None:
    p = planted(tmp_path)
    lines, _ = gathered(p, build([p]), "auc")
    axis = axis_of(lines)
    assert axis.log
    assert axis.place(0.0) == axis.floor < 0.01
    assert axis.place(2.0) == 2.0
    cell = lines[0].points[0].cell
    close = [Line("cka", tuple(Point(str(x), x, cell) for x in (0.7, 0.9, 1.0)))]
    assert not axis_of(close).log
    rounding = [Line("kl", tuple(Point(str(x), x, cell) for x in (1e-15, 1.0, 2.0)))]
    assert not axis_of(rounding).log, "nothing but a rounding error spans much"


def test_the_picture_says_what_stands_where(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    p = planted(tmp_path / "store")
    table = build([p])
    (path,) = write(p, table, tmp_path)
    svg = path.read_text(encoding="utf-8")
    said = " ".join(re.findall(r"<text[^>]*>([^<]+)</text>", svg))
    for words in ("NDCG@10", "KL(base ‖ tuned)", "log scale", "L2-SP", "strong → weak → free", "alone", "ease"):
        assert words in said
    write(p, table, tmp_path)
    assert path.read_text(encoding="utf-8") == svg, "the same bytes whenever it is drawn"


def test_the_section_has_every_metric_the_one_asked_for_first(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    p = planted(tmp_path, metric="auc")
    body, figures = section(p, build([p]))
    assert list(figures) == ["tradeoff-0", "tradeoff-1"]
    assert figures["tradeoff-0"].layout.yaxis.title.text == "AUC"
    assert [trace.name for trace in figures["tradeoff-0"].data] == ["L2-SP", "alone", "ease"]
    assert figures["tradeoff-0"].layout.xaxis.type == "log"
    assert "strong" in body


def test_without_the_number_there_is_no_figure_and_the_table_says_why(tmp_path: Path) -> None:
    p = planted(tmp_path, numbers={})
    assert not has_points(p)
    table = build([p])
    assert write(p, table, tmp_path) == []
    assert "report.tradeoff: no row has 'base_kl'; none measures anything" in table.notes


@pytest.mark.parametrize(
    ("tradeoff", "said"),
    [
        ({"curves": {"a": ["eese"]}}, "report.tradeoff.curves.a: no model 'eese'; did you mean 'ease'"),
        ({"curves": {"a": ["ease", "ease"]}}, "report.tradeoff.curves.a: 'ease' stands twice"),
        ({"metric": "ndcg@5"}, "report.tradeoff.metric: 'ndcg@5' is not among task.metrics; did you mean 'ndcg@10'"),
    ],
)
def test_names_that_are_not_there(tradeoff: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(said)):
        Experiment.model_validate({**EXPERIMENT, "report": {"tradeoff": {"measured": "base_kl", **tradeoff}}})


def test_the_page_has_the_section(tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    from benchmark.reports.page import Section, page

    p = planted(tmp_path)
    body, figures = section(p, build([p]))
    assert "Trade-off" in sections(page("made", [Section("tradeoff", "Trade-off", body)], figures))


def test_a_line_without_end_still_fits(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    p = planted(tmp_path)
    lines, levels = gathered(p, build([p]), "auc")
    long = [Line(f"line {i}", lines[0].points) for i in range(9)]
    assert "line 8" in still(long, levels, "x", "y", "head")
