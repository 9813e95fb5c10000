"""What a sweep found, from finished Optuna studies: a Markdown page, a CSV of trials, an HTML page, the terminal."""

from __future__ import annotations

import contextlib
import csv
import html
import io
import json
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmark.errors import InputError, missing_extra
from benchmark.reports import render
from benchmark.reports.table import Cell, title
from benchmark.runs.record import whole_file

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial
    from plotly.graph_objects import Figure

FEWEST = 4  # complete trials below which nothing is said about a parameter
COSTS = {"train_seconds": "Train s", "ms_per_user": "ms/user"}
SIZE = re.compile(r"(.*[._])?(rank|r|factors?|dim|dimensions?|(embedding|hidden|latent)\w*)", re.IGNORECASE)
# Okabe and Ito: told apart by everybody; lines are drawn with what shows on white as on black
BLUE, SKY, ORANGE, VERMILLION, GREY = "#0072B2", "#56B4E9", "#E69F00", "#D55E00", "#999999"
WORSE_TO_BETTER = [[0.0, BLUE], [0.5, GREY], [1.0, VERMILLION]]


class _Found:
    """What is read off a study: its trials by slot, the best one, the defaults, what was varied."""

    def __init__(self, study: optuna.Study) -> None:
        self.study, self.attributes = study, study.user_attrs
        self.label, self.objectives = str(self.attributes["label"]), list(self.attributes["objectives"])
        self.lower = study.directions[0].name == "MINIMIZE"
        self.trials = sorted((t for t in study.get_trials(deepcopy=False) if t.state.is_finished()), key=_slot)
        self.complete = self.of("COMPLETE")
        sign = -1 if self.lower else 1
        self.best = max(self.complete, key=lambda t: sign * t.values[0], default=None)
        self.defaults = next((t for t in self.complete if t.user_attrs.get("defaults")), None)
        seen: dict[str, set[str]] = {}
        for path, value in (item for t in self.complete for item in t.params.items()):
            seen.setdefault(path, set()).add(repr(value))
        self.varied = [path for path, values in seen.items() if len(values) > 1]
        self.telling = self.tells(self.complete)

    def of(self, *states: str) -> list[FrozenTrial]:
        return [t for t in self.trials if t.state.name in states]

    @staticmethod
    def tells(trials: list[FrozenTrial]) -> bool:
        """Return whether trials are enough, and different enough, to say what a parameter does."""
        values = [t.values[0] for t in trials if math.isfinite(t.values[0])]
        return len(values) >= FEWEST and len(set(values)) > 1


def _slot(trial: FrozenTrial) -> int:
    return int(trial.user_attrs.get("slot", trial.number))


def _outcome(trial: FrozenTrial) -> dict[str, Any]:
    return dict(trial.user_attrs.get("outcome") or {})


def _values(trial: FrozenTrial) -> dict[str, Any]:
    return dict(_outcome(trial).get("values") or trial.params)


def _error(trial: FrozenTrial) -> str:
    error = _outcome(trial).get("error") or trial.user_attrs.get("error")
    lines = [line.strip() for line in str(error or "").splitlines() if line.strip()]
    return lines[0] if lines else "no error was stored" if trial.state.name == "FAIL" else ""


def gain(study: optuna.Study) -> tuple[float | None, float | None]:
    """Return the best value of the first objective and that of the defaults; None where there is none."""
    found = _Found(study)
    best, defaults = (None if trial is None else trial.values[0] for trial in (found.best, found.defaults))
    return best, defaults


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)


def _view(found: _Found, objectives: int = 1, ranges: dict[str, Any] | None = None) -> optuna.Study:
    """Return a copy as Optuna's figures want it: numbers are slots, no attributes, the first objectives alone.

    One objective rather than a ``target``: of a target Optuna thinks that less is better, and draws no best so far.
    """
    from optuna import create_study
    from optuna.distributions import CategoricalDistribution
    from optuna.trial import TrialState, create_trial

    def plain(value: Any) -> Any:  # Plotly reads tags in its texts
        return html.escape(value, quote=False) if isinstance(value, str) else value

    view = create_study(study_name="view", directions=found.study.directions[:objectives])
    by_slot = {_slot(trial): trial for trial in found.trials}
    for slot in range(max(by_slot, default=-1) + 1):
        trial = by_slot.get(slot)
        if trial is None:  # not finished: it keeps its number
            view.add_trial(create_trial(state=TrialState.FAIL))
            continue
        known = {path: (ranges or {}).get(path, range_) for path, range_ in trial.distributions.items()}
        for path, range_ in known.items():
            if isinstance(range_, CategoricalDistribution):
                known[path] = CategoricalDistribution([plain(choice) for choice in range_.choices])
        copy = create_trial(
            state=trial.state,
            values=trial.values[:objectives] if trial.state == TrialState.COMPLETE else None,
            params={path: plain(value) for path, value in trial.params.items()},
            distributions=known,
            intermediate_values=trial.intermediate_values,
        )
        view.add_trial(copy)
    return view


def _evaluator(found: _Found) -> Any:
    from optuna.importance import PedAnovaImportanceEvaluator

    # Optuna's default looks at the best tenth; its documentation wants at least five trials among the best
    return PedAnovaImportanceEvaluator(target_quantile=max(0.1, min(0.5, 5 / len(found.complete))))


def importance(study: optuna.Study) -> dict[str, float]:
    """Return each varied parameter's share in what sets the best trials apart, greatest first.

    Empty where it is not defined: fewer than two parameters varied, fewer than four complete trials, equal values.
    """
    from optuna.importance import get_param_importances

    found = _Found(study)
    if len(found.varied) < 2 or not found.telling:
        return {}
    with _quiet():  # the paths by name: Optuna's own order is that of a set
        shares = get_param_importances(_view(found), evaluator=_evaluator(found), params=found.varied)
    if len(set(shares.values())) == 1:  # how Optuna says that it cannot tell
        return {}
    return {path: float(share) for path, share in sorted(shares.items(), key=lambda item: -item[1])}


# figures --------------------------------------------------------------------------------------------------------------


def _template(ink: str, faint: str, ground: str) -> dict[str, Any]:
    # "power": 10^-5 where Plotly would write 10μ
    axis = {"gridcolor": faint, "linecolor": GREY, "zeroline": False, "automargin": True, "exponentformat": "power"}
    layout = {
        "font": {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 14, "color": ink},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "colorway": [BLUE, VERMILLION, ORANGE, SKY],
        "hoverlabel": {"bgcolor": ground, "bordercolor": GREY, "font": {"color": ink}, "align": "left"},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        "margin": {"l": 56, "r": 16, "t": 40, "b": 48},
    }
    return {"layout": {**layout, "xaxis": axis, "yaxis": axis}}


LIGHT, DARK = _template("#1f2328", "#e3e6ea", "#ffffff"), _template("#e6e8eb", "#343a42", "#16191d")


def figures(study: optuna.Study) -> dict[str, Figure]:
    """Return the figures that the trials suffice for, by short title; all but the Pareto front are of one objective.

    Raises:
        InputError: Plotly is not installed.
    """
    try:
        import plotly  # noqa: F401
    except ImportError:
        raise missing_extra("plotly", "sweep") from None
    from optuna import visualization as draw

    found, out = _Found(study), dict[str, Any]()
    name, varied = _title(found.objectives[0]), found.varied
    with _quiet():
        view = _view(found)
        if found.complete and len(found.objectives) > 1:
            out["Pareto front"] = _pareto(found)
        elif found.complete:
            out["History"] = _history(found, draw.plot_optimization_history(view, target_name=name))
        if any(len(t.intermediate_values) > 1 for t in found.of("COMPLETE", "PRUNED")):
            out["Learning curves"] = _curves(found, draw.plot_intermediate_values(view))
        if importance(study):
            figure = draw.plot_param_importances(view, evaluator=_evaluator(found), params=varied, target_name=name)
            figure.update_traces(marker_color=BLUE).update_yaxes(title_text=None)
            figure.update_xaxes(title_text=f"Share of importance for {name}", range=[0, 1.1 * max(figure.data[0].x)])
            out["Importance"] = figure.update_layout(height=140 + 40 * len(varied))
        if len(varied) > 1 and found.telling:
            out["Parallel coordinates"] = _parallel(
                found, draw.plot_parallel_coordinate(view, params=varied, target_name=name)
            )
        if varied:
            out["Slices"] = _slices(draw.plot_slice(view, params=varied, target_name=name))
        pair = _rate_and_size(found)
        if pair is not None:
            out["Learning rate x rank"] = _contour(found, *pair)
    for figure in out.values():
        figure.data = [t for t in figure.data if t.x is not None and len(t.x)]  # Optuna's infeasible ones, of none here
        figure.update_layout(title=None, template=LIGHT, width=None, height=figure.layout.height or 420)
    return out


def _mark(figure: Figure, defaults: FrozenTrial | None, x: float, y: float) -> Figure:
    if defaults is None:
        return figure
    marker = {"symbol": "star", "size": 15, "color": ORANGE, "line": {"width": 1, "color": "black"}}
    return figure.add_scatter(x=[x], y=[y], mode="markers", name="defaults", marker=marker, showlegend=True)


def _history(found: _Found, figure: Figure) -> Figure:
    points, best, _ = figure.data
    points.update(marker={"color": BLUE, "size": 8}, name="trial")
    best.update(line={"color": VERMILLION, "width": 2, "shape": "hv"}, name="best so far")
    first = found.defaults
    return _mark(figure, first, _slot(first), first.values[0]) if first else figure


def _pareto(found: _Found) -> Figure:
    from optuna.visualization import plot_pareto_front

    names = [_title(objective) for objective in found.objectives[:2]]
    view = _view(found, objectives=len(found.objectives))
    figure = plot_pareto_front(view, target_names=names, targets=lambda t: t.values[:2])
    looks = (("other trials", GREY, 8), ("Pareto front", VERMILLION, 10))
    for trace, (name, color, size) in zip(figure.data, looks, strict=True):
        trace.marker = {"color": color, "size": size, "line": {"width": 1, "color": GREY}}
        trace.update(name=name, showlegend=True)
    return _mark(figure, found.defaults, *found.defaults.values[:2]) if found.defaults else figure


def _curves(found: _Found, figure: Figure) -> Figure:
    looks: dict[str, dict[str, Any]] = {
        "complete": {"line": {"color": GREY, "width": 1}, "opacity": 0.7},
        "pruned": {"line": {"color": SKY, "width": 1.5, "dash": "dot"}},
        "defaults": {"line": {"color": ORANGE, "width": 3}},
        "best": {"line": {"color": VERMILLION, "width": 3}},
    }
    kinds: dict[str, list[Any]] = {kind: [] for kind in looks}
    told = [t for t in found.of("COMPLETE", "PRUNED") if t.intermediate_values]
    for trace, trial in zip(figure.data, told, strict=True):
        kind = "best" if trial is found.best else "defaults" if trial is found.defaults else trial.state.name.lower()
        trace.update(name=kind, legendgroup=kind, showlegend=not kinds[kind], marker={"size": 5}, **looks[kind])
        trace.hovertemplate = f"trial {_slot(trial)}, epoch %{{x}}: %{{y:.4f}}<extra></extra>"
        kinds[kind].append(trace)
    figure.data = [trace for traces in kinds.values() for trace in traces]  # the two that matter on top
    few = max(max(t.intermediate_values) for t in told) <= 12
    monitor = found.attributes.get("monitor", found.objectives[0])
    figure.update_xaxes(title_text="Epoch", dtick=1 if few else None)
    return figure.update_yaxes(title_text=f"{_title(monitor)} (validation)").update_layout(showlegend=True)


def _parallel(found: _Found, figure: Figure) -> Figure:
    from plotly.colors import sample_colorscale

    *lines, scale = figure.data
    good = {id(t): 1 - t.y[0] if found.lower else t.y[0] for t in lines}  # the first axis is the objective, 0 to 1
    for trace in lines:
        trace.line = {"color": sample_colorscale(WORSE_TO_BETTER, [good[id(trace)]])[0], "width": 1.5}
        trace.opacity = 0.5 + good[id(trace)] / 2
    figure.data = [*sorted(lines, key=lambda t: good[id(t)]), scale]
    scale.marker.update(colorscale=WORSE_TO_BETTER, reversescale=found.lower)
    return figure.update_annotations(font={"size": 12, "color": None}).update_layout(
        plot_bgcolor=None, legend=None, height=460
    )


def _slices(figure: Figure) -> Figure:
    def bare(values: Any) -> list[Any]:  # Optuna writes choices as repr
        return [value.strip("'\"") if isinstance(value, str) else value for value in values]

    told = "trial %{marker.color}<br>%{x}: %{y:.4f}<extra></extra>"
    marker = {"colorscale": "Viridis", "size": 9, "line": {"width": 1, "color": GREY}}
    figure.update_traces(marker=marker, hovertemplate=told)
    figure.for_each_trace(lambda trace: trace.update(x=bare(trace.x)))
    return figure.for_each_xaxis(
        lambda axis: axis.update(categoryarray=axis.categoryarray and bare(axis.categoryarray))
    )


def _rate_and_size(found: _Found) -> tuple[str, str] | None:
    """Return the paths of a learning rate and of a size that were searched together and can be axes."""
    rates = sorted(
        (path for path in found.varied if path.endswith("learning_rate")), key=lambda path: (len(path), path)
    )
    for size in filter(SIZE.fullmatch, found.varied if rates else []):
        both = [t for t in found.complete if size in t.params and rates[0] in t.params]
        several = all(len({t.params[path] for t in both}) > 1 for path in (rates[0], size))
        if several and found.tells(both) and all(type(t.params.get(size, 0)) is int for t in found.trials):
            return rates[0], size
    return None


def _contour(found: _Found, rate: str, size: str) -> Figure:
    from optuna.distributions import IntDistribution
    from optuna.visualization import plot_contour

    # choices of sizes as a range: 8, 16 and 32 at equal distances, in their order
    sizes = sorted({t.params[size] for t in found.trials if size in t.params})
    view = _view(found, ranges={size: IntDistribution(sizes[0], sizes[-1], log=sizes[0] > 0)})
    figure = plot_contour(view, [rate, size], target_name=_title(found.objectives[0]))
    figure.update_traces(colorscale="Viridis", selector={"type": "contour"})
    marker = {"size": 7, "line": {"width": 1.5, "color": "white"}}
    figure.update_traces(marker=marker, hovertemplate="%{x:.3g}, %{y}<extra></extra>", selector={"mode": "markers"})
    if len(sizes) <= 8:
        axis = figure.update_yaxes if rate < size else figure.update_xaxes  # Optuna sorts the two
        axis(tickmode="array", tickvals=sizes, ticktext=[str(value) for value in sizes])
    return figure


# tables ---------------------------------------------------------------------------------------------------------------


def _title(objective: str) -> str:
    try:
        return title(objective)
    except InputError:
        return COSTS.get(objective, objective.replace("_", " ").capitalize())


def _number(objective: str, value: float | None) -> str:
    try:
        title(objective)
    except InputError:
        return render.text(Cell(mean=value, reason="–"), metric=False)
    return "–" if value is None else render.number(value, 4)


def _parameters(trial: FrozenTrial | None) -> str:
    values = {} if trial is None else _values(trial)
    return ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items()) or "–"


def _gain(found: _Found) -> str:
    if found.best is None or found.defaults is None:
        return "–"
    difference = found.best.values[0] - found.defaults.values[0]
    return f"{(-difference if found.lower else difference) + 0.0:+.4f}"


def _summary(studies: Sequence[optuna.Study]) -> tuple[list[str], list[list[str]]]:
    """Return the heads and rows of the one table that stands in the file, on the page and in the terminal."""
    metrics = {_title(study.user_attrs["objectives"][0]) for study in studies}
    one = metrics.pop() if len(metrics) == 1 else ""
    heads = ["Model", "Trials", "Complete / pruned / failed", "Epochs", f"Best {one or 'value'}", "Defaults", "Gain"]
    rows = []
    for found in map(_Found, studies):
        told, first, best = [_outcome(t) for t in found.trials], found.objectives[0], gain(found.study)[0]
        epochs, seconds = (sum(outcome.get(key) or 0 for outcome in told) for key in ("epochs", "seconds"))
        most = len(found.trials) * (found.attributes.get("max_epochs") or 0)
        row = [found.label, str(len(found.trials))]
        row.append(" / ".join(str(len(found.of(state))) for state in ("COMPLETE", "PRUNED", "FAIL")))
        row.append(f"{epochs} of {most}" if most else str(epochs))
        row.append(("" if one or best is None else f"{_title(first)} ") + _number(first, best))
        row += [_number(first, gain(found.study)[1]), _gain(found)]
        rows.append([*row, render.text(Cell(mean=float(seconds)), metric=False), _parameters(found.best)])
    return [*heads, "Search s", "Best parameters"], rows


def _caveat(studies: Sequence[optuna.Study]) -> str:
    sizes = sorted({len(_Found(study).trials) for study in studies}) or [0]
    among = f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else f"{sizes[0]}"
    better = (
        " A positive gain is an improvement, also where less is better."
        if any(_Found(study).lower for study in studies)
        else ""
    )
    return (
        f"All numbers are on the validation part, and the best of {among} trials is optimistic, being chosen there; "
        f"the test part stands in table.md.{better}"
    )


def _tables(found: _Found) -> Iterator[tuple[str, list[str], list[list[str]], str]]:
    """Yield (heading, heads, rows, note) of what a model's trials say besides the summary."""
    shares, n = importance(found.study), len(found.complete)
    if shares:
        rows = [[path, render.number(share, 2)] for path, share in shares.items()]
        note = f"PED-ANOVA: what sets the best of {n} complete trials apart, as shares of 1"
        yield "Importance", ["Parameter", "Share"], rows, note + ("; from so few a rough estimate." if n < 50 else ".")
    if len(found.objectives) > 1 and found.complete:
        rows = []
        sign = 1 if found.lower else -1
        for trial in sorted(found.study.best_trials, key=lambda t: (sign * t.values[0], _slot(t))):
            values = [_number(o, value) for o, value in zip(found.objectives, trial.values, strict=True)]
            rows.append([str(_slot(trial)), *values, _parameters(trial)])
        heads = ["Trial", *map(_title, found.objectives), "Parameters"]
        yield "Pareto front", heads, rows, "No complete trial is better than one of these in all objectives."


def _failures(found: _Found) -> list[str]:
    kinds = {"PRUNED": " (pruned)", "COMPLETE": " (complete)"}
    return [f"trial {_slot(t)}{kinds.get(t.state.name, '')}: {_error(t)}" for t in found.trials if _error(t)]


def _left(head: str) -> bool:
    return head in ("Model", "Parameter") or head.lower().endswith("parameters")


def _lines(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = "| " + " | ".join("---" if _left(head) else "---:" for head in heads) + " |"
    return ["| " + " | ".join(heads) + " |", rule, *("| " + " | ".join(map(_escaped, row)) + " |" for row in rows)]


def _escaped(value: str) -> str:
    return re.sub(r"([\\`*<|\[])", r"\\\1", " ".join(value.split()))


def markdown(studies: Sequence[optuna.Study]) -> str:
    """Return sweep.md: one line a model, then what mattered, the Pareto front and the failures of each."""
    lines = ["# What the search found", "", *_lines(*_summary(studies)), "", _caveat(studies)]
    for found in map(_Found, studies):
        lines += ["", f"## {_escaped(found.label)}"]
        lines += [] if found.complete else ["", "No trial is complete."]
        for heading, heads, rows, note in _tables(found):
            lines += ["", f"### {heading}", "", *_lines(heads, rows), "", note]
        failures = [f"- {_escaped(failure)}" for failure in _failures(found)]
        lines += ["", "### Failures", "", *failures] if failures else []
    return "\n".join([*lines, ""])


def comma_separated(studies: Sequence[optuna.Study]) -> str:
    """Return trials.csv: one row a trial at full precision; what a trial has not is empty."""
    every = [_Found(study) for study in studies]
    objectives = list(dict.fromkeys(objective for found in every for objective in found.objectives))
    paths = list(dict.fromkeys(path for found in every for t in found.trials for path in _values(t)))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["model", "trial", "state", *objectives, "epochs", "seconds", "key", "error", *paths])
    for found in every:
        for trial in found.trials:
            complete = trial.state.name == "COMPLETE"  # a pruned trial's last value is no outcome
            told = dict(zip(found.objectives, trial.values, strict=True)) if complete else {}
            row = [found.label, _slot(trial), trial.state.name.lower(), *(told.get(name, "") for name in objectives)]
            row += [_outcome(trial).get(key, "") for key in ("epochs", "seconds", "key")]
            values = _values(trial)
            writer.writerow([*row, _error(trial), *(str(values[path]) if path in values else "" for path in paths)])
    return out.getvalue()


# the page -------------------------------------------------------------------------------------------------------------

STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #57606a; --line: #d0d7de; --ground: #ffffff; --link: #0b61a4 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --soft: #a3abb5; --line: #343a42; --ground: #16191d; --link: #7cc0f0 }
}
body { margin: 0 auto; max-width: 72rem; padding: 1rem; color: var(--ink); background: var(--ground);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: anywhere }
a { color: var(--link) } nav a { margin-right: 1rem } figure { margin: 1rem 0 } .scroll { overflow-x: auto }
h2 { margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: 1.5rem }
table { border-collapse: collapse; font-size: .9rem; overflow-wrap: normal; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top }
.text { text-align: left; min-width: 8rem } p, li { color: var(--soft) } strong { color: var(--ink) }
"""
SCRIPT = """
const dark = matchMedia("(prefers-color-scheme: dark)"), touch = matchMedia("(pointer: coarse)"), drawn = new Set();
const config = {responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d"]};
function draw(div) {
  const figure = structuredClone(FIGURES[div.id]), layout = {...figure.layout, template: TEMPLATES[+dark.matches]};
  if (touch.matches) layout.dragmode = false;  // a finger on a figure scrolls the page
  drawn.add(div);
  Plotly.newPlot(div, figure.data, layout, config);
}
const near = new IntersectionObserver((entries) => {
  for (const {isIntersecting, target} of entries) if (isIntersecting) { near.unobserve(target); draw(target); }
}, {rootMargin: "800px"});
document.querySelectorAll(".plot").forEach((div) => near.observe(div));
dark.addEventListener("change", () => drawn.forEach(draw));
"""
# the policy forbids every request; some of Plotly compiles code of its own, hence eval
PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; \
script-src 'unsafe-inline' 'unsafe-eval'; img-src data: blob:; worker-src blob:">
<link rel="icon" href="data:,">
<title>$title</title>
<style>$style</style>
</head>
<body>
<h1>$title</h1>
<nav aria-label="Models">$nav</nav>
<main>
$body
</main>
<noscript><p>The figures need JavaScript.</p></noscript>
<script>$plotly</script>
<script>
const TEMPLATES = $templates;
const FIGURES = $figures;
$script</script>
</body>
</html>
""")


def _html_table(heads: Sequence[str], rows: Sequence[Sequence[str]], caption: str) -> str:
    def line(tag: str, row: Sequence[str]) -> str:
        marks = ["text" if _left(head) else "number" for head in heads]
        cells = (f'<{tag} class="{m}">{html.escape(c)}</{tag}>' for m, c in zip(marks, row, strict=True))
        return f"<tr>{''.join(cells)}</tr>"

    body = "\n".join(line("td", row) for row in rows)
    opening = f'<div class="scroll" role="region" tabindex="0" aria-label="{html.escape(caption)}"><table>'
    return f"{opening}\n<thead>{line('th', heads)}</thead>\n<tbody>\n{body}\n</tbody></table></div>"


def _section(found: _Found, i: int, data: dict[str, Any]) -> Iterator[str]:
    """Yield a model's part of the page; what its figures show goes into ``data``."""
    first, label = found.objectives[0], html.escape(found.label)
    best, defaults = gain(found.study)
    yield f'<section aria-labelledby="m{i}">\n<h2 id="m{i}">{label}</h2>'
    if best is None:
        yield "<p>No trial is complete.</p>"
    else:
        told = f"{html.escape(_title(first))} <strong>{_number(first, best)}</strong> on the validation part"
        told += f"; defaults {_number(first, defaults)}, gain <strong>{_gain(found)}</strong>"
        yield f"<p>{told}.<br>Best parameters: <strong>{html.escape(_parameters(found.best))}</strong></p>"
    for heading, heads, rows, note in _tables(found):
        yield f"<h3>{heading}: table</h3>\n{_html_table(heads, rows, f'{heading} of {found.label}')}\n<p>{note}</p>"
    for j, (name, figure) in enumerate(figures(found.study).items()):
        data[f"m{i}f{j}"] = drawn = json.loads(figure.to_json())
        del drawn["layout"]["template"]
        axes = {"Slices": len(found.varied), "Parallel coordinates": len(found.varied) + 1}.get(name, 0)
        size = f"height: {drawn['layout']['height']}px; min-width: {150 * axes}px"  # a phone scrolls many axes
        yield f'<figure>\n<figcaption><h3>{name}</h3></figcaption>\n<div class="scroll">'
        yield f'<div class="plot" id="m{i}f{j}" role="img" aria-label="{name} of {label}" style="{size}"></div>'
        yield "</div>\n</figure>"
    failures = "".join(f"<li>{html.escape(failure)}</li>" for failure in _failures(found))
    yield f"<h3>Failures</h3>\n<ul>{failures}</ul>\n</section>" if failures else "</section>"


def page(studies: Sequence[optuna.Study]) -> str:
    """Return sweep.html: Plotly included once, nothing fetched, each figure drawn as it comes near."""
    data: dict[str, Any] = {}
    every = [_Found(study) for study in studies]
    body = [_html_table(*_summary(studies), "Summary"), f"<p>{_caveat(studies)}</p>"]
    body += [part for i, found in enumerate(every) for part in _section(found, i, data)]
    names = {str(found.attributes.get("name", "")).removesuffix(f"/{found.label}") for found in every} - {""}
    from plotly.offline import get_plotlyjs

    def told(value: Any) -> str:
        return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")

    return PAGE.substitute(
        title=html.escape(f"Sweep {', '.join(sorted(names))}".strip()),
        style=STYLE,
        nav=" ".join(f'<a href="#m{i}">{html.escape(found.label)}</a>' for i, found in enumerate(every)),
        body="\n".join(body),
        plotly=get_plotlyjs(),
        templates=told([LIGHT, DARK]),
        figures=told(data),
        script=SCRIPT,
    )


def write(studies: Sequence[optuna.Study], folder: Path) -> list[Path]:
    """Write sweep.md, trials.csv and sweep.html under ``folder``; return their paths."""
    contents = {"sweep.md": markdown(studies), "trials.csv": comma_separated(studies), "sweep.html": page(studies)}
    paths = []
    for name, content in contents.items():
        with whole_file(folder / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
        paths.append(folder / name)
    return paths


def show(studies: Sequence[optuna.Study], console: Console) -> None:
    """Print the summary and, a line a model, the best parameters and what mattered."""
    heads, rows = _summary(studies)
    view = Table(title="What the search found", title_justify="left", header_style="bold", pad_edge=False)
    for head in heads[:-1]:
        view.add_column(head, justify="left" if _left(head) else "right", overflow="fold")
    for row in rows:
        view.add_row(*map(Text, row[:-1]))
    console.print(view)
    for study, row in zip(studies, rows, strict=True):
        shares = ", ".join(f"{path} {render.number(share, 2)}" for path, share in importance(study).items())
        console.print(Text(f"{row[0]}: {row[-1]}; importance: {shares or 'not defined'}"), soft_wrap=True)
    console.print(Text(_caveat(studies)))
