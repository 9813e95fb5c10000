"""One ComparisonTable -> terminal, Markdown, LaTeX, CSV, and the manifest; the only place that formats a number."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmark.reports.table import Cell, ComparisonTable, Row
from benchmark.runs.record import RunRecord, whole_file

GROUP_TITLES = {
    "trivial": "Trivial",
    "collaborative": "Collaborative",
    "sequential": "Sequential",
    "content": "Content",
    "llm-zero-shot": "LLM zero-shot",
    "llm": "LLM fine-tuned",
}


def number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}"


def text(cell: Cell, metric: bool, plus_minus: str = "±") -> str:
    """Return a cell as text: four decimals for metrics, one or two for costs; a dash with the reason elsewhere."""
    if cell.mean is None:
        return "–" if cell.reason == "undefined" else cell.reason
    if not metric:
        return number(cell.mean, 1 if cell.mean >= 10 else 2 if cell.mean >= 0.1 else 3)
    return number(cell.mean, 4) + (f" {plus_minus} {number(cell.sd, 4)}" if cell.sd is not None else "")


def _cells(table: ComparisonTable, row: Row, plus_minus: str = "±") -> Iterator[tuple[Cell, str]]:
    for j, cell in enumerate(row.cells):
        yield cell, text(cell, j < len(table.metrics), plus_minus)


def _interval(row: Row) -> str:
    first = row.cells[0]
    return "" if first.low is None or first.high is None else f"[{number(first.low, 3)}, {number(first.high, 3)}]"


def _has_interval(table: ComparisonTable) -> bool:
    return any(row.cells[0].low is not None for row in table.rows)


def headings(table: ComparisonTable) -> list[str]:
    """Return the column titles; the first metric's 95 % interval over users stands behind it."""
    interval = ["95 % interval"] if _has_interval(table) else []
    return ["Model", table.columns[0], *interval, *table.columns[1:]]


def _insert_interval(table: ComparisonTable, row: Row, cells: list[Any]) -> list[Any]:
    return [cells[0], _interval(row), *cells[1:]] if _has_interval(table) else cells


def shown_cells(table: ComparisonTable) -> tuple[list[str], list[list[str]]]:
    """Return the headings and, a list a row, the cells as they are shown, without marks."""
    rows = [
        [row.label, *_insert_interval(table, row, [shown for _, shown in _cells(table, row)])] for row in table.rows
    ]
    return headings(table), rows


def markdown(table: ComparisonTable) -> str:
    heads = headings(table)
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" + " ---: |" * (len(heads) - 1)]
    group = ""
    for row in table.rows:
        if row.group != group:
            group = row.group
            lines.append(f"| *{GROUP_TITLES[group]}* |" + " |" * (len(heads) - 1))
        cells = []
        for cell, shown in _cells(table, row):
            cells.append({1: f"**{shown}**", 2: f"<u>{shown}</u>"}.get(cell.rank or 0, shown))
        lines.append("| " + " | ".join([row.label, *_insert_interval(table, row, cells)]) + " |")
    return "\n".join([*lines, "", table.protocol, *(f"- {note}" for note in table.notes), ""])


_LATEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}",
          "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "±": r"$\pm$", "–": "--"}  # fmt: skip


def _tex(value: str) -> str:
    return "".join(_LATEX.get(c, c) for c in value)


def latex(table: ComparisonTable) -> str:
    """Return a booktabs table; needs ``\\usepackage{booktabs}`` alone."""
    heads = headings(table)
    lines = [
        r"\begin{table}",
        r"\centering\small",
        rf"\caption{{{_tex(table.protocol)}}}",
        rf"\label{{tab:{table.name}}}",
    ]
    lines += [rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}", r"\toprule", " & ".join(map(_tex, heads)) + r" \\"]
    group = ""
    for row in table.rows:
        if row.group != group:
            group = row.group
            lines += [r"\midrule", rf"\multicolumn{{{len(heads)}}}{{l}}{{\textit{{{GROUP_TITLES[group]}}}}} \\"]
        cells = []
        for cell, shown in _cells(table, row):
            tex = _tex(shown)
            cells.append({1: rf"\textbf{{{tex}}}", 2: rf"\underline{{{tex}}}"}.get(cell.rank or 0, tex))
        lines.append(" & ".join([_tex(row.label), *_insert_interval(table, row, cells)]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def comma_separated(table: ComparisonTable) -> str:
    """Return one line a (model, column): full precision, s.d., interval, seeds."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["model", "group", "column", "mean", "sd", "low", "high", "runs", "reason"])
    names = [*table.metrics, "train_seconds", "ms_per_user"]
    for row in table.rows:
        for name, cell in zip(names, row.cells, strict=True):
            values = ["" if v is None else repr(round(v, 6)) for v in (cell.mean, cell.sd, cell.low, cell.high)]
            writer.writerow([row.label, row.group, name, *values, len(row.keys), cell.reason])
    return out.getvalue()


def manifest(table: ComparisonTable, records: Sequence[RunRecord | None]) -> str:
    """Return what every cell rests on: run keys with their specs, costs and versions, as JSON."""
    runs = {
        record.key: {
            "model": record.label,
            "seed": record.seed,
            "status": record.status,
            "error": record.error,
            "spec": record.spec,
            "code_version": record.code_version,
            "test": record.metrics.get("test", {}),
            "seconds": record.stage_seconds,
            "peak_memory": record.peak_memory,
            "parameters": record.parameters,
            "files": record.files,
            "environment": record.environment,
        }
        for record in records
        if record is not None
    }
    first = next((r for r in records if r is not None), None)
    data = {} if first is None else {"data": first.data_fingerprint, "split": first.split_fingerprint}
    cells = {row.label: list(row.keys) for row in table.rows}
    body = {"name": table.name, "protocol": table.protocol, "fingerprints": data, "rows": cells, "runs": runs}
    return json.dumps(body, indent=1, sort_keys=True) + "\n"


def write(table: ComparisonTable, records: Sequence[RunRecord | None], folder: Path) -> list[Path]:
    """Write table.md, table.tex, table.csv and manifest.json under ``folder``; return their paths."""
    contents = {
        "table.md": markdown(table),
        "table.tex": latex(table),
        "table.csv": comma_separated(table),
        "manifest.json": manifest(table, records),
    }
    paths = []
    for name, content in contents.items():
        with whole_file(folder / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
        paths.append(folder / name)
    return paths


def show(table: ComparisonTable, console: Console) -> None:
    """Print the table: best bold, second underlined, groups apart, the protocol below."""
    view = Table(title=table.name, title_justify="left", header_style="bold", pad_edge=False)
    for j, head in enumerate(headings(table)):
        view.add_column(head, justify="left" if j == 0 else "right", no_wrap=j == 0, overflow="fold")
    group = ""
    for row in table.rows:
        if row.group != group:
            if group:
                view.add_section()
            group = row.group
            view.add_row(Text(GROUP_TITLES[group], style="italic dim"))
        cells = [
            Text(shown, style={1: "bold", 2: "underline"}.get(cell.rank or 0, "")) for cell, shown in _cells(table, row)
        ]
        view.add_row(Text(row.label), *_insert_interval(table, row, cells))
    console.print(view)
    console.print(table.protocol, highlight=False)
    for note in table.notes:
        console.print(f"- {note}", highlight=False)
