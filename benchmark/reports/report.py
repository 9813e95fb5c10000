"""The report: one HTML page, whole in itself, from the records of an experiment (or of a grid over data sets)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from benchmark.audit.finding import Finding
from benchmark.data.schema import SplitData
from benchmark.reports import audit, learning_curve, slices, tradeoff, transfer
from benchmark.reports import report_figures as draw
from benchmark.reports.budgets import has_curves
from benchmark.reports.comparison import reference_of
from benchmark.reports.leaderboard import leaderboard
from benchmark.reports.manifest import repeat_command
from benchmark.reports.names import COSTS, COSTS_IN_WORDS, title
from benchmark.reports.page import Section, command, filled, page, placeholder, switch, table
from benchmark.reports.part import Part
from benchmark.reports.render import number, text
from benchmark.reports.segments import Segmentation, segmentations
from benchmark.reports.table import Cell, ComparisonTable, build
from benchmark.reports.users import compared
from benchmark.reports.users_page import users_section
from benchmark.runs.record import RunRecord, RunStore, whole_file

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class Chapter:
    """What the page tells of one data set: its part of the table, its data, its finished searches, its audit.

    ``selected`` holds, by label and path, the hyper-parameters that a sweep chose; ``file`` and
    ``overrides`` are the experiment as it was given, for the commands on the page.
    """

    part: Part
    split: SplitData
    studies: Sequence[optuna.Study] = ()
    selected: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    file: str = "FILE"
    overrides: Sequence[str] = ()
    findings: Sequence[Finding] = ()


def write(page: str, folder: Path) -> Path:
    """Write report.html under ``folder``; return its path."""
    path = folder / "report.html"
    with whole_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def whole(chapters: Sequence[Chapter], joined: ComparisonTable, store: RunStore) -> str:
    """Return the page.

    Args:
        chapters: one a data set; their parts read with ``targets``.
        joined: the table of all their parts.
        store: of the runs.

    Raises:
        InputError: Plotly is not installed, or something in the store cannot be read.
    """
    prefixes = ["" if len(chapters) == 1 else f"d{i}" for i in range(len(chapters))]
    alarms = [audit.alarm(c.findings, f"{prefix}audit") for c, prefix in zip(chapters, prefixes, strict=True)]
    body = "\n".join(filter(None, [leaderboard(joined, controls=True), *alarms]))
    sections = [Section("leaderboard", "Leaderboard", body)]
    every = [chapter.part for chapter in chapters]
    sections += [transfer.section(every)] if transfer.has_transfer(every) else []
    sections += [slices.section(every)] if slices.has_slices(every) else []
    figures: dict[str, Any] = {}
    users: dict[str, Any] = {}
    for prefix, chapter in zip(prefixes, chapters, strict=True):
        several = chapter.part.dataset if len(chapters) > 1 else ""
        one = joined if len(chapters) == 1 else build([chapter.part])
        sections += _chapter(chapter, one, store, prefix, several, figures, users)
    experiment = chapters[0].part.experiment
    intro = str(Markup("<p>{}</p>").format(experiment.description)) if experiment.description else ""
    return page(joined.name, sections, figures, {"users": users} if users else {}, intro)


def figures_of(parts: Sequence[Part]) -> dict[str, Any]:
    """Return the main figures by title, for Weights & Biases: what the page shows first."""
    out = {}
    for p in parts:
        one, several = build([p]), f"{p.dataset}: " if len(parts) > 1 else ""
        metric = p.outcomes.metrics[0] if p.outcomes.metrics else None
        if metric is None or not p.outcomes.labels:
            continue
        known = [c for c in p.experiment.report.costs if any(cell.mean is not None for cell in one.column(c))]
        for cost in known[:1]:
            out[f"{several}Quality against cost"] = draw.quality_against_cost(one, metric, cost)
        out[f"{several}Seeds and intervals"] = draw.seeds(p, one, metric)
        if (curve := draw.curves(p, metric)) is not None:
            out[f"{several}Training curves"] = curve
        if has_curves(p):
            out[f"{several}{learning_curve.HEADING}"] = learning_curve.first_figure(p, one)
        if tradeoff.has_points(p):
            out[f"{several}{tradeoff.HEADING}"] = tradeoff.first_figure(p, one)
    return out


def _chapter(
    chapter: Chapter,
    one: ComparisonTable,
    store: RunStore,
    prefix: str,
    name: str,
    figures: dict[str, Any],
    users: dict[str, Any],
) -> list[Section]:
    """Return the sections of one data set; what they show goes into ``figures`` and ``users``."""
    p, out = chapter.part, list[Section]()
    metrics = p.outcomes.metrics

    def section(id: str, heading: str, body: str) -> None:
        out.append(Section(f"{prefix}{id}", f"{name}: {heading.lower()}" if name else heading, body))

    def choice(id: str, heading: str, options: dict[str, Any]) -> str:
        ids = {told: f"{prefix}{id}-{i}" for i, told in enumerate(options)}
        figures.update({ids[told]: figure for told, figure in options.items()})
        height = max(int(f.layout.height) for f in options.values())
        return switch(f"{prefix}{id}-figure", heading, ids, height=height)

    if chapter.findings:
        section("audit", "Audit", audit.section(chapter.findings))
    if has_curves(p):
        shown, drawn = learning_curve.section(p, one, prefix)
        figures.update(drawn)
        section("budgets", learning_curve.HEADING, shown)
    if tradeoff.has_points(p):
        shown, drawn = tradeoff.section(p, one, prefix)
        figures.update(drawn)
        section("tradeoff", tradeoff.HEADING, shown)
    if p.outcomes.labels and metrics:
        against = {
            f"{title(m)} against {COSTS_IN_WORDS[c]}": draw.quality_against_cost(one, m, c)
            for m in metrics
            for c in p.experiment.report.costs
            if any(cell.mean is not None for cell in one.column(c))
        }
        if against:
            note = (
                "<p>Bars are 95 % intervals over users. No model on the dotted Pareto front is beaten in both; costs "
                "are of the machines named with the runs below.</p>"
            )
            section("cost", "Quality against cost", choice("cost", "A metric against a cost", against) + note)
        per_seed = {title(m): draw.seeds(p, one, m) for m in metrics}
        section("seeds", "Seeds and intervals", choice("seeds", "A metric, seed by seed", per_seed))
        curves = {title(m): curve for m in metrics if (curve := draw.curves(p, m)) is not None}
        if curves:
            note = "<p>On the validation part, from which the best epoch is chosen. Faint lines are further seeds.</p>"
            section("curves", "Training curves", choice("curves", "A metric, epoch by epoch", curves) + note)
    if chapter.studies:
        section("search", "Search", _search(chapter.studies, prefix, figures))
    if found := segmentations(p, chapter.split):
        body = []
        for i, segmentation in enumerate(found):
            figures[f"{prefix}segments-{i}"] = figure = draw.segments(segmentation)
            width = 240 + 120 * len(segmentation.names)  # a phone scrolls it
            body.append(placeholder(f"{prefix}segments-{i}", segmentation.title, int(figure.layout.height), width))
            body.append(_segments_table(segmentation))
        section("segments", "User segments", "\n".join(body))
    if (told := compared(p, chapter.split, store)) is not None:
        id = f"{prefix}users"
        users[id] = told
        section("users", "User by user", users_section(id, told["models"], told["metric"], *_first_pair(p)))
    section("runs", "Runs", _runs(chapter))
    return out


def _first_pair(p: Part) -> tuple[str, str]:
    """Return the models that are compared at first: the last proposed one, if any, against the reference baseline."""
    reference = reference_of(p, p.outcomes.metrics[0])
    models = [label for label in p.outcomes.labels if label in p.proposed]
    return (models[-1] if models else "", reference or "")


def _search(studies: Sequence[optuna.Study], prefix: str, figures: dict[str, Any]) -> str:
    from benchmark.reports.search_page import sections

    parts, drawn = sections(studies, prefix=f"{prefix}search-")
    figures.update(drawn)
    return "\n".join(
        f"<h3>{Markup.escape(part.title)}</h3>\n{part.body}" if part.title else part.body for part in parts
    )


def _segments_table(found: Segmentation) -> str:
    heads = ["Model", *(f"{name} ({n:,})" for name, n in zip(found.names, found.sizes, strict=True))]
    rows = []
    for label, values, low, high in zip(found.labels, found.values, found.low, found.high, strict=True):
        told = [
            f"{number(v, 4)} [{number(a, 3)}, {number(b, 3)}]" if v == v else "–"
            for v, a, b in zip(values, low, high, strict=True)
        ]
        rows.append([label, *told])
    shown = Markup(table(heads, rows, f"{found.metric_title} by {found.title}"))
    note = Markup("<p>{}</p>").format(found.note)
    return f"{note}\n<details><summary>As a table, with 95 % intervals</summary>{shown}</details>"


def _runs(chapter: Chapter) -> str:
    p = chapter.part
    told = []
    for spec, record in zip(p.experiment.specs(), p.records, strict=True):
        if record is None:
            continue
        told.append(
            {
                "title": f"{spec.label}, seed {spec.seed}: {record.status}, run {record.key}",
                "error": record.error,
                "facts": _facts(record),
                "command": Markup(command(repeat_command(chapter.file, chapter.overrides, spec, chapter.selected))),
                "spec": json.dumps(record.spec, indent=1),
                "files": record.files,
            }
        )
    return filled("runs.html", runs=told)


def _facts(record: RunRecord) -> dict[str, str]:
    """Return what the page tells of a run besides its settings."""

    def short(value: float | None) -> str:
        return text(Cell(value), metric=False) if value is not None else "not measured"

    machine = record.environment
    out = {}
    for part, values in record.metrics.items():
        known = {m: v for m, v in values.items() if v is not None and m != "train_loss"}
        shown = ", ".join(f"{title(m)} {number(v, 4)}" for m, v in known.items())
        out["Test part" if part == "test" else "Validation part"] = shown
    if record.best_epoch is not None and record.epochs > 1:
        out["Epochs"] = f"{record.epochs}, the best one number {record.best_epoch + 1}"
    out["Seconds"] = ", ".join(f"{stage} {short(seconds)}" for stage, seconds in record.stage_seconds.items())
    out["Scoring"] = f"{short(record.ms_per_user)} ms a user or row"
    out["Parameters"] = ", ".join(f"{n:,} {kind}" for kind, n in record.parameters.items())
    out["Peak memory"] = ", ".join(f"{where} {short(n / 2**30)} GiB" for where, n in record.peak_memory.items())
    out[COSTS["energy_wh"]] = short(record.energy_wh)
    commit = machine.get("commit", {})
    out["Code"] = f"commit {commit.get('commit') or 'unknown'}{' with changes' if commit.get('dirty') else ''}"
    out["Machine"] = (
        f"{machine.get('cpu')}, {machine.get('cores')} cores, GPU {', '.join(machine.get('gpu', [])) or 'none'}"
    )
    versions = ", ".join(f"{name} {version}" for name, version in machine.get("versions", {}).items())
    out["Versions"] = f"Python {machine.get('python')}, {versions}"
    out["Started"] = record.started
    return {name: value for name, value in out.items() if value}
