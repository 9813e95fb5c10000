"""Learning curves over training size: rows by budget, crossings found where they were planted, what is written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import InputError
from benchmark.experiment import load_all
from benchmark.reports import learning_curve
from benchmark.reports.budget_figures import interactive, looks, marks, spread, still
from benchmark.reports.budget_text import best_sentences, floor_sentence, markdown, pair_sentences, rounded
from benchmark.reports.budgets import (
    Contest,
    Crossing,
    Gap,
    against_best,
    contests,
    crossings,
    families,
    has_curves,
    signs,
)
from benchmark.reports.part import Part
from benchmark.reports.table import build
from benchmark.reports.verify import check
from benchmark.runs.record import RunStore
from benchmark.runs.run import prepare
from tests.reports.browser import opened
from tests.reports.made import made_part
from tests.reports.test_report import sections
from tests.test_cli import levelfield

BUDGETS = (100, 300, None)  # of 1,000 interactions in all
CLASSES = {
    "popularity": "baselines.popularity.Popularity",
    "mf": "baselines.mf.MF",
    "ease": "baselines.ease.EASE",
    "llm": "benchmark.llm.two_tower.TwoTower",
    "frozen": "baselines.text_embedding.TextEmbedding",
}
# the language model has little to learn, MF much: they cross between 300 and all; EASE is never reached
PLANTED = {
    "popularity": (0.1, 0.2, 0.3),
    "mf": (0.2, 0.5, 2.0),
    "ease": (0.2, 0.3, 0.4),
    "llm": (1.0, 1.1, 1.2),
}


def rows(names: dict[str, tuple[float, ...]]) -> tuple[dict[str, Any], dict[str, float]]:
    """Return the models of an experiment and the quality of each."""
    models: dict[str, Any] = {}
    qualities = {}
    for name, values in names.items():
        for budget, quality in zip(BUDGETS, values, strict=False):
            label = f"{name}-{budget or 'all'}"
            models[label] = {"class": CLASSES[name], "limit_train": budget, "family": name}
            qualities[label] = quality
    return models, qualities


def planted(folder: Path, names: dict[str, tuple[float, ...]] | None = None, **changes: Any) -> Part:
    models, qualities = rows(names or PLANTED)
    models["frozen"] = {"class": CLASSES["frozen"]}
    return made_part(folder, {**qualities, "frozen": 0.6}, changes={"models": models, **changes})


def gap(n: int, ahead: float, told: bool = True, other: str = "ease") -> Gap:
    return Gap(n, other, ahead, ahead - 0.01, ahead + 0.01, 0.01 if told else 0.4, told)


def contest(*gaps: Gap, other: str = "") -> Contest:
    return Contest("llm", other, gaps, tuple(crossings(gaps)))


# --- budgets of one model ---------------------------------------------------------------------------------------------


def test_the_rows_of_a_model_are_a_curve_by_its_training_interactions(tmp_path: Path) -> None:
    p = planted(tmp_path)
    table = build([p])
    curves = {family.name: family for family in families(p, table, "ndcg@10")}
    assert list(curves) == ["popularity", "mf", "ease", "frozen", "llm"], "in the order of the table"
    assert [(q.n, q.label) for q in curves["mf"].points] == [(100, "mf-100"), (300, "mf-300"), (1000, "mf-all")]
    cell = next(row for row in table.rows if row.label == "mf-300").cells[0]
    assert curves["mf"].points[1].cell is cell, "mean, s.d. over seeds and interval are those of the table"
    assert [q.n for q in curves["frozen"].points] == [1000]
    assert not curves["frozen"].is_curve
    assert {name: family.kind for name, family in curves.items()} == {
        "popularity": "trivial", "mf": "classical", "ease": "classical", "llm": "llm", "frozen": "classical",
    }  # fmt: skip
    assert has_curves(p)


def test_the_family_comes_from_the_file_not_from_the_label(tiny_experiment: Path) -> None:
    text = tiny_experiment.read_text(encoding="utf-8")
    few = "  mf-few: {class: baselines.mf.MF, limit_train: [8, 12], family: mf, trainer: {max_epochs: 9}}\n"
    text = text.replace("  ease:", "  ease-32:").replace("seeds:", few + "limit_train: [16, 64, null]\nseeds:")
    tiny_experiment.write_text(text, encoding="utf-8")
    (experiment,) = load_all(tiny_experiment)
    found = {label: (entry.family, entry.limit_train) for label, entry in experiment.models.items()}
    assert found["ease-32-16"] == ("ease-32", 16)
    assert found["ease-32-all"] == ("ease-32", None)
    assert [n for family, n in found.values() if family == "mf"] == [16, 64, None, 8, 12]
    spec = next(s for s in experiment.specs() if s.label == "mf-few-8")
    assert "family" not in {*spec.resolved(), *spec.resolved()["config"]}, "it decides nothing of a run"


@pytest.mark.parametrize(
    ("few", "said"),
    [
        ("{class: baselines.mf.MF, limit_train: [16], family: mf}", "are of family 'mf' and of one budget"),
        ("{class: baselines.ease.EASE, limit_train: [8], family: mf}", "family 'mf' is of two classes"),
    ],
)
def test_a_family_is_one_model_at_several_budgets(tiny_experiment: Path, few: str, said: str) -> None:
    text = tiny_experiment.read_text(encoding="utf-8")
    text = text.replace("seeds:", f"  few: {few}\nlimit_train: [16, 64]\nseeds:")
    tiny_experiment.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=said):
        load_all(tiny_experiment)


def test_a_budget_above_the_whole_part_is_the_whole_part(tmp_path: Path) -> None:
    models = {f"mf-{n}": {"class": CLASSES["mf"], "limit_train": n, "family": "mf"} for n in (10, 1000, 5000)}
    p = made_part(tmp_path, {"mf-10": 0.5, "mf-1000": 1.0, "mf-5000": 1.0}, changes={"models": models})
    (family,) = families(p, build([p]), "auc")
    assert [(q.n, q.label) for q in family.points] == [(10, "mf-10"), (1000, "mf-1000")]


def test_what_has_not_run_is_no_point(tmp_path: Path) -> None:
    models, qualities = rows(PLANTED)
    p = made_part(tmp_path, {k: v for k, v in qualities.items() if k != "mf-300"}, changes={"models": models})
    curves = {family.name: family for family in families(p, build([p]), "auc")}
    assert [q.n for q in curves["mf"].points] == [100, 1000]
    assert [q.n for q in curves["llm"].points] == [100, 300, 1000]
    (pair,) = [c for c in contests(p, list(curves.values()), "auc") if c.other == "mf"]
    assert [g.n for g in pair.gaps] == [100, 1000], "compared where both have run"


# --- where two cross --------------------------------------------------------------------------------------------------


def test_a_crossing_lies_on_a_line_over_the_logarithm() -> None:
    (found,) = crossings([gap(100, 0.02), gap(10_000, -0.02)])
    assert found.n == pytest.approx(1000)
    assert not found.up
    (found,) = crossings([gap(100, -0.03), gap(1000, -0.01), gap(10_000, 0.03)])
    assert found.n == pytest.approx(1000 * 10**0.25)
    assert found.up


def test_no_crossing_where_none_is() -> None:
    assert crossings([gap(100, 0.02), gap(1000, 0.001), gap(10_000, 0.03)]) == []
    assert crossings([gap(100, 0.02), gap(1000, 0.0), gap(10_000, 0.03)]) == [], "touching is not crossing"
    assert crossings([gap(100, 0.0), gap(1000, 0.0)]) == []


def test_a_tie_on_the_way_is_where_they_cross() -> None:
    (found,) = crossings([gap(100, 0.02), gap(1000, 0.0), gap(10_000, -0.03)])
    assert found.n == pytest.approx(1000)
    assert signs([0.0, 0.0, -1.0, 0.0, 2.0]) == [-1, -1, -1, -1, 1]


def test_the_planted_crossing_is_found_in_the_runs(tmp_path: Path) -> None:
    p = planted(tmp_path)
    curves = families(p, build([p]), "ndcg@10")
    pairs = {pair.other: pair for pair in contests(p, curves, "ndcg@10")}
    assert set(pairs) == {"mf", "ease"}, "neither the floor nor a level takes part"
    assert pairs["ease"].crossings == ()
    (found,) = pairs["mf"].crossings
    assert (found.before.n, found.after.n, found.up) == (300, 1000, False)
    by_name = {family.name: family for family in curves}
    assert by_name["llm"].at(found.n) == pytest.approx(by_name["mf"].at(found.n)), "there both have one value"
    for side in (found.before, found.after):
        assert side.low < side.ahead < side.high
        assert side.told, "200 users tell them apart"
    (best,) = against_best(list(pairs.values()))
    assert [g.other for g in best.gaps] == [
        max(("mf", "ease"), key=lambda n: by_name[n].at(x)) for x in (100, 300, 1000)
    ]
    assert best.crossings[0].n == found.n


def test_the_best_of_several_is_overtaken_last_and_overtakes_first() -> None:
    a = contest(gap(100, 0.02, other="a"), gap(10_000, -0.02, other="a"), other="a")
    b = contest(gap(100, 0.01, other="b"), gap(10_000, -0.03, other="b"), other="b")
    (best,) = against_best([a, b])
    assert best.crossings[0].n == pytest.approx(100 * 10**0.5)
    up = [Contest("llm", c.other, *_mirrored(c)) for c in (a, b)]
    (best,) = against_best(up)
    assert best.crossings[0].n == pytest.approx(1000)


def _mirrored(c: Contest) -> tuple[tuple[Gap, ...], tuple[Crossing, ...]]:
    gaps = tuple(gap(g.n, -g.ahead, other=g.other) for g in c.gaps)
    return gaps, tuple(crossings(gaps))


def test_less_is_better_is_read_the_right_way_round(tmp_path: Path) -> None:
    p = planted(tmp_path)
    curves = families(p, build([p]), "auc")
    better = contests(p, curves, "auc")[0].gaps[0].ahead
    mine, other = (next(f for f in curves if f.name == name).points[0].mean for name in ("llm", "mf"))
    assert better == pytest.approx(mine - other)
    assert better > 0


# --- in words ---------------------------------------------------------------------------------------------------------


def test_a_sure_crossing_in_words() -> None:
    (said,) = best_sentences(
        contest(gap(1000, 0.03), gap(3000, 0.012), gap(10_000, -0.02, other="als"), gap(30_000, -0.1))
    )
    assert said == (
        "llm is ahead of every classical model up to 3,000 interactions and behind als or ease from 10,000 on; the "
        "curves cross near 4,700. At 3,000 it is ahead of ease by 0.012 [0.002, 0.022], told apart (p = 0.010); at "
        "10,000 it is behind als by 0.020 [0.010, 0.030], told apart (p = 0.010)."
    )


def test_an_uncertain_crossing_says_so() -> None:
    (one,) = best_sentences(contest(gap(1000, 0.03), gap(10_000, -0.02, told=False)))
    assert one.endswith(
        "not told apart (p = 0.400). That crossing is uncertain: only at 1,000 can the two be told apart."
    )
    (neither,) = best_sentences(contest(gap(1000, 0.03, told=False), gap(10_000, -0.02, told=False)))
    assert neither.endswith("That crossing is uncertain: on neither side can the two be told apart.")
    assert pair_sentences("llm", [contest(gap(1000, 0.03), gap(10_000, -0.02, told=False), other="mf")]) == [
        "llm falls behind mf near 4,000.",
        "That crossing is uncertain.",
    ]
    sure = contest(
        gap(100, -0.03, other="als"), gap(1000, 0.03, other="als"), gap(10_000, -0.03, other="als"), other="als"
    )
    assert pair_sentences("llm", [contest(gap(1000, 0.03), gap(10_000, -0.02, told=False), other="mf"), sure]) == [
        "llm falls behind mf near 4,000 (uncertain); overtakes als near 320 and falls behind it near 3,200."
    ]


def test_curves_that_never_cross_in_words() -> None:
    (said,) = best_sentences(contest(gap(1000, -0.03), gap(10_000, -0.02, told=False)))
    assert said.startswith(
        "llm is behind the best classical model at every budget from 1,000 to 10,000 interactions: the curves never "
        "cross. At 1,000 it is behind ease by 0.030 [0.020, 0.040], told apart (p = 0.010); at 10,000"
    )
    assert said.endswith("not told apart (p = 0.400). The two can be told apart at 1,000.")
    (said,) = best_sentences(contest(gap(1000, 0.03), gap(10_000, 0.02)))
    assert said.startswith("llm is ahead of every classical model at every budget")


def test_several_crossings_in_words() -> None:
    (said,) = best_sentences(contest(gap(100, 0.01), gap(1000, -0.01), gap(10_000, 0.01)))
    assert said.startswith(
        "llm is ahead of every classical model up to 100 interactions, behind ease at 1,000 and ahead of every "
        "classical model from 10,000 on; the curves cross near 320 and 3,200."
    )


def test_two_digits_of_a_place_count() -> None:
    assert [rounded(n) for n in (7, 48.2, 523.7, 5236, 52_360)] == ["7", "48", "520", "5,200", "52,000"]


def test_the_best_trivial_model_is_the_floor(tmp_path: Path) -> None:
    p = planted(tmp_path)
    curves = families(p, build([p]), "ndcg@10")
    said = floor_sentence(curves, higher=True)
    first, last = (next(f for f in curves if f.name == "popularity").points[i].mean for i in (0, -1))
    assert (
        said == f"The floor is popularity: {first:.4f} at 100 and {last:.4f} at 1,000. llm is above it at every budget."
    )
    assert floor_sentence([f for f in curves if f.kind != "trivial"], higher=True) == ""


def test_the_markdown_has_every_metric_and_every_budget(tmp_path: Path) -> None:
    p = planted(tmp_path)
    text = markdown(p, build([p]))
    assert [line for line in text.splitlines() if line.startswith("## ")] == ["## NDCG@10", "## AUC"]
    assert text.count("| Model | 100 | 300 | 1,000 |") == 2
    assert text.count("| Interactions | Best classical | Ahead by | 95 % interval | p |") == 2
    assert re.search(r"\| frozen \| – \| – \| 0\.\d{4} \[", text), "a single budget stands where it was learned"
    assert "llm falls behind mf near" in text
    assert "one sample, so that what another sample would give is in no interval" in text
    own = planted(tmp_path / "own", resample_train=True)
    assert "each seed has its own sample" in markdown(own, build([own]))


# --- drawn ------------------------------------------------------------------------------------------------------------


def test_language_models_are_strong_and_levels_are_flat(tmp_path: Path) -> None:
    p = planted(tmp_path)
    curves = families(p, build([p]), "ndcg@10")
    pairs = contests(p, curves, "ndcg@10")
    drawn = looks(curves)
    assert drawn["llm"].dash == "solid"
    assert drawn["llm"].width > 3 > drawn["mf"].width > drawn["popularity"].width
    assert drawn["mf"].color == drawn["ease"].color, "of one group"
    assert drawn["mf"].shape != drawn["ease"].shape
    figure = interactive(curves, pairs, "NDCG@10")
    traces = {trace.name: trace for trace in figure.data if trace.name}
    assert list(traces["llm"].x) == [100, 300, 1000]
    assert list(traces["frozen"].x) == [100, 1000]
    assert len(set(traces["frozen"].y)) == 1
    assert figure.layout.xaxis.type == "log"
    (crossed,) = [trace for name, trace in traces.items() if name.startswith("curves cross")]
    assert list(crossed.marker.symbol) == ["circle-open", "star"]
    assert [mark.best for mark in marks(curves, pairs)] == [False, True]


def test_names_at_the_ends_of_lines_do_not_touch() -> None:
    wanted = {"a": 0.10, "b": 0.101, "c": 0.102, "d": 0.5}
    places = spread(wanted, 0.01)
    assert places["d"] == 0.5
    assert places["b"] == pytest.approx(0.101)
    assert places["b"] - places["a"] == pytest.approx(0.01)
    assert places["c"] - places["b"] == pytest.approx(0.01)


def test_the_picture_is_the_same_whenever_it_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    p = planted(tmp_path)
    curves = families(p, build([p]), "ndcg@10")
    first, again = (still(curves, contests(p, curves, "ndcg@10"), "NDCG@10", "made") for _ in range(2))
    assert first == again
    assert "<dc:date>" not in first
    for family in curves:
        assert f">{family.name}<" in first, "each line is named, as text"


# --- written ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def curve_file(tiny_experiment: Path) -> Path:
    text = tiny_experiment.read_text(encoding="utf-8").replace("seeds:", "limit_train: [60, 200, null]\nseeds:")
    tiny_experiment.write_text(text, encoding="utf-8")
    return tiny_experiment


def test_a_run_writes_the_files_and_they_are_rebuilt_to_the_byte(curve_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("plotly")
    options = ["--runs", tmp_path / "runs", "--results", tmp_path / "results"]
    done = levelfield("run", curve_file, *options)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "results" / "tiny"
    names = ("learning_curve.md", "learning_curve.svg", "learning_curve.html")
    before = {name: (folder / name).read_bytes() for name in names}
    assert levelfield("table", curve_file, *options).returncode == 0
    assert {name: (folder / name).read_bytes() for name in names} == before
    (experiment,) = load_all(curve_file)
    data, store = prepare(experiment, tmp_path / "runs"), RunStore(tmp_path / "runs")
    found, made = check(experiment, data, store, folder)
    assert [f for f in found if f.fault] == []
    (folder / "learning_curve.md").write_text(before["learning_curve.md"].decode() + "llm always wins\n")
    found, _ = check(experiment, data, store, folder)
    said = {f.said for f in found if f.fault and f.what.endswith("learning_curve.md")}
    assert said == {"altered since it was written", "is not what the records give"}
    assert made is not None
    assert {p.label for r in families(made, build([made]), "auc") for p in r.points} == set(experiment.models)


def test_an_experiment_without_budgets_writes_none_of_it(tiny_experiment: Path, tmp_path: Path) -> None:
    done = levelfield("run", tiny_experiment, "--runs", tmp_path / "runs", "--results", tmp_path / "results")
    assert done.returncode == 0, done.stderr
    assert sorted(f.name for f in (tmp_path / "results" / "tiny").iterdir()) == [
        "manifest.json", "table.csv", "table.html", "table.md", "table.tex",
    ]  # fmt: skip
    p = made_part(tmp_path / "made", {"ease": 1.0, "llm": 0.5})
    assert not has_curves(p)
    assert learning_curve.contents(p, build([p])) == {}


def test_the_page_has_the_section(tmp_path: Path, chromium: Any) -> None:
    p = planted(tmp_path / "store")
    (path,) = learning_curve.write_page(p, build([p]), tmp_path)
    assert sections(path.read_text(encoding="utf-8")) == [learning_curve.HEADING]
    for options in ({"color_scheme": "dark"}, {"viewport": {"width": 390, "height": 844}}):
        with opened(chromium, path, **options) as view:
            view.wait_for_selector("#budgets-figure .scatterlayer .point")
            view.get_by_label("Show").select_option(label="AUC")
            view.wait_for_selector("#budgets-figure .ytitle:has-text('AUC')")
            assert view.get_by_text("llm is ahead of every classical model up to 300").first.is_visible()
            assert view.evaluate("document.documentElement.scrollWidth") <= view.viewport_size["width"]
