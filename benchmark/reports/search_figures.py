"""The figures of a search: history, training curves, importance, parallel coordinates, slices, learning rate x rank."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from benchmark.errors import missing_extra
from benchmark.reports.search import (
    Found,
    evaluator,
    importance,
    quiet,
    slot_of,
    title_of,
    view_of,
)

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial
    from plotly.graph_objects import Figure

SIZE = re.compile(r"(.*[._])?(rank|r|factors?|dim|dimensions?|(embedding|hidden|latent)\w*)", re.IGNORECASE)
# Okabe and Ito: told apart by everybody; lines are drawn with what shows on white as on black
BLUE, SKY, ORANGE, VERMILLION, GREY = "#0072B2", "#56B4E9", "#E69F00", "#D55E00", "#999999"
WORSE_TO_BETTER = [[0.0, BLUE], [0.5, GREY], [1.0, VERMILLION]]


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

    found, out = Found(study), dict[str, Any]()
    name, varied = title_of(found.objectives[0]), found.varied
    with quiet():
        view = view_of(found)
        if found.complete and len(found.objectives) > 1:
            out["Pareto front"] = _pareto(found)
        elif found.complete:
            out["History"] = _history(found, draw.plot_optimization_history(view, target_name=name))
        if any(len(t.intermediate_values) > 1 for t in found.of("COMPLETE", "PRUNED")):
            out["Training curves"] = _curves(found, draw.plot_intermediate_values(view))
        if importance(study):
            figure = draw.plot_param_importances(view, evaluator=evaluator(found), params=varied, target_name=name)
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
            size = pair[1].rpartition(".")[2]
            out[f"Learning rate x {'rank' if size in ('r', 'rank') else size.replace('_', ' ')}"] = _contour(
                found, *pair
            )
    for figure in out.values():
        figure.data = [t for t in figure.data if t.x is not None and len(t.x)]  # Optuna's infeasible ones, of none here
        figure.update_layout(title=None, template=LIGHT, width=None, height=figure.layout.height or 420)
    return out


def _mark(figure: Figure, defaults: FrozenTrial | None, x: float, y: float) -> Figure:
    if defaults is None:
        return figure
    marker = {"symbol": "star", "size": 15, "color": ORANGE, "line": {"width": 1, "color": "black"}}
    return figure.add_scatter(x=[x], y=[y], mode="markers", name="defaults", marker=marker, showlegend=True)


def _history(found: Found, figure: Figure) -> Figure:
    points, best, _ = figure.data
    points.update(marker={"color": BLUE, "size": 8}, name="trial")
    best.update(line={"color": VERMILLION, "width": 2, "shape": "hv"}, name="best so far")
    first = found.defaults
    return _mark(figure, first, slot_of(first), first.values[0]) if first else figure


def _pareto(found: Found) -> Figure:
    from optuna.visualization import plot_pareto_front

    names = [title_of(objective) for objective in found.objectives[:2]]
    view = view_of(found, objectives=len(found.objectives))
    figure = plot_pareto_front(view, target_names=names, targets=lambda t: t.values[:2])
    looks = (("other trials", GREY, 8), ("Pareto front", VERMILLION, 10))
    for trace, (name, color, size) in zip(figure.data, looks, strict=True):
        trace.marker = {"color": color, "size": size, "line": {"width": 1, "color": GREY}}
        trace.update(name=name, showlegend=True)
    return _mark(figure, found.defaults, *found.defaults.values[:2]) if found.defaults else figure


def _curves(found: Found, figure: Figure) -> Figure:
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
        trace.hovertemplate = f"trial {slot_of(trial)}, epoch %{{x}}: %{{y:.4f}}<extra></extra>"
        kinds[kind].append(trace)
    figure.data = [trace for traces in kinds.values() for trace in traces]  # the two that matter on top
    few = max(max(t.intermediate_values) for t in told) <= 12
    monitor = found.attributes.get("monitor", found.objectives[0])
    figure.update_xaxes(title_text="Epoch", dtick=1 if few else None)
    return figure.update_yaxes(title_text=f"{title_of(monitor)} (validation)").update_layout(showlegend=True)


def _parallel(found: Found, figure: Figure) -> Figure:
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


def _rate_and_size(found: Found) -> tuple[str, str] | None:
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


def _contour(found: Found, rate: str, size: str) -> Figure:
    from optuna.distributions import IntDistribution
    from optuna.visualization import plot_contour

    # choices of sizes as a range: 8, 16 and 32 at equal distances, in their order
    sizes = sorted({t.params[size] for t in found.trials if size in t.params})
    view = view_of(found, ranges={size: IntDistribution(sizes[0], sizes[-1], log=sizes[0] > 0)})
    figure = plot_contour(view, [rate, size], target_name=title_of(found.objectives[0]))
    figure.update_traces(colorscale="Viridis", selector={"type": "contour"})
    marker = {"size": 7, "line": {"width": 1.5, "color": "white"}}
    figure.update_traces(marker=marker, hovertemplate="%{x:.3g}, %{y}<extra></extra>", selector={"mode": "markers"})
    if len(sizes) <= 8:
        axis = figure.update_yaxes if rate < size else figure.update_xaxes  # Optuna sorts the two
        axis(tickmode="array", tickvals=sizes, ticktext=[str(value) for value in sizes])
    return figure
