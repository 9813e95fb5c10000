"""The leaderboard's HTML: heads of one or two lines, numbers as elsewhere, best and second told, reasons told."""

from __future__ import annotations

import dataclasses
import re

from benchmark.reports.leaderboard import document, leaderboard
from benchmark.reports.table import Cell, Column, ComparisonTable, Row
from tests.reports.browser import DATASETS, MODELS, comparison
from tests.reports.test_page import Tags


def small(*cells: Cell, kind: str = "metric") -> str:
    columns = tuple(Column("", f"m{i}", f"M{i}", kind) for i in range(len(cells)))  # type: ignore[arg-type]
    return leaderboard(ComparisonTable("t", columns, (Row("ease", "collaborative", cells),), ("p.",)), controls=True)


def told(html: str) -> str:
    """Return what a screen reader is told of the cells."""
    cells = re.findall(r"<td.*?</td>", html, re.DOTALL)
    return " | ".join(re.sub(r'<span[^>]*aria-hidden="true">[^<]*</span>|<[^>]+>', "", cell) for cell in cells)


def test_a_cell_says_all_that_is_known() -> None:
    html = small(Cell(0.25, 0.001, 0.2, 0.3, rank=1, mark=1, p=0.0004), Cell(0.2, None, rank=2, mark=-1, p=0.04))
    assert "<strong>0.2500</strong>" in html
    assert "± 0.0010" in html
    assert "[0.200, 0.300]" in html
    assert "<u>0.2000</u>" in html
    assert ">†</span>" in html
    assert ">‡</span>" in html
    assert 'data-value="0.25" title="better than the best baseline, p &lt; 0.001"' in html
    assert told(html) == (
        "0.2500 ± 0.0010, best of the column, better than the best baseline, p &lt; 0.001[0.200, 0.300] | "
        "0.2000, second of the column, worse than the best baseline, p = 0.040"
    )


def test_a_reason_stands_where_no_number_is() -> None:
    html = small(Cell(reason="cannot do a preference task"), Cell(reason="undefined"))
    assert told(html) == "cannot do a preference task | undefined"
    assert 'title="undefined"' in html
    assert "data-value" not in html


def test_costs_and_differences_are_written_as_elsewhere() -> None:
    assert told(small(Cell(12.0, 5.0, 1, 2), Cell(0.051), kind="cost")) == "12.0 | 0.051"
    assert told(small(Cell(0.0123), Cell(-0.01), kind="difference")) == "+0.0123 | -0.0100"
    assert told(small(Cell(0.5, low=0.4, high=0.6), kind="published")) == "0.5000"


def test_two_data_sets_have_a_line_of_their_own() -> None:
    html = leaderboard(comparison(), controls=False)
    for name in DATASETS:
        assert re.search(
            rf'<th scope="colgroup" colspan="4" class="dataset[ \w]*" data-dataset="{name}">{name}</th>', html
        )
    assert '<th scope="col" rowspan="2" class="text" data-order="ascending">Model</th>' in html
    assert html.count('<th scope="col" class="number') == 8
    one = leaderboard(comparison(several=False), controls=False)
    assert "colgroup" not in one
    assert "rowspan" not in one


def test_rows_stand_in_their_groups() -> None:
    html = leaderboard(comparison(), controls=True)
    assert re.findall(r'<tbody data-group="([\w-]+)">', html) == list(dict.fromkeys(MODELS.values()))
    assert re.findall(r'<th scope="rowgroup" colspan="9"><span>([^<]+)', html)[-1] == "LLM fine-tuned"
    assert html.count('<tr class="model">') == len(MODELS)
    assert html.count('<th scope="row"') == len(MODELS)


def test_only_the_report_has_controls() -> None:
    static, moving = (leaderboard(comparison(), controls=c) for c in (False, True))
    assert not {tag for tag, _ in Tags(static).tags} & {"button", "input", "fieldset"}
    assert [a["data-filter"] for tag, a in Tags(moving).tags if tag == "fieldset"] == ["group", "name", "dataset"]
    names = [a["value"] for _, a in Tags(moving).tags if a.get("type") == "checkbox"]
    assert names[4:] == ["ndcg@10", "mrr", "log_loss", "train_seconds", *DATASETS]
    assert moving.count('class="sort"') == 9
    assert re.findall(r'data-name="log_loss" data-dataset="books" data-order="(\w+)"', moving) == ["ascending"]
    one = leaderboard(comparison(several=False), controls=True)
    assert [a["data-filter"] for tag, a in Tags(one).tags if tag == "fieldset"] == ["group", "name"]


def test_the_table_is_a_page_of_its_own() -> None:
    table = comparison()
    text = document(table)
    read = Tags(text)
    assert read.open == []
    assert text == document(table)
    assert not {tag for tag, _ in read.tags} & {"script", "nav", "button"}
    assert "script-src" not in text
    assert "<title>quickstart</title>" in text
    assert all(protocol in text for protocol in table.protocols)
    assert table.legend[0].replace("<", "&lt;") in text
    assert "<img" not in text
    assert len(text) < 40_000


def test_many_notes_are_folded() -> None:
    notes = tuple(f"model-{i}: trained on 1000 rows" for i in range(9))
    assert "<summary>9 notes</summary>" in document(dataclasses.replace(comparison(), notes=notes))
    assert "<summary>" not in document(dataclasses.replace(comparison(), notes=notes[:8]))
