"""One ComparisonTable -> terminal, Markdown, LaTeX, CSV, HTML; the only place that formats a number."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmark.reports.files import write_texts
from benchmark.reports.names import GROUP_TITLES
from benchmark.reports.table import Cell, Column, ComparisonTable, Row

MARKS = {1: "†", -1: "‡", 0: ""}
INTERVAL = "95 % interval"


def number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}"


def text(cell: Cell, metric: bool, plus_minus: str = "±") -> str:
    """Return a cell as text: four decimals for metrics, few for costs; a dash or the reason where there is none."""
    if cell.mean is None:
        return "–" if cell.reason in ("", "undefined") else cell.reason
    if not metric:
        return number(cell.mean, 1 if cell.mean >= 10 else 2 if cell.mean >= 0.1 else 3)
    return number(cell.mean, 4) + (f" {plus_minus} {number(cell.sd, 4)}" if cell.sd is not None else "")


def shown(column: Column, cell: Cell) -> str:
    """Return a cell as the text of its column, without marks."""
    if column.kind == "difference" and cell.mean is not None:
        return f"{cell.mean:+.4f}"
    if column.name == "trainable_parameters" and cell.mean is not None:
        return f"{cell.mean:,.0f}"
    if column.kind == "measured" and cell.mean is not None:
        return f"{cell.mean:.4g}"
    return text(cell, metric=column.kind != "cost")


def marked(cell: Cell) -> str:
    """Return the sign of a significant difference to the reference baseline: † better, ‡ worse, or nothing."""
    return MARKS[cell.mark]


def interval(cell: Cell, kind: str = "metric") -> str:
    """Return the interval as it stands in a column of a kind; "" where there is none."""
    if cell.low is None or cell.high is None:
        return ""
    low, high = (f"{v:.4g}" if kind == "measured" else number(v, 3) for v in (cell.low, cell.high))
    return f"[{low}, {high}]"


def _laid_out(table: ComparisonTable) -> list[tuple[Column, bool]]:
    """Return what stands beside each other: the columns, each data set's first followed by its interval (True)."""
    out: list[tuple[Column, bool]] = []
    for _, columns in groupby(enumerate(table.columns), key=lambda item: item[1].dataset):
        for i, (j, column) in enumerate(columns):
            out.append((column, False))
            if not i and any(row.cells[j].low is not None for row in table.rows):
                out.append((column, True))
    return out


def headings(table: ComparisonTable) -> list[str]:
    """Return the column titles, without the data sets; the first metric's interval over users stands behind it."""
    return ["Model", *(INTERVAL if is_interval else column.title for column, is_interval in _laid_out(table))]


def _cells(
    table: ComparisonTable, row: Row, style: Callable[[Cell, str], str], below: Callable[[str, str], str]
) -> Iterator[str]:
    """Yield the cells of a row as they are laid out.

    ``style`` gets (cell, text) of all but intervals; ``below`` gets (styled text, interval) of the columns beyond
    accuracy and the measured ones, each of which has its interval in its own cells.
    """
    by_column = dict(zip(table.columns, row.cells, strict=True))
    for column, is_interval in _laid_out(table):
        cell = by_column[column]
        if is_interval:
            yield interval(cell)
        elif column.kind in ("beyond", "measured") and cell.low is not None:
            yield below(style(cell, shown(column, cell)), interval(cell, column.kind))
        else:
            yield style(cell, shown(column, cell))


def _bare(cell: Cell, value: str) -> str:
    return value + marked(cell)


def _behind(value: str, interval: str) -> str:
    return f"{value} {interval}"


def shown_cells(table: ComparisonTable) -> tuple[list[str], list[list[str]]]:
    """Return the headings (data set and title) and, a list a row, the cells as they are shown, without bold."""
    heads = [f"{column.dataset} {INTERVAL if i else column.title}".strip() for column, i in _laid_out(table)]
    return ["Model", *heads], [[row.label, *_cells(table, row, _bare, _behind)] for row in table.rows]


def _by_group(table: ComparisonTable) -> Iterator[tuple[str, list[Row]]]:
    for group, rows in groupby(table.rows, key=lambda row: row.group):
        yield GROUP_TITLES[group], list(rows)


def markdown(table: ComparisonTable) -> str:
    def style(cell: Cell, value: str) -> str:
        value = value.replace("|", "\\|")
        return {1: f"**{value}**", 2: f"<u>{value}</u>"}.get(cell.rank or 0, value) + marked(cell)

    def below(value: str, interval: str) -> str:
        return f"{value}<br>{interval}"

    heads = headings(table)
    if len(table.datasets) > 1:
        heads = ["Model", *(f"{column.dataset}<br>{head}" for (column, _), head in zip(_laid_out(table), heads[1:]))]  # noqa: B905
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" + " ---: |" * (len(heads) - 1)]
    for group, rows in _by_group(table):
        lines.append(f"| *{group}* |" + " |" * (len(heads) - 1))
        lines += ["| " + " | ".join([_escaped(row.label), *_cells(table, row, style, below)]) + " |" for row in rows]
    protocols = table.protocols if len(table.protocols) == 1 else [f"- {line}" for line in table.protocols]
    notes = [f"- {_escaped(note)}" for note in (*table.legend, *table.notes)]
    return "\n".join([*lines, "", *protocols, *notes, ""])


def _escaped(value: str) -> str:
    return re.sub(r"([\\`*|\[]|<(?=[a-zA-Z/!]))", r"\\\1", " ".join(value.split()))


_LATEX = {"&": r"\&", "%": r"\%", "_": r"\_", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}",
          "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", "±": r"$\pm$", "–": "--", "−": "$-$", "<": "$<$",
          ">": "$>$", "†": r"$^{\dagger}$", "‡": r"$^{\ddagger}$", "\n": " "}  # fmt: skip
# inside a document \@nodocument is undone: there the file is a table; by itself it is a document
_ALONE = r"""% \input this file into a paper that uses booktabs, or compile it as it stands.
\expandafter\ifx\csname @nodocument\endcsname\relax\else
\documentclass{article}
\usepackage[a3paper,landscape,margin=1cm]{geometry}
\usepackage[T1]{fontenc}
\usepackage{booktabs}
\begin{document}
\def\levelfieldend{\end{document}}
\fi"""


def _tex(value: str) -> str:
    return "".join(_LATEX.get(c, c if ord(c) < 0x250 else "?") for c in value)


def latex(table: ComparisonTable) -> str:
    r"""Return a booktabs table that compiles as it stands and can be ``\input`` where ``booktabs`` is loaded."""

    def style(cell: Cell, value: str) -> str:
        tex = _tex(value)
        tex = {1: rf"\textbf{{{tex}}}", 2: rf"\underline{{{tex}}}"}.get(cell.rank or 0, tex)
        return tex + _tex(marked(cell))

    def below(value: str, interval: str) -> str:
        interval = interval.replace("-", "$-$")
        return rf"\shortstack[r]{{{value}\\{{}}{interval}}}"  # {}: else the bracket would be an argument

    heads = headings(table)
    caption = " ".join((*table.protocols, *table.legend))
    size = r"\footnotesize" if any(column.kind == "beyond" for column in table.columns) else r"\small"
    lines = [_ALONE, r"\begin{table}", rf"\centering{size}\setlength{{\tabcolsep}}{{4pt}}"]
    lines += [rf"\caption{{{_tex(caption)}}}", rf"\label{{tab:{table.name}}}"]
    lines += [rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}", r"\toprule"]
    if len(table.datasets) > 1:
        at, over, rules = 2, [""], []
        for dataset, columns in groupby(_laid_out(table), key=lambda item: item[0].dataset):
            n = len(list(columns))
            over.append(rf"\multicolumn{{{n}}}{{c}}{{{_tex(dataset)}}}")
            rules.append(rf"\cmidrule(lr){{{at}-{at + n - 1}}}")
            at += n
        lines += [" & ".join(over) + r" \\", "".join(rules)]
    lines.append(" & ".join(map(_tex, heads)) + r" \\")
    for group, rows in _by_group(table):
        lines += [r"\midrule", rf"\multicolumn{{{len(heads)}}}{{l}}{{\textit{{{group}}}}} \\"]
        lines += [" & ".join([_tex(row.label), *_cells(table, row, style, below)]) + r" \\" for row in rows]
    ending = [r"\bottomrule", r"\end{tabular}", r"\end{table}", r"\csname levelfieldend\endcsname", ""]
    return "\n".join([*lines, *ending])


def comma_separated(table: ComparisonTable) -> str:
    """Return one line a (model, column): six decimals, s.d., interval, corrected p-value, finished runs, reason."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["model", "group", "dataset", "column", "kind", "mean", "sd", "low", "high", "p", "runs", "reason"])
    for row in table.rows:
        for column, cell in zip(table.columns, row.cells, strict=True):
            numbers = (cell.mean, cell.sd, cell.low, cell.high, cell.p)
            values = ["" if v is None else repr(round(v, 6)) for v in numbers]
            where = [row.label, row.group, column.dataset, column.name, column.kind]
            writer.writerow([*where, *values, cell.n, cell.reason])
    return out.getvalue()


def contents(table: ComparisonTable) -> dict[str, str]:
    """Return the files of a table by name: table.md, table.tex, table.csv and table.html."""
    from benchmark.reports.leaderboard import document

    return {
        "table.md": markdown(table),
        "table.tex": latex(table),
        "table.csv": comma_separated(table),
        "table.html": document(table),
    }


def write(table: ComparisonTable, folder: Path) -> list[Path]:
    """Write the files of a table under ``folder``; return their paths."""
    return write_texts(folder, contents(table))


def show(table: ComparisonTable, console: Console) -> None:
    """Print the table: best bold, second underlined, groups apart, the protocol below."""
    view = Table(title=table.name, title_justify="left", header_style="bold", pad_edge=False)
    several = len(table.datasets) > 1
    for j, head in enumerate(headings(table)):
        over = f"{_laid_out(table)[j - 1][0].dataset}\n" if several and j else ""
        view.add_column(over + head, justify="left" if j == 0 else "right", no_wrap=j == 0, overflow="fold")
    for i, (group, rows) in enumerate(_by_group(table)):
        if i:
            view.add_section()
        view.add_row(Text(group, style="italic dim"))
        for row in rows:
            by_column = dict(zip(table.columns, row.cells, strict=True))
            cells = []
            for (column, is_interval), value in zip(
                _laid_out(table), _cells(table, row, _bare, lambda value, interval: f"{value}\n{interval}"), strict=True
            ):
                style = "" if is_interval else {1: "bold", 2: "underline"}.get(by_column[column].rank or 0, "")
                cells.append(Text(value, style=style))
            view.add_row(Text(row.label), *cells)
    console.print(view)
    for line in table.protocols:
        console.print(line, highlight=False)
    for note in (*table.legend, *table.notes):
        console.print(Text(f"- {note}"))
