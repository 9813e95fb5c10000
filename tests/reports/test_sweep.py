"""Sweep reports: what real studies say in Markdown, CSV, HTML and the terminal; little said of few trials."""

from __future__ import annotations

import builtins
import csv
import io
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmark.errors import InputError
from benchmark.reports import search, search_figures, search_page, search_tables, sweep
from tests.reports.browser import opened, unpacked, until

optuna = pytest.importorskip("optuna")
pytest.importorskip("plotly")
RATE, RANK, KIND, LAYERS = "learning_rate", "peft.rank", "peft.kind", "peft.layers"
FIGURES = ["History", "Training curves", "Importance", "Parallel coordinates", "Slices", "Learning rate x rank"]


def value(params: dict[str, Any]) -> float:
    """Best at a learning rate of 1e-3; the rest matters little."""
    layers = 0.001 * params.get(LAYERS, 0)
    return 0.3 - 0.05 * (math.log10(params[RATE]) + 3) ** 2 + 0.0002 * params.get(RANK, 0) + layers


def study(
    trials: int = 24,
    label: str = "minilm-lora",
    objectives: Sequence[str] = ("ndcg@10",),
    paths: Sequence[str] = (RATE, RANK, KIND),
    pruned: Sequence[int] = (),
    failed: Sequence[int] = (),
    epochs: int = 3,
    constant: bool = False,
    lower: bool = False,
    slots: Sequence[int] | None = None,
) -> optuna.Study:
    """Run Optuna over ``value`` (with ``lower`` over its negative): trial 0 has the defaults, the others are random."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    directions = ["minimize" if lower else "maximize", *["minimize"] * (len(objectives) - 1)]
    made = optuna.create_study(directions=directions, sampler=optuna.samplers.RandomSampler(seed=0))
    told = {"name": f"quick/{label}", "label": label, "objectives": list(objectives), "max_epochs": 5}
    for key, item in told.items():
        made.set_user_attr(key, item)
    made.enqueue_trial({RATE: 1e-4, RANK: 8, KIND: "lora", LAYERS: 2})
    for i in range(trials):
        trial = made.ask()
        slot = slots[i] if slots else i
        trial.set_user_attr("slot", slot)
        if not slot:
            trial.set_user_attr("defaults", True)
        if RATE in paths:
            trial.suggest_float(RATE, 1e-5, 1e-1, log=True)
        if RANK in paths:
            trial.suggest_categorical(RANK, [64, 4, 8, 16, 32])
        if KIND in paths and trial.suggest_categorical(KIND, ["lora", None, "<b>x</b>"]) == "lora":
            trial.suggest_int(LAYERS, 1, 4)
        found = 0.25 if constant else -value(trial.params) if lower else value(trial.params)
        stopped = i in pruned
        for epoch in range(1, 2 if stopped else epochs + 1):
            if len(objectives) == 1 and i not in failed:
                trial.report(found - 0.05 / epoch, epoch)
        outcome = {"values": trial.params, "key": f"key-{i}", "epochs": 1 if stopped else epochs, "seconds": 2.5}
        outcome |= {"metrics": {objectives[0]: found}, "error": None}
        if i in failed:
            error = "RuntimeError: no <memory> | left\nTraceback"
            trial.set_user_attr(*(("error", error) if i % 2 else ("outcome", {**outcome, "error": error})))
            made.tell(trial, state=optuna.trial.TrialState.FAIL)
            continue
        trial.set_user_attr("outcome", outcome)
        if stopped:
            made.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            made.tell(trial, [found, 10.0 + trial.params.get(RANK, 0), 2.0, 1.0][: len(objectives)])
    return made


SEVERAL: dict[str, Any] = {"objectives": ("ndcg@10", "train_seconds"), "label": "two"}
FEW: dict[str, dict[str, Any]] = {
    "none": {"trials": 0},
    "one": {"trials": 1},
    "two": {"trials": 2},
    "three": {"trials": 3},
    "no complete": {"trials": 4, "pruned": (0, 1), "failed": (2, 3)},
    "all failed": {"trials": 3, "failed": (0, 1, 2)},
    "one complete": {"trials": 5, "pruned": (1, 2), "failed": (3, 4)},
    "defaults failed": {"trials": 6, "failed": (0,)},
    "all equal": {"constant": True},
    "one parameter": {"paths": (RATE,)},
    "one epoch": {"epochs": 1},
    "two objectives, none complete": dict(trials=3, failed=(0, 1, 2), **SEVERAL),
    "two objectives, one complete": dict(trials=2, failed=(1,), **SEVERAL),
    "four objectives": {"objectives": ("ndcg@10", "train_seconds", "ms_per_user", "peak_memory")},
    "lower": {"objectives": ("log_loss",), "lower": True},
}


def test_the_gain_is_the_best_over_the_defaults() -> None:
    made = study(pruned=(3, 9), failed=(5, 6))
    best, defaults = search.gain(made)
    assert best == pytest.approx(max(t.value for t in made.trials if t.state.name == "COMPLETE"))
    assert defaults == pytest.approx(value({RATE: 1e-4, RANK: 8, LAYERS: 2}))
    assert search.gain(study(trials=6, failed=(0,)))[1] is None
    assert search.gain(study(trials=3, failed=(0, 1, 2))) == (None, None)


def test_a_gain_is_positive_where_less_is_better() -> None:
    made = study(objectives=("log_loss",), lower=True)
    best, defaults = search.gain(made)
    assert best is not None
    assert defaults is not None
    assert best < defaults
    text = search_tables.markdown([made])
    assert f"| {best:.4f} | {defaults:.4f} | {defaults - best:+.4f} |" in text
    assert "also where less is better" in text


def test_equals_are_decided_by_the_slot() -> None:
    made = study(trials=3, constant=True, slots=(2, 1, 0))
    assert search.Found(made).best.user_attrs["slot"] == 0


@pytest.mark.parametrize("made", [study(), study(**SEVERAL), study(objectives=("log_loss",), lower=True, trials=40)])
def test_the_parameter_that_matters_comes_first(made: optuna.Study) -> None:
    shares = search.importance(made)
    assert set(shares) == {RATE, RANK, KIND, LAYERS}
    assert next(iter(shares)) == RATE
    assert shares[RATE] > 0.5
    assert sum(shares.values()) == pytest.approx(1)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)


@pytest.mark.parametrize("case", ["none", "one", "two", "three", "no complete", "all equal", "one parameter"])
def test_no_importance_is_told_of_too_little(case: str) -> None:
    made = study(**FEW[case])
    assert search.importance(made) == {}
    assert not {"Importance", "Parallel coordinates", "Learning rate x rank"} & set(search_figures.figures(made))
    assert "Importance" not in search_tables.markdown([made])


def test_the_figures_and_their_order() -> None:
    made = study(pruned=(3,), failed=(5,))
    assert list(search_figures.figures(made)) == FIGURES
    assert list(search_figures.figures(study(epochs=1))) == [f for f in FIGURES if f != "Training curves"]
    assert list(search_figures.figures(study(**SEVERAL))) == ["Pareto front", *FIGURES[2:]]
    assert list(search_figures.figures(study(paths=(RATE,)))) == ["History", "Training curves", "Slices"]
    assert list(search_figures.figures(study(constant=True))) == ["History", "Training curves", "Slices"]
    assert list(search_figures.figures(study(**FEW["one"]))) == ["History", "Training curves"]
    assert search_figures.figures(study(trials=3, failed=(0, 1, 2))) == {}


def test_axes_carry_the_metric_and_trials_their_slots() -> None:
    slots = [0, *range(3, 26)]  # 1 and 2 are not finished
    drawn = search_figures.figures(study(slots=slots, pruned=(3,), failed=(5,)))
    history = drawn["History"]
    assert history.layout.yaxis.title.text == "NDCG@10"
    assert list(history.data[0].x) == [slot for i, slot in enumerate(slots) if i not in (3, 5)]
    assert history.data[-1].name == "defaults"
    curves = drawn["Training curves"]
    assert [t.name for t in curves.data if t.showlegend] == ["complete", "pruned", "defaults", "best"]
    assert "trial 0," in next(t.hovertemplate for t in curves.data if t.name == "defaults")
    contour = drawn["Learning rate x rank"]
    assert (contour.layout.xaxis.title.text, contour.layout.yaxis.title.text) == (RATE, RANK)
    assert (contour.layout.xaxis.type, contour.layout.yaxis.type) == ("log", "log")
    assert list(contour.layout.yaxis.ticktext) == ["4", "8", "16", "32", "64"]
    pareto = search_figures.figures(study(**SEVERAL))["Pareto front"]
    assert (pareto.layout.xaxis.title.text, pareto.layout.yaxis.title.text) == ("NDCG@10", "Train s")


def test_choices_are_drawn_without_quotes_and_tags() -> None:
    slices = search_figures.figures(study())["Slices"]
    categories = next(axis.categoryarray for axis in slices.select_xaxes() if axis.title.text == KIND)
    assert list(categories) == ["lora", "None", "&lt;b&gt;x&lt;/b&gt;"]


@pytest.mark.parametrize("lower", [False, True])
def test_better_is_the_same_colour_whichever_way_is_better(lower: bool) -> None:
    *lines, scale = search_figures.figures(study(lower=lower))["Parallel coordinates"].data
    assert lines[-1].line.color.replace(" ", "") == "rgb(213,94,0)"
    assert lines[-1].y[0] == (0 if lower else 1)
    assert bool(scale.marker.reversescale) is lower


def test_the_markdown() -> None:
    studies = [study(pruned=(3, 9), failed=(5, 6)), study(trials=12, **SEVERAL)]
    text = search_tables.markdown(studies)
    lines = text.splitlines()
    assert lines[2].startswith(
        "| Model | Trials | Complete / pruned / failed | Epochs | Best NDCG@10 | Defaults | Gain |"
    )
    best, defaults = search.gain(studies[0])
    assert best is not None
    assert defaults is not None
    # one of the two failed trials left no outcome
    row = f"| minilm-lora | 24 | 20 / 2 / 2 | 65 of 120 | {best:.4f} | {defaults:.4f} | {best - defaults:+.4f} | 57.5 |"
    assert lines[4].startswith(row)
    assert "the best of 12 to 24 trials is optimistic" in text
    assert "the test part stands in table.md" in text
    assert "- trial 5: RuntimeError: no \\<memory> \\| left\n- trial 6:" in text
    assert "Traceback" not in text
    front = text.partition("### Pareto front")[2]
    assert "| Trial | NDCG@10 | Train s | Parameters |" in front
    rows = [line.split(" | ") for line in front.splitlines() if re.match(r"\| \d", line)]
    assert len(rows) == len(studies[1].best_trials)
    assert [float(r[1]) for r in rows] == sorted((float(r[1]) for r in rows), reverse=True)
    assert [float(r[2]) for r in rows] == sorted((float(r[2]) for r in rows), reverse=True)


def test_every_trial_is_a_row() -> None:
    studies = [study(trials=8, pruned=(3,), failed=(5, 6)), study(trials=3, paths=(RATE,), **SEVERAL)]
    rows = list(csv.DictReader(io.StringIO(search_tables.comma_separated(studies))))
    head = ["model", "trial", "state", "ndcg@10", "train_seconds", "epochs", "seconds", "key", "error"]
    assert list(rows[0])[:9] == head
    assert set(list(rows[0])[9:]) == {RATE, RANK, KIND, LAYERS}
    assert [row["trial"] for row in rows] == [*map(str, range(8)), "0", "1", "2"]
    assert [row["state"] for row in rows[3:7]] == ["pruned", "complete", "fail", "fail"]
    assert float(rows[0]["ndcg@10"]) == studies[0].trials[0].value
    assert (rows[0]["key"], rows[0]["epochs"], rows[0]["seconds"]) == ("key-0", "3", "2.5")
    assert (rows[3]["ndcg@10"], rows[3]["epochs"]) == ("", "1")
    assert rows[5]["error"] == "RuntimeError: no <memory> | left"
    assert (rows[5]["key"], rows[6]["key"]) == ("", "key-6")
    assert (rows[8]["model"], rows[8]["train_seconds"], rows[8][RANK]) == ("two", "10.0", "")
    assert all((row[LAYERS] != "") == (row[KIND] == "lora") for row in rows[:8])


def test_the_page_is_whole_and_the_same_twice(tmp_path: Path) -> None:
    from plotly.offline import get_plotlyjs

    studies = [study(pruned=(3,), failed=(5,)), study(**{**SEVERAL, "label": "a<i>"})]
    paths = sweep.write(studies, tmp_path / "a")
    assert [path.name for path in paths] == ["sweep.md", "trials.csv", "sweep.html"]
    for path, again in zip(paths, sweep.write(studies, tmp_path / "b"), strict=True):
        assert path.read_bytes() == again.read_bytes()
    own = (tmp_path / "a" / "sweep.html").read_text(encoding="utf-8")
    assert unpacked(own, "plotly") == get_plotlyjs()
    assert own.count('<script type="application/octet-stream;base64"') == 2
    assert len(own) < 2_200_000
    assert not re.search(r"https?://|(src|href)=[\"']?(http|//)|url\(|@import", own)
    assert "<title>Sweep quick</title>" in own
    assert '<a href="#summary">Summary of the search</a>' in own
    assert '<a href="#m1">a&lt;i&gt;</a>' in own
    assert "a<i>" not in own
    assert "<memory>" not in own
    for name in FIGURES:
        assert f"<h3>{name}</h3>" in own
    drawn = json.loads(unpacked(own))["figures"]
    assert list(drawn) == re.findall(r'class="plot" id="(\w+)" data-figure="\1" role="img" aria-label=', own)
    assert len(drawn) == sum(len(search_figures.figures(made)) for made in studies)
    assert not any("template" in figure["layout"] for figure in drawn.values())
    assert f"gain <strong>{search_tables.gain_text(search.Found(studies[0]))}</strong>" in own


def test_the_page_draws_its_figures(chromium: Any, tmp_path: Path) -> None:
    sweep.write([study(trials=8)], tmp_path)
    with opened(chromium, tmp_path / "sweep.html", viewport={"width": 1280, "height": 5000}) as view:
        until(view, f"document.querySelectorAll('.js-plotly-plot .main-svg[role=img]').length === {len(FIGURES)}")
        assert view.locator("#m0f0 .scatterlayer .point").count() > 8


def test_the_sections_of_two_searches_stand_on_one_page() -> None:
    first, figures = search_page.sections([study(trials=6)], prefix="ml-")
    second, others = search_page.sections([study(trials=6, label="<i>")], prefix="books-")
    assert [(s.id, s.title) for s in second] == [("books-summary", "Summary of the search"), ("books-m0", "<i>")]
    assert figures
    assert len(figures) == len(others)
    assert not {s.id for s in first} & {s.id for s in second}
    assert not set(figures) & set(others)
    assert all(f'data-figure="{id}"' in first[1].body for id in figures)


@pytest.mark.parametrize("case", FEW)
def test_nothing_falls_over(case: str, tmp_path: Path) -> None:
    made = study(**FEW[case])
    before = optuna.logging.get_verbosity()
    sweep.write([made], tmp_path)
    console = Console(file=io.StringIO(), width=100)
    sweep.show([made], console)
    text = (tmp_path / "sweep.md").read_text(encoding="utf-8")
    assert "nan" not in text
    assert ("No trial is complete." in text) == (not [t for t in made.trials if t.state.name == "COMPLETE"])
    assert optuna.logging.get_verbosity() == before
    assert all(len(figure.data) for figure in search_figures.figures(made).values())


def test_no_study_at_all(tmp_path: Path) -> None:
    assert len(sweep.write([], tmp_path)) == 3


def test_the_terminal() -> None:
    out = io.StringIO()
    made = study(failed=(5,))
    sweep.show([made, study(trials=2, label="[red]few")], Console(file=out, width=120))
    text = out.getvalue()
    assert f"{search.gain(made)[0]:.4f}" in text
    assert "23 / 0 / 1" in text
    assert re.search(r"minilm-lora: learning_rate .*; importance: learning_rate 0\.\d\d", text)
    assert re.search(r"\[red\]few: .*; importance: not defined", text)


def test_without_plotly_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    made, real = study(trials=2), builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "plotly":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(InputError, match=r"levelfield\[sweep\]"):
        search_figures.figures(made)
