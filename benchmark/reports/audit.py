"""Shows and writes what an audit found: in the terminal, audit.md, audit.json, a section of the report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from markupsafe import Markup
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmark.audit.finding import LEVELS, Finding
from benchmark.reports.files import write_texts
from benchmark.reports.page import table

_COLOURS = {"fault": "red", "warning": "yellow", "unknown": "cyan", "fine": "green"}


def ordered(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings, faults first, else in their order."""
    rank = {level: i for i, level in enumerate(LEVELS)}
    return sorted(findings, key=lambda finding: rank[finding.level])


def summary(findings: Sequence[Finding]) -> str:
    """Return how many findings there are of each level: "1 fault, 2 warnings, 9 fine"."""
    counts = {level: sum(f.level == level for f in findings) for level in LEVELS}
    plural = {"fault": "faults", "warning": "warnings"}
    return ", ".join(f"{n} {plural.get(k, k) if n > 1 else k}" for k, n in counts.items() if n) or "nothing checked"


def show(name: str, findings: Sequence[Finding], console: Console) -> None:
    """Print a table of the findings of one experiment."""
    told = Table(title=f"Audit of {name}: {summary(findings)}", title_justify="left", box=None, header_style="bold")
    told.add_column("check", max_width=26)
    told.add_column("level")
    told.add_column("found", overflow="fold")
    for finding in ordered(findings):
        colour = _COLOURS[finding.level]
        told.add_row(escape(finding.title), f"[{colour}]{finding.level}[/]", escape(finding.said))
    console.print(told, highlight=False)


def write(name: str, findings: Sequence[Finding], folder: Path) -> list[Path]:
    """Write audit.md and audit.json under ``folder``; return their paths."""
    rows = [f"| {_cell(f.title)} | {f.level} | {_cell(f.said)} |" for f in ordered(findings)]
    levels = "; ".join(f"{level}: {meaning}" for level, meaning in LEVELS.items())
    lines = [f"# Audit of {name}", "", f"{summary(findings)}. {levels}.", ""]
    lines += ["| Check | Level | Found |", "| --- | --- | --- |", *rows]
    told = {"experiment": name, "findings": [asdict(finding) for finding in ordered(findings)]}
    texts = {"audit.md": "\n".join(lines), "audit.json": json.dumps(told, indent=1, allow_nan=False)}
    return write_texts(folder, {name: text + "\n" for name, text in texts.items()})


def section(findings: Sequence[Finding]) -> str:
    """Return the section of a report: what it says in short, and a row a finding."""
    rows = [
        [f.title, Markup('<span class="level {}">{}</span>').format(f.level, f.level), f.said]
        for f in ordered(findings)
    ]
    words = Markup("<p>{}. {}.</p>").format(
        summary(findings).capitalize(), "; ".join(f"{level}: {meaning}" for level, meaning in LEVELS.items())
    )
    return str(words) + table(["Check", "Level", "Found"], rows, "What the audit found", text_columns=(0, 1, 2))


def alarm(findings: Sequence[Finding], id: str) -> str:
    """Return the line under a leaderboard whose audit has a fault; ``id`` is that of the section."""
    faults = [finding.title for finding in findings if finding.level == "fault"]
    if not faults:
        return ""
    text = '<p class="trouble">The audit found a fault in this table: {}. <a href="#{}">See the audit</a>.</p>'
    return str(Markup(text).format("; ".join(dict.fromkeys(faults)), id))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
