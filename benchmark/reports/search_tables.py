"""The tables of a search: summary, importance, Pareto front, failures; as Markdown, and every trial as CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from benchmark.errors import InputError
from benchmark.reports import render
from benchmark.reports.names import title
from benchmark.reports.search import Found, error_of, gain, importance, outcome_of, slot_of, title_of, values_of
from benchmark.reports.table import Cell

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial


def number_of(objective: str, value: float | None) -> str:
    try:
        title(objective)
    except InputError:
        return render.text(Cell(mean=value, reason="–"), metric=False)
    return "–" if value is None else render.number(value, 4)


def parameters_of(trial: FrozenTrial | None) -> str:
    values = {} if trial is None else values_of(trial)
    return ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items()) or "–"


def gain_text(found: Found) -> str:
    if found.best is None or found.defaults is None:
        return "–"
    difference = found.best.values[0] - found.defaults.values[0]
    return f"{(-difference if found.lower else difference) + 0.0:+.4f}"


def summary(studies: Sequence[optuna.Study]) -> tuple[list[str], list[list[str]]]:
    """Return the heads and rows of the one table that stands in the file, on the page and in the terminal."""
    metrics = {title_of(study.user_attrs["objectives"][0]) for study in studies}
    one = metrics.pop() if len(metrics) == 1 else ""
    heads = ["Model", "Trials", "Complete / pruned / failed", "Epochs", f"Best {one or 'value'}", "Defaults", "Gain"]
    rows = []
    for found in map(Found, studies):
        told, first, best = [outcome_of(t) for t in found.trials], found.objectives[0], gain(found.study)[0]
        epochs, seconds = (sum(outcome.get(key) or 0 for outcome in told) for key in ("epochs", "seconds"))
        several = any((outcome.get("epochs") or 0) > 1 for outcome in told)  # closed forms take one
        most = len(found.trials) * (found.attributes.get("max_epochs") or 0 if several else 1)
        row = [found.label, str(len(found.trials))]
        row.append(" / ".join(str(len(found.of(state))) for state in ("COMPLETE", "PRUNED", "FAIL")))
        row.append(f"{epochs} of {most}" if most else str(epochs))
        row.append(("" if one or best is None else f"{title_of(first)} ") + number_of(first, best))
        row += [number_of(first, gain(found.study)[1]), gain_text(found)]
        rows.append([*row, render.text(Cell(mean=float(seconds)), metric=False), parameters_of(found.best)])
    return [*heads, "Search s", "Best parameters"], rows


def caveat(studies: Sequence[optuna.Study]) -> str:
    sizes = sorted({len(Found(study).trials) for study in studies}) or [0]
    among = f"{sizes[0]} to {sizes[-1]}" if len(sizes) > 1 else f"{sizes[0]}"
    better = (
        " A positive gain is an improvement, also where less is better."
        if any(Found(study).lower for study in studies)
        else ""
    )
    return (
        f"All numbers are on the validation part, and the best of {among} trials is optimistic, being chosen there; "
        f"the test part stands in table.md.{better}"
    )


def tables_of(found: Found) -> Iterator[tuple[str, list[str], list[list[str]], str]]:
    """Yield (heading, heads, rows, note) of what a model's trials say besides the summary."""
    shares, n = importance(found.study), len(found.complete)
    if shares:
        rows = [[path, render.number(share, 2)] for path, share in shares.items()]
        note = f"PED-ANOVA: what sets the best of {n} complete trials apart, as shares of 1"
        yield "Importance", ["Parameter", "Share"], rows, note + ("; from so few a rough estimate." if n < 50 else ".")
    if len(found.objectives) > 1 and found.complete:
        rows = []
        sign = 1 if found.lower else -1
        for trial in sorted(found.study.best_trials, key=lambda t: (sign * t.values[0], slot_of(t))):
            values = [number_of(o, value) for o, value in zip(found.objectives, trial.values, strict=True)]
            rows.append([str(slot_of(trial)), *values, parameters_of(trial)])
        heads = ["Trial", *map(title_of, found.objectives), "Parameters"]
        yield "Pareto front", heads, rows, "No complete trial is better than one of these in all objectives."


def failures(found: Found) -> list[str]:
    kinds = {"PRUNED": " (pruned)", "COMPLETE": " (complete)"}
    return [f"trial {slot_of(t)}{kinds.get(t.state.name, '')}: {error_of(t)}" for t in found.trials if error_of(t)]


def left(head: str) -> bool:
    return head in ("Model", "Parameter") or head.lower().endswith("parameters")


def _lines(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = "| " + " | ".join("---" if left(head) else "---:" for head in heads) + " |"
    return ["| " + " | ".join(heads) + " |", rule, *("| " + " | ".join(map(_escaped, row)) + " |" for row in rows)]


def _escaped(value: str) -> str:
    return re.sub(r"([\\`*<|\[])", r"\\\1", " ".join(value.split()))


def markdown(studies: Sequence[optuna.Study]) -> str:
    """Return sweep.md: one line a model, then what mattered, the Pareto front and the failures of each."""
    lines = ["# What the search found", "", *_lines(*summary(studies)), "", caveat(studies)]
    for found in map(Found, studies):
        lines += ["", f"## {_escaped(found.label)}"]
        lines += [] if found.complete else ["", "No trial is complete."]
        for heading, heads, rows, note in tables_of(found):
            lines += ["", f"### {heading}", "", *_lines(heads, rows), "", note]
        if failed := failures(found):
            lines += ["", "### Failures", "", *(f"- {_escaped(failure)}" for failure in failed)]
    return "\n".join([*lines, ""])


def comma_separated(studies: Sequence[optuna.Study]) -> str:
    """Return trials.csv: one row a trial at full precision; what a trial has not is empty."""
    every = [Found(study) for study in studies]
    objectives = list(dict.fromkeys(objective for found in every for objective in found.objectives))
    paths = list(dict.fromkeys(path for found in every for t in found.trials for path in values_of(t)))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["model", "trial", "state", *objectives, "epochs", "seconds", "key", "error", *paths])
    for found in every:
        for trial in found.trials:
            complete = trial.state.name == "COMPLETE"  # a pruned trial's last value is no outcome
            told = dict(zip(found.objectives, trial.values, strict=True)) if complete else {}
            row = [found.label, slot_of(trial), trial.state.name.lower(), *(told.get(name, "") for name in objectives)]
            row += [outcome_of(trial).get(key, "") for key in ("epochs", "seconds", "key")]
            values = values_of(trial)
            writer.writerow([*row, error_of(trial), *(str(values[path]) if path in values else "" for path in paths)])
    return out.getvalue()


# the page -------------------------------------------------------------------------------------------------------------
