"""The report: every section of real runs on one page, the same twice, in a real browser; commands that repeat a run."""

from __future__ import annotations

import dataclasses
import html
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from benchmark.experiment import Experiment, load_all
from benchmark.reports import report_figures as draw
from benchmark.reports.part import part
from benchmark.reports.report import Chapter, figures_of, whole
from benchmark.reports.table import build
from benchmark.runs.record import RunStore
from benchmark.runs.run import prepare, run
from tests.reports.browser import opened
from tests.reports.made import made_part
from tests.reports.test_table import FOUR, GRID
from tests.test_cli import levelfield

pytest.importorskip("plotly")


def chapter(experiment: Experiment, root: Path) -> Chapter:
    store, data = RunStore(root), prepare(experiment, root)
    return Chapter(part(experiment, run(experiment, root), store, targets=True), data.split)


def sections(page: str) -> list[str]:
    return re.findall(r'<h2 id="[^"]*">([^<]*)</h2>', page)


def test_a_page_of_real_runs(tiny_experiment: Path, tmp_path: Path) -> None:
    experiment = Experiment.load(tiny_experiment)
    store = RunStore(tmp_path / "runs")
    one = chapter(experiment, store.root)
    table = build([one.part])
    page = whole([one], table, store)
    assert page == whole([one], table, store), "byte-identical when rebuilt"
    assert sections(page) == [
        "Leaderboard", "Quality against cost", "Seeds and intervals", "Training curves", "User segments",
        "User by user", "Runs",
    ]  # fmt: skip
    for record in one.part.records:
        assert record is not None
        assert f"{record.label}, seed {record.seed}: finished, run {record.key}" in page
        assert record.files["ranks.parquet"] in page
    assert str(tmp_path) not in re.sub(r"<pre.*?</pre>", "", page, flags=re.DOTALL), "no path of this machine"
    assert len(page) < 2_600_000


def test_a_grid_is_one_page_with_a_chapter_a_data_set(tiny_experiment: Path, tmp_path: Path) -> None:
    text = tiny_experiment.read_text(encoding="utf-8")
    block = text[text.index("dataset:") : text.index("task:")]
    tiny_experiment.write_text(text.replace(block, GRID.format(folder=tiny_experiment.parent)), encoding="utf-8")
    store = RunStore(tmp_path / "runs")
    chapters = [chapter(e, store.root) for e in load_all(tiny_experiment)]
    page = whole(chapters, build([c.part for c in chapters]), store)
    assert sections(page)[:3] == ["Leaderboard", "small: quality against cost", "small: seeds and intervals"]
    assert "liked: user by user" in sections(page)
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_nothing_run_yet_but_one_model(tmp_path: Path) -> None:
    p = made_part(tmp_path, {"ease": 1.0}, changes={"models": {"ease": {"class": "baselines.ease.EASE"}}})
    table = build([p])
    assert [row.cells[0].mean is not None for row in table.rows] == [True]
    assert draw.curves(p, "ndcg@10") is None
    assert set(figures_of([p])) == {"Quality against cost", "Seeds and intervals"}


def test_none_beats_a_model_on_the_front_in_both() -> None:
    points = [(1.0, 0.2), (2.0, 0.5), (3.0, 0.4), (0.5, 0.1), (2.0, 0.3), (9.0, 0.5)]
    assert draw.pareto(points, higher=True) == [3, 0, 1]
    assert draw.pareto(points, higher=False) == [3]


def test_a_seed_is_a_point_and_a_group_a_colour_and_a_shape(tmp_path: Path) -> None:
    p = made_part(tmp_path, FOUR)
    table = build([p])
    figure = draw.seeds(p, table, "auc")
    assert len(figure.data[-1].x) == 8
    assert list(figure.layout.yaxis.categoryarray)[-1] == "llm", "best on top"
    cost = draw.quality_against_cost(table, "auc", "train_seconds")
    looks = [(trace.marker.color, trace.marker.symbol) for trace in cost.data[1:]]
    assert len({color for color, _ in looks}) == len({symbol for _, symbol in looks}) == 3


def test_the_command_beside_a_run_repeats_it(
    tiny_experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where overrides were given, a sweep selected values, and the label has signs that a shell reads."""
    label = "a b|c&d"
    text = tiny_experiment.read_text(encoding="utf-8").replace("  ease:", f"  '{label}':")
    tiny_experiment.write_text(text, encoding="utf-8")
    overrides = ["models.mf.embedding_size=4"]
    experiment = Experiment.load(tiny_experiment, overrides).with_values({label: {"l2": 33.0}, "mf": {"loss": "bce"}})
    store = RunStore(tmp_path / "runs")
    told = dataclasses.replace(
        chapter(experiment, store.root),
        file=str(tiny_experiment),
        overrides=overrides,
        selected={label: {"l2": 33.0}, "mf": {"loss": "bce"}},
    )
    page = whole([told], build([told.part]), store)
    commands = [html.unescape(c) for c in re.findall(r'data-copy="([^"]*)"', page)]
    assert len(commands) == 6
    monkeypatch.chdir(tmp_path)
    for command, record in zip(commands[3:5], told.part.records[3:5], strict=True):  # EASE, seed 1; MF, seed 0
        assert record is not None
        done = levelfield(*shlex.split(command)[1:])
        assert done.returncode == 0, done.stderr
        repeated = RunStore(tmp_path / "repeated" / "runs")
        assert repeated.ranks(record.key).equals(store.ranks(record.key))


def test_a_real_page_in_a_browser(tiny_experiment: Path, tmp_path: Path, chromium: Any) -> None:
    experiment = Experiment.load(tiny_experiment)
    store = RunStore(tmp_path / "runs")
    path = tmp_path / "report.html"
    one = chapter(experiment, store.root)
    path.write_text(whole([one], build([one.part]), store), encoding="utf-8")
    with opened(chromium, path) as view:
        view.get_by_role("button", name="AUC").first.click()
        assert view.locator("#leaderboard tr.model").first.is_visible()
        view.locator("#users select.a").select_option(label="ease")
        view.locator("#users select.b").select_option(label="mf")
        view.locator("#users .user summary").first.click()
        view.locator("#users .user[open]").first.get_by_text("Recommended first").wait_for()
        view.locator("#runs summary").first.click()
        assert view.locator("#runs .copy").first.is_visible()
